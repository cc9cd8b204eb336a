"""Files and names that were made to do harm, sent to a running service.

``pytest -s tests/test_service_hostile.py`` prints how long each refusal took.
"""

from __future__ import annotations

import io
import json
import os
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

QUICKLY = 2.0  # seconds from the submission to the refusal, for a service that has nothing else to do
TRIES = 4  # at each, because other tests may run beside it; the quickest counts
LINKS = (
    "external_link",
    "external_link_deep",
    "external_mask",
    "external_storage",
    "virtual",
    "soft_link",
    "soft_loop",
)
ODDITIES = ("unknown_filter", "scale_offset", "odd_float", "never_written", "half_written")
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
    """Seconds from the submission of a job until it is seen to have failed with a reason; nothing may come of it."""
    upload, quickest = client.upload(content, name), float("inf")
    for _ in range(TRIES):
        began = time.monotonic()
        job = client.submit(upload, **options)
        found = client.ended(job, 60)
        quickest = min(quickest, time.monotonic() - began)
        assert found["state"] == "failed", (name, found)
        assert found["attempts"] == 1, (name, found)  # it ended no process
        assert found["error"]["kind"] in ("CorruptScan", "UnsupportedScan", "UnknownFormat", "InputError"), found
        client("GET", f"/v1/jobs/{job}/result/h5", 404)
        if quickest < QUICKLY:
            break
    print(f"{name[-40:]!r}: {quickest:.2f} s")
    return quickest


def test_files_that_reach_out_or_blow_up(service: Running, client: Client, tmp_path: Path) -> None:
    canary = hostile._canary(service.data.parent)
    os.utime(canary, (1, 1))  # a read would show in the time of last access
    slowest: dict[str, float] = {}
    for name in (*LINKS, *ODDITIES, *BOMBS):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            build: Callable[..., None] = getattr(hostile, f"_{name}")
            build(file, service.data.parent) if name in LINKS else build(file)
        slowest[name] = is_refused(client, path, path.name)
    assert len(slowest) == 20  # 12 and 8
    assert max(slowest.values()) < QUICKLY, slowest
    assert canary.stat().st_atime == 1


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
        assert is_refused(client, bomb(level), "bomb.zip", **restore) < QUICKLY
    packed = io.BytesIO()
    names = ["../" * n + "canary.dcm" for n in range(1, 20)] + [
        "/etc/canary.dcm",
        "C:\\canary.dcm",
        "a/../../canary.dcm",
    ]
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(128) + b"DICM" + b"nothing")
    assert is_refused(client, packed.getvalue(), "names.zip", **restore) < QUICKLY
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
    slowest = max(is_refused(client, b"x", name) for name in names)  # one byte is no scan, whatever it is called
    after = set(service.data.parent.rglob("*"))
    made = {one["upload"] for one in client("GET", "/v1/uploads").json()}
    assert {path.parent for path in after - before} == {service.data / "uploads"}
    assert {path.name for path in after - before} <= made
    assert len(after - before) == len(names)
    assert slowest < QUICKLY
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
