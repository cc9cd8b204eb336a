"""The queue: leases, the fence, attempts, cancelling; on SQLite and, where there is one, on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")

from mri_unroll.errors import ConfigError, DeviceError  # noqa: E402
from mri_unroll.service import schema  # noqa: E402
from mri_unroll.service.jobs import MAX_RELIEF, Job, Jobs, Lost  # noqa: E402
from mri_unroll.service.schema import connect  # noqa: E402

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own, on a socket in a folder."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    programs, folder = POSTGRES[-1].parent, Path(tempfile.mkdtemp())  # not in pytest's, which another user cannot enter
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder, "timeout": 120}
    subprocess.run([*as_user, programs / "initdb", "-D", data, "-A", "trust", "-N", "-U", "us"], **run)
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    subprocess.run(
        [*as_user, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **run
    )
    try:
        yield f"postgresql+psycopg://us@/postgres?host={folder}"
    finally:
        subprocess.run([*as_user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder)


class Clock:
    """A time that tests set."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    found: str = request.getfixturevalue("postgres")
    engine = sqlalchemy.create_engine(found)
    schema.metadata.drop_all(engine)
    engine.dispose()
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(url: str, clock: Clock) -> Iterator[Jobs]:
    engine = connect(url)
    yield Jobs(engine, lease=30, attempts=3, clock=clock)
    engine.dispose()


def submitted(queue: Jobs, **more: Any) -> Job:
    return queue.submit("alice", "u" * 32, "scan.h5", {"method": "tv"}, **more)


def state(queue: Jobs, job: Job) -> str:
    found = queue.get(job.id)
    assert found is not None
    return found.state


def claimed(queue: Jobs, worker: str = "one") -> Job:
    job = queue.claim(worker)
    assert job is not None
    return job


def test_the_oldest_job_goes_first_and_once(queue: Jobs, clock: Clock) -> None:
    first = submitted(queue)
    clock.now += 1
    second = submitted(queue)
    assert [claimed(queue, "one").id, claimed(queue, "two").id] == [first.id, second.id]
    assert queue.claim("three") is None
    queue.publish(queue.get(first.id), "folder", 12)  # type: ignore[arg-type]
    found = queue.get(first.id)
    assert found is not None
    assert (found.state, found.result, found.size, found.attempts, found.worker) == ("done", "folder", 12, 1, "")


def test_a_silent_worker_loses_its_job_and_cannot_publish(queue: Jobs, clock: Clock) -> None:
    submitted(queue)
    asleep = claimed(queue, "asleep")
    clock.now += 29
    queue.alive(asleep, 3, 9, "slice 3 of 9")
    clock.now += 29
    assert queue.claim("other") is None  # it has said that it lives
    clock.now += 2
    taken = claimed(queue, "other")
    assert (taken.id, taken.attempts) == (asleep.id, 2)
    for act in (
        lambda: queue.publish(asleep, "old", 1),
        lambda: queue.alive(asleep),
        lambda: queue.fail(asleep, {"message": "no"}),
        lambda: queue.put_back(asleep),
    ):
        with pytest.raises(Lost):
            act()
    queue.publish(taken, "new", 1)
    with pytest.raises(Lost):
        queue.publish(taken, "twice", 1)
    found = queue.get(taken.id)
    assert found is not None
    assert found.result == "new"


def test_a_job_that_ends_its_worker_fails_in_the_end(queue: Jobs, clock: Clock) -> None:
    poison, other = submitted(queue), None
    for attempt in range(1, 4):
        assert claimed(queue).attempts == attempt
        clock.now += 31
    clock.now += 1
    other = submitted(queue)
    assert claimed(queue).id == other.id  # the queue goes on
    found = queue.get(poison.id)
    assert found is not None
    assert found.state == "failed"
    assert found.error is not None
    assert "3 times" in found.error["message"]


def test_memory_and_stops_do_not_count_as_attempts(queue: Jobs) -> None:
    job = submitted(queue)
    for step in range(1, MAX_RELIEF + 1):
        queue.put_back(claimed(queue), relief=step)
    queue.put_back(claimed(queue), uncounted=True)
    last = claimed(queue)
    assert (last.id, last.attempts, last.relief) == (job.id, 1, MAX_RELIEF)


def test_cancelling(queue: Jobs) -> None:
    waiting, at_work = submitted(queue), None
    queue.cancel(waiting.id)
    assert state(queue, waiting) == "cancelled"
    submitted(queue)
    at_work = claimed(queue)
    queue.cancel(at_work.id)
    assert state(queue, at_work) == "running"  # its worker has not heard of it
    with pytest.raises(Lost):
        queue.publish(at_work, "result", 1)
    queue.end_cancelled(at_work)
    assert state(queue, at_work) == "cancelled"
    assert queue.claim("two") is None
    queue.cancel(at_work.id)
    assert queue.delete(at_work.id)
    assert queue.get(at_work.id) is None


def test_a_cancelled_job_of_a_dead_worker_is_settled(queue: Jobs, clock: Clock) -> None:
    submitted(queue)
    job = claimed(queue)
    queue.cancel(job.id)
    clock.now += 31
    assert queue.claim("two") is None
    assert state(queue, job) == "cancelled"


def test_the_same_key_is_the_same_job(queue: Jobs) -> None:
    first = submitted(queue, key="k")
    assert submitted(queue, key="k").id == first.id
    assert submitted(queue, key="other").id != first.id
    assert queue.submit("bob", "u" * 32, "scan.h5", {}, "k").id != first.id
    assert submitted(queue).id != submitted(queue).id
    assert queue.counted()["queued"] == 5
    assert len(queue.listed("alice")) == 4
    assert len(queue.listed(None, limit=3)) == 3


def test_what_has_ended_can_be_forgotten(queue: Jobs, clock: Clock) -> None:
    old, running = submitted(queue), None
    queue.publish(claimed(queue), "folder", 7)
    assert queue.kept() == ({"folder"}, set())
    assert queue.kept_bytes("alice") == 7
    submitted(queue)
    running = claimed(queue)
    assert not queue.delete(running.id)
    assert queue.kept() == ({"folder"}, {"u" * 32})
    assert queue.delete_before(clock.now) == 0
    assert queue.delete_before(clock.now + 1) == 1
    assert queue.get(old.id) is None
    assert queue.kept_bytes("alice") == 0


def test_many_workers_at_once_share_the_jobs(url: str) -> None:
    """Every job is taken once, whoever is quickest."""
    engine = connect(url)
    queue = Jobs(engine)
    for _ in range(60):
        submitted(queue)
    taken: list[str] = []

    def work(name: str) -> None:
        mine = connect(url)
        own = Jobs(mine)
        while (job := own.claim(name)) is not None:
            taken.append(job.id)
            own.publish(job, f"{job.id}.{name}", 1)
        mine.dispose()

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 60
    assert queue.counted()["done"] == 60
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(url).dispose()
    monkeypatch.setattr(schema, "VERSION", 0)
    with pytest.raises(ConfigError, match="version 1"):
        connect(url)


def test_an_older_database_is_brought_forward_with_its_jobs(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = connect(url)
    job = submitted(Jobs(engine))
    engine.dispose()
    monkeypatch.setattr(schema, "VERSION", 3)
    steps = {1: ("ALTER TABLE jobs ADD COLUMN note VARCHAR(9)",), 2: ("UPDATE jobs SET note = 'moved'",)}
    monkeypatch.setattr(schema, "_STEPS", steps)
    for _ in range(2):  # the second time there is nothing to do
        engine = connect(url)
        with engine.begin() as link:
            assert link.execute(sqlalchemy.text("SELECT note FROM jobs")).scalars().all() == ["moved"]
            assert link.execute(sqlalchemy.text("SELECT value FROM about")).scalars().all() == ["3"]
        assert Jobs(engine).get(job.id) is not None
        engine.dispose()


@pytest.mark.parametrize(
    ("address", "error"),
    [("nonsense", ConfigError), ("sqlite:////nowhere/at/all/jobs.sqlite", DeviceError)],
)
def test_a_database_that_cannot_be_had(address: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="database of jobs"):
        connect(address)


def test_who_reads_waits_for_no_writer(url: str) -> None:
    engine = connect(url)
    queue = Jobs(engine)
    job = submitted(queue)
    with engine.begin() as writer:
        writer.execute(schema.jobs.update().values(stage="half written"))
        seen: list[Any] = []
        reader = threading.Thread(target=lambda: seen.extend([queue.get(job.id), queue.counted()["queued"]]))
        reader.start()
        reader.join(5)
        assert not reader.is_alive()
    found, count = seen
    assert (found.stage, count) == ("", 1)
    assert queue.claim("one") is not None
    engine.dispose()
