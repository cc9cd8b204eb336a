"""Whether the outside of k-space belongs to its centre: lines may lie elsewhere than is said, or be scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.trust.lines import log

_REACH = 3  # widths of the centre, within which the spectrum is compared with it
_ROWS = 24  # readout rows on either side of zero frequency that are compared
_SLOPE, _HOLD = -1.8, 0.3  # of the logarithm of power over that of frequency in pictures, and how firmly it is held
_SHIFTS = (-2, -1, 0, 1, 2)  # lines


def displacement(kspace: Tensor, sens_maps: Tensor, centre: Tensor, outer: Tensor) -> dict[str, float]:
    r"""How much better the outside fits the centre if it is moved by a line.

    Edges have the phase of the tissue they bound, or its opposite. So the outer picture :math:`h` over the central one
    :math:`l`, squared, has no phase of its own, :math:`\sum (h\bar l)^2 / |l|^2 > 0`; lines that lie ``m`` off turn it
    by :math:`4\pi m x/n`. Aliasing does not know the phase of what it falls upon and averages out.

    Parameters
    ----------
    kspace, sens_maps
        ``(coil, ky, kx)`` and ``(coil, y, x)``.
    centre, outer
        Boolean ``(ky, kx)``: the fully sampled centre, and what else was measured.
    """
    names = ("coherent", "displaced", "displaced_readout", "asymmetric", "unexplained")
    if not bool(outer.any()) or not bool(centre.any()):
        return dict.fromkeys(names, math.nan)
    coils = centred_ifft(torch.where(centre, kspace, 0), (-2, -1))
    low = (sens_maps.conj() * coils).sum(0)
    high = (sens_maps.conj() * centred_ifft(torch.where(outer, kspace, 0), (-2, -1))).sum(0)
    # What the maps do not account for in the centre itself: folded tissue, a coil that the maps have wrong.
    explained = float(low.abs().square().sum() / coils.abs().square().sum().clamp_min(1e-12))
    size = low.abs()
    product = (high * low.conj() / size.clamp_min(1e-6)).square()
    product = torch.where(size > 0.1 * size.max(), product, 0)
    total = float(product.abs().sum()) + 1e-12
    found: dict[int, list[float]] = {}
    for axis in (0, 1):
        n = product.shape[axis]
        profile = product.sum(1 - axis)
        place = (torch.arange(n, device=product.device) - n // 2) / n
        found[axis] = [float((profile * torch.exp(-4j * math.pi * m * place)).sum().abs()) / total for m in _SHIFTS]
    still = found[1][_SHIFTS.index(0)] + 1e-3
    beside = [max(values[i] for i, m in enumerate(_SHIFTS) if m) + 1e-3 for values in (found[0], found[1])]
    real = float(product.sum().real) / total
    return {
        "coherent": log(still),
        "displaced": log(beside[1] / still),
        "displaced_readout": log(beside[0] / still),
        "asymmetric": real,
        "unexplained": log(max(1 - explained, 0) + 1e-4) if len(kspace) > 1 else math.nan,
    }


def step(kspace: Tensor, acs: tuple[slice, slice], mask: Tensor) -> dict[str, float]:
    r"""The jump of the spectrum at the edge of the centre, which whole scans do not have.

    The logarithm of the mean power of a line is fitted by :math:`a + b\log|k| + s\,[\text{outside}]`, robustly (Huber),
    with ``b`` near what pictures have, and lines near the edge counting most.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``, zero where not measured.
    acs
        The fully sampled centre.
    mask
        Boolean ``(ky, kx)``.
    """
    names = ("step", "step_size", "step_error", "step_lines")
    rows, columns = acs
    height, width = mask.shape
    half = (columns.stop - columns.start) / 2
    reach = min(_ROWS, (rows.stop - rows.start) // 2)
    strip = slice(height // 2 - reach, height // 2 + reach + 1)
    sampled = mask[strip]
    counts = sampled.sum(0)
    power = torch.where(sampled, kspace[:, strip].abs().square().sum(0), 0).sum(0) / counts.clamp_min(1)
    distance = (torch.arange(width, device=power.device) - width // 2).abs()
    inside = torch.zeros(width, dtype=torch.bool, device=power.device)
    inside[columns] = True
    use = (counts > 0) & (distance >= 1) & (distance <= max(_REACH * half, half + 10)) & (power > 0)
    n_outside, n_inside = int((use & ~inside).sum()), int((use & inside).sum())
    if n_outside < 2 or n_inside < 3:
        return dict.fromkeys(names, math.nan)
    place, outside = distance[use].double().cpu(), (~inside)[use].double().cpu()
    value = power[use].double().log().cpu()
    design = torch.stack([torch.ones_like(place), place.log(), outside], dim=1)
    weight = torch.where(outside > 0, 1 / n_outside, 1 / n_inside) * (half / place.clamp_min(half)) ** 3
    # Of few lines the slope is a guess; it is held near that of pictures.
    hold = _HOLD * weight.sum() * torch.diag(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    expected = hold @ torch.tensor([0.0, _SLOPE, 0.0], dtype=torch.float64)
    robust = weight
    solution, scale = torch.zeros(3, dtype=torch.float64), 1.0
    for _ in range(4):
        left = design * robust[:, None]
        gram = design.mT @ left + hold + 1e-9 * torch.eye(3, dtype=torch.float64)
        solution = torch.linalg.solve(gram, left.mT @ value + expected)
        gap = (value - design @ solution).abs()
        scale = 1.5 * float(gap.median().clamp_min(0.05))
        robust = weight * torch.where(gap < scale, 1.0, scale / gap.clamp_min(1e-9))
    found = float(solution[2].clamp(-6, 6))
    error = scale * (1 / n_outside + 1 / n_inside) ** 0.5
    return {
        "step": found,
        "step_size": log(abs(found) + 0.05),
        "step_error": log(abs(found) / error + 0.05),
        "step_lines": log(n_outside),
    }
