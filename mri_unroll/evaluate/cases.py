"""The pictures of an evaluation: a typical volume by every method, and each method's best and worst volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan
from mri_unroll.evaluate.record import Picture as Slices
from mri_unroll.evaluate.record import VolumeScore, read_picture
from mri_unroll.evaluate.statistics import method_order, settings_of
from mri_unroll.report.figures import ERROR_COLOURS, FACTORS
from mri_unroll.report.pictures import Picture, colours, embed, shade, white_level

MEASURE = "ssim"  # by which best, worst and typical are told
LARGEST = 320  # pixels of the longer side: there are many pictures on the page
_MIDDLE, _WORST = 0, 1  # of the two slices kept of a volume


@dataclass(frozen=True, slots=True)
class Case:
    """One volume by one method: its reference, the picture, and the error."""

    name: str  # "best", "worst" or ""
    score: VolumeScore
    slice: int  # counted from 0
    reference: Picture
    image: Picture
    error: Picture


@dataclass(frozen=True, slots=True)
class Figure:
    """Cases side by side, in all of which errors are magnified alike, in units of each case's white."""

    cases: list[Case]
    factor: int


@dataclass(frozen=True, slots=True)
class Gallery:
    """The cases of one setting."""

    mask: str
    acceleration: float
    typical: Figure  # one volume, a case a method
    extremes: Figure  # best and worst of each method


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    name: str
    score: VolumeScore
    slice: int
    reference: NDArray[np.float32]
    image: NDArray[np.float32]
    white: float

    @property
    def error(self) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", over="ignore"):
            return np.abs(self.image.astype(np.float64) - self.reference)


def galleries(out: Path, scores: Sequence[VolumeScore], methods: Sequence[str] = ()) -> tuple[list[Gallery], list[str]]:
    """Typical, best and worst cases of every setting that has pictures, and a sentence for each damaged picture.

    Best and worst are told by `MEASURE` and show the slice of largest error; the typical volume is the one nearest the
    median of the mean over methods, of those that all methods have, and shows its middle slice.
    """
    order = method_order(scores, methods)
    made, complaints = [], []
    for setting in settings_of(scores):
        mine = [score for score in scores if (score.mask, score.acceleration) == setting]
        chosen = [("", score, _MIDDLE) for score in _typical(mine, order)]
        n_typical = len(chosen)
        for method in order:
            chosen += [(name, score, _WORST) for name, score in _extremes(mine, method)]
        found: list[_Found | None] = []
        for name, score, which in chosen:
            try:
                slices = read_picture(out, score.key)
            except CorruptScan as error:
                complaints.append(str(error))
                slices = None
            found.append(None if slices is None else _taken(name, score, slices, which))
        if any(found):
            made.append(Gallery(*setting, _figure(found[:n_typical]), _figure(found[n_typical:])))
    return made, complaints


def _typical(scores: Sequence[VolumeScore], methods: Sequence[str]) -> list[VolumeScore]:
    """One volume by every method that has scores here."""
    by_volume: dict[str, dict[str, VolumeScore]] = {}
    for score in scores:
        if math.isfinite(getattr(score, MEASURE)):
            by_volume.setdefault(score.volume, {}).setdefault(score.method, score)
    n_methods = max((len(held) for held in by_volume.values()), default=0)
    whole = sorted(volume for volume, held in by_volume.items() if len(held) == n_methods)
    if not whole:
        return []
    means = np.array([np.mean([getattr(s, MEASURE) for s in by_volume[volume].values()]) for volume in whole])
    held = by_volume[whole[int(np.abs(means - np.median(means)).argmin())]]
    return [held[method] for method in methods if method in held]


def _extremes(scores: Sequence[VolumeScore], method: str) -> list[tuple[str, VolumeScore]]:
    ranked = sorted(
        (score for score in scores if score.method == method and math.isfinite(getattr(score, MEASURE))),
        key=lambda score: (getattr(score, MEASURE), score.key),
    )
    if len(ranked) < 2:
        return [("only", score) for score in ranked]
    return [("worst", ranked[0]), ("best", ranked[-1])]


def _taken(name: str, score: VolumeScore, slices: Slices, which: int) -> _Found:
    reference, image = slices.reference[which], slices.image[which]
    return _Found(name, score, slices.index[which], reference, image, white_level(reference))


def _figure(found: Sequence[_Found | None]) -> Figure:
    """The largest factor of `FACTORS` that keeps the errors of all cases within the window, as `report.figures`."""
    held = [case for case in found if case is not None]
    largest = max((white_level(case.error, fallback=0.0) / case.white for case in held), default=0.0)
    factor = max((factor for factor in FACTORS if factor * largest <= 1), default=1) if largest else 1
    return Figure([_drawn(case, factor) for case in held], factor)


def _drawn(case: _Found, factor: int) -> Case:
    score = case.score
    where = f"{score.volume}, slice {case.slice}"
    how = f"{score.method}, {score.acceleration:g}-fold {score.mask}"
    return Case(
        name=case.name,
        score=score,
        slice=case.slice,
        reference=embed(shade(case.reference, case.white), f"Reference, {where}", largest=LARGEST),
        image=embed(shade(case.image, case.white), f"{how}, {where}", largest=LARGEST),
        error=embed(
            shade(case.error, case.white / factor),
            f"Error of {how}, {where}, {factor} times magnified",
            palette=colours(ERROR_COLOURS),
            largest=LARGEST,
        ),
    )
