"""A disk that fills up at every point of a job: what cannot be kept is refused, and all goes on when there is room."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from support.files import random_kspace, write_fastmri
from support.service import Client, Running, running

ROOM = 24 * 2**20  # bytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all but so many bytes."""
    stuff = disk / "stuff"
    with stuff.open("ab") as file:
        while (free := shutil.disk_usage(disk).free) > leave:
            file.write(bytes(min(free - leave, 2**20)))
            file.flush()
    return stuff


def is_sound(service: Running) -> bool:
    with sqlite3.connect(service.data / "jobs.sqlite", timeout=30) as link:
        found = link.execute("PRAGMA integrity_check").fetchone()[0]
    link.close()
    return bool(found == "ok")


def finishes(client: Client, scan: Path) -> bool:
    """Whether a job goes through."""
    upload = client.upload(scan)
    job = client.submit(upload, method="zero-filled")
    state = client.ended(job)["state"]
    client("DELETE", f"/v1/jobs/{job}", 204)
    client("DELETE", f"/v1/uploads/{upload}", 204)
    return bool(state == "done")


def test_a_full_disk_at_upload_work_and_database(small_disk: Path, tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5", random_kspace((8, 4, 64, 64)))  # 1 MB
    large = write_fastmri(tmp_path / "large.h5", random_kspace((40, 8, 64, 64)))  # 10 MB
    with running(small_disk, min_free_gb=0.0, lease_seconds=2.0, requests_per_minute=100_000) as service:
        client = service.client()
        assert finishes(client, scan)
        for _ in range(3):
            # while the file comes
            stuff = fill(small_disk, leave=3 * 2**20)
            client("PUT", "/v1/uploads", 507, data=large.read_bytes())

            def unsaid() -> Iterator[bytes]:
                for first in range(0, large.stat().st_size, 2**20):
                    yield large.read_bytes()[first : first + 2**20]

            assert client("PUT", "/v1/uploads", None, data=unsaid()).status_code in (507, 413)
            latest, *others = client("GET", "/v1/uploads").json()
            for one in others:
                client("DELETE", f"/v1/uploads/{one['upload']}", 204)
            stuff.unlink()
            # what had come goes on where it stopped, and is the file
            place, offset = f"/v1/uploads/{latest['upload']}", latest["received"]
            assert 0 < offset < large.stat().st_size
            whole = client("PUT", place, params={"offset": offset}, data=large.read_bytes()[offset:]).json()
            assert whole["sha256"] == hashlib.sha256(large.read_bytes()).hexdigest()
            client("DELETE", place, 204)
            assert finishes(client, scan)

            # while the result is written
            upload = client.upload(scan)
            stuff = fill(small_disk, leave=200_000)
            job = client("POST", "/v1/jobs", None, json={"upload": upload, "options": {"method": "zero-filled"}})
            if job.status_code == 201:
                found = client.ended(job.json()["job"])
                assert found["state"] == "failed", found
                assert "write" in found["error"]["message"] or "space" in found["error"]["message"]
            else:
                assert job.status_code == 507
            stuff.unlink()
            client("DELETE", f"/v1/uploads/{upload}", 204)
            assert finishes(client, scan)

            # to the last byte: the database itself
            upload = client.upload(scan)
            stuff = fill(small_disk, leave=0)
            answers = {client("POST", "/v1/jobs", None, json={"upload": upload}).status_code for _ in range(5)}
            assert answers <= {201, 507}
            assert client("GET", "/health/live").json() == {"live": True}
            stuff.unlink()
            late = time.monotonic() + 60
            while client("GET", "/health/ready", None).status_code != 200:
                assert time.monotonic() < late
                time.sleep(0.2)
            for one in client("GET", "/v1/jobs").json():
                client("POST", f"/v1/jobs/{one['job']}/cancel")
                client.ended(one["job"])
                client("DELETE", f"/v1/jobs/{one['job']}", 204)
            client("DELETE", f"/v1/uploads/{upload}", 204)
            assert finishes(client, scan)
            assert is_sound(service)
