"""The process that forks a process for every job: started ahead of time, listened to, replaced when it dies."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from mri_unroll.io.atomic import flush_to_disk
from mri_unroll.service.task import RESULTS

_START_PATIENCE = 120.0  # seconds to load everything
_END_PATIENCE = 10.0  # seconds for a process that was killed to be gone


class Runner:
    """Does one job at a time, see `mri_unroll.service.task`.

    Parameters
    ----------
    environment
        Of the process, besides ours.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._at_work = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mri_unroll.service.task"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries may write there what a file says
            env={**_without_secrets(), **(environment or {})},
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._is_ready = False
        self.methods: list[dict[str, Any]] = []  # that jobs may name; known when it is ready

    @property
    def is_alive(self) -> bool:
        """Whether another job can be given."""
        return self._process.poll() is None

    def is_ready(self) -> bool:
        """Wait until everything is loaded; False if the process ended before that."""
        if not self._is_ready:
            try:
                event = self.events.get(timeout=_START_PATIENCE)
            except queue.Empty:
                return False
            self._is_ready = event.get("event") == "ready"
            self.methods = event.get("methods", [])
        return self._is_ready

    def order(self, order: dict[str, Any]) -> None:
        """Give it a job; whatever comes of it shows in `events`, the last of which is ``ended``."""
        self._at_work = True
        self._write(json.dumps(order))

    def end_job(self) -> None:
        """End the job at hand, whatever it does, and see to it that nothing of it is left to be heard."""
        if self._at_work:
            self._write("")
        while self._at_work and self.is_alive:
            try:
                self._at_work = self.events.get(timeout=_END_PATIENCE).get("event") != "ended"
            except queue.Empty:
                self.end()

    def next(self, timeout: float) -> dict[str, Any] | None:
        """The next event, None if there is none yet."""
        try:
            event = self.events.get(timeout=timeout)
        except queue.Empty:
            return None
        if event.get("event") == "ended":
            self._at_work = False
        return event

    def end(self) -> None:
        """End the process; the job at hand ends with it."""
        self._process.kill()
        self._process.wait()
        self._at_work = False
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # a process that is gone shows in `events`
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # half a line of a process that was killed
                event = json.loads(line)
                if isinstance(event, dict):
                    self.events.put(event)
        self._process.stdout.close()
        self._process.wait()
        self.events.put({"event": "ended", "signal": max(0, -self._process.returncode)})


def _without_secrets() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MRI_UNROLL_")}


def settled(folder: Path) -> int:
    """See a finished folder safely on the disk, and give its size in bytes.

    Raises
    ------
    ValueError
        If it holds anything but plain files of the names that are expected.
    """
    expected = {name for name, _ in RESULTS.values()}
    size = 0
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file() or path.name not in expected:
            raise ValueError(path.name)
        size += path.stat().st_size
        flush_to_disk(path)
    flush_to_disk(folder)
    return size
