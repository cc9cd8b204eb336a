"""A disk that fills up at every point of a job: what cannot be kept is refused, and all goes on when there is room.

``FULL_DISK_ROUNDS=10 pytest -s tests/test_service_disk.py`` fills it ten times at each point instead of three times,
and prints what came of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from support.files import random_kspace, write_fastmri
from support.service import Client, Running, running

ROOM = 24 * 2**20  # bytes
ROUNDS = int(os.environ.get("FULL_DISK_ROUNDS", "3"))  # at each point


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


def at_upload(service: Running, scan: Path, large: Path) -> str:
    """While the file comes; what had come goes on where it stopped, and is the file."""
    client, content = service.client(), large.read_bytes()
    stuff = fill(service.data.parent, leave=3 * 2**20)
    client("PUT", "/v1/uploads", 507, data=content)

    def unsaid() -> Iterator[bytes]:
        for first in range(0, len(content), 2**20):
            yield content[first : first + 2**20]

    status = client("PUT", "/v1/uploads", None, data=unsaid()).status_code
    assert status in (507, 413)
    latest, *others = client("GET", "/v1/uploads").json()
    for one in others:
        client("DELETE", f"/v1/uploads/{one['upload']}", 204)
    stuff.unlink()
    place, offset = f"/v1/uploads/{latest['upload']}", latest["received"]
    assert 0 < offset < len(content)
    whole = client("PUT", place, params={"offset": offset}, data=content[offset:]).json()
    assert whole["sha256"] == hashlib.sha256(content).hexdigest()
    client("DELETE", place, 204)
    return f"answered {status}, then resumed"


def at_parse(service: Running, scan: Path, large: Path) -> str:
    """From before the file is opened, by a job that has been taken already, until some time after."""
    client = service.client()
    upload = client.upload(scan)
    (task,) = service.children("task")
    os.kill(task, signal.SIGSTOP)
    try:
        job = client.submit(upload, method="zero-filled")
        late = time.monotonic() + 30
        while client("GET", f"/v1/jobs/{job}").json()["state"] != "running":
            assert time.monotonic() < late
            time.sleep(0.05)
        stuff = fill(service.data.parent, leave=0)
    finally:
        os.kill(task, signal.SIGCONT)
    time.sleep(4)
    during = client("GET", f"/v1/jobs/{job}").json()["state"]
    assert during in ("queued", "running", "failed")
    stuff.unlink()
    outcome = f"{during} while it was full, {settled(client, job)} after"
    client("DELETE", f"/v1/uploads/{upload}", 204)
    return outcome


def at_writing(service: Running, scan: Path, large: Path) -> str:
    """While the result is written."""
    client = service.client()
    upload = client.upload(scan)
    stuff = fill(service.data.parent, leave=200_000)
    answer = client("POST", "/v1/jobs", None, json={"upload": upload, "options": {"method": "zero-filled"}})
    outcome = f"answered {answer.status_code}"
    if answer.status_code == 201:
        assert client.ended(answer.json()["job"])["state"] == "failed"
        outcome = settled(client, answer.json()["job"])
    else:
        assert answer.status_code == 507
    stuff.unlink()
    client("DELETE", f"/v1/uploads/{upload}", 204)
    return outcome


def at_database(service: Running, scan: Path, large: Path) -> str:
    """To the last byte, while jobs are submitted."""
    client = service.client()
    upload = client.upload(scan)
    stuff = fill(service.data.parent, leave=0)
    answers = [client("POST", "/v1/jobs", None, json={"upload": upload}).status_code for _ in range(5)]
    assert set(answers) <= {201, 507}
    assert client("GET", "/health/live").json() == {"live": True}
    stuff.unlink()
    late = time.monotonic() + 60
    while client("GET", "/health/ready", None).status_code != 200:
        assert time.monotonic() < late
        time.sleep(0.2)
    kept = client("GET", "/v1/jobs").json()
    assert len(kept) == answers.count(201)  # who was told of a job has it, and nobody else
    for one in kept:
        client("POST", f"/v1/jobs/{one['job']}/cancel")
        client.ended(one["job"])
        client("DELETE", f"/v1/jobs/{one['job']}", 204)
    client("DELETE", f"/v1/uploads/{upload}", 204)
    return f"{answers.count(507)} of {len(answers)} jobs refused"


def settled(client: Client, job: str) -> str:
    """How a job ended; one that failed says that nothing could be written. It is deleted."""
    found = client.ended(job)
    if found["state"] == "failed":
        assert "write" in found["error"]["message"] or "space" in found["error"]["message"], found
    else:
        assert found["state"] == "done", found
    client("DELETE", f"/v1/jobs/{job}", 204)
    return f"job {found['state']}"


def test_a_full_disk_at_upload_parse_write_and_database(small_disk: Path, tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5", random_kspace((8, 4, 64, 64)))  # 1 MB
    large = write_fastmri(tmp_path / "large.h5", random_kspace((40, 8, 64, 64)))  # 10 MB
    outcomes: dict[str, Counter[str]] = {}
    with running(small_disk, min_free_gb=0.0, lease_seconds=2.0, requests_per_minute=100_000) as service:
        assert finishes(service.client(), scan)
        for _ in range(ROUNDS):
            for point in (at_upload, at_parse, at_writing, at_database):
                outcomes.setdefault(point.__name__, Counter())[point(service, scan, large)] += 1
                assert finishes(service.client(), scan)
                assert is_sound(service)
        assert service.client()("GET", "/v1/jobs").json() == service.client()("GET", "/v1/uploads").json() == []
    assert list((service.data / "results").iterdir()) == []
    assert list((service.data / "uploads").iterdir()) == []
    print(json.dumps({"rounds": ROUNDS, **outcomes}, indent=2))
