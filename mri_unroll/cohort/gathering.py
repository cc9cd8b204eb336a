"""What comes back of a cohort that makes files of files: results, and those that were not done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from mri_unroll.cohort.hiring import Crew, run_cohort
from mri_unroll.cohort.kept import BadFile
from mri_unroll.cohort.tasks import Events, Job, Lost, Task

T = TypeVar("T")


class Gathering(Generic[T]):
    """Keeps the replies of workers that give a result or a `BadFile`.

    Parameters
    ----------
    events
        Called with ``progress``, ``worker``, ``file`` and ``bad-file``.
    told
        What the event ``file`` says of a result besides the name of the input.
    """

    def __init__(self, events: Events, told: Callable[[T], dict[str, Any]]) -> None:
        self._events, self._told = events, told
        self.results: list[T] = []
        self.bad: list[BadFile] = []

    def gather(self, files: Sequence[Path], job: Job, crew: Crew) -> None:
        """Have every file done."""
        if files:
            self._events({"event": "progress", "done": 0, "total": len(files), "unit": "volume"})
        run_cohort([Task(path) for path in files], job, crew, self._keep, self._events)

    def refuse_twins(self, second: Mapping[Path, Path]) -> None:
        """List the files that `cohort.tasks.twins` found."""
        for path, first in second.items():
            reason = f"It has the name of {first.name} but for the suffix; that one is taken."
            self._refuse(BadFile(file=path.name, kind="InputError", reason=reason))

    def _keep(self, task: Task, reply: T | BadFile | Lost) -> None:
        if isinstance(reply, Lost):
            reply = BadFile(file=task.path.name, kind="WorkerLost", reason=reply.reason)
        if isinstance(reply, BadFile):
            self._refuse(reply)
            return
        self.results.append(reply)
        self._events({"event": "file", "input": task.path.name, **self._told(reply)})

    def _refuse(self, bad: BadFile) -> None:
        self.bad.append(bad)
        self._events({"event": "bad-file", "file": bad.file, "kind": bad.kind, "reason": bad.reason})
