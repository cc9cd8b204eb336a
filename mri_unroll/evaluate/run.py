"""An evaluation from the folder of scans to the report: what is left to do, who does it, and what it all amounts to.

Everything lies in one folder. ``settings.json`` says what was asked for. Each process that hands out work appends to
a table of its own, ``scores.csv`` or ``scores-shard-0-of-4.csv``, and lists in ``bad_files*.csv`` what it could not
score. The report is made over all tables that are there, one process at a time, so that of several shards the last to
end makes it over everything.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mri_unroll.cohort.hiring import Crew, run_cohort
from mri_unroll.cohort.kept import BadFile, agree, read_bad_files, write_bad_files
from mri_unroll.cohort.tasks import Events, Lost, Shard, Task, chosen_files, files_of, twins
from mri_unroll.errors import InputError
from mri_unroll.evaluate.record import (
    FROM_FILE,
    PICTURES,
    Ledger,
    VolumeScore,
    read_scores,
    write_picture,
)
from mri_unroll.evaluate.report import write_evaluation
from mri_unroll.evaluate.settings import SETTINGS, EvaluationConfig, selection_of, settings_of
from mri_unroll.evaluate.volume import Case, EvaluationJob, Scored, volume_name

_OWN = ("scores*.csv", "bad_files*.csv", "summary.*", "report.html", f"{PICTURES}/*.npz", f"{PICTURES}/.*.part")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation came to."""

    scores: list[VolumeScore]  # all that the folder holds, of earlier runs and other shards too
    bad: list[BadFile]
    paths: dict[str, Path]  # of the report and its companions
    new: int  # scores made by this run
    expected: int  # scores that there would be if every file were good
    seconds: dict[str, float]  # of this run: wall clock, and sums over processes as in `volume.Scored`


def evaluate_folder(
    folder: Path,
    out: Path,
    config: EvaluationConfig,
    *,
    crew: Crew | None = None,
    shard: Shard | None = None,
    resume: bool = False,
    overwrite: bool = False,
    events: Events = lambda event: None,
) -> Evaluation:
    """Score methods on every volume of a folder and write tables and a report.

    Parameters
    ----------
    folder
        Holds the scans directly.
    out
        A folder; made if missing.
    config
        Methods, masks, convention, selection.
    crew
        Who works; None: this process.
    shard
        The part of the files to do; None: all.
    resume
        Continue what ``out`` holds: what has a score is left as it is.
    overwrite
        Delete the evaluation that ``out`` holds first.
    events
        Called with ``progress``, ``worker``, ``score`` and ``bad-file``.

    Raises
    ------
    ConfigError, InputError, ModelError, DeviceError
        If it cannot be begun. What is wrong with single files is part of the result.
    """
    crew = crew or Crew()
    files, missing = chosen_files(files_of(folder), config.split_list, config.limit)
    reconstructors = config.reconstructors()  # what is missing is said before anything is written
    settings = settings_of(folder, config, reconstructors)
    _claim(out, shard, resume, overwrite)
    agree(settings, out / SETTINGS)
    table = out / ("scores.csv" if shard is None else f"scores-{shard.name}.csv")
    expected = len(files) * len(config.methods) * max(1, len(config.accelerations))
    with Ledger(table) as ledger:
        run = _Run(out, ledger, events)
        for name in missing:
            run.refuse(BadFile(file=name, kind="InputError", reason="It is on the list, but not in the folder."))
        second = twins(files)
        for path, first in second.items():
            reason = f"It has the name of {first.name} but for the suffix; that one is taken."
            run.refuse(BadFile(file=path.name, kind="InputError", reason=reason))
        mine = [path for path in files if path not in second]
        tasks = _tasks(shard.of(mine) if shard else mine, config, read_scores(out.glob("scores*.csv")))
        if tasks:
            events({"event": "progress", "done": 0, "total": len(tasks), "unit": "volume"})
        started = time.perf_counter()
        run_cohort(tasks, EvaluationJob(config), crew, run.keep, events)
        run.seconds["wall"] = time.perf_counter() - started
        if shard is None:  # this run has looked at every file itself
            for path in out.glob("bad_files-shard-*.csv"):
                path.unlink(missing_ok=True)
        write_bad_files(run.bad, out / table.name.replace("scores", "bad_files"))
    described = {
        **settings,
        **selection_of(config),
        "files": len(files),
        "expected_scores": expected,
        "crew": crew.spoken,
        "slices_of_last_run": run.n_slices,
        "seconds_of_last_run": {name: round(value, 3) for name, value in sorted(run.seconds.items())},
    }
    with _alone(out):
        scores, bad = read_scores(out.glob("scores*.csv")), read_bad_files(out.glob("bad_files*.csv"))
        paths = write_evaluation(out, scores, bad, described)
    return Evaluation(scores, bad, {"scores": table, **paths}, run.new, expected, dict(run.seconds))


@dataclass(slots=True, eq=False)
class _Run:
    """What this process keeps of what the workers reply."""

    out: Path
    ledger: Ledger
    events: Events
    bad: list[BadFile] = field(default_factory=list)
    new: int = 0
    n_slices: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def keep(self, task: Task, reply: Scored | Lost) -> None:
        """Write scores and pictures to the disk."""
        if isinstance(reply, Lost):
            self.refuse(BadFile(file=task.path.name, kind="WorkerLost", reason=reply.reason))
            return
        there = {score.key for score in self.ledger.scores}
        for score, picture in reply.scored:
            if score.key in there:
                continue
            write_picture(self.out, score.key, picture)
            self.ledger.append(score)
            self.new += 1
            measures = {"nmse": score.nmse, "psnr": score.psnr, "ssim": score.ssim}
            self.events({"event": "score", **dict(zip(score.key._fields, score.key, strict=True)), **measures})
        for bad in reply.bad:
            self.refuse(bad)
        for name, seconds in reply.seconds.items():
            self.seconds[name] += seconds
        self.n_slices += reply.n_slices

    def refuse(self, bad: BadFile) -> None:
        """List a file that is not scored."""
        self.bad.append(bad)
        method = {"method": bad.method} if bad.method else {}
        self.events({"event": "bad-file", "file": bad.file, **method, "kind": bad.kind, "reason": bad.reason})


def _tasks(files: Sequence[Path], config: EvaluationConfig, scores: Sequence[VolumeScore]) -> list[Task]:
    """What has no score yet."""
    own = config.mask == FROM_FILE  # then the file says which acceleration that is
    done = {(score.volume, score.method, None if own else score.acceleration) for score in scores}
    cases = [Case(method, factor) for factor in config.accelerations or (None,) for method in config.methods]
    tasks = []
    for path in files:
        todo = tuple(case for case in cases if (volume_name(path.name), case.method, case.acceleration) not in done)
        if todo:
            tasks.append(Task(path, todo))
    return tasks


def _claim(out: Path, shard: Shard | None, resume: bool, overwrite: bool) -> None:
    """See to it that ``out`` is empty, or holds what may be continued or deleted."""
    out.mkdir(parents=True, exist_ok=True)
    held = [path for path in out.iterdir() if not path.name.startswith(".")]
    is_evaluation = (out / SETTINGS).is_file()
    if held and not is_evaluation:
        raise InputError(
            f"{out} holds {held[0].name} and no evaluation.", "Name an empty folder, or one that is not there yet."
        )
    if overwrite and shard is not None:
        raise InputError(
            "A shard does not delete what other shards may be writing.",
            "Empty the folder first, then start all shards.",
        )
    if overwrite:
        for path in [path for pattern in _OWN for path in out.glob(pattern)]:
            path.unlink(missing_ok=True)
        (out / SETTINGS).unlink(missing_ok=True)
    elif not resume and (list(out.glob(f"scores-{shard.name}.csv")) if shard else is_evaluation):
        raise InputError(
            f"{out} holds an evaluation already.", "Use --resume to continue it, or --overwrite to start again."
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Wait until no other process makes the report."""
    lock = os.open(out / ".report.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
