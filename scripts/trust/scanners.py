"""Simulated scans as different from each other as real ones are, to calibrate and test the verdict with.

`mri_unroll.training.simulate` makes what networks are trained on: a body inside its field of view, coils all around
it. Here bodies reach beyond the field of view, coils lie on one side, are weak or far away, echoes come early, signal
decays along the echo train, lines jitter a little, contrast is any, and, where asked for, receivers are uneven. None of
that is a fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from arrays import coil_array, noise_mixing
from masks import any_mask
from numpy.fft import fft2, fftshift, ifft2, ifftshift
from numpy.random import Generator
from numpy.typing import NDArray
from receivers import receiver
from scipy.ndimage import gaussian_filter

from mri_unroll.training.simulate import (
    Acquisition,
    centred_fft2,
    centred_ifft2,
    complex_normal,
    object_phase,
    simulate,
    smooth_noise,
)

PLAIN = 0.3  # share of scans that are made as those which networks are trained on
PLANAR = 0.3  # share of masks that vary along both axes
SIDES = (64, 288)  # pixels of a matrix
_NOISE = (-3.3, -0.6)  # decimal logarithm of the noise of a sample over bright tissue
_COILS = {1: 0.25, 2: 0.06, 3: 0.06, 4: 0.15, 5: 0.06, 6: 0.12, 7: 0.06, 8: 0.14, 12: 0.06, 16: 0.04}  # shares


@dataclass(frozen=True, slots=True)
class View:
    """Along one axis: what of the object is acquired."""

    extent: int  # pixels of the picture that are kept before it is cut to a matrix
    first: int  # where they begin; may lie outside
    shown: float  # share of them that the field of view holds; what is beyond is cut off or wraps around


def any_scan(
    image: NDArray[np.floating], rng: Generator, planar: float = PLANAR, plain: float = PLAIN, uneven: float = 0.0
) -> Acquisition:
    """Acquire a magnitude image with any scanner.

    Parameters
    ----------
    image
        ``(y, x)``, non-negative.
    rng
        Decides everything.
    planar
        Share of masks that vary along both axes.
    plain
        Share of scans that are made as those which networks are trained on; 1: their masks too.
    uneven
        Share, of the others, with a receiver of `receivers`.
    """
    if plain == 1:
        return simulate(image, rng)
    if rng.random() < plain:
        return simulate(image, rng, sampling=lambda shape: any_mask(shape, rng, planar))
    if rng.random() < 0.5:
        image = image.T
    image = recoloured(image[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])].astype(np.float64), rng)
    picture, shown, wraps = viewed(image, rng)
    n_coils = int(rng.choice(list(_COILS), p=list(_COILS.values())))
    coil_images = coil_array(n_coils, (picture.shape[0], picture.shape[1]), rng) * picture
    coil_images = fitted(coil_images, shown, wraps)
    shape = (coil_images.shape[-2], coil_images.shape[-1])
    kspace = centred_fft2(coil_images) * readout_and_echoes(shape, rng)
    received = receiver(shape, rng) if uneven and rng.random() < uneven else None
    if received:
        kspace = received.signal(kspace)
    rss = np.linalg.norm(centred_ifft2(kspace), axis=0)
    bright = float(np.percentile(rss, 97))
    level = bright * 10 ** rng.uniform(*_NOISE)
    samples = np.einsum("cd,dyx->cyx", noise_mixing(n_coils, rng), complex_normal(kspace.shape, rng)) * level
    if received:
        samples = received.noise(samples)
    mask = any_mask(shape, rng, planar)
    return Acquisition(
        kspace=np.where(mask, kspace + samples, 0).astype(np.complex64),
        mask=mask,
        coil_images=centred_ifft2(kspace).astype(np.complex64),
        noise_images=centred_ifft2(samples).astype(np.complex64),
        body=gaussian_filter(rss, 3) > 0.08 * bright,
    )


def recoloured(image: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Another contrast: brighter, darker, inverted inside the body, fat-suppressed with a bright rim, or any."""
    image = np.clip(image / max(float(np.percentile(image, 99.5)), 1e-9), 0, None)
    body = gaussian_filter(image, 1.5) > 0.06
    inside = gaussian_filter(body.astype(np.float64), 1)
    kind = rng.choice(["power", "dark", "inverted", "rim", "curve"], p=[0.5, 0.15, 0.12, 0.13, 0.1])
    if kind == "power":
        return image ** rng.uniform(0.6, 1.5)
    if kind == "dark":  # only the brightest remains: vessels, fluid
        return np.clip(image, 0, 1.5) ** rng.uniform(1.8, 3.5) + rng.uniform(0, 0.1) * inside
    if kind == "inverted":
        return inside * (rng.uniform(1.0, 1.3) - np.clip(image, 0, 1))
    if kind == "rim":  # what lies within a few pixels of air is bright, the rest dark
        depth = gaussian_filter(inside, rng.uniform(1.5, 5))
        rim = inside * np.clip(1.2 - depth, 0, 1)
        return rim + rng.uniform(0.15, 0.6) * image * depth
    grey = np.linspace(0, 1, 6)
    value = np.concatenate([[0.0], rng.uniform(0.05, 1, 5)])
    return np.interp(np.clip(image, 0, 1), grey, value)


def viewed(image: NDArray[np.float64], rng: Generator) -> tuple[NDArray[np.complex128], list[int], list[bool]]:
    """The object with its phase, as large as it is, at the resolution of the scan; and how much of it is acquired.

    Returns
    -------
    picture
        Complex ``(y, x)``.
    shown
        Size of the field of view in pixels, ``(y, x)``; less than the picture where the object is larger.
    wraps
        Of each axis, whether what is beyond folds back (phase encoding) or is cut off (readout, saturation).
    """
    tissue = gaussian_filter(image, 2) > 0.1
    views = [_view(tissue.any(axis=1 - axis), rng) for axis in (0, 1)]
    canvas = np.zeros([view.extent for view in views])
    source, target = [], []
    for n, view in zip(image.shape, views, strict=True):
        start, stop = max(0, view.first), min(n, view.first + view.extent)
        source.append(slice(start, stop))
        target.append(slice(start - view.first, stop - view.first))
    canvas[tuple(target)] = image[tuple(source)]
    picture = canvas * np.exp(1j * any_phase(canvas, rng))
    coarse = rng.random() < 0.2
    kspace = fftshift(fft2(ifftshift(picture)))
    matrix, shown = [], []
    for n, view in zip(canvas.shape, views, strict=True):
        finest = rng.uniform(0.45, 0.7) if coarse else rng.uniform(0.7, 1.0)
        size = min(max(n * view.shown * finest, SIDES[0]), SIDES[1], n * view.shown)
        shown.append(round(size))
        matrix.append(max(min(n, round(size / view.shown)), shown[-1]))
    top, left = (n // 2 - m // 2 for n, m in zip(canvas.shape, matrix, strict=True))
    kspace = kspace[top : top + matrix[0], left : left + matrix[1]]
    return fftshift(ifft2(ifftshift(kspace))), shown, [False, bool(rng.random() < 0.5)]


def _view(tissue: NDArray[np.bool_], rng: Generator) -> View:
    inside = np.flatnonzero(tissue)
    first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, len(tissue))
    kind = rng.choice(["roomy", "tight", "larger"], p=[0.5, 0.2, 0.3])
    room = {"roomy": (1.03, 1.55), "tight": (0.97, 1.06), "larger": (1.0, 1.03)}[str(kind)]
    extent = max(64, round((last - first) * rng.uniform(*room)))
    slack = extent - (last - first)
    shown = rng.uniform(0.62, 0.95) if kind == "larger" else 1.0
    return View(extent, first - round(slack * rng.uniform(0.3, 0.7)), shown)


def fitted(coil_images: NDArray, shown: list[int], wraps: list[bool]) -> NDArray:
    """Coil images ``(coil, y, x)`` in the field of view ``shown``: what is beyond folds back or is cut off."""
    for axis, (n, folds) in enumerate(zip(shown, wraps, strict=True), start=1):
        size = coil_images.shape[axis]
        if n == size:
            continue
        moved = np.moveaxis(coil_images, axis, 0)
        place = np.arange(size) - size // 2 + n // 2
        result = np.zeros((n, *moved.shape[1:]), dtype=moved.dtype)
        if folds:
            np.add.at(result, place % n, moved)
        else:
            here = (place >= 0) & (place < n)
            result[place[here]] = moved[here]
        coil_images = np.moveaxis(result, 0, axis)
    return coil_images


def any_phase(picture: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Phase in radians: nearly none, smooth, steep, or with edges where tissue changes (fat and water)."""
    shape = (picture.shape[0], picture.shape[1])
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    off = rng.uniform(-2, 2, 2) if rng.random() < 0.4 else np.zeros(2)  # samples by which the echo comes early or late
    ramp = 2 * np.pi * (off[0] * y + off[1] * x)
    kind = rng.choice(["none", "smooth", "edges", "steep"], p=[0.2, 0.5, 0.15, 0.15])
    if kind == "none":
        return ramp + rng.uniform(0, 0.2) * smooth_noise(shape, 3, rng)
    phase = ramp + object_phase(shape, rng)
    if kind == "edges":
        return phase + rng.uniform(-np.pi, np.pi) * (gaussian_filter(picture, 1) > rng.uniform(0.3, 0.8))
    if kind == "steep":  # air close by bends the field
        centre = rng.uniform(-0.4, 0.4, 2)
        near = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * rng.uniform(0.06, 0.15) ** 2))
        return phase + rng.uniform(3, 10) * near
    return phase


def readout_and_echoes(shape: tuple[int, int], rng: Generator) -> NDArray[np.complex128]:
    """By what k-space is multiplied in sound scans, ``(ky, kx)``: decay along the echo train, and lines that jitter."""
    ky, kx = (np.abs(np.arange(n) - n // 2) / (n / 2) for n in shape)
    factor = np.ones(shape, dtype=np.complex128)
    if rng.random() < 0.35:  # signal decays from echo to echo, in steps
        n_echoes = int(rng.choice([4, 8, 16, 32]))
        echo = np.floor(kx * n_echoes) / n_echoes if rng.random() < 0.5 else kx
        factor *= np.exp(-rng.uniform(-0.3, 1.2) * echo)
    if rng.random() < 0.2:  # and while one echo is read
        factor *= np.exp(-rng.uniform(0, 0.8) * ky)[:, None]
    if rng.random() < 0.5:  # breathing, drift, eddy currents
        strength = 10 ** rng.uniform(-2.5, -1.2)
        factor *= np.exp(strength * (rng.standard_normal(shape[1]) + 1j * rng.standard_normal(shape[1])))
    return factor
