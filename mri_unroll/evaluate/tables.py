"""The numbers of an evaluation for programs: everything as JSON, means and spread as CSV."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mri_unroll import __version__
from mri_unroll.evaluate.conventions import IN_BODY_STATEMENT, convention_named
from mri_unroll.evaluate.record import BadFile, VolumeScore, mean_finite
from mri_unroll.evaluate.statistics import (
    IN_BODY,
    PAIRED,
    SPREAD,
    Comparison,
    Group,
    compare,
    method_order,
    settings_of,
    summarise,
)
from mri_unroll.io.atomic import atomic_path

ALL = "all"  # acquisitions


@dataclass(frozen=True, slots=True)
class Speed:
    """How long a method took, over all that it reconstructed."""

    method: str
    n_volumes: int  # reconstructions, one for each volume, setting and seed
    n_slices: int
    seconds: float  # of reconstruction
    seconds_per_slice: float
    read_seconds: float
    score_seconds: float

    @property
    def overhead(self) -> float:
        """Share of reading and scoring in all the time."""
        whole = self.seconds + self.read_seconds + self.score_seconds
        return (self.read_seconds + self.score_seconds) / whole if whole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Findings:
    """What the scores say."""

    methods: list[str]  # in the order in which they are shown
    groups: list[Group]
    by_acquisition: list[Group]  # empty where there is but one acquisition
    comparisons: list[Comparison]
    speeds: list[Speed]
    conventions: list[str]  # names of `CONVENTIONS`; one, if all is well
    n_volumes: int
    n_missing: int  # scores that some methods have of a volume and setting, and others have not


def find(scores: Sequence[VolumeScore], settings: Mapping[str, Any]) -> Findings:
    """Gather all that is told of scores; ``settings["methods"]`` gives the order of the methods."""
    methods = method_order(scores, list(settings.get("methods", ())))
    several = len({score.acquisition for score in scores}) > 1
    return Findings(
        methods=methods,
        groups=summarise(scores, methods),
        by_acquisition=summarise(scores, methods, by_acquisition=True) if several else [],
        comparisons=compare(scores, methods),
        speeds=[_speed(scores, method) for method in methods],
        conventions=sorted({score.convention for score in scores}),
        n_volumes=len({score.volume for score in scores}),
        n_missing=_missing(scores, methods),
    )


def statement_of(findings: Findings) -> str:
    """The convention of the scores in full, and what scores in the body are."""
    in_body = any(name in group.measures for group in findings.groups for name in IN_BODY)
    statements = [convention_named(name).statement for name in findings.conventions]
    return " ".join([*statements, *([IN_BODY_STATEMENT] if in_body else [])])


def brief_of(findings: Findings) -> str:
    """What is printed with every table: the convention in a sentence."""
    return " ".join(f"Convention {convention_named(name).brief}" for name in findings.conventions)


def as_json(
    findings: Findings, scores: Sequence[VolumeScore], bad: Sequence[BadFile], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything but the single scores, which have a table of their own."""
    return {
        "version": __version__,
        "convention": findings.conventions[0] if len(findings.conventions) == 1 else findings.conventions,
        "statement": statement_of(findings),
        "spread": SPREAD,
        "comparison": PAIRED,
        "settings": dict(settings),
        "n_volumes": findings.n_volumes,
        "n_scores": len(scores),
        "n_missing": findings.n_missing,
        "groups": [asdict(group) for group in findings.groups],
        "groups_by_acquisition": [asdict(group) for group in findings.by_acquisition],
        "comparisons": [asdict(comparison) for comparison in findings.comparisons],
        "speeds": [{**asdict(speed), "overhead": speed.overhead} for speed in findings.speeds],
        "bad_files": [asdict(each) for each in bad],
    }


def write_summary_table(findings: Findings, path: Path) -> None:
    """Write one row for each method, setting, acquisition and measure; a table that is there is replaced.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    where = ("mask", "acceleration", "effective_acceleration", "acquisition", "method", "measure")
    numbers = ("n", "n_missing", "mean", "sd", "least", "quarter", "median", "three_quarters", "most")
    with atomic_path(path, overwrite=True) as part, part.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*where, *numbers))
        for group in (*findings.groups, *findings.by_acquisition):
            acquisition = ALL if group.acquisition is None else group.acquisition
            place = (group.mask, group.acceleration, group.effective_acceleration, acquisition, group.method)
            for measure, summary in group.measures.items():
                writer.writerow((*place, measure, *(getattr(summary, name) for name in numbers)))


def _speed(scores: Sequence[VolumeScore], method: str) -> Speed:
    mine = [score for score in scores if score.method == method]
    seconds, reading, scoring = (
        sum(getattr(score, name) for score in mine) for name in ("seconds", "read_seconds", "score_seconds")
    )
    per_slice = mean_finite(score.seconds / score.n_slices for score in mine)
    return Speed(method, len(mine), sum(s.n_slices for s in mine), seconds, per_slice, reading, scoring)


def _missing(scores: Sequence[VolumeScore], methods: Sequence[str]) -> int:
    held: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    at: dict[tuple[str, float], set[str]] = {setting: set() for setting in settings_of(scores)}
    for score in scores:
        setting = (score.mask, score.acceleration)
        held[(*setting, score.volume, score.seed)].add(score.method)
        at[setting].add(score.method)
    return sum(len(at[key[0], key[1]]) - len(found) for key, found in held.items())
