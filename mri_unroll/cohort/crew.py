"""Who does the tasks: this process, or a team whose members may die while the work goes on.

Each member holds one task, and knows a second that it may read meanwhile. When a member dies, both go back and another
member is hired; from then on these two are done with nothing else read beside them, so that a file which kills its
reader is found out, and given up after `MAX_DEATHS`, without taking others along.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mri_unroll.cohort.tasks import Events, Job, Lost, Task
from mri_unroll.errors import DeviceError

MAX_DEATHS = 5  # of members that held the same task
MAX_DEATHS_IN_A_ROW = 10  # beyond the size of the team, without a task done in between
PATIENCE = 300.0  # seconds for a member to start, when no other works

Keep = Callable[[Task, Any], None]  # gets each reply, or `Lost`


@dataclass(frozen=True, slots=True)
class Ready:
    """A member has loaded what it needs."""

    pid: int


@dataclass(frozen=True, slots=True)
class Done:
    """A member has done its task."""

    reply: Any


@dataclass(frozen=True, slots=True)
class Died:
    """A member is no more."""

    reason: str


Answer = Ready | Done | Died


class Team(Protocol):
    """Starts workers and talks to them."""

    def hire(self) -> Any:
        """Start a worker and return a handle on it; it answers `Ready` later."""
        ...

    def submit(self, handle: Any, task: Task, upcoming: Task | None) -> None:
        """Give a worker that is ready its next task."""
        ...

    def wait(self, handles: Sequence[Any], timeout: float) -> list[tuple[Any, Answer]]:
        """Wait for answers; an exception that a worker raised is raised here."""
        ...

    def dismiss(self, handle: Any) -> None:
        """End a worker, whatever it does."""
        ...


@dataclass(slots=True, eq=False)
class _Member:
    handle: Any
    pid: int | None = None  # None: not ready yet
    task: Task | None = None
    upcoming: Task | None = None


def run_here(tasks: Sequence[Task], job: Job, keep: Keep, events: Events) -> None:
    """Do all tasks in this process, one after the other."""
    if not tasks:
        return
    worker = job.open()
    for done, task in enumerate(tasks, 1):
        keep(task, worker.run(task, tasks[done] if done < len(tasks) else None))
        events({"event": "progress", "done": done, "total": len(tasks), "unit": "volume"})


def run_team(tasks: Sequence[Task], team: Team, size: int, keep: Keep, events: Events) -> None:
    """Have a team do all tasks; who dies is replaced.

    Parameters
    ----------
    tasks
        Their order is kept as far as nobody dies.
    team
        Who works.
    size
        Number of workers.
    keep
        Called here, in this process, with each task and its reply, as they come.
    events
        Gets ``progress``, and ``worker`` whenever one starts or is lost.

    Raises
    ------
    DeviceError
        If workers do not start, or die one after the other without getting anything done.
    """
    _Foreman(tasks, team, keep, events).run(min(size, len(tasks)))


class _Foreman:
    def __init__(self, tasks: Sequence[Task], team: Team, keep: Keep, events: Events) -> None:
        self.waiting = deque(tasks)
        self.total = len(tasks)
        self.done = 0
        self.team, self.keep, self.events = team, keep, events
        self.deaths: Counter[Task] = Counter()
        self.in_a_row = 0
        self.members: list[_Member] = []

    def run(self, size: int) -> None:
        try:
            self.members.extend(_Member(self.team.hire()) for _ in range(size))
            while self.done < self.total:
                for member in self.members:
                    if member.pid is not None and member.task is None:
                        self._assign(member)
                answers = self.team.wait([member.handle for member in self.members], PATIENCE)
                if not answers and all(member.pid is None for member in self.members):
                    raise DeviceError(
                        f"No worker started within {PATIENCE:.0f} seconds.",
                        "Ask for fewer workers; what is done is kept, continue with --resume.",
                    )
                for handle, answer in answers:
                    self._hear(next(member for member in self.members if member.handle is handle), answer, size)
        finally:
            for member in self.members:
                self.team.dismiss(member.handle)

    def _assign(self, member: _Member) -> None:
        task = member.upcoming
        if task is None and self.waiting:
            task = self.waiting.popleft()
        if task is None:  # take what another only reads ahead
            other = next((each for each in self.members if each.upcoming is not None), None)
            if other is None:
                return
            task, other.upcoming = other.upcoming, None
        assert task is not None
        member.task, member.upcoming = task, None
        if self.waiting and not self.deaths[task] and not self.deaths[self.waiting[0]]:
            member.upcoming = self.waiting.popleft()
        self.team.submit(member.handle, task, member.upcoming)

    def _hear(self, member: _Member, answer: Answer, size: int) -> None:
        if isinstance(answer, Ready):
            member.pid = answer.pid
            self.events({"event": "worker", "state": "started", "pid": answer.pid})
        elif isinstance(answer, Done):
            task, member.task = member.task, None
            assert task is not None
            self.in_a_row = 0
            self._finish(task, answer.reply)
        else:
            self._bury(member, answer, size)

    def _bury(self, member: _Member, death: Died, size: int) -> None:
        self.members.remove(member)
        self.team.dismiss(member.handle)
        lost = [task for task in (member.task, member.upcoming) if task is not None]
        files = [task.path.name for task in lost[:1]]
        self.events({"event": "worker", "state": "lost", "pid": member.pid, "reason": death.reason, "files": files})
        self.in_a_row += 1
        if self.in_a_row > MAX_DEATHS_IN_A_ROW + size:
            raise DeviceError(
                f"{self.in_a_row} workers ended one after the other, the last one so: {death.reason}.",
                "Check memory and logs; what is done is kept, continue with --resume.",
            )
        for task in lost:
            self.deaths[task] += 1
            if self.deaths[task] >= MAX_DEATHS:
                reason = f"{MAX_DEATHS} processes ended while they worked on it, the last one so: {death.reason}."
                self._finish(task, Lost(reason))
            else:
                self.waiting.append(task)
        if len(self.members) < self.total - self.done:
            self.members.append(_Member(self.team.hire()))

    def _finish(self, task: Task, reply: Any) -> None:
        self.keep(task, reply)
        self.done += 1
        self.events({"event": "progress", "done": self.done, "total": self.total, "unit": "volume"})
