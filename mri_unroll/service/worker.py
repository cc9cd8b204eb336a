"""A worker: takes jobs one after the other and sees each through, in a process that may die of it.

``python -m mri_unroll.service.worker`` reads its settings as JSON from standard input. It never opens a scan itself.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from mri_unroll.config import from_mapping
from mri_unroll.errors import MriUnrollError
from mri_unroll.machine import memory_bytes
from mri_unroll.service import confine
from mri_unroll.service.jobs import MAX_RELIEF, Job, Jobs, Lost
from mri_unroll.service.log import configure
from mri_unroll.service.methods import Methods
from mri_unroll.service.runner import Runner, settled
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import GB, ServiceSettings
from mri_unroll.service.sweeper import Sweeper
from mri_unroll.service.uploads import Uploads

_log = logging.getLogger(__name__)
_PAUSE = 0.25  # seconds between looks at the queue, and at a running job
_SWEEP = 300.0
_TROUBLE = 2.0  # seconds to wait when neither database nor disk can be had


class Worker:
    """Works on the queue until it is told to stop.

    Parameters
    ----------
    settings
        Of the service.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        engine = connect(settings.database_url)
        self._jobs = Jobs(engine, settings.lease_seconds, settings.attempts)
        self._uploads = Uploads(engine, settings)
        self._sweeper = Sweeper(self._jobs, self._uploads, settings)
        self._results = settings.folder / "results"
        self._results.mkdir(parents=True, exist_ok=True)
        self._name = f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._methods = Methods(settings)
        self._runner = self._start()

    def stop(self) -> None:
        """Take no further job, and give back the one at hand."""
        self._stop.set()

    def run(self) -> None:
        """Work."""
        swept = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() - swept > _SWEEP:
                    self._sweeper.sweep()
                    swept = time.monotonic()
                job = self._jobs.claim(self._name) if self._is_ready() else None
                if job is not None:
                    self._work(job)
                elif self._runner.is_alive:
                    self._stop.wait(_PAUSE)
            except (SQLAlchemyError, OSError, MriUnrollError):
                # A full disk, or a database that is away: the lease of a job runs out.
                _log.exception("the database or the disk failed")
                self._stop.wait(_TROUBLE)
            if not self._runner.is_alive:
                self._runner.end()
                self._stop.wait(_PAUSE)
                self._runner = self._start()
        self._runner.end()

    def _is_ready(self) -> bool:
        if self._runner.is_ready() and self._runner.methods:
            self._methods.keep(self._runner.methods)
            self._runner.methods = []  # once for each process
        return self._runner.is_ready()

    def _start(self) -> Runner:
        # Threads that spin while they wait make a job ten times slower where another program has one of the cores.
        environment = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
        if self._settings.threads:
            environment["OMP_NUM_THREADS"] = str(self._settings.threads)
        return Runner(environment)

    def _work(self, job: Job) -> None:
        _log.info("job begins", extra={"job": job.id, "attempt": job.attempts, "relief": job.relief})
        began = time.monotonic()
        folder = self._results / f"{job.id}.{uuid.uuid4().hex[:12]}"
        part = folder.with_suffix(folder.suffix + ".part")
        trouble = ""
        try:
            part.mkdir()
            last = self._see_through(job, part)
            self._settle(job, last, part, folder)
        except Lost:
            self._jobs.end_cancelled(job)
            _log.info("job lost or cancelled", extra={"job": job.id})
        except (SQLAlchemyError, OSError) as error:  # the disk is full, or gone
            trouble = getattr(error, "strerror", None) or "its database cannot be written, perhaps for lack of space"
        finally:
            self._runner.end_job()
            shutil.rmtree(part, ignore_errors=True)
            _log.info("job ends", extra={"job": job.id, "seconds": round(time.monotonic() - began, 3)})
        if trouble:  # with the room that has just been given back, the reason may be kept
            self._give_up(job, {"kind": "OSError", "message": f"The service cannot write: {trouble}.", "hint": ""})

    def _see_through(self, job: Job, part: Path) -> dict[str, Any]:
        """Listen until the last event, ``done``, ``error`` or ``ended``, and say meanwhile that we live."""
        self._runner.order(self._order(job, part))
        deadline = time.monotonic() + 3600 * self._settings.job_hours
        done = total = 0
        said = 0.0
        while True:
            event = self._runner.next(_PAUSE) or {}
            if event.get("event") in ("done", "error", "ended"):
                return event
            if event.get("event") == "progress":
                done, total = int(event["done"]), int(event["total"])
            if time.monotonic() - said > min(1.0, self._settings.lease_seconds / 3):
                self._jobs.alive(job, done, total, f"slice {done} of {total}" if total else "reading")
                said = time.monotonic()
            if self._stop.is_set():
                self._jobs.put_back(job, uncounted=True)
                raise Lost
            if time.monotonic() > deadline:
                hours = f"{self._settings.job_hours:g} hours"
                return {"event": "error", "kind": "Timeout", "message": f"It took longer than {hours}.", "hint": ""}

    def _order(self, job: Job, part: Path) -> dict[str, Any]:
        # Under its own name the file is known to messages and report; a link costs nothing.
        inside = part / "in"
        inside.mkdir()
        file = inside / job.name
        os.link(self._uploads.path(job.upload), file)
        settings = self._settings
        memory = settings.job_memory_gb
        found = memory_bytes()
        bound = memory * GB if memory is not None else 0.95 * found[0] if found else None
        if settings.device != "cpu" and _has_gpu():
            bound = None
        return {
            "file": str(file),
            "out": str(part),
            "wish": job.wish,
            "relief": job.relief,
            "device": settings.device,
            "threads": settings.threads,
            "bounds": {
                "memory": None if bound is None else int(bound),
                "seconds": 3600 * settings.job_hours * (settings.threads or os.cpu_count() or 1),
                "file_bytes": int(4 * settings.max_upload_gb * GB),
            },
        }

    def _settle(self, job: Job, last: dict[str, Any], part: Path, folder: Path) -> None:
        if last["event"] == "done":
            shutil.rmtree(part / "in")
            try:
                size = settled(part)
            except ValueError as odd:
                self._jobs.fail(job, {"kind": "Bug", "message": f"The result holds {odd}, which is odd.", "hint": ""})
                return
            part.rename(folder)
            try:
                self._jobs.publish(job, folder.name, size)
            except Lost:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return
        is_dead = last["event"] == "ended"
        # Nobody but the kernel kills it so, when memory is short.
        is_memory = last.get("signal") == signal.SIGKILL if is_dead else bool(last.get("is_memory"))
        if is_memory and job.relief < MAX_RELIEF:
            _log.warning("job ran out of memory", extra={"job": job.id, "relief": job.relief + 1})
            self._jobs.put_back(job, relief=job.relief + 1)
        elif is_dead:
            _log.error("job ended its process", extra={"job": job.id, "signal": last.get("signal")})
            self._jobs.put_back(job)
        else:
            error = {key: str(last.get(key, "")) for key in ("kind", "message", "hint")}
            self._jobs.fail(job, error)

    def _give_up(self, job: Job, error: dict[str, str]) -> None:
        try:
            self._jobs.fail(job, error)
        except Lost:
            _log.info("job lost", extra={"job": job.id})


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def main() -> None:
    """Run one worker until SIGTERM, or until its parent ends."""
    confine.end_with_parent()
    settings = from_mapping(json.loads(sys.stdin.readline()), ServiceSettings)
    configure()
    worker = Worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()


def as_order(settings: ServiceSettings) -> str:
    """Settings as a line for `main`."""
    return json.dumps(asdict(settings)) + "\n"


if __name__ == "__main__":
    main()
