"""A service whose parts die: nothing is lost, nothing comes twice, and nobody has to do anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from support.files import random_kspace, write_fastmri
from support.service import TOKEN, running

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    """A short form of the run that `scripts/soak.py` makes."""
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--jobs", "4", "--worker-kills", "1"]
    command += ["--api-kills", "1", "--pace", "4"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["workers killed"] == 1
    assert found["api killed"] == 1


def test_parts_are_started_anew_and_end_with_the_service(tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5", random_kspace((30, 8, 128, 128)))
    with running(tmp_path / "service", lease_seconds=2.0) as service:
        client = service.client()
        job = client.submit(client.upload(scan), method="l1-wavelet", iterations=300)
        late = time.monotonic() + 60
        while client("GET", f"/v1/jobs/{job}").json()["state"] != "running" and time.monotonic() < late:
            time.sleep(0.1)
        (worker,), parts = service.children("worker"), service.children("task")
        assert len(parts) == 2  # who forks, and the fork
        os.kill(worker, signal.SIGKILL)
        late = time.monotonic() + 60
        while (found := client("GET", f"/v1/jobs/{job}").json())["attempts"] < 2 and time.monotonic() < late:
            time.sleep(0.1)
        assert (found["state"], found["attempts"]) == ("running", 2)
        for old in parts:  # what the dead worker had started went with it
            assert not Path(f"/proc/{old}").exists()
        began = time.monotonic()
        log = service.stop()
        assert time.monotonic() - began < 20
        assert service.children("worker") == service.children("api") == service.children("task") == []
    assert "the worker ended and is started anew" in log
    for line in log.splitlines():
        assert line == "stopped" or isinstance(json.loads(line), dict)
    with running(tmp_path / "service", lease_seconds=2.0) as service:  # stopped at work: it is queued, not failed
        client = service.client(TOKEN)
        found = client("GET", f"/v1/jobs/{job}").json()
        assert found["state"] in ("queued", "running")
        client("POST", f"/v1/jobs/{job}/cancel")
        assert client.ended(job)["state"] == "cancelled"


def test_who_killed_the_supervisor_killed_all(tmp_path: Path) -> None:
    service_parts: list[int] = []
    with running(tmp_path) as service:
        late = time.monotonic() + 30
        while len(service.children("task")) < 1 and time.monotonic() < late:
            time.sleep(0.1)
        for part in ("api", "worker", "task"):
            service_parts += service.children(part)
        assert len(service_parts) == 3
        service.process.kill()
        late = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in service_parts) and time.monotonic() < late:
            time.sleep(0.1)
        assert [pid for pid in service_parts if Path(f"/proc/{pid}").exists()] == []
