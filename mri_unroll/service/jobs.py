"""Jobs that outlive whoever works on them: claimed with a lease, published behind a fence.

A worker that takes a job holds it for some seconds and says again and again that it lives. One that dies loses the job
to the next; one that was only asleep finds, when it wants to publish, that the job is no longer its own.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, RowMapping, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from mri_unroll.service.schema import jobs, reading

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
MAX_RELIEF = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One row, as it was when it was read."""

    id: str
    owner: str
    upload: str
    name: str  # of the file
    wish: dict[str, Any]  # method and options
    state: str
    attempts: int
    relief: int  # steps down the ladder of memory
    worker: str
    lease: float
    wants_cancel: bool
    done: int
    total: int
    stage: str
    error: dict[str, str] | None
    result: str
    size: int
    created: float
    started: float
    finished: float

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED


class Lost(Exception):
    """The job belongs to somebody else by now, or was cancelled or deleted."""


class Jobs:
    """The queue.

    Parameters
    ----------
    engine
        See `connect`.
    lease
        Seconds for which a claim or a sign of life holds.
    attempts
        How often a job may end its worker before it has failed.
    clock
        Seconds since 1970; hosts that share a queue need clocks that agree better than the lease.
    """

    def __init__(
        self, engine: Engine, lease: float = 30.0, attempts: int = 3, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._lease, self._attempts, self._clock = engine, lease, attempts, clock
        self._reads = reading(engine)

    def submit(self, owner: str, upload: str, name: str, wish: dict[str, Any], key: str | None = None) -> Job:
        """Add a job; with a key that this owner has used before, the job of then."""
        now, identity = self._clock(), uuid.uuid4().hex
        empty = {"worker": "", "stage": "", "error": "", "result": ""}
        none = dict.fromkeys(("attempts", "relief", "done", "total", "size"), 0)
        never = dict.fromkeys(("lease", "started", "finished"), 0.0)
        row: dict[str, Any] = {"id": identity, "owner": owner, "key": key, "upload": upload, "name": name}
        row |= {
            "wish": json.dumps(wish),
            "state": QUEUED,
            "wants_cancel": False,
            "created": now,
            **empty,
            **none,
            **never,
        }
        try:
            with self._engine.begin() as link:
                link.execute(insert(jobs).values(**row))
        except IntegrityError:
            with self._engine.begin() as link:
                found = link.execute(select(jobs).where(jobs.c.owner == owner, jobs.c.key == key)).mappings().first()
            if found is None:
                raise
            return _job(found)
        made = self.get(identity)
        assert made is not None
        return made

    def get(self, identity: str) -> Job | None:
        """One job."""
        with self._reads.begin() as link:
            found = link.execute(select(jobs).where(jobs.c.id == identity)).mappings().first()
        return None if found is None else _job(found)

    def listed(self, owner: str | None, limit: int = 100) -> list[Job]:
        """Jobs of an owner, or of all; the latest first."""
        asked = select(jobs).order_by(jobs.c.created.desc(), jobs.c.id).limit(limit)
        if owner is not None:
            asked = asked.where(jobs.c.owner == owner)
        with self._reads.begin() as link:
            return [_job(row) for row in link.execute(asked).mappings()]

    def counted(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        with self._reads.begin() as link:
            rows = link.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        return dict.fromkeys((QUEUED, RUNNING, *ENDED), 0) | {str(state): int(count) for state, count in rows}

    def kept_bytes(self, owner: str) -> int:
        """Size of all results of an owner."""
        with self._reads.begin() as link:
            total = link.execute(select(func.sum(jobs.c.size)).where(jobs.c.owner == owner)).scalar()
        return int(total or 0)

    # --- what workers do

    def claim(self, worker: str) -> Job | None:
        """Take the oldest job that waits or whose worker has been silent for too long; None: there is none.

        A job that has ended its worker ``attempts`` times has failed.
        """
        now = self._clock()
        lost = and_(jobs.c.state == RUNNING, jobs.c.lease < now)
        free = or_(jobs.c.state == QUEUED, lost)
        with self._reads.begin() as link:  # who has nothing to do keeps nobody from writing
            if link.execute(select(jobs.c.id).where(free).limit(1)).first() is None:
                return None
        with self._engine.begin() as link:
            while True:
                asked = select(jobs).where(free).order_by(jobs.c.created, jobs.c.id).limit(1)
                row = link.execute(asked.with_for_update(skip_locked=True)).mappings().first()
                if row is None:
                    return None
                this = jobs.c.id == row["id"]
                if row["wants_cancel"]:
                    link.execute(update(jobs).where(this).values(state=CANCELLED, worker="", finished=now))
                elif row["attempts"] >= self._attempts:
                    said = f"The job ended its worker {row['attempts']} times."
                    error = json.dumps({"kind": "Poison", "message": said, "hint": "Report it with the scan."})
                    link.execute(update(jobs).where(this).values(state=FAILED, worker="", finished=now, error=error))
                else:
                    changed = {"state": RUNNING, "worker": worker, "lease": now + self._lease, "done": 0, "total": 0}
                    changed |= {"attempts": row["attempts"] + 1, "stage": "starting"}
                    changed["started"] = row["started"] or now
                    link.execute(update(jobs).where(this).values(**changed))
                    return _job({**row, **changed})

    def alive(self, job: Job, done: int = 0, total: int = 0, stage: str = "") -> None:
        """Say that the job goes on.

        Raises
        ------
        Lost
            If it must not: it was cancelled, or belongs to somebody else.
        """
        values = {"lease": self._clock() + self._lease, "done": done, "total": total, "stage": stage[:200]}
        with self._engine.begin() as link:
            fence = and_(self._mine(job), jobs.c.wants_cancel.is_(False))
            if link.execute(update(jobs).where(fence).values(**values)).rowcount != 1:
                raise Lost

    def publish(self, job: Job, result: str, size: int) -> None:
        """Make a result the job's own: the fence.

        Raises
        ------
        Lost
            If the job is not ours any more; the result must be thrown away.
        """
        self._end(job, state=DONE, result=result, size=size, stage="done", done=jobs.c.total)

    def fail(self, job: Job, error: dict[str, str]) -> None:
        """End a job that cannot succeed, with the reason. Raises as `publish`."""
        self._end(job, state=FAILED, error=json.dumps(error), stage="failed")

    def put_back(self, job: Job, relief: int | None = None, uncounted: bool = False) -> None:
        """Queue a job again: after memory ran out, further down the ladder; or uncounted, when the service stops."""
        values: dict[str, Any] = {"state": QUEUED, "worker": "", "lease": 0.0, "stage": "waiting again"}
        if relief is not None:
            values["relief"] = relief
        if uncounted or relief is not None:
            values["attempts"] = max(job.attempts - 1, 0)
        with self._engine.begin() as link:
            if link.execute(update(jobs).where(self._mine(job)).values(**values)).rowcount != 1:
                raise Lost

    def end_cancelled(self, job: Job) -> None:
        """Settle a job whose owner has cancelled it, if it is still ours."""
        fence = and_(jobs.c.id == job.id, jobs.c.worker == job.worker, jobs.c.wants_cancel.is_(True))
        with self._engine.begin() as link:
            values = {"state": CANCELLED, "worker": "", "finished": self._clock(), "stage": "cancelled"}
            link.execute(update(jobs).where(fence, jobs.c.state == RUNNING).values(**values))

    # --- what owners do

    def cancel(self, identity: str) -> None:
        """A waiting job is cancelled at once, a running one as soon as its worker hears of it."""
        this, now = jobs.c.id == identity, self._clock()
        with self._engine.begin() as link:
            waiting = {"state": CANCELLED, "wants_cancel": True, "finished": now, "stage": "cancelled"}
            link.execute(update(jobs).where(this, jobs.c.state == QUEUED).values(**waiting))
            link.execute(update(jobs).where(this, jobs.c.state == RUNNING).values(wants_cancel=True))

    def delete(self, identity: str) -> bool:
        """Forget an ended job; False if it has not ended."""
        with self._engine.begin() as link:
            gone = link.execute(jobs.delete().where(jobs.c.id == identity, jobs.c.state.in_(ENDED)))
        return gone.rowcount == 1

    def delete_before(self, finished: float) -> int:
        """Forget jobs that ended before a time."""
        with self._engine.begin() as link:
            gone = link.execute(jobs.delete().where(jobs.c.state.in_(ENDED), jobs.c.finished < finished))
        return gone.rowcount

    def kept(self) -> tuple[set[str], set[str]]:
        """Folders of results, and uploads, that some job needs."""
        with self._reads.begin() as link:
            rows = link.execute(select(jobs.c.result, jobs.c.upload, jobs.c.state)).all()
        return {row.result for row in rows if row.result}, {row.upload for row in rows if row.state not in ENDED}

    def _mine(self, job: Job) -> Any:
        return and_(jobs.c.id == job.id, jobs.c.worker == job.worker, jobs.c.state == RUNNING)

    def _end(self, job: Job, **values: Any) -> None:
        values |= {"worker": "", "lease": 0.0, "finished": self._clock()}
        with self._engine.begin() as link:
            fence = and_(self._mine(job), jobs.c.wants_cancel.is_(False))
            if link.execute(update(jobs).where(fence).values(**values)).rowcount != 1:
                raise Lost


def _job(row: RowMapping | dict[str, Any]) -> Job:
    values = {name: row[name] for name in Job.__slots__}
    values["wish"] = json.loads(values["wish"])
    values["error"] = json.loads(values["error"]) if values["error"] else None
    values["wants_cancel"] = bool(values["wants_cancel"])
    return Job(**values)
