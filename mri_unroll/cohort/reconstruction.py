"""Every scan of a folder reconstructed as one file is, by the same road."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mri_unroll import __version__
from mri_unroll.cohort.gathering import Gathering
from mri_unroll.cohort.hiring import Crew
from mri_unroll.cohort.kept import BadFile, agree, plain, write_bad_files
from mri_unroll.cohort.tasks import Events, Shard, Task, files_of, spoken, twins
from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.io.registry import volume_format
from mri_unroll.pipeline import Outcome, reconstruct_file
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor
from mri_unroll.targets import targets_of

SETTINGS = "cohort.json"  # in the folder of the results: these are ours, and may be continued


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """What came of a folder."""

    outcomes: list[Outcome]  # of this run
    bad: list[BadFile]
    finished: int  # files that were left as they were


@dataclass(frozen=True, slots=True)
class ReconstructionJob:
    """The work on every scan, as it is sent to another process."""

    config: ReconstructionConfig
    out: Path
    layout: str | None

    def open(self) -> FileReconstructor:
        """Load the method."""
        return FileReconstructor(self, make_reconstructor(self.config.method, self.config))


class FileReconstructor:
    """Reconstructs one file after the other."""

    def __init__(self, job: ReconstructionJob, reconstructor: Reconstructor) -> None:
        self._job, self._reconstructor = job, reconstructor

    def run(self, task: Task, upcoming: Task | None) -> Outcome | BadFile:
        """Reconstruct a file and write volume, report, preview and sidecar."""
        job = self._job
        try:
            return reconstruct_file(
                task.path, job.out, job.config, layout=job.layout, reconstructor=self._reconstructor
            )
        except Exception as error:
            kind, reason = spoken(error)
            return BadFile(file=task.path.name, kind=kind, reason=reason)


def reconstruct_folder(
    folder: Path,
    out: Path,
    config: ReconstructionConfig,
    *,
    layout: str | None = None,
    crew: Crew | None = None,
    shard: Shard | None = None,
    resume: bool = False,
    events: Events = lambda event: None,
) -> Reconstructed:
    """Reconstruct every scan of a folder.

    Parameters
    ----------
    folder
        Holds the scans directly.
    out
        A folder, made if missing, that gets the files of `reconstruct_file` for each scan, ``cohort.json`` with the
        settings, and ``bad_files.csv``.
    config, layout
        As for `reconstruct_file`.
    crew
        Who works; None: this process.
    shard
        The part of the files to do; None: all.
    resume
        Leave out scans that are finished; what a killed run left half written is written again.
    events
        Called with ``progress``, ``worker``, ``file`` and ``bad-file``.

    Raises
    ------
    ConfigError, InputError, ModelError, DeviceError
        If it cannot be begun. What is wrong with single files is part of the result.
    """
    if (out.exists() and not out.is_dir()) or (volume_format(out) is not None and not out.is_dir()):
        raise InputError(f"{out} is not a folder, and the scans are many.", "Name a folder with --out.")
    if out.resolve() == folder.resolve():
        raise InputError(f"The results would lie among the scans in {folder}.", "Choose another folder.")
    files = files_of(folder)
    second = twins(files)
    mine = [path for path in files if path not in second]
    mine = shard.of(mine) if shard else mine
    reconstructor = make_reconstructor(config.method, config)  # what is missing is said before anything is written
    finished = _claim(mine, out, config, resume, _settings(folder, config, layout, reconstructor))
    gathering: Gathering[Outcome] = Gathering(events, _told)
    gathering.refuse_twins(second)
    # of a cohort that is continued, what lies there without its sidecar was left half written by a killed process
    job = ReconstructionJob(dataclasses.replace(config, overwrite=config.overwrite or resume), out, layout)
    gathering.gather([path for path in mine if path not in finished], job, crew or Crew())
    table = "bad_files.csv" if shard is None else f"bad_files-{shard.name}.csv"
    write_bad_files(gathering.bad, out / table)
    return Reconstructed(gathering.results, gathering.bad, len(finished))


def _told(outcome: Outcome) -> dict[str, Any]:
    paths = {name: str(getattr(outcome, name)) for name in ("volume", "report", "preview", "sidecar")}
    return {"paths": paths, "summary": outcome.summary}


def _settings(
    folder: Path, config: ReconstructionConfig, layout: str | None, reconstructor: Reconstructor
) -> dict[str, Any]:
    asked = dataclasses.asdict(config)
    del asked["overwrite"], asked["device"]
    digest = getattr(reconstructor, "weights_digest", None)
    return plain(
        {"version": __version__, "folder": str(folder.resolve()), **asked, "layout": layout, "weights_digest": digest}
    )


def _claim(
    files: Sequence[Path], out: Path, config: ReconstructionConfig, resume: bool, settings: dict[str, Any]
) -> set[Path]:
    """See to it that nothing of others is overwritten; returns the files that are finished."""
    targets = {path: targets_of(path, out, config) for path in files}
    there = [path for path in files if any(target.exists() for target in targets[path])]
    if there and not (resume or config.overwrite):
        raise InputError(
            f"{out} holds results of {len(there)} of the {len(files)} scans already.",
            "Use --resume to leave these as they are, or --overwrite to replace them.",
        )
    ours = (out / SETTINGS).is_file()
    if there and resume and not ours:
        raise InputError(
            f"{out} holds files with the names of results, but no {SETTINGS}: no folder was reconstructed into it.",
            "Name another folder.",
        )
    out.mkdir(parents=True, exist_ok=True)
    if config.overwrite and not resume:
        (out / SETTINGS).unlink(missing_ok=True)
    agree(settings, out / SETTINGS)
    return {path for path in there if resume and targets[path][3].is_file()}
