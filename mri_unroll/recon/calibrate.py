"""Where data meets physics: one slice of k-space becomes a scaled forward problem.

The same function serves reconstruction and training, so that a network meets at the scanner exactly the maps, scales
and noise estimates it was trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_unroll.physics.coils import (
    absorb_phase,
    compression_matrix,
    espirit_maps,
    low_resolution_images,
    low_resolution_maps,
    mix_coils,
)
from mri_unroll.physics.sampling import detect_acs
from mri_unroll.physics.sense import SenseOperator

MAX_COILS = 12  # more are compressed to as many virtual coils; keeps the cost of a slice bounded
MIN_ACS = 4  # calibration lines below which ESPIRiT has no patches to learn from
_ACS_LIMIT = 24  # calibration beyond this many lines sharpens nothing and costs time


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedSlice:
    """A forward problem in units where bright tissue is near 1."""

    op: SenseOperator  # maps (1, coil, y, x), mask (1, 1, ky, kx)
    kspace: Tensor  # (1, coil, ky, kx), divided by `scale`, zero where not measured
    scale: float  # in the scan's units; 1 for an empty slice
    noise_level: float  # standard deviation of one complex k-space sample, in units of `scale`
    sampled_fraction: float  # measured samples over grid points
    warnings: tuple[str, ...]

    @property
    def strength(self) -> Tensor:
        """What a network is conditioned on, ``(1, 2)``: see `strength_features`."""
        return strength_features(self.noise_level, self.sampled_fraction).to(self.kspace.device)


def strength_features(noise_level: float, sampled_fraction: float) -> Tensor:
    """Noise and sampling density as numbers of order one, ``(1, 2)``; zero for 1 % noise and fourfold undersampling."""
    noise = math.log10(min(max(noise_level, 1e-4), 1.0)) + 2.0
    density = -math.log2(max(sampled_fraction, 1e-3)) - 2.0
    return torch.tensor([[noise, density]], dtype=torch.float32)


def calibrate_slice(kspace: Tensor, mask: Tensor) -> CalibratedSlice:
    """Estimate coil maps, scale and noise of one slice from what was measured.

    Parameters
    ----------
    kspace
        Complex ``(coil, ky, kx)``, any units; values outside the mask are ignored.
    mask
        Boolean ``(ky, kx)``.
    """
    warnings: list[str] = []
    shape = (kspace.shape[-2], kspace.shape[-1])
    kspace = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype, device=kspace.device))
    # Data may come in units of 1e-8 or 1e8: bring it near one before anything squares it.
    magnitude = float(kspace.abs().max()) or 1.0
    kspace = kspace / magnitude
    if kspace.shape[0] > MAX_COILS:
        kspace = mix_coils(kspace, compression_matrix(kspace, MAX_COILS))
    rows, columns = detect_acs(mask.cpu().numpy())
    calibration = _trim(kspace, rows, columns)
    n_lines = min(calibration.shape[-2:])
    if kspace.shape[0] == 1:
        sens_maps = torch.ones_like(kspace)
    elif n_lines >= MIN_ACS:
        sens_maps, _ = espirit_maps(calibration, shape)
    else:
        warnings.append(
            f"Only {n_lines} central k-space lines are fully sampled; coil maps were estimated from the undersampled "
            "centre and may be wrong. Acquire at least 8 calibration lines."
        )
        calibration = _trim(kspace, *(slice(n // 2 - min(8, n) // 2, n // 2 + (min(8, n) + 1) // 2) for n in shape))
        sens_maps = low_resolution_maps(calibration, shape)
    sens_maps = absorb_phase(sens_maps, calibration)
    picture = (sens_maps.conj() * low_resolution_images(calibration, shape)).sum(0).abs()
    scale = float(torch.quantile(picture.flatten()[:: max(1, picture.numel() // 2**16)], 0.99))
    if not scale > 0:
        scale = float(picture.max()) or 1.0
    kspace = kspace / scale
    op = SenseOperator(sens_maps[None], mask[None, None])
    return CalibratedSlice(
        op=op,
        kspace=kspace[None],
        scale=scale * magnitude,
        noise_level=estimate_noise(kspace, mask),
        sampled_fraction=float(mask.float().mean()),
        warnings=tuple(warnings),
    )


def estimate_noise(kspace: Tensor, mask: Tensor) -> float:
    r"""Standard deviation of a complex k-space sample, from the ends of the readout where signal is least.

    The median of :math:`|n|^2` of complex Gaussian noise is :math:`\sigma^2\ln 2`, and a few strong samples do not move
    it. Samples that are exactly zero were filled in, not measured. What signal remains at the ends biases the estimate
    upwards; a network trained with this estimate has learned to read it.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``, zero outside the mask.
    mask
        ``(ky, kx)``.
    """
    power = torch.where(mask, kspace.abs().square(), torch.zeros((), device=kspace.device))
    filled = (power > 0).any(-1).any(0).nonzero().flatten()
    if filled.numel() == 0:
        return 0.0
    count = max(1, filled.numel() // 16)
    ends = torch.cat([filled[:count], filled[-count:]]).unique()
    values = power[:, ends]
    values = values[values > 0]
    return math.sqrt(float(values.median()) / math.log(2.0)) if values.numel() else 0.0


def _trim(kspace: Tensor, rows: slice, columns: slice) -> Tensor:
    """Cut the calibration block, at most `_ACS_LIMIT` a side, keeping zero frequency at ``n // 2`` of the block."""

    def limit(block: slice, n: int) -> slice:
        length = min(block.stop - block.start, _ACS_LIMIT)
        start = n // 2 - length // 2
        return slice(start, start + length)

    return kspace[:, limit(rows, kspace.shape[-2]), limit(columns, kspace.shape[-1])]
