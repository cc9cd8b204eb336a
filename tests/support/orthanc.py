"""A real archive on the loopback interface of a network of its own: run as a child, inside ``unshare -n``.

``python -m tests.support.orthanc WORK FILE...`` sends the files by both roads, pulls them back, and prints JSON.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom

PLUGINS = "/usr/lib/orthanc"
USER, PASSWORD = "tester", "loopback-only"
STORE = "dicom://ORTHANC@127.0.0.1:14242"
STOW = "http://127.0.0.1:18042/dicom-web"


def settings(folder: Path) -> dict[str, Any]:
    """What Orthanc is started with."""
    us = {"AET": "MRIUNROLL", "Host": "127.0.0.1", "Port": 11114}
    us |= {f"Allow{what}": True for what in ("Echo", "Find", "Move", "Store", "Get")}
    return {
        "Name": "t",
        "StorageDirectory": str(folder / "DB"),
        "IndexDirectory": str(folder / "DB"),
        "Plugins": [str(path) for path in Path(PLUGINS).glob("libOrthancDicomWeb.so.*")][:1],
        "DicomAet": "ORTHANC",
        "DicomPort": 14242,
        "DicomCheckCalledAet": False,
        "HttpPort": 18042,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "OverwriteInstances": False,
        "DicomModalities": {"MRIUNROLL": us},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado", "Ssl": False},
    }


def ask(path: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Orthanc's own interface."""
    request = urllib.request.Request(f"http://127.0.0.1:18042{path}", body, method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


def clear() -> None:
    """Take everything out of the archive."""
    for study in json.loads(ask("/studies")):
        ask(f"/studies/{study}", "DELETE")


def same_pixels(files: list[Path]) -> int:
    """How many of the files come back with the very pixels they were sent with."""
    sent = {str((one := pydicom.dcmread(path)).SOPInstanceUID): one.PixelData for path in files}
    found = 0
    for instance in json.loads(ask("/instances")):
        got = pydicom.dcmread(io.BytesIO(ask(f"/instances/{instance}/file")))
        found += sent[str(got.SOPInstanceUID)] == got.PixelData
    return found


@contextmanager
def archive_in(work: Path) -> Iterator[None]:
    """A running Orthanc."""
    (work / "DB").mkdir()
    (work / "orthanc.json").write_text(json.dumps(settings(work)))
    with (work / "orthanc.log").open("w") as log:
        archive = subprocess.Popen(["Orthanc", str(work / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                ask("/system")
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield
    finally:
        archive.terminate()
        archive.wait(20)


def main(work: Path, files: list[Path]) -> dict[str, Any]:
    """Send by both roads and say what the archive then holds."""
    from mri_unroll.errors import InputError
    from mri_unroll.io.dicom.send import send

    with archive_in(work):
        found: dict[str, Any] = {}
        try:
            send(files, STOW, ledger=work / "nobody.jsonl")
        except InputError as error:
            found["without a password"] = error.message
        os.environ.update(MRI_UNROLL_DICOMWEB_USER=USER, MRI_UNROLL_DICOMWEB_PASSWORD=PASSWORD)
        for road, address in {"store": STORE, "stow": STOW}.items():
            clear()
            ledger = work / f"{road}.jsonl"
            first = send(files, address, ledger=ledger)
            again = send(files, address, ledger=ledger)
            forgotten = send(files, address, ledger=work / f"{road}-new.jsonl")
            found[road] = {
                "sent": first.sent,
                "failed": [*first.failed, *again.failed, *forgotten.failed],
                "again": again.sent,
                "forgotten": forgotten.sent,
                "held": len(json.loads(ask("/instances"))),
                "same": same_pixels(files),
            }
        clear()
        killed = f"import sys, os; from pathlib import Path; from mri_unroll.io.dicom.send import send; send(\
[Path(p) for p in sys.argv[1:]], {STORE!r}, ledger=Path({str(work / 'killed.jsonl')!r}), \
events=lambda e: e['done'] == 2 and os.kill(os.getpid(), 9))"
        found["killed"] = subprocess.run([sys.executable, "-c", killed, *map(str, files)]).returncode == -signal.SIGKILL
        rest = send(files, STORE, ledger=work / "killed.jsonl")
        found["rest"] = [rest.already, rest.sent, len(json.loads(ask("/instances"))), same_pixels(files)]
        return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
