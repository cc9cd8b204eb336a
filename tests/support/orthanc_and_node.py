"""Orthanc sends a series to the DICOM node of a service and gets the result back: a child inside ``unshare -n``.

``python -m tests.support.orthanc_and_node WORK FILE...`` prints what the archive holds in the end as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.orthanc import archive_in, ask
from support.service import running

NODE = 14105
RULE = {"mode": "restore", "psf": "gaussian:2", "method": "wiener", "send_to": ["dicom://ORTHANC@127.0.0.1:14242"]}


def main(work: Path, files: list[Path]) -> dict[str, Any]:
    """Put the files into Orthanc, have it send them, and wait for what comes back."""
    node = {"AET": "MRIUNROLL", "Host": "127.0.0.1", "Port": NODE}
    settings = {"dicom_port": NODE, "dicom_callers": ["ORTHANC"], "dicom_rules": [RULE], "dicom_quiet_seconds": 2.0}
    with archive_in(work), running(work / "service", **settings):
        for path in files:
            ask("/instances", "POST", path.read_bytes())
        (series,) = json.loads(ask("/series"))
        ask("/modalities/NODE", "PUT", json.dumps(node).encode())
        late = time.monotonic() + 30
        while not _listens() and time.monotonic() < late:
            time.sleep(0.1)
        sent = json.loads(ask("/modalities/NODE/store", "POST", series.encode()))
        late = time.monotonic() + 90
        while len(json.loads(ask("/instances"))) < 2 * len(files) and time.monotonic() < late:
            time.sleep(0.3)
        time.sleep(1)
        described = [json.loads(ask(f"/series/{one}"))["MainDicomTags"] for one in json.loads(ask("/series"))]
        return {
            "sent": sent["InstancesCount"],
            "failed": sent["FailedInstancesCount"],
            "held": len(json.loads(ask("/instances"))),
            "studies": len(json.loads(ask("/studies"))),
            "series": sorted(one.get("SeriesDescription", "") for one in described),
        }


def _listens() -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", NODE)) == 0


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
