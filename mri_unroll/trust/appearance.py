"""What a picture looks like, in a few numbers: those of pictures that a network has never met stand apart."""

from __future__ import annotations

import torch
from torch import Tensor

from mri_unroll.physics.fourier import centred_fft
from mri_unroll.trust.lines import log

N_BANDS = 6  # of spatial frequency, each twice as far as the one before
_QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.97)


def appearance(magnitude: Tensor) -> dict[str, float]:
    """Spectrum by octave, grey values, edges and symmetry of a magnitude picture ``(y, x)``; no unit matters."""
    picture = magnitude / magnitude.max().clamp_min(1e-12)
    flat = picture.flatten()
    flat = flat[:: max(1, flat.numel() // 2**16)]
    *grey, bright = torch.quantile(flat, flat.new_tensor([*_QUANTILES, 0.99]))
    bright = bright.clamp_min(1e-6)
    found = {f"grey_{100 * q:.0f}": float(value / bright) for q, value in zip(_QUANTILES, grey, strict=True)}
    power = centred_fft(picture.to(torch.complex64), (-2, -1)).abs().square()
    y, x = (torch.linspace(-1, 1, n, device=power.device) for n in power.shape)
    radius = (y[:, None].square() + x.square()).sqrt()
    total = power.sum().clamp_min(1e-12)
    for band in range(N_BANDS):
        outer = 2.0**-band
        ring = (radius <= outer) & (radius > outer / 2)
        found[f"band_{band}"] = log(power[ring].sum() / total + 1e-9)
    edges = ((picture.roll(1, 0) - picture).square() + (picture.roll(1, 1) - picture).square()).sqrt() / bright
    spread = edges.square().mean().clamp_min(1e-12)
    found["edge_kurtosis"] = log((edges**4).mean() / spread**2)
    found["edge_share"] = log((edges > 0.1).float().mean() + 1e-4)
    tissue = (picture > 0.1 * bright).float()
    found["filled_share"] = float(tissue.mean())
    mirrored = [float((picture - picture.flip(axis)).abs().sum() / picture.sum().clamp_min(1e-9)) for axis in (0, 1)]
    found["asymmetry"] = min(mirrored)
    return found
