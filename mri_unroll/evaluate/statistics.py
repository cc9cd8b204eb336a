"""What scores of many volumes say: mean and spread of a method, and how far two methods are apart on the same volumes.

The unit is the volume. Scores of one volume under several mask seeds are averaged first, so that a volume counts once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from mri_unroll.evaluate.conventions import MEASURES
from mri_unroll.evaluate.record import VolumeScore

IN_BODY = tuple(f"body_{name}" for name in MEASURES)
LESS_IS_BETTER = frozenset({"nmse", "body_nmse"})
LEVEL = 0.95
N_RESAMPLES = 10_000
SEED = 0
FEW = 10  # volumes below which an interval is rough
_BLOCK = 2_000_000  # draws held at a time

SPREAD = (
    "Means, sample standard deviations (n − 1) and quantiles are over volumes. A volume that was scored under several"
    " mask seeds counts once, with the mean of its scores. Scores that are not finite are left out and counted."
)
PAIRED = (
    "Differences are taken on the volumes that both methods have, volume by volume. Intervals:"
    f" {100 * LEVEL:g} %, bootstrap over volumes, bias-corrected and accelerated (BCa), {N_RESAMPLES} resamples, seed"
    f" {SEED}; not corrected for the number of comparisons, and rough below {FEW} volumes. Volumes are resampled as if"
    " they were independent. Volumes of one person are not, and no identity of persons is kept here: where persons"
    " gave several volumes the true intervals are wider."
)

Setting = tuple[str, float]  # kind of mask, nominal acceleration


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores of one measure over volumes; NaN where there are too few to say."""

    n: int  # volumes with a finite score
    n_missing: int  # volumes without
    mean: float
    sd: float  # sample standard deviation
    least: float
    quarter: float  # 25 % quantile
    median: float
    three_quarters: float
    most: float


@dataclass(frozen=True, slots=True)
class Group:
    """One method at one setting, over all acquisitions or over one."""

    method: str
    mask: str
    acceleration: float  # nominal
    acquisition: str | None  # None: all
    n_volumes: int
    effective_acceleration: float  # mean over volumes
    measures: dict[str, Summary]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on the same volumes: ``method`` minus ``other``."""

    mask: str
    acceleration: float
    measure: str
    method: str
    other: str
    n_pairs: int
    n_unpaired: int  # volumes that only one of them has a finite score of
    mean_difference: float
    low: float  # of the confidence interval of the mean difference
    high: float
    wins: int  # volumes on which ``method`` is better
    losses: int
    ties: int


def summary_of(values: Iterable[float]) -> Summary:
    """Mean, spread and quantiles of scores, one a volume; quantiles are interpolated linearly."""
    given = np.fromiter(values, np.float64)
    finite = given[np.isfinite(given)]
    n = len(finite)
    mean = float(finite.mean()) if n else math.nan
    sd = float(finite.std(ddof=1)) if n > 1 else math.nan
    quantiles = np.quantile(finite, (0, 0.25, 0.5, 0.75, 1)).tolist() if n else [math.nan] * 5
    return Summary(n, len(given) - n, mean, sd, *quantiles)


def method_order(scores: Sequence[VolumeScore], first: Sequence[str] = ()) -> list[str]:
    """Methods that have scores: those of ``first`` in its order, then the others by name."""
    found = {score.method for score in scores}
    return [name for name in dict.fromkeys(first) if name in found] + sorted(found - set(first))


def settings_of(scores: Sequence[VolumeScore]) -> list[Setting]:
    """Kinds of mask and accelerations that occur, in order."""
    return sorted({(score.mask, score.acceleration) for score in scores})


def measures_of(scores: Sequence[VolumeScore]) -> tuple[str, ...]:
    """Measures that have a finite score anywhere: those of the whole picture, and in the body where they were taken."""
    return tuple(name for name in (*MEASURES, *IN_BODY) if any(math.isfinite(getattr(score, name)) for score in scores))


def values_by_volume(
    scores: Sequence[VolumeScore], measure: str, setting: Setting, method: str, acquisition: str | None = None
) -> dict[str, float]:
    """Scores of one method at one setting, one a volume, by the volume's name in order."""
    found: dict[str, dict[str, float]] = defaultdict(dict)  # by seed, so that a row given twice counts once
    for score in scores:
        here = (score.mask, score.acceleration) == setting and score.method == method
        if here and acquisition in (None, score.acquisition):
            found[score.volume][score.seed] = getattr(score, measure)
    return {
        volume: float(np.mean([by_seed[seed] for seed in sorted(by_seed)])) for volume, by_seed in sorted(found.items())
    }


def summarise(
    scores: Sequence[VolumeScore], methods: Sequence[str] = (), *, by_acquisition: bool = False
) -> list[Group]:
    """Mean and spread of every method at every setting.

    Parameters
    ----------
    scores
        One a volume, method, setting and seed, in any order.
    methods
        Their order in the result; those not named come after, by name.
    by_acquisition
        One group for each acquisition instead of one for all.
    """
    measures = measures_of(scores)
    acquisitions: list[str | None] = [None]
    if by_acquisition:
        acquisitions = sorted({score.acquisition for score in scores})  # type: ignore[assignment]
    groups = []
    for mask, acceleration in settings_of(scores):
        for acquisition in acquisitions:
            for method in method_order(scores, methods):
                where = ((mask, acceleration), method, acquisition)
                effective = values_by_volume(scores, "effective_acceleration", *where)
                if effective:
                    summaries = {name: summary_of(values_by_volume(scores, name, *where).values()) for name in measures}
                    mean = summary_of(effective.values()).mean
                    groups.append(Group(method, mask, acceleration, acquisition, len(effective), mean, summaries))
    return groups


def compare(
    scores: Sequence[VolumeScore],
    methods: Sequence[str] = (),
    measures: Sequence[str] = MEASURES,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> list[Comparison]:
    """Compare every two methods at every setting on the volumes that both have.

    Parameters
    ----------
    scores
        As for `summarise`.
    methods
        Their order; of two the later is ``method``, the earlier ``other``.
    measures
        What to compare.
    n_resamples, seed
        Of the bootstrap; the same draws serve all comparisons of equally many volumes.
    """
    order = method_order(scores, methods)
    found = []
    for setting in settings_of(scores):
        for measure in measures:
            values = {method: values_by_volume(scores, measure, setting, method) for method in order}
            for later, method in enumerate(order):
                found += [
                    _compared(setting, measure, method, other, values, n_resamples, seed)
                    for other in order[:later]
                    if values[method] and values[other]
                ]
    return found


def _compared(
    setting: Setting,
    measure: str,
    method: str,
    other: str,
    values: dict[str, dict[str, float]],
    n_resamples: int,
    seed: int,
) -> Comparison:
    mine, theirs = (
        {volume: value for volume, value in values[name].items() if math.isfinite(value)} for name in (method, other)
    )
    both = sorted(mine.keys() & theirs.keys())
    differences = np.array([mine[volume] - theirs[volume] for volume in both])
    low, high = bootstrap_interval(differences, n_resamples=n_resamples, seed=seed)
    better = -differences if measure in LESS_IS_BETTER else differences
    return Comparison(
        *setting,
        measure=measure,
        method=method,
        other=other,
        n_pairs=len(both),
        n_unpaired=len(values[method].keys() | values[other].keys()) - len(both),
        mean_difference=float(differences.mean()) if both else math.nan,
        low=low,
        high=high,
        wins=int((better > 0).sum()),
        losses=int((better < 0).sum()),
        ties=int((better == 0).sum()),
    )


def bootstrap_interval(
    values: NDArray[np.float64], *, level: float = LEVEL, n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    r"""Return a confidence interval of the mean: bootstrap, bias-corrected and accelerated.

    The ends are the quantiles :math:`\Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))` of the resampled means, for
    :math:`z = \Phi^{-1}((1 \mp c) / 2)`; :math:`z_0` tells how far their median is from the mean, the acceleration
    :math:`a` comes from leaving out one value at a time.

    Parameters
    ----------
    values
        One a unit, ``(n,)``.
    level
        Coverage :math:`c`, within 0 and 1.
    n_resamples, seed
        Samples drawn with replacement, and from where.

    Returns
    -------
    Both ends; NaN for fewer than two values. Equal values give an interval without width.

    References
    ----------
    Efron, doi:10.1080/01621459.1987.10478410, equations 2.3 and 6.6.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    means = np.sort(_resampled_means(values, n_resamples, seed))
    mean = values.mean()
    tolerance = 1e-12 * np.abs(values).max()  # a resample of the same values in another order has the same mean
    below = (means < mean - tolerance).mean() + 0.5 * (np.abs(means - mean) <= tolerance).mean()
    bias = ndtri(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples))
    gaps = values - mean  # leaving one out moves the mean by -gap / (n - 1)
    acceleration = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    shift = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(means, ndtr(bias + shift / (1 - acceleration * shift)))
    return float(low), float(high)


def _resampled_means(values: NDArray[np.float64], n_resamples: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    n = len(values)
    block = max(1, _BLOCK // n)
    parts = [min(block, n_resamples - start) for start in range(0, n_resamples, block)]
    return np.concatenate([values[random.integers(0, n, (size, n))].mean(axis=1) for size in parts])
