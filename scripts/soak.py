"""Kills a service again and again while it works, and checks that nothing is lost and nothing is there twice.

Starts `mri-unroll serve` with a small scan, submits jobs with idempotency keys, and sends SIGKILL to a worker or to the
process that answers HTTP at random moments. In the end every job must be done once, with the same picture; the database
sound; and no folder left that no job knows.

    python scripts/soak.py                                             # 500 jobs, 200 + 100 kills: an hour on two cores
    python scripts/soak.py --jobs 12 --worker-kills 4 --api-kills 3    # what the tests run
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from mri_unroll.service.jobs import Jobs
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.sweeper import Sweeper
from mri_unroll.service.uploads import Uploads

SCAN = Path(__file__).parents[1] / "sample_data" / "phantom_multicoil.h5"
TOKEN = "soak-" + "s" * 40
PATIENCE = 60.0  # seconds without an answer, then the service counts as gone


class Service:
    """A service under test, and its one client, who tries again whenever the line breaks."""

    def __init__(self, folder: Path, workers: int) -> None:
        tokens = folder / "token"
        tokens.write_text(TOKEN)
        tokens.chmod(0o600)
        self.settings = ServiceSettings(
            data_dir=str(folder / "data"),
            port=0,
            token_file=str(tokens),
            workers=workers,
            threads=1,
            device="cpu",
            lease_seconds=3,
            attempts=10,  # kills are ours, not the jobs'
            requests_per_minute=1_000_000,
        )
        given = {"data_dir", "port", "token_file", "workers", "threads", "device", "lease_seconds", "attempts"}
        given.add("requests_per_minute")
        config = folder / "service.toml"
        config.write_text("".join(f"{name} = {json.dumps(getattr(self.settings, name))}\n" for name in sorted(given)))
        command = [sys.executable, "-m", "mri_unroll", "serve", "--config", str(config)]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """One request, repeated until it is answered."""
        late = time.monotonic() + PATIENCE
        while True:
            request = urllib.request.Request(self.address + path, body, method=method)
            request.add_header("Authorization", f"Bearer {TOKEN}")
            request.add_header("Content-Type", kind)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    content = answer.read()
                    return json.loads(content) if answer.headers["content-type"] == "application/json" else content
            except urllib.error.HTTPError:
                raise
            except (OSError, ValueError, http.client.HTTPException) as error:  # refused, reset, or half an answer
                if time.monotonic() > late:
                    raise TimeoutError(f"no answer for {PATIENCE:g} s") from error
                time.sleep(0.05)

    def children(self, part: str) -> list[int]:
        """Processes of its own that play a part."""
        found = []
        for line in subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines():
            pid, parent, *words = line.split()
            if f"mri_unroll.service.{part}" in words and parent == str(self.process.pid):
                found.append(int(pid))
        return found

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def killing(service: Service, kills: dict[str, int], over: threading.Event, rng: random.Random, pace: float) -> None:
    """Kill so many children of each kind, at random moments, for as long as it is not over."""
    plan = [part for part, count in kills.items() for _ in range(count)]
    rng.shuffle(plan)
    for part in plan:
        if over.wait(rng.uniform(0, 2 * pace)):
            break
        while not (victims := service.children(part)) and not over.wait(0.05):
            continue  # the last one killed is not there again
        if victims:
            os.kill(rng.choice(victims), signal.SIGKILL)
            kills[f"{part} killed"] = kills.get(f"{part} killed", 0) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--worker-kills", type=int, default=200)
    parser.add_argument("--api-kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pace", type=float, default=8.0, help="mean seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        service = Service(Path(name), given.workers)
        try:
            found = soak(service, given)
        finally:
            service.stop()
        found |= inspect(service, given.jobs)
    found["seconds"] = round(time.monotonic() - began)
    print(json.dumps(found, indent=2))
    sound = {"lost": 0, "twice": 0, "other pictures": 0, "orphans": 0, "integrity": "ok"}
    sys.exit(0 if all(found[key] == value for key, value in sound.items()) else 1)


def soak(service: Service, given: argparse.Namespace) -> dict[str, Any]:
    """Submit, kill, wait for the end."""
    kills = {"worker": given.worker_kills, "api": given.api_kills}
    over = threading.Event()
    thread = threading.Thread(target=killing, args=(service, kills, over, random.Random(given.seed), given.pace))
    upload = service.ask("PUT", f"/v1/uploads?name={SCAN.name}", SCAN.read_bytes(), "application/octet-stream")[
        "upload"
    ]
    thread.start()
    try:
        submitted = set()
        for number in range(given.jobs):
            wish = {"upload": upload, "options": {"method": "zero-filled"}, "idempotency_key": f"job {number}"}
            for _ in range(2):  # a client that was cut off asks again
                submitted.add(service.ask("POST", "/v1/jobs", json.dumps(wish).encode())["job"])
        late = time.monotonic() + 60 + 30 * given.jobs
        while time.monotonic() < late:
            states = [service.ask("GET", f"/v1/jobs/{job}")["state"] for job in submitted]
            if not set(states) & {"queued", "running"} and not thread.is_alive():
                break
            time.sleep(1)
        pictures = {hashlib.sha256(service.ask("GET", f"/v1/jobs/{job}/result/h5")).hexdigest() for job in submitted}
    finally:
        over.set()
        thread.join()
    return {
        "jobs": given.jobs,
        "workers killed": kills.get("worker killed", 0),
        "api killed": kills.get("api killed", 0),
        "lost": given.jobs - states.count("done"),
        "twice": len(submitted) - given.jobs,
        "other pictures": len(pictures) - 1,
    }


def inspect(service: Service, count: int) -> dict[str, Any]:
    """The database and the disk, when all is still: what is left after a sweep."""
    settings = service.settings
    engine = connect(settings.database_url)
    jobs = Jobs(engine)
    before = len(list((settings.folder / "results").iterdir()))
    attempts = [job.attempts for job in jobs.listed(None, 10 * count)]
    sweeper = Sweeper(jobs, Uploads(engine, settings), settings)
    sweeper.sweep(time.time() + settings.lease_seconds + 601)  # as if so much time had gone by
    left = {path.name for path in (settings.folder / "results").iterdir()}
    known = {job.result for job in jobs.listed(None, 10 * count)}
    engine.dispose()
    with sqlite3.connect(settings.folder / "jobs.sqlite") as link:
        integrity = link.execute("PRAGMA integrity_check").fetchone()[0]
    link.close()
    return {
        "attempts at the most": max(attempts),
        "left behind before the sweep": before - count,
        "orphans": len(left ^ known),
        "integrity": integrity,
    }


if __name__ == "__main__":
    main()
