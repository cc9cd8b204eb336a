"""Faults of an acquisition, put into simulated scans on purpose.

Each takes a `Measured` scan and gives one with the fault, or None where it cannot be put in (one coil has no other to
be swapped with). How strong a fault is, is drawn; the ranges are in the docstrings and in docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mri_unroll.physics.sampling import detect_acs, varies_along
from mri_unroll.training.simulate import Acquisition, centred_fft2, complex_normal


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A scan with all that a fault needs to know."""

    kspace: NDArray[np.complex64]  # (coil, ky, kx), zero where not measured
    mask: NDArray[np.bool_]  # (ky, kx)
    full: NDArray[np.complex64]  # (coil, ky, kx), as full sampling would have given it, noise included
    noise_cov: NDArray[np.complex64]  # (coil, coil), as a noise scan before would say
    coil_images: NDArray[np.complex64]  # without noise


def measured(acquisition: Acquisition) -> Measured:
    """A scan without a fault."""
    assert acquisition.coil_images is not None
    assert acquisition.noise_images is not None
    full = centred_fft2(acquisition.coil_images + acquisition.noise_images).astype(np.complex64)
    noise = acquisition.noise_images.reshape(len(full), -1)
    return Measured(
        kspace=np.where(acquisition.mask, full, 0),
        mask=acquisition.mask,
        full=full,
        noise_cov=(noise @ noise.conj().T / noise.shape[1]).astype(np.complex64),
        coil_images=acquisition.coil_images,
    )


def outside_centre(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Measured samples outside the fully sampled centre: of line masks whole lines."""
    rows, columns = detect_acs(mask)
    centre = np.zeros_like(mask)
    centre[rows if varies_along(mask) else slice(None), columns] = True
    return mask & ~centre


def swapped_coils(scan: Measured, rng: Generator) -> Measured | None:
    """Two coils change places in all samples outside the centre."""
    if len(scan.kspace) < 2:
        return None
    energy = np.linalg.norm(scan.kspace.reshape(len(scan.kspace), -1), axis=1)
    loud = np.flatnonzero(energy > 0.3 * energy.max())
    if len(loud) < 2:
        return None
    one, other = rng.choice(loud, 2, replace=False)
    order = np.arange(len(scan.kspace))
    order[[one, other]] = other, one
    return replace(scan, kspace=np.where(outside_centre(scan.mask), scan.kspace[order], scan.kspace))


def shifted_mask(scan: Measured, rng: Generator) -> Measured | None:
    """What was measured outside the centre lies one line off."""
    moved = np.roll(scan.full, int(rng.choice([-1, 1])), axis=-1)
    return replace(scan, kspace=np.where(outside_centre(scan.mask), moved, scan.kspace))


def missing_coil(scan: Measured, rng: Generator) -> Measured | None:
    """One of the louder coils gives nothing but noise: from the beginning, or outside the centre."""
    if len(scan.kspace) < 2:
        return None
    energy = np.linalg.norm(scan.kspace.reshape(len(scan.kspace), -1), axis=1)
    coil = int(rng.choice(np.flatnonzero(energy > 0.3 * energy.max())))
    noise = complex_normal(scan.mask.shape, rng) * np.sqrt(scan.noise_cov[coil, coil].real)
    where = scan.mask if rng.random() < 0.5 else outside_centre(scan.mask)
    kspace = scan.kspace.copy()
    kspace[coil] = np.where(where, noise, kspace[coil])
    return replace(scan, kspace=kspace)


def wrong_normalisation(scan: Measured, rng: Generator) -> Measured | None:
    """What was measured outside the centre is 1.5 to 4 times too strong, or too weak."""
    gain = np.exp(rng.choice([-1, 1]) * rng.uniform(np.log(1.5), np.log(4)))
    return replace(scan, kspace=np.where(outside_centre(scan.mask), np.float32(gain) * scan.kspace, scan.kspace))


def added_ghost(scan: Measured, rng: Generator) -> Measured | None:
    """Every second of the measured lines has its phase turned by 0.4 to 1.5 rad."""
    turn = np.exp(1j * rng.choice([-1, 1]) * rng.uniform(0.4, 1.5)).astype(np.complex64)
    factor = np.ones(scan.mask.shape[1], dtype=np.complex64)
    factor[np.flatnonzero(scan.mask.any(0))[int(rng.integers(2)) :: 2]] = turn
    return replace(scan, kspace=scan.kspace * factor)


def motion(scan: Measured, rng: Generator) -> Measured | None:
    """In 20 % of the lines, together or scattered, the object lies 2 to 8 pixels away along each axis."""
    lines = np.flatnonzero(scan.mask.any(0))
    count = max(1, round(0.2 * len(lines)))
    if rng.random() < 0.5:
        first = int(rng.integers(len(lines) - count + 1))
        chosen = lines[first : first + count]
    else:
        chosen = rng.choice(lines, count, replace=False)
    away = rng.uniform(2, 8, 2) * rng.choice([-1, 1], 2)
    ky, kx = (np.arange(n) - n // 2 for n in scan.mask.shape)
    ramp = np.exp(-2j * np.pi * (ky[:, None] * away[0] / len(ky) + kx * away[1] / len(kx))).astype(np.complex64)
    factor = np.ones_like(ramp)
    factor[:, chosen] = ramp[:, chosen]
    return replace(scan, kspace=scan.kspace * factor)


def fourfold_noise(scan: Measured, rng: Generator) -> Measured | None:
    """Four times the noise that the noise scan before had told of."""
    mixing = np.linalg.cholesky(scan.noise_cov + 1e-12 * np.eye(len(scan.noise_cov)) * scan.noise_cov[0, 0].real)
    added = np.einsum("cd,dyx->cyx", mixing, complex_normal(scan.kspace.shape, rng)) * np.sqrt(15)
    return replace(scan, kspace=np.where(scan.mask, scan.kspace + added, 0).astype(np.complex64))


def with_lesion(scan: Measured, rng: Generator) -> Measured | None:
    """A round lesion of 3 to 7 pixels' radius, 40 to 90 % of bright tissue brighter or darker than its place."""
    combined = np.linalg.norm(scan.coil_images, axis=0)
    bright = np.percentile(combined, 97)
    inside = np.argwhere(combined > 0.4 * bright)
    if not len(inside):
        return None
    y0, x0 = inside[int(rng.integers(len(inside)))]
    y, x = np.indices(combined.shape)
    radius = rng.uniform(3, 7)
    blob = 1 / (1 + np.exp((np.hypot(y - y0, x - x0) - radius) / 0.7))
    contrast = rng.uniform(0.4, 0.9) * bright / combined[y0, x0]
    sign = -1 if contrast < 1 and rng.random() < 0.5 else 1
    change = scan.coil_images * (sign * contrast * blob)
    added = centred_fft2(change).astype(np.complex64)
    return replace(scan, kspace=np.where(scan.mask, scan.kspace + added, 0), full=scan.full + added)


FAULTS: dict[str, Callable[[Measured, Generator], Measured | None]] = {
    "swapped coils": swapped_coils,
    "shifted mask": shifted_mask,
    "missing coil": missing_coil,
    "wrong normalisation": wrong_normalisation,
    "added ghost": added_ghost,
    "motion": motion,
    "lesion removed": with_lesion,  # the picture is that of the scan without it
}
FAULT_NAMES = tuple(FAULTS)
OTHER_BODY = "other body part"  # no fault of the scan: what is unlike all that networks and verdict have met
# Noise that grew since the noise scan is found by comparing the two (`fourfold_noise`), not from the picture.
NOISE_FAULT = "noise x4"
