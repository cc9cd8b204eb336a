"""Predictions for every scan of a folder, by as many workers as there are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mri_unroll import __version__
from mri_unroll.cohort.gathering import Gathering
from mri_unroll.cohort.hiring import Crew
from mri_unroll.cohort.kept import BadFile, agree, plain
from mri_unroll.cohort.tasks import Events, Shard, Task, files_of, spoken, twins
from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.evaluate.predict import predict_file, prediction_path
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor
from mri_unroll.recon.retrospective import undersample

SETTINGS = ".predictions.json"  # beside the predictions, of which the folder holds nothing else in sight


@dataclass(frozen=True, slots=True)
class Predicted:
    """What came of a folder."""

    paths: list[Path]  # written by this run
    bad: list[BadFile]
    finished: int  # scans whose predictions were left as they were


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """The work on every scan, as it is sent to another process."""

    config: ReconstructionConfig
    out: Path
    v2_suffix: bool

    def open(self) -> Predictor:
        """Load the method."""
        return Predictor(self, make_reconstructor(self.config.method, self.config))


class Predictor:
    """Predicts one scan after the other."""

    def __init__(self, job: PredictionJob, reconstructor: Reconstructor) -> None:
        self._job, self._reconstructor = job, reconstructor

    def run(self, task: Task, upcoming: Task | None) -> Path | BadFile:
        """Reconstruct a scan and write its prediction."""
        config = self._job.config
        undersampled = None
        if config.accelerate is not None:
            undersampled = functools.partial(
                undersample,
                kind=config.mask,
                acceleration=config.accelerate,
                center_fraction=config.effective_center_fraction,
                file_name=task.path.name,
            )
        try:
            return predict_file(
                task.path,
                self._job.out,
                self._reconstructor,
                v2_suffix=self._job.v2_suffix,
                overwrite=config.overwrite,
                undersampled=undersampled,
            )
        except Exception as error:
            kind, reason = spoken(error)
            return BadFile(file=task.path.name, kind=kind, reason=reason)


def predict_folder(
    folder: Path,
    out: Path,
    config: ReconstructionConfig,
    *,
    v2_suffix: bool = False,
    crew: Crew | None = None,
    shard: Shard | None = None,
    resume: bool = False,
    events: Events = lambda event: None,
) -> Predicted:
    """Write a prediction for every scan of a folder.

    Parameters
    ----------
    folder
        Holds the scans directly.
    out
        A folder, made if missing. A hidden file in it tells how its predictions were made.
    config
        Method and device; undersampling first, whose mask is drawn from the file's name as fastMRI does.
    v2_suffix
        As for `prediction_path`.
    crew
        Who works; None: this process.
    shard
        The part of the files to do; None: all.
    resume
        Leave scans that have a prediction.
    events
        Called with ``progress``, ``worker``, ``file`` and ``bad-file``.

    Raises
    ------
    ConfigError, InputError, ModelError, DeviceError
        If it cannot be begun. What is wrong with single files is part of the result.
    """
    if out.resolve() == folder.resolve():
        raise InputError(f"The predictions would lie among the scans in {folder}.", "Choose another folder.")
    files = files_of(folder)
    second = twins(files)
    mine = [path for path in files if path not in second]
    mine = shard.of(mine) if shard else mine
    reconstructor = make_reconstructor(config.method, config)  # what is missing is said before anything is written
    there = [path for path in mine if prediction_path(path, out, v2_suffix).exists()]
    _claim(out, there, config.overwrite, resume, _settings(folder, config, v2_suffix, reconstructor))
    gathering: Gathering[Path] = Gathering(events, lambda path: {"paths": {"volume": str(path)}})
    gathering.refuse_twins(second)
    finished = set(there) if resume else set()
    todo = [path for path in mine if path not in finished]
    gathering.gather(todo, PredictionJob(config, out, v2_suffix), crew or Crew())
    return Predicted(gathering.results, gathering.bad, len(finished))


def _settings(
    folder: Path, config: ReconstructionConfig, v2_suffix: bool, reconstructor: Reconstructor
) -> dict[str, Any]:
    asked = dataclasses.asdict(config)
    del asked["overwrite"], asked["device"]
    digest = getattr(reconstructor, "weights_digest", None)
    told = {"version": __version__, "folder": str(folder.resolve()), **asked, "v2_suffix": v2_suffix}
    return plain({**told, "weights_digest": digest})


def _claim(out: Path, there: Sequence[Path], overwrite: bool, resume: bool, settings: dict[str, Any]) -> None:
    """See to it that no prediction of others is overwritten or counted as ours."""
    if there and not (resume or overwrite):
        raise InputError(
            f"{out} holds predictions of {len(there)} of these scans already.",
            "Use --resume to leave these as they are, or --overwrite to replace them.",
        )
    if there and resume and not (out / SETTINGS).is_file():
        raise InputError(
            f"{out} holds predictions that do not say how they were made.", "Name another folder, or use --overwrite."
        )
    out.mkdir(parents=True, exist_ok=True)
    if overwrite and not resume:
        (out / SETTINGS).unlink(missing_ok=True)
    agree(settings, out / SETTINGS)
