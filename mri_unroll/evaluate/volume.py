"""One volume: undersampled, reconstructed by every method, scored against its reference."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri_unroll import metrics
from mri_unroll.cohort.tasks import Task, spoken
from mri_unroll.errors import InputError
from mri_unroll.evaluate.ahead import VolumeAhead
from mri_unroll.evaluate.conventions import score_volume
from mri_unroll.evaluate.record import (
    BY_NAME,
    FROM_FILE,
    BadFile,
    Picture,
    VolumeScore,
    mean_finite,
    select_picture,
)
from mri_unroll.evaluate.settings import EvaluationConfig
from mri_unroll.physics.sampling import effective_acceleration
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan


class Case(NamedTuple):
    """What is to be done with a volume."""

    method: str
    acceleration: float | None  # None: the file's own mask


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one volume, and where its time went."""

    scored: tuple[tuple[VolumeScore, Picture], ...] = ()
    bad: tuple[BadFile, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)  # all, reading, waiting for it, reconstruction, measures
    n_slices: int = 0


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """The work on every volume, as it is sent to another process."""

    config: EvaluationConfig

    def open(self) -> VolumeScorer:
        """Load the methods."""
        return VolumeScorer(self.config, self.config.reconstructors())


@dataclass(slots=True, eq=False)
class _Series:
    """One case while its slices come in."""

    pixels: list[NDArray[np.float32]] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    seconds: float = 0.0
    effective: float = 1.0


class VolumeScorer:
    """Scores volumes; while one is worked on, the beginning of the next is read."""

    def __init__(self, config: EvaluationConfig, reconstructors: Mapping[str, Reconstructor]) -> None:
        self._config, self._reconstructors = config, reconstructors
        self._full = make_reconstructor("zero-filled")
        self._ahead: VolumeAhead | None = None

    def run(self, task: Task, upcoming: Task | None) -> Scored:
        """Score a volume for every `Case` of the task."""
        started = time.perf_counter()
        with closing(self._open(task)) as volume:
            attempt = _Attempt(self._config, self._reconstructors, self._full, task)
            try:
                for piece in volume:
                    if piece.is_last and upcoming is not None:
                        self._ahead = VolumeAhead(upcoming.path)
                    attempt.add(piece.scan)
                    if not attempt.series:
                        break
                scored = attempt.scores(volume.seconds)
            except Exception as error:
                kind, reason = spoken(error)
                return Scored(bad=(BadFile(file=task.path.name, kind=kind, reason=reason),))
        seconds = {
            "all": time.perf_counter() - started,
            "reading": volume.seconds,
            "waiting": volume.waited,
            "reconstruction": sum(score.seconds for score, _ in scored),
            "measures": attempt.measuring,
        }
        return Scored(tuple(scored), tuple(attempt.bad), seconds, attempt.n_slices)

    def _open(self, task: Task) -> VolumeAhead:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.path == task.path:
            return ahead
        if ahead is not None:
            ahead.close()
        return VolumeAhead(task.path)


class _Attempt:
    """One volume on its way."""

    def __init__(
        self,
        config: EvaluationConfig,
        reconstructors: Mapping[str, Reconstructor],
        full: Reconstructor,
        task: Task,
    ) -> None:
        self.config, self.reconstructors, self.full, self.path = config, reconstructors, full, task.path
        self.series = {case: _Series() for case in task.todo}
        self.references: list[NDArray[np.float32]] = []
        self.bad: dict[BadFile, None] = {}
        self.measuring = 0.0
        self.n_slices = 0
        self.scan: Scan | None = None  # the last piece, for what a file says of itself

    def add(self, scan: Scan) -> None:
        """Reconstruct some more slices by every case that has not failed."""
        self.scan = scan
        own_mask = self.config.mask == FROM_FILE
        if scan.reference is None and own_mask:
            raise InputError(
                "The file holds no fully sampled reference (`reconstruction_rss` or `reconstruction_esc`).",
                "Without one it can be reconstructed (`recon`, `predict`), not scored.",
            )
        for factor in dict.fromkeys(case.acceleration for case in self.series):
            kept = scan if factor is None else self._undersampled(scan, factor)
            for case in [case for case in self.series if case.acceleration == factor]:
                self._reconstruct(case, kept)
        self.references.append(self.full.reconstruct(scan).pixels if scan.reference is None else scan.reference)

    def _undersampled(self, scan: Scan, factor: float) -> Scan:
        center_fraction = self.config.center_fraction(factor)
        return undersample(scan, self.config.mask, factor, center_fraction, file_name=self.path.name)

    def _reconstruct(self, case: Case, scan: Scan) -> None:
        started = time.perf_counter()
        series = self.series[case]
        try:
            image = self.reconstructors[case.method].reconstruct(scan)
            if not np.isfinite(image.pixels).all():
                raise InputError(
                    "The picture holds values that are not finite.", "Leave this method out for this scan."
                )
        except Exception as error:
            kind, reason = spoken(error)
            self.bad[BadFile(file=self.path.name, method=case.method, kind=kind, reason=reason)] = None
            del self.series[case]
            return
        series.pixels.append(image.pixels)
        series.residuals.extend(image.diagnostics.data_residual)
        series.effective = float("nan") if scan.mask is None else effective_acceleration(scan.mask)
        series.seconds += time.perf_counter() - started

    def scores(self, read_seconds: float) -> list[tuple[VolumeScore, Picture]]:
        """Measure what has been reconstructed."""
        if self.scan is None or not self.series:
            return []
        reference = np.concatenate(self.references)
        self.n_slices = len(reference)
        started = time.perf_counter()
        body = metrics.body_mask(reference)
        self.measuring += time.perf_counter() - started
        read_seconds, body_seconds = read_seconds / len(self.series), self.measuring / len(self.series)
        found = []
        for case, series in self.series.items():
            started = time.perf_counter()
            image = np.concatenate(series.pixels)
            if image.shape != reference.shape:
                raise InputError(
                    f"The reference {reference.shape} and the picture {image.shape} differ in size.",
                    "Store a reference of the size that the header gives as reconSpace.",
                )
            measures: dict[str, Any] = {
                **score_volume(reference, image, self.config.convention),
                **{f"body_{name}": value for name, value in metrics.in_body(reference, image, body).items()},
            }
            picture = select_picture(reference, image)
            spent = time.perf_counter() - started
            self.measuring += spent
            score = VolumeScore(
                **self._described(case, series, image),
                **measures,
                data_residual=mean_finite(series.residuals),
                seconds=series.seconds,
                read_seconds=read_seconds,
                score_seconds=spent + body_seconds,
            )
            found.append((score, picture))
        return found

    def _described(self, case: Case, series: _Series, image: NDArray[np.float32]) -> dict[str, Any]:
        assert self.scan is not None
        notes = self.scan.source.notes
        nominal = case.acceleration
        if nominal is None:
            nominal = _number(notes.get("acceleration", "")) or round(series.effective, 1)
        return {
            "volume": volume_name(self.path.name),
            "acquisition": notes.get("acquisition", ""),
            "method": case.method,
            "mask": self.config.mask,
            "acceleration": nominal,
            "effective_acceleration": series.effective,
            "seed": "" if case.acceleration is None else BY_NAME,
            "convention": self.config.convention,
            "n_slices": image.shape[0],
            "n_coils": self.scan.n_coils,
            "height": image.shape[1],
            "width": image.shape[2],
        }


def volume_name(file_name: str) -> str:
    """A file's name without its suffix and without control characters, which a table does not hold."""
    stem = file_name.rpartition(".")[0] or file_name
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in stem)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 1 <= value < float("inf") else None
