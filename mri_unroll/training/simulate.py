"""Simulated multi-coil acquisitions of magnitude images: coils, phase, noise and masks as scanners differ in them.

NumPy only: data workers stay free of torch and sigpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.fft import fft2, fftshift, ifft2, ifftshift
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mri_unroll.physics.sampling import make_mask

POISSON_SHARE = 0.08  # of masks: they take longer to train on, since the rows of a picture do not decouple
Turn = Callable[[NDArray, Generator], NDArray]  # a complex picture (..., y, x), turned at random


@dataclass(frozen=True, slots=True, eq=False)
class Acquisition:
    """One slice, simulated or measured."""

    kspace: NDArray[np.complex64]  # (coil, ky, kx) with noise, zero where not measured
    mask: NDArray[np.bool_]  # (ky, kx)
    coil_images: NDArray[np.complex64] | None  # (coil, y, x) without noise; None: unknown, a scan was undersampled
    noise_images: NDArray[np.complex64] | None  # (coil, y, x), what noise adds fully sampled; None: they hold it
    body: NDArray[np.bool_]  # (y, x), where there is tissue


def simulate(
    image: NDArray[np.floating | np.unsignedinteger],
    rng: Generator,
    *,
    n_coils: int | None = None,
    noise: float | None = None,
    sampling: Callable[[tuple[int, int]], NDArray[np.bool_]] | None = None,
    turn: Turn | None = None,
) -> Acquisition:
    """Acquire a magnitude image with a random scanner.

    Parameters
    ----------
    image
        ``(y, x)``, non-negative.
    rng
        Decides everything: sizes, orientation, contrast, phase, coils, noise and mask.
    n_coils, noise, sampling
        Number of coils, standard deviation of a sample over bright tissue, and mask of a matrix ``(ky, kx)``, where
        these are not to be left to chance.
    turn
        Rotates and zooms the object a little; None: as it is.
    """
    picture = object_image(image, rng, turn)
    shape = (picture.shape[0], picture.shape[1])
    drawn = int(rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 12], p=[0.15, 0.05, 0.05, 0.2, 0.1, 0.15, 0.2, 0.05, 0.05]))
    n_coils = drawn if n_coils is None else n_coils
    coil_images = coil_maps(n_coils, shape, rng) * picture
    rss = np.linalg.norm(coil_images, axis=0)
    bright = np.percentile(rss, 97)
    kspace = centred_fft2(coil_images)
    level = 10 ** rng.uniform(-3.0, -0.9)
    level = bright * (level if noise is None else noise)
    mixing = np.eye(n_coils) + rng.uniform(0, 0.3) * complex_normal((n_coils, n_coils), rng) / np.sqrt(n_coils)
    samples = np.einsum("cd,dyx->cyx", mixing, complex_normal(kspace.shape, rng)) * level
    mask = random_mask(shape, rng) if sampling is None else sampling(shape)
    smooth = gaussian_filter(rss, 3)
    return Acquisition(
        kspace=np.where(mask, kspace + samples, 0).astype(np.complex64),
        mask=mask,
        coil_images=coil_images.astype(np.complex64),
        noise_images=centred_ifft2(samples).astype(np.complex64),
        body=smooth > 0.08 * bright,
    )


def centred_fft2(image: NDArray) -> NDArray:
    """Unitary, origin at ``n // 2``."""
    return fftshift(fft2(ifftshift(image, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def centred_ifft2(kspace: NDArray) -> NDArray:
    """Inverse of `centred_fft2`."""
    return fftshift(ifft2(ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def complex_normal(shape: tuple[int, ...], rng: Generator) -> NDArray[np.complex128]:
    """Circular complex Gaussian samples of unit variance."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def object_image(
    image: NDArray[np.floating | np.unsignedinteger], rng: Generator, turn: Turn | None = None
) -> NDArray[np.complex128]:
    """Orient, recolour, choose a field of view, add phase, and acquire a matrix as a scanner does: by cutting k-space.

    Cutting k-space keeps signal up to the edge of the sampled region and rings at sharp edges, as acquired data do;
    interpolating the image would teach a network an emptier k-space than it will meet.
    """
    if rng.random() < 0.5:
        image = image.T
    image = image[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    image = image.astype(np.float64) / max(float(np.percentile(image, 99.5)), 1e-9)
    image = np.clip(image, 0, None) ** rng.uniform(0.6, 1.5)
    image = field_of_view(image, rng)
    picture = image * np.exp(1j * object_phase(image.shape, rng))
    if turn is not None:
        picture = turn(picture, rng)
    kspace = fftshift(fft2(ifftshift(picture)))
    matrix = [min(max(round(n * rng.uniform(0.7, 1.0)), min(n, 96)), 288) for n in image.shape]
    top, left = (n // 2 - m // 2 for n, m in zip(image.shape, matrix, strict=True))
    kspace = kspace[top : top + matrix[0], left : left + matrix[1]]
    return fftshift(ifft2(ifftshift(kspace)))


def field_of_view(image: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Cut or surround by air so that the object fills 65 % to nearly all of each axis, a little off centre.

    Operators choose the phase-encoding field of view tight: aliasing then overlaps more of the body.
    """
    tissue = gaussian_filter(image, 2) > 0.1
    bounds = []
    for axis in (0, 1):
        inside = np.flatnonzero(tissue.any(axis=1 - axis))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, image.shape[axis])
        length = max(64, round((last - first) * rng.uniform(1.03, 1.55)))
        slack = length - (last - first)
        bounds.append((first - round(slack * rng.uniform(0.35, 0.65)), length))
    result = np.zeros([length for _, length in bounds])
    source, target = [], []
    for n, (first, length) in zip(image.shape, bounds, strict=True):
        start, stop = max(0, first), min(n, first + length)
        source.append(slice(start, stop))
        target.append(slice(start - first, stop - first))
    result[tuple(target)] = image[tuple(source)]
    return result


def object_phase(shape: tuple[int, int], rng: Generator) -> NDArray[np.float64]:
    """Smooth background phase of a few radians and, at times, finer structure, in radians."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    phase = np.zeros(shape)
    for power_y in range(4):
        for power_x in range(4 - power_y):
            phase += rng.normal(0, 0.8) * y**power_y * x**power_x
    for cycles, most in ((4, 1.0), (12, 0.4), (40, 0.15)):
        field = smooth_noise(shape, cycles, rng)
        phase += rng.uniform(0, most) * field
    return phase


def smooth_noise(shape: tuple[int, int], cycles: float, rng: Generator) -> NDArray[np.float64]:
    """Random field of unit variance with content up to about ``cycles`` per field of view."""
    fy, fx = (np.fft.fftfreq(n, 1 / n) for n in shape)
    filtered = fft2(rng.standard_normal(shape)) * np.exp(-(fy[:, None] ** 2 + fx**2) / (2 * (cycles / 2) ** 2))
    field = ifft2(filtered).real
    return field / max(float(field.std()), 1e-12)


def coil_maps(n_coils: int, shape: tuple[int, int], rng: Generator) -> NDArray[np.complex128]:
    r"""Sensitivities of surface loops around the body, in two dimensions.

    A loop cut by the imaging plane is a pair of opposite line currents at :math:`z_1, z_2`, whose transverse field is
    :math:`1/(z-z_1) - 1/(z-z_2)` in complex notation (Biot and Savart): magnitude falls and phase turns as in life.
    """
    height = rng.uniform(0.7, 1.3)
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    position = x + 1j * y * height
    if n_coils == 1:
        bias = 1 + rng.uniform(0, 0.4) * smooth_noise(shape, 2, rng)
        return np.clip(bias, 0.3, None)[None].astype(np.complex128)
    start, turn = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
    radius, half_width = rng.uniform(0.6, 1.0), rng.uniform(0.6, 2.2) / max(n_coils, 3)
    maps = []
    for index in range(n_coils):
        angle = start + turn * 2 * np.pi * (index + rng.uniform(-0.25, 0.25)) / n_coils
        distance = radius * rng.uniform(0.9, 1.15)
        first, second = (distance * np.exp(1j * (angle + side * half_width)) for side in (-1, 1))
        field = 1 / _away(position - first) - 1 / _away(position - second)
        maps.append(field * rng.lognormal(0, 0.2) * np.exp(2j * np.pi * rng.random()))
    result = np.array(maps)
    if rng.random() < 0.5:
        result = result.conj()
    rss = np.linalg.norm(result, axis=0)
    return result / rss ** rng.uniform(0.3, 1.0)  # from strong shading to fully corrected


def _away(difference: NDArray[np.complex128], least: float = 0.08) -> NDArray[np.complex128]:
    """Keep a finite distance from a conductor that passes through the corner of the field of view."""
    size = np.abs(difference)
    return difference * (np.maximum(size, least) / np.maximum(size, 1e-9))


def random_mask(shape: tuple[int, int], rng: Generator, poisson: float = POISSON_SHARE) -> NDArray[np.bool_]:
    """Mask of a random family, acceleration 1.3 to 12 or none, and calibration width chosen apart from it.

    A share ``poisson`` of them is two-dimensional.
    """
    acceleration = float(np.exp(rng.uniform(np.log(1.3), np.log(12))))
    measured = None
    if rng.random() < 0.2:  # zero padding or partial Fourier at one or both ends of phase encoding
        columns = np.ones(shape[1], dtype=bool)
        columns[: int(rng.uniform(0, 0.12) * shape[1])] = False
        columns[shape[1] - int(rng.uniform(0, 0.25) * shape[1]) :] = False
        measured = np.broadcast_to(columns, shape)
    if rng.random() < 0.03:
        return np.ones(shape, dtype=bool) if measured is None else np.array(measured)
    if rng.random() < poisson:
        return make_mask("poisson", shape, max(acceleration, 2.0), seed=int(rng.integers(2**31)), measured=measured)
    kind = str(rng.choice(["random", "equispaced", "equispaced_fraction", "magic"], p=[0.35, 0.2, 0.35, 0.1]))
    # Six lines are the least that a careful protocol acquires; half of all lines are the most that R allows for.
    n_center = min(max(round(rng.uniform(0.03, 0.12) * shape[1]), 6), max(2, int(0.6 * shape[1] / acceleration)))
    fraction = n_center / shape[1]
    return make_mask(kind, shape, acceleration, fraction, seed=int(rng.integers(2**31)), measured=measured)
