r"""How well each line of k-space agrees with what the others say about it, coil by coil.

All is said of measured samples :math:`y` and of samples :math:`p` that a picture predicts for the same places. A line
that was moved, ghosted, scaled or taken from another coil agrees badly, or only after a turn of its phase.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-12
_LIMIT = 12.0  # of logarithms, which are -inf for nothing


def log(value: Tensor | float) -> float:
    """Natural logarithm of something positive, between limits."""
    number = float(value)
    return max(-_LIMIT, min(_LIMIT, math.log(number))) if number > 0 else -_LIMIT


def squared(values: Tensor) -> float:
    """Sum of squared magnitudes of complex values; of their parts, which is several times faster than of magnitudes."""
    return float(torch.view_as_real(values.resolve_conj()).square().sum())


def agreement(predicted: Tensor, measured: Tensor, sampled: Tensor, noise: float) -> dict[str, Tensor]:
    """Sums over a line and its coils.

    Parameters
    ----------
    predicted, measured
        ``(coil, ky, kx)``.
    sampled
        Boolean ``(ky, kx)``: which samples count.
    noise
        Standard deviation of a sample.

    Returns
    -------
    By name, one number a line ``(kx,)``: ``power`` of the prediction, ``measured`` power, ``error`` power, ``cross``
    (complex) correlation, and ``noise`` power expected.
    """
    lines = sampled.any(0).nonzero().flatten()  # of most scans a few: the others cost nothing
    there = sampled[:, lines]
    p, y = torch.where(there, predicted[..., lines], 0), torch.where(there, measured[..., lines], 0)
    sums = {"power": _power(p), "measured": _power(y), "error": _power(y - p), "cross": (p.conj() * y).sum((0, 1))}
    found = {name: value.new_zeros(sampled.shape[1]).index_copy(0, lines, value) for name, value in sums.items()}
    return found | {"noise": sampled.sum(0) * (len(p) * noise**2)}


def _power(samples: Tensor) -> Tensor:
    """Of each line, all coils together, ``(kx,)``."""
    return torch.view_as_real(samples.resolve_conj()).square().sum((0, 1, 3))


def line_features(found: dict[str, Tensor], lines: Tensor, name: str) -> dict[str, float]:
    """What a set of lines, boolean ``(kx,)``, has to say; NaN where it is empty.

    ``error``: relative squared error of all together; ``typical``: its median over lines that rise above noise;
    ``worst``: of the worst such line over the median; ``turn`` and ``gain``: root mean square of the phase [rad] and
    of the logarithm of the scale by which lines differ from their prediction; ``mean_gain``: its mean; ``coherence``.
    """
    power, measured, error, cross, noise = (
        found[key][lines] for key in ("power", "measured", "error", "cross", "noise")
    )
    names = ("error", "typical", "worst", "turn", "gain", "mean_gain", "coherence")
    total = measured.sum()
    if not len(power) or float(total) <= 0:
        return dict.fromkeys((f"{name}_{key}" for key in names), math.nan)
    relative = (error - noise).clamp_min(0) / (measured - noise).clamp_min(0.05 * measured + _TINY)
    clear = (power > noise) & (measured > 1.5 * noise)
    if not bool(clear.any()):
        clear = power == power.max()
    some = relative[clear]
    typical = some.median().clamp_min(1e-4)
    weight = (power / (power + noise))[clear]
    weight = weight / weight.sum().clamp_min(_TINY)
    factor = cross[clear] / power[clear].clamp_min(_TINY)
    gain = (factor.abs() + 1e-3).log().clamp(-3, 3)
    mean_gain = (weight * gain).sum()
    return {
        f"{name}_error": log((error - noise).clamp_min(0).sum() / total + 1e-4),
        f"{name}_typical": log(typical),
        f"{name}_worst": log(some.max() / typical + 1e-3),
        f"{name}_turn": log((weight * factor.angle().square()).sum().sqrt() + 1e-3),
        f"{name}_gain": log((weight * (gain - mean_gain).square()).sum().sqrt() + 1e-3),
        f"{name}_mean_gain": float(mean_gain),
        f"{name}_coherence": float((cross[clear].abs() / (power * measured)[clear].sqrt().clamp_min(_TINY)).mean()),
    }


def lags(predicted: Tensor, measured: Tensor, sampled: Tensor, noise: float) -> dict[str, float]:
    """Whether single lines fit better after a shift of the picture along the readout: the patient moved meanwhile.

    Parameters
    ----------
    predicted, measured
        ``(coil, ky, kx)``.
    sampled
        Boolean ``(ky, kx)``.
    noise
        Standard deviation of a sample.

    Returns
    -------
    ``lag_share``: share of lines, by power, that fit better shifted; ``lag_best``: how much better the best does;
    ``lag_jump``: the largest turn of phase between neighbouring lines that rise well above noise.
    """
    cross = torch.where(sampled, (predicted.conj() * measured).sum(0), 0)
    power = torch.where(sampled, measured.abs().square().sum(0), 0).sum(0)
    floor = sampled.sum(0) * (len(measured) * noise**2)
    clear = power > 4 * floor + _TINY
    if int(clear.sum()) < 4:
        return dict.fromkeys(("lag_share", "lag_best", "lag_jump"), math.nan)
    n = len(cross)
    shifts = torch.arange(-8, 9, device=cross.device) / 2
    ky = torch.arange(n, device=cross.device) - n // 2
    waves = torch.exp(2j * math.pi / n * shifts[:, None] * ky)
    fit = (waves.to(cross.dtype) @ cross[:, clear]).abs()
    still = fit[8].clamp_min(_TINY)
    gain = fit.amax(0) / still
    weight = (power - floor)[clear].clamp_min(0).sqrt()
    weight = weight / weight.sum().clamp_min(_TINY)
    whole = cross.sum(0)[clear]
    turns = (whole[1:] * whole[:-1].conj()).angle().abs()
    return {
        "lag_share": log((weight * (gain > 1.05)).sum() + 1e-3),
        "lag_best": log((gain - 1).topk(min(2, len(gain))).values.min() + 1e-3),
        "lag_jump": log(turns.topk(min(2, len(turns))).values.min() + 1e-3),
    }


def alternation(found: dict[str, Tensor], lines: Tensor) -> dict[str, float]:
    """How lines of even and odd order among those measured differ in phase and scale: a Nyquist ghost."""
    index = lines.nonzero().flatten()
    if len(index) < 4:
        return dict.fromkeys(("alternating_turn", "alternating_gain"), math.nan)
    sums = [(found["cross"][index[k::2]].sum(), found["power"][index[k::2]].sum()) for k in (0, 1)]
    factors = [cross / power.clamp_min(_TINY) for cross, power in sums]
    ratio = factors[0] / (factors[1] + _TINY)
    return {
        "alternating_turn": log(ratio.angle().abs() + 1e-3),
        "alternating_gain": log((ratio.abs() + 1e-6).log().abs() + 1e-3),
    }


def coil_features(
    predicted: Tensor, measured: Tensor, centre: Tensor, sampled: Tensor, noise: float
) -> dict[str, float]:
    """How coils differ from each other in the way they agree with the picture; NaN for a single coil.

    Parameters
    ----------
    predicted, measured
        ``(coil, ky, kx)``.
    centre, sampled
        Boolean ``(ky, kx)``: the fully sampled centre, and all that counts.
    noise
        Standard deviation of a sample.
    """
    names = ("spread", "worst", "gain", "mistaken", "quiet", "silent", "flat", "lost")
    if len(predicted) == 1:
        return dict.fromkeys((f"coil_{key}" for key in names), math.nan)
    outer = sampled & ~centre
    sums = []
    for where in (centre, outer):
        p, y = predicted[:, where], measured[:, where]
        sums.append((p.abs().square().sum(1), y.abs().square().sum(1), (y - p).abs().square().sum(1), p, y))
    energy = [
        (y - noise**2 * int(where.sum())).clamp_min(0) for (_, y, *_), where in zip(sums, (centre, outer), strict=True)
    ]
    expected = (sums[1][0] / sums[0][0].clamp_min(_TINY)).clamp_min(_TINY)
    came = (energy[1] / energy[0].clamp_min(_TINY)).clamp_min(1e-6)
    loud = energy[0] >= 1e-3 * energy[0].max()  # all of them where there is nothing but noise
    ratio = (came / expected).log()[loud]
    ratio = (ratio - ratio.median()).abs()
    power, _, error, p, y = sums[1]
    relative = (error / (power + noise**2 * max(1, p.shape[1])))[loud].clamp_min(1e-4)
    norms = p.abs().square().sum(1).sqrt()[:, None] * y.abs().square().sum(1).sqrt()[None] + _TINY
    match = (p.conj() @ y.mT).abs() / norms
    own = match.diagonal()
    other = (match - torch.diag_embed(torch.full_like(own, 2.0))).amax(0)
    factor = ((p.conj() * y).sum(1).abs() / power.clamp_min(_TINY) + 1e-3).log()[loud]
    # Of noise alone the centre holds no more than the outside; of a coil that was lost outside, much more than others.
    inner, outside = (found[1] / max(1, found[3].shape[1]) for found in sums)
    slope = (inner / outside.clamp_min(_TINY) + 1e-6).log().clamp(-2, 16)
    quiet = sums[1][1] / (noise**2 * max(1, p.shape[1]) + _TINY)
    return {
        "coil_spread": log(ratio.max() + 1e-3),
        "coil_worst": log(relative.max() / relative.median()),
        "coil_gain": log((factor - factor.median()).abs().max() + 1e-3),
        "coil_mistaken": float((other - own)[loud].max()),
        "coil_quiet": log(quiet[loud].min() / quiet[loud].median() + 1e-6),
        "coil_silent": log(sums[0][1].min() / sums[0][1].max().clamp_min(_TINY) + 1e-6),
        "coil_flat": float(slope.min()),
        "coil_lost": float((slope.max() - slope.median()) if len(slope) > 2 else (slope.max() - slope.min())),
    }
