"""Where data meets physics: k-space on a grid becomes a scaled forward problem.

The same function serves reconstruction and training, so that a network meets at the scanner exactly the maps, scales
and noise estimates it was trained with. What does not lie on a grid is calibrated in `recon.noncartesian`, to the same
kind of problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mri_unroll.physics.coils import (
    absorb_phase,
    compression_matrix,
    espirit_maps,
    low_resolution_maps,
)
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.nufft import NufftOperator
from mri_unroll.physics.sampling import detect_acs
from mri_unroll.physics.sense import SenseOperator

MAX_COILS = 12  # more are compressed to as many virtual coils; keeps the cost of a slice bounded
FAST_COILS = 8  # the same, where speed counts
MIN_ACS = 4  # calibration lines below which ESPIRiT has no patches to learn from
ACS_LIMIT = 24  # calibration beyond this many lines sharpens nothing and costs time
KERNEL_WIDTHS = {2: 6, 3: 4}  # of ESPIRiT by dimension: in 3-D the cost grows with the ninth power
FALLBACK = 8  # central lines from which maps are made where too few are fully sampled

_CORNER_SAMPLES = 16  # of each coil, below which a corner tells nothing

Op = TypeVar("Op", bound=LinearOperator, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedProblem(Generic[Op]):
    """A forward problem in units where bright tissue is near 1."""

    op: Op  # batch of one
    # What was measured, divided by `scale`: (1, coil, ...), on a grid zero where not measured, else times
    # sqrt(weights); of a blurred picture the picture, (1, y, x).
    kspace: Tensor
    scale: float  # in the scan's units; 1 where there is no signal
    noise_level: float  # standard deviation of one complex sample at Nyquist density, in units of `scale`
    sampled_fraction: float  # measured samples over grid points, each at most once; of a blur the power it passes
    warnings: tuple[str, ...]
    unmeasured_noise: float = 0.0  # power of a pixel's noise, all coils but one, that `kspace` does not hold; scale²
    corner_noise: float = 0.0  # as `noise_level`, from where k-space holds least; 0: unknown
    lipschitz: float = 1.0  # bound of the squared norm of `op`; 1 is sure on a grid, with coil maps of unit norm

    @property
    def strength(self) -> Tensor:
        """What a network is conditioned on, ``(1, 2)``: see `strength_features`."""
        return strength_features(self.noise_level, self.sampled_fraction).to(self.kspace.device)

    def conditions(self, n_strength: int, noise_kept: float = 1.0) -> Tensor:
        """What a network with ``n_strength`` conditions is told, ``(1, n_strength)``.

        The first two are `strength`, the third is the share of the noise to keep, the fourth a second measure of the
        noise: where the ends of the readout still hold signal, `noise_level` is several times too large, and the two
        together tell a clean scan from a noisy one.
        """
        corner = strength_features(self.corner_noise or self.noise_level, self.sampled_fraction)[:, :1]
        told = [self.strength, self.strength.new_full((1, 1), noise_kept), corner.to(self.kspace.device)]
        return torch.cat(told, dim=1)[:, :n_strength]

    def data_residual(self, image: Tensor, op: LinearOperator | None = None) -> float:
        """``||A x - y|| / ||y||`` over the measured samples, weighted as `op` weights them; of other maps, if given."""
        error = (op or self.op).forward(image) - self.kspace
        # As real numbers: of complex ones the norm takes thirty times as long.
        sizes = [torch.linalg.vector_norm(torch.view_as_real(k.resolve_conj())) for k in (error, self.kspace)]
        return float(sizes[0] / sizes[1])


CalibratedSlice = CalibratedProblem[SenseOperator]
Problem = CalibratedProblem[SenseOperator] | CalibratedProblem[NufftOperator]
AnyProblem = CalibratedProblem[LinearOperator]  # blurred pictures too


def strength_features(noise_level: float, sampled_fraction: float) -> Tensor:
    """Noise and sampling density as numbers of order one, ``(1, 2)``; zero for 1 % noise and fourfold undersampling."""
    noise = math.log10(min(max(noise_level, 1e-4), 1.0)) + 2.0
    density = -math.log2(max(sampled_fraction, 1e-3)) - 2.0
    return torch.tensor([[noise, density]], dtype=torch.float32)


def calibrate_slice(
    kspace: Tensor,
    mask: Tensor,
    *,
    scale: float | None = None,
    noise: float | None = None,
    max_coils: int = MAX_COILS,
) -> CalibratedSlice:
    """Estimate coil maps, scale and noise of one slice, or of one volume, from what was measured.

    Parameters
    ----------
    kspace
        Complex ``(coil, [kz,] ky, kx)``, any units; values outside the mask are ignored.
    mask
        Boolean ``([kz,] ky, kx)``.
    scale, noise
        Brightness and noise per sample of the volume that the slice belongs to, in the units of ``kspace``; None:
        estimated from the slice itself.
    max_coils
        More are compressed to as many virtual coils.
    """
    shape = tuple(kspace.shape[1:])
    kspace, magnitude = near_one(torch.where(mask, kspace, 0))
    noise_power, n_coils = corner_noise_power(kspace, mask), kspace.shape[0]
    kspace = compressed(kspace, max_coils)
    sides = dense_sides(mask)
    reliable = min(sides) >= MIN_ACS
    calibration = kspace[:, *middle(shape, sides if reliable else [FALLBACK] * len(shape))]
    sens_maps, own_scale = coil_maps(calibration, shape, reliable)
    in_units = own_scale if scale is None else scale / magnitude
    fraction = float(mask.float().mean())
    return CalibratedProblem(
        op=SenseOperator(sens_maps[None], mask[None, None], ndim=len(shape)),
        kspace=kspace[None] / in_units,
        scale=in_units * magnitude,
        noise_level=(estimate_noise(kspace, mask) if noise is None else noise / magnitude) / in_units,
        sampled_fraction=fraction,
        unmeasured_noise=noise_power * (1 - 1 / n_coils) * (1 - fraction * kspace.shape[0] / n_coils) / in_units**2,
        corner_noise=math.sqrt(noise_power / n_coils) / in_units,
        warnings=() if reliable else few_samples(min(sides), kspace.shape[0]),
    )


def dense_sides(mask: Tensor) -> list[int]:
    """Sides of the fully sampled block around the centre of k-space, at most `ACS_LIMIT` each; of a volume a cube."""
    if mask.ndim == 2:
        return [min(block.stop - block.start, ACS_LIMIT) for block in detect_acs(mask.cpu().numpy())]
    whole = (n for n in range(ACS_LIMIT, 0, -1) if bool(mask[middle(mask.shape, [n] * mask.ndim)].all()))
    return [next(whole, 0)] * mask.ndim


def near_one(kspace: Tensor) -> tuple[Tensor, float]:
    """K-space over its largest magnitude, and that: data may come in units of 1e-8 or 1e8, and squares overflow."""
    magnitude = float(kspace.abs().max()) or 1.0
    return kspace / magnitude, magnitude


def compressed(kspace: Tensor, max_coils: int) -> Tensor:
    """At most ``max_coils`` virtual coils of ``(coil, ...)``."""
    if kspace.shape[0] <= max_coils:
        return kspace
    return torch.tensordot(compression_matrix(kspace, max_coils), kspace, dims=1)


def few_samples(n_lines: int, n_coils: int) -> tuple[str, ...]:
    """What to tell where the centre of k-space does not suffice for coil maps; nothing for a single coil."""
    if n_coils == 1:
        return ()
    return (
        f"Only {n_lines} central k-space lines are fully sampled; coil maps were estimated from the undersampled "
        "centre and may be wrong. Acquire at least 8 calibration lines.",
    )


def coil_maps(calibration: Tensor, shape: tuple[int, ...], reliable: bool) -> tuple[Tensor, float]:
    """Coil maps of unit norm that carry the smooth phase of the object, and how bright tissue is with them.

    Parameters
    ----------
    calibration
        Centre of k-space, ``(coil, [nz,] ny, nx)``, zero frequency at ``n // 2``.
    shape
        ``([z,] y, x)``.
    reliable
        The centre was fully sampled: ESPIRiT; else the maps are made from low-resolution coil images.

    Returns
    -------
    sens_maps
        ``(coil, [z,] y, x)``.
    scale
        In the units of ``calibration``.
    """
    if calibration.shape[0] == 1:
        sens_maps = calibration.new_ones(1, *shape)
    elif reliable:
        sens_maps, _ = espirit_maps(calibration, shape, kernel_width=KERNEL_WIDTHS[len(shape)])
    else:
        sens_maps = low_resolution_maps(calibration, shape)
    sens_maps, picture = absorb_phase(sens_maps, calibration)
    return sens_maps, brightness(picture)


def brightness(picture: Tensor) -> float:
    """What counts as bright: the 99th percentile of the magnitude; 1 for an empty picture."""
    size = picture.abs().flatten()
    size = size[:: max(1, size.numel() // 2**16)]
    level = float(torch.quantile(size, 0.99))
    return level if level > 0 else float(size.max()) or 1.0


def estimate_noise(kspace: Tensor, mask: Tensor) -> float:
    r"""Standard deviation of a complex k-space sample, from the ends of the readout where signal is least.

    The median of :math:`|n|^2` of complex Gaussian noise is :math:`\sigma^2\ln 2`, and a few strong samples do not move
    it. Samples that are exactly zero were filled in, not measured. What signal remains at the ends biases the estimate
    upwards; a network trained with this estimate has learned to read it.

    Parameters
    ----------
    kspace
        ``(coil, [kz,] ky, kx)``, zero outside the mask.
    mask
        ``([kz,] ky, kx)``.
    """
    power = torch.where(mask, kspace.abs().square(), 0).movedim(-2, 0).flatten(1)
    filled = (power > 0).any(-1).nonzero().flatten()
    if filled.numel() == 0:
        return 0.0
    count = max(1, filled.numel() // 16)
    return noise_of(power[torch.cat([filled[:count], filled[-count:]]).unique()])


def corner_noise_power(kspace: Tensor, mask: Tensor) -> float:
    r"""Noise power of one sample, summed over coils, from the corner of k-space that holds least.

    Signal is weakest where both frequencies are high; `estimate_noise`, which networks are told, reads the ends of the
    readout, where sharp pictures still have signal. Of exponentially distributed powers the lower quartile is
    :math:`\sigma^2 \ln(4/3)`. 0 where too little of the corners was measured.

    Parameters
    ----------
    kspace
        ``(coil, [kz,] ky, kx)``, zero outside the mask.
    mask
        ``([kz,] ky, kx)``.
    """
    outer = [torch.arange(n, device=mask.device) - n // 2 for n in mask.shape[-2:]]
    far = [(position.sign(), position.abs() > 0.4 * position.numel()) for position in outer]
    found = []
    for side_y, side_x in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        rows, columns = ((sign == side) & ends for (sign, ends), side in zip(far, (side_y, side_x), strict=True))
        power = kspace[:, mask & rows[:, None] & columns].abs().square()
        power = power[:, (power > 0).any(0)]  # zero padding was not measured
        if power.shape[1] >= _CORNER_SAMPLES:
            found.append(float(torch.quantile(power[:, : 2**16], 0.25, dim=1).sum()) / math.log(4 / 3))
    return min(found, default=0.0)


def noise_of(power: Tensor) -> float:
    """Standard deviation of complex Gaussian noise from the squared magnitudes of its samples; zeros do not count."""
    values = power[power > 0]
    return math.sqrt(float(values.median()) / math.log(2.0)) if values.numel() else 0.0


def middle(shape: tuple[int, ...], sides: Sequence[int]) -> tuple[slice, ...]:
    """The block of at most ``sides`` samples around zero frequency, which comes to lie at ``side // 2`` of it."""
    lengths = [min(n, side) for n, side in zip(shape, sides, strict=True)]
    starts = [n // 2 - length // 2 for n, length in zip(shape, lengths, strict=True)]
    return tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
