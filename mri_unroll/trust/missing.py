"""How much of a picture's energy is likely to lie where nothing was measured, and how far from anything measured."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mri_unroll.physics.sampling import varies_along
from mri_unroll.trust.lines import log

_N_RINGS = 24
_WIDTHS = (1, 3, 7)  # samples: of a square around a sample without anything measured in it


def missing(kspace: Tensor, mask: Tensor, noise: float) -> dict[str, float]:
    """Share of the expected energy in samples not measured; in those without a measured neighbour; without one near.

    Energy is expected to depend on the distance from the centre of k-space only, and interpolated between distances at
    which something was measured. A wide gap near the centre is what no array of coils can fill.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``, zero where not measured.
    mask
        Boolean ``(ky, kx)``.
    noise
        Standard deviation of a sample.
    """
    height, width = mask.shape
    y, x = ((torch.arange(n, device=mask.device) - n // 2).abs() / (n / 2) for n in (height, width))
    distance = torch.hypot(y[:, None], x[None]) if varies_along(mask.cpu().numpy()) else x.expand(height, width)
    ring = (distance.clamp_min(1 / width) * width).log() / torch.tensor(1.5 * width).log() * _N_RINGS
    ring = ring.long().clamp(0, _N_RINGS - 1)
    power = (torch.view_as_real(kspace.resolve_conj()).square().sum((0, -1)) - len(kspace) * noise**2).float()

    def summed(values: Tensor) -> Tensor:
        return torch.zeros(_N_RINGS, device=mask.device).index_add_(0, ring.flatten(), values.float().flatten())

    n_measured = summed(mask)
    known = n_measured > 0
    if not bool(known.any()):
        return {f"missing_{side}": float("nan") for side in _WIDTHS}
    mean = (summed(torch.where(mask, power, 0)) / n_measured.clamp_min(1)).clamp_min(1e-10)
    expected = _interpolated(mean.log(), known).exp()
    total = float((expected * summed(torch.ones_like(power))).sum())
    found = {}
    for side in _WIDTHS:
        near = functional.max_pool2d(mask[None, None].float(), side, 1, side // 2)[0, 0] > 0
        found[f"missing_{side}"] = log(float((expected * summed(~near)).sum()) / total + 1e-5)
    return found


def _interpolated(values: Tensor, known: Tensor) -> Tensor:
    """Linearly, between the nearest known places on either side; beyond the last the last."""
    place = torch.arange(len(values), device=values.device)
    below = torch.where(known, place, -1).cummax(0).values
    above = torch.where(known, place, len(values)).flip(0).cummin(0).values.flip(0)
    below, above = torch.where(below < 0, above, below), torch.where(above == len(values), below, above)
    share = torch.where(above > below, (place - below) / (above - below).clamp_min(1), 0.0)
    return values[below] * (1 - share) + values[above] * share
