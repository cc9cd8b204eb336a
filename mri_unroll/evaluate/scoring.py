"""Scores of predictions that anybody made, as fastMRI's evaluator computes them, or by another convention.

A target is a file with ``reconstruction_rss`` or ``reconstruction_esc``; its prediction is the file of the same name in
another folder, with the dataset ``reconstruction``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, InputError, ShapeError, UnsupportedScan
from mri_unroll.evaluate.conventions import convention_named, fit_volumes
from mri_unroll.evaluate.predict import prediction_path
from mri_unroll.evaluate.record import BadFile
from mri_unroll.io.atomic import atomic_path
from mri_unroll.io.content import plain_file
from mri_unroll.io.hdf5 import attribute, dataset, open_checked

PREDICTION = "reconstruction"
TARGETS = {"multicoil": "reconstruction_rss", "singlecoil": "reconstruction_esc"}
MEASURES = ("mse", "nmse", "psnr", "ssim")

Challenge = Literal["multicoil", "singlecoil"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScore:
    """One prediction against its target."""

    volume: str  # the target's name without suffix
    acquisition: str  # as the target says; "" where it does not
    n_slices: int
    height: int  # pixels of what was compared
    width: int
    mse: float  # in the target's units, squared
    nmse: float
    psnr: float  # dB
    ssim: float


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of two folders."""

    convention: str
    scores: tuple[FileScore, ...]  # by name
    bad: tuple[BadFile, ...]  # targets that could not be scored
    unmatched: tuple[str, ...]  # predictions without a target


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over volumes; NaN where there are too few."""

    n: int
    mean: float
    sd: float


def quiet(done: int, total: int) -> None:
    """Report no progress."""


def score_folders(
    targets: str | Path,
    predictions: str | Path,
    convention: str = "fastmri",
    acquisition: str | None = None,
    *,
    challenge: Challenge | None = None,
    acceleration: float | None = None,
    progress: Progress = quiet,
) -> Scored:
    """Score every target's prediction.

    Parameters
    ----------
    targets, predictions
        Two folders. A prediction may also end in ``_v2`` where its target does not.
    convention
        A name of `evaluate.conventions.CONVENTIONS`; ``fastmri`` is what the official evaluator does.
    acquisition, acceleration
        Only targets whose attributes say so; None: all.
    challenge
        Whether targets are ``reconstruction_rss`` or ``reconstruction_esc``; None: by the k-space beside them, or what
        there is.
    progress
        Called with files done and files in all.

    Raises
    ------
    InputError
        If a folder is missing, or there is no target, or none of the acquisition or acceleration asked for.
    ConfigError
        If there is no such convention.
    DeviceError
        If a volume does not fit in memory.
    """
    targets, predictions = Path(targets), Path(predictions)
    convention_named(convention)
    for folder in (targets, predictions):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", "Name the folder of targets, then that of predictions.")
    files = [path for path in sorted(targets.iterdir()) if not path.is_dir() and not path.name.startswith(".")]
    if not files:
        raise InputError(
            f"The folder {targets} holds no file.", "Name the folder of targets, then that of predictions."
        )
    scores, bad, used, seen = [], [], set(), set()
    for done, path in enumerate(files):
        progress(done, len(files))
        try:
            held = _read_target(path, challenge)
            seen.add((held.acquisition, held.acceleration))
            if acquisition not in (None, held.acquisition) or acceleration not in (None, held.acceleration):
                used |= {path.name, prediction_path(path, predictions, v2_suffix=True).name}
                continue
            prediction = _prediction_of(path, predictions)
            used.add(prediction.name)
            scores.append(_scored(path, held, _read_prediction(prediction), convention))
        except (InputError, ShapeError) as error:
            bad.append(BadFile(file=path.name, kind=type(error).__name__, reason=str(error)))
    progress(len(files), len(files))
    if seen and not scores and not bad:
        known = ", ".join(sorted({name for name, _ in seen if name})) or "none"
        raise InputError(
            "No target is of the acquisition or acceleration asked for.", f"Acquisitions that are there: {known}."
        )
    left = {path.name for path in predictions.iterdir() if path.suffix == ".h5" and not path.name.startswith(".")}
    names = {path.name for path in files}
    return Scored(convention, tuple(scores), tuple(bad), tuple(sorted(left - used - names)))


def spread(scores: Sequence[FileScore], measure: str) -> Spread:
    """Mean and sample standard deviation over volumes, as the official evaluator's running statistics give them."""
    values = np.array([getattr(score, measure) for score in scores], np.float64)
    n = len(values)
    with np.errstate(invalid="ignore"):  # perfect pictures have an infinite PSNR, which has no spread
        mean = float(values.mean()) if n else math.nan
        return Spread(n, mean, float(values.std(ddof=1)) if n > 1 else math.nan)


def write_file_scores(scores: Sequence[FileScore], path: Path, overwrite: bool = False) -> None:
    """Write one row a volume.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    with atomic_path(path, overwrite) as part, part.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(FileScore)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    pixels: NDArray[np.floating[Any]]
    acquisition: str
    acceleration: float | None


def _read_target(path: Path, challenge: Challenge | None) -> _Target:
    with open_checked(plain_file(path)) as file:
        name = _target_name(file, path.name, challenge)
        stored = attribute(file, "acceleration")
        return _Target(
            pixels=_pixels(file, name, path.name),
            acquisition=str(attribute(file, "acquisition") or ""),
            acceleration=float(stored) if isinstance(stored, int | float) else None,
        )


def _target_name(file: h5py.File, title: str, challenge: Challenge | None) -> str:
    if challenge is not None:
        return TARGETS[challenge]
    there = [name for name in TARGETS.values() if name in file]
    if len(there) == 2:  # a single-coil knee file holds both, and its own is the emulated single coil
        kspace = dataset(file, "kspace", title)
        if kspace is None:
            raise InputError(f"{title} holds {' and '.join(there)}.", "Say which with --challenge.")
        return TARGETS["singlecoil" if kspace.ndim == 3 else "multicoil"]
    return there[0] if there else TARGETS["multicoil"]


def _prediction_of(path: Path, predictions: Path) -> Path:
    for found in (predictions / path.name, prediction_path(path, predictions, v2_suffix=True)):
        if found.is_file():
            return found
    raise InputError(f"{path.name} has no prediction in {predictions}.", "Give each prediction its target's name.")


def _read_prediction(path: Path) -> NDArray[np.floating[Any]]:
    with open_checked(plain_file(path)) as file:
        return _pixels(file, PREDICTION, f"The prediction {path.name}")


def _pixels(file: h5py.File, name: str, title: str) -> NDArray[np.floating[Any]]:
    stored = dataset(file, name, title)
    if stored is None:
        held = ", ".join(repr(key)[:40] for key in list(file)[:8]) or "nothing"
        raise UnsupportedScan(
            f"{title} has no dataset `{name}`; it holds {held}.",
            "Store pictures (slice, y, x) under that name, as fastMRI does.",
        )
    if stored.ndim != 3 or 0 in stored.shape or stored.dtype.kind not in "fiu":
        raise UnsupportedScan(
            f"{title}: `{name}` is {stored.dtype} of shape {stored.shape}; expected real pictures (slice, y, x).",
            "Store magnitudes, one picture a slice.",
        )
    pixels = np.asarray(stored[()])
    if not np.isfinite(pixels).all():
        raise CorruptScan(f"{title}: `{name}` holds NaN or infinite values.", "Write the file again.")
    return pixels


def _scored(path: Path, target: _Target, image: NDArray[np.floating[Any]], convention: str) -> FileScore:
    chosen = convention_named(convention)
    truth, picture = fit_volumes(target.pixels, image, chosen)
    return FileScore(
        volume=path.stem,
        acquisition=target.acquisition,
        n_slices=len(truth),
        height=truth.shape[1],
        width=truth.shape[2],
        mse=float(np.mean((truth - picture) ** 2)),
        **chosen.measure(truth, picture),
    )
