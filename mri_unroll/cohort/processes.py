"""A team of processes on this machine. Its members end with the process that hired them, however that ends."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mri_unroll.cohort.crew import Answer, Died, Done, Ready
from mri_unroll.cohort.tasks import Job, Task

_DISMISSAL = 5.0  # seconds


@dataclass(frozen=True, slots=True, eq=False)
class _Handle:
    process: SpawnProcess
    talk: Connection
    place: int  # in the team; who replaces a dead worker gets its place, and with it its GPU


class ProcessTeam:
    """Workers as processes that Python starts afresh, so that no thread or lock is inherited.

    Parameters
    ----------
    job
        What they do.
    threads
        CPU threads of each.
    """

    def __init__(self, job: Job, threads: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._job, self._threads = pickle.dumps(job), threads
        self._places: set[int] = set()

    def hire(self) -> _Handle:
        """Start a process."""
        place = next(number for number in itertools.count() if number not in self._places)
        self._places.add(place)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(theirs, self._job, self._threads, place),
            daemon=True,
            name=f"worker-{place}",
        )
        process.start()
        theirs.close()  # or the end of the process would not end the talk
        return _Handle(process, ours, place)

    def submit(self, handle: _Handle, task: Task, upcoming: Task | None) -> None:
        """Send a task; that nobody is there to take it is seen in `wait`."""
        try:
            handle.talk.send((task, upcoming))
        except (BrokenPipeError, ConnectionResetError):
            return

    def wait(self, handles: Sequence[_Handle], timeout: float) -> list[tuple[_Handle, Answer]]:
        """Wait for answers."""
        of_talk = {handle.talk: handle for handle in handles}
        ready = [of_talk[talk] for talk in wait(list(of_talk), timeout) if isinstance(talk, Connection)]
        return [(handle, self._answer(handle)) for handle in ready]

    def dismiss(self, handle: _Handle) -> None:
        """End a process."""
        handle.talk.close()
        handle.process.kill()
        handle.process.join(_DISMISSAL)
        self._places.discard(handle.place)

    def _answer(self, handle: _Handle) -> Answer:
        try:
            kind, value = handle.talk.recv()
        except (EOFError, OSError):
            handle.process.join(_DISMISSAL)
            return Died(_how_it_ended(handle.process.exitcode))
        if kind == "failed":
            raise value
        return Ready(value) if kind == "ready" else Done(value)


def unpack(job: bytes, threads: int, index: int | None = None) -> Job:
    """The job, in a process that has set its CPU threads and, counted round from ``index``, its GPU for it."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    unpacked: Job = pickle.loads(job)
    if (torch := sys.modules.get("torch")) is not None:  # imported by the job, or not needed
        torch.set_num_threads(threads)
        if index is not None and torch.cuda.is_available():
            torch.cuda.set_device(index % torch.cuda.device_count())
    return unpacked


def _serve(talk: Connection, job: bytes, threads: int, index: int) -> None:
    """What a process does until it is dismissed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: who hired us decides
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        worker = unpack(job, threads, index).open()
        talk.send(("ready", os.getpid()))
        while True:
            talk.send(("done", worker.run(*talk.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        talk.send(("failed", error))


def _end_with(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(1)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "it does not answer"
    if code >= 0:
        return f"it ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name} ended it{' (often: the memory was not enough)' if name == 'SIGKILL' else ''}"
