"""Files and names that were made to do harm, sent to a running service."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import test_io_hostile as hostile

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from support.service import Client, Running

QUICKLY = 2.0  # seconds from the order to the refusal, on an idle machine
LINKS = (
    "external_link",
    "external_link_deep",
    "external_mask",
    "external_storage",
    "virtual",
    "soft_link",
    "soft_loop",
)
BOMBS = (
    "shape_bomb",
    "packed_bomb",
    "chunk_bomb",
    "bomb_beside",
    "many_objects",
    "many_dimensions",
    "references",
    "ragged",
)


def is_refused(client: Client, content: bytes | Path, name: str, **options: str) -> float:
    """Seconds that the job took to fail with a reason; nothing may come of it."""
    job = client.submit(client.upload(content, name), **options)
    found = client.ended(job, 60)
    assert found["state"] == "failed", (name, found)
    assert found["attempts"] == 1, (name, found)  # it ended no process
    assert found["error"]["kind"] in ("CorruptScan", "UnsupportedScan", "UnknownFormat", "InputError"), (name, found)
    client("GET", f"/v1/jobs/{job}/result/h5", 404)
    return float(found["finished"]) - float(found["started"])


def test_files_that_reach_out_or_blow_up(service: Running, client: Client, tmp_path: Path) -> None:
    hostile._canary(service.data.parent)
    slowest: dict[str, float] = {}
    for name in (*LINKS, *BOMBS):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            build: Callable[..., None] = getattr(hostile, f"_{name}")
            build(file, service.data.parent) if name in LINKS else build(file)
        slowest[name] = is_refused(client, path, path.name)
    assert len(slowest) == 15
    assert max(slowest.values()) < 5 * QUICKLY, slowest  # other tests run beside it


def bomb(level: int) -> bytes:
    """A zip that unpacks to 600 MB, or a zip of it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        if level:
            archive.writestr("inner.zip", bomb(level - 1))
        else:
            with archive.open("DICOM/1.dcm", "w", force_zip64=True) as member:
                member.write(bytes(128) + b"DICM")
                for _ in range(600):
                    member.write(bytes(2**20))
    return packed.getvalue()


def test_zips_that_blow_up_or_reach_out(service: Running, client: Client) -> None:
    restore = {"mode": "restore", "psf": "gaussian:2"}
    for level in (0, 1):
        assert is_refused(client, bomb(level), "bomb.zip", **restore) < 5 * QUICKLY
    packed = io.BytesIO()
    names = ["../" * n + "canary.dcm" for n in range(1, 20)] + [
        "/etc/canary.dcm",
        "C:\\canary.dcm",
        "a/../../canary.dcm",
    ]
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(128) + b"DICM" + b"nothing")
    is_refused(client, packed.getvalue(), "names.zip", **restore)
    assert list(service.data.parent.rglob("*canary*.dcm")) == []
    assert not Path("/etc/canary.dcm").exists()


def test_names_lead_nowhere(service: Running, client: Client) -> None:
    steps = [
        "../",
        "..\\",
        "/",
        "//",
        "%2e%2e/",
        "..%2f",
        "....//",
        ".\\",
        "C:\\",
        "~/",
        "\0",
        "\n",
        "$(id)",
        "`id`",
        "|",
    ]
    names = [step * count + "name.h5" for step in steps for count in (1, 3, 9)] + [
        "..",
        ".",
        "con",
        "a" * 255,
        "\u202egnp.h5",
    ]
    assert len(names) >= 50
    before = set(service.data.parent.rglob("*"))
    made = [client.upload(b"x", name) for name in names]
    after = set(service.data.parent.rglob("*"))
    assert {path.parent for path in after - before} <= {service.data / "uploads"}
    assert {path.name for path in after - before} == set(made)
    for one in client("GET", "/v1/uploads").json():
        assert "/" not in one["name"]
        assert "\\" not in one["name"]
        client("DELETE", f"/v1/uploads/{one['upload']}", 204)


def test_the_log_holds_no_name(service: Running, client: Client) -> None:
    is_refused(client, b"CANARYTEXT in a file that is none" * 3, "CANARYNAME.h5")
    time.sleep(0.5)
    log = "".join(service.log)
    assert "job begins" in log
    assert "CANARY" not in log
    for line in service.log:
        assert isinstance(json.loads(line), dict)
