"""How large the error is likely to be, with an interval, and where in the picture it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_unroll.errors import ConfigError
from mri_unroll.image import Evidence
from mri_unroll.trust.heads import Heads

DEFAULT_COVERAGE = 0.9
_COVERAGES = (0.5, 0.99)  # beyond these the calibration has too few scans to tell


@dataclass(frozen=True, slots=True)
class Prediction:
    """Normalised squared error of a volume against its fully sampled reference, noise and all (fastMRI's NMSE)."""

    nmse: float
    low: float
    high: float
    coverage: float  # share of scans whose error lies between low and high


def check_coverage(coverage: float) -> float:
    """The coverage as it is.

    Raises
    ------
    ConfigError
        If it is out of range.
    """
    if not _COVERAGES[0] <= coverage <= _COVERAGES[1]:
        raise ConfigError(f"Expected a coverage from {_COVERAGES[0]} to {_COVERAGES[1]}, got {coverage}.")
    return coverage


def log_errors(features: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """Expected log NMSE of each part and its spread, both ``(n,)``, of standardised features ``(n, feature)``."""
    means, log_spreads = heads.error(features).unbind(-1)
    # Members that disagree have met nothing like it; that widens the interval.
    return means.mean(0), (log_spreads.clamp(-4, 2).exp().square().mean(0) + means.var(0)).sqrt()


def predict(evidence: Sequence[Evidence], heads: Heads, coverage: float = DEFAULT_COVERAGE) -> Prediction:
    r"""Predict the error of a volume from the evidence of its parts.

    The error of each part is log-normal, :math:`\log e_s \sim (\mu_s, \varsigma_s)`, weighted by its energy. What is
    told is :math:`e\,\exp(q\varsigma)` with three quantiles ``q`` of :math:`(\log e - \mu)/\varsigma` over people on
    whom neither the network nor its heads were trained: the median, and those that leave out half of the rest on either
    side (split conformal prediction with normalised residuals, one score for each side).

    Notes
    -----
    Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018), doi:10.1080/01621459.2017.1307116.
    """
    check_coverage(coverage)
    with torch.inference_mode():
        means, spreads = log_errors(heads.standard([part.features for part in evidence]), heads)
    weights = torch.tensor([part.energy for part in evidence], dtype=torch.float64)
    weights = weights / weights.sum()
    error = float((weights * means.double().exp()).sum())
    spread = float((weights * spreads.double()).sum())
    low, middle, high = (error * math.exp(deviation * spread) for deviation in deviations(heads.error_scores, coverage))
    return Prediction(middle, low, high, coverage)


def error_map(pictures: Tensor, features: Tensor, heads: Heads, coverage: float = DEFAULT_COVERAGE) -> Tensor:
    """An error, in units where bright tissue is near 1, that a share ``coverage`` of the pixels stays below.

    Parameters
    ----------
    pictures
        Of the evidence, ``(channel, y, x)``.
    features
        Standardised, ``(1, feature)``.
    """
    factor = quantile(heads.place_scores, check_coverage(coverage))
    return factor * heads.places(pictures[None], numbers(features, heads))[0].exp()


def numbers(features: Tensor, heads: Heads) -> Tensor:
    """What the error map is told of the whole part, ``(n, 2)``: predicted log error, and noise."""
    means, _ = log_errors(features, heads)
    return torch.stack([means / 2, features[:, heads.names.index("noise")]], dim=-1)


def deviations(scores: Tensor, coverage: float) -> tuple[float, float, float]:
    """Between which two a new score lies with probability ``coverage``, as often below as above, and their median."""
    share = (1 + coverage) / 2
    return -quantile(-scores.flip(0), share), float(scores.median()), quantile(scores, share)


def quantile(scores: Tensor, coverage: float) -> float:
    """What a new score stays below with probability ``coverage``, from ascending scores of a calibration."""
    n = len(scores)
    return float(scores[min(math.ceil((n + 1) * coverage), n) - 1])
