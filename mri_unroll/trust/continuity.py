"""Whether the outside of k-space belongs to its centre: lines may lie elsewhere than is said, or be scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.trust.lines import log

_REACH = 4  # widths of the centre, within which the spectrum is compared with it
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
    names = ("coherent", "displaced", "displaced_readout", "asymmetric")
    if not bool(outer.any()) or not bool(centre.any()):
        return dict.fromkeys(names, math.nan)
    low, high = (
        (sens_maps.conj() * centred_ifft(torch.where(where, kspace, 0), (-2, -1))).sum(0) for where in (centre, outer)
    )
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
    }


def step(kspace: Tensor, centre: Tensor, outer: Tensor, noise: float) -> dict[str, float]:
    r"""The jump of the spectrum at the edge of the centre.

    The logarithm of the mean power of lines is fitted by :math:`a + b\log|k| + s\,[\text{outside}]` over lines near the
    centre and above noise, each side of it alike. ``s`` is 0 for whole scans.
    """
    names = ("step", "step_size", "step_slope")
    columns = centre.any(0)
    if not bool(outer.any()) or int(columns.sum()) < 6:
        return dict.fromkeys(names, math.nan)
    rows = centre.any(1)
    power = kspace.abs().square().mean(0)[rows]  # rows that the centre has
    sampled = (centre | outer)[rows]
    width = power.shape[1]
    counts = sampled.sum(0)
    mean = torch.where(sampled, power, 0).sum(0) / counts.clamp_min(1)
    distance = (torch.arange(width, device=power.device) - width // 2).abs()
    half = int(columns.sum()) // 2
    use = (counts > 0) & (distance >= 2) & (distance <= max(_REACH * half, half + 8)) & (mean > 2 * noise**2)
    outside = ~columns
    if int((use & outside).sum()) < 2 or int((use & ~outside).sum()) < 4:
        return dict.fromkeys(names, math.nan)
    x = distance[use].float().log()
    design = torch.stack([torch.ones_like(x), x, outside[use].float()], dim=1)
    value = (mean[use] - noise**2).clamp_min(1e-12).log()
    # Lines outside are rarer: each side of the edge counts alike, and what is near counts more.
    weight = torch.where(outside[use], 1.0 / (use & outside).sum(), 1.0 / (use & ~outside).sum())
    weight = (weight * half / distance[use].clamp_min(half)).sqrt()[:, None]
    solution = torch.linalg.lstsq((design * weight).double().cpu(), (value[:, None] * weight).double().cpu()).solution
    found = float(solution[2].clamp(-6, 6))
    return {"step": found, "step_size": log(abs(found) + 0.05), "step_slope": float(solution[1].clamp(-8, 8))}
