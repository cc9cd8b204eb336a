"""Scans off the grid and in 3-D, simulated from formulas and not from the FFT of a raster, and scans turned."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mri_unroll.physics import phantom
from mri_unroll.scan import Geometry, Scan, Source


def sampled_head(
    coordinates: NDArray[np.floating], shape: tuple[int, int], n_coils: int, noise: float = 0.0, oversampling: int = 1
) -> NDArray[np.complex64]:
    """The head of `phantom_kspace` measured anywhere, ``(coil, sample)``: exact, then noise of that deviation.

    ``coordinates (sample, 2)`` are in cycles per encoded field of view, which is ``oversampling`` times the picture.
    """
    weights = phantom._phased_coils(n_coils)
    order = np.arange(weights.shape[-1]) - weights.shape[-1] // 2
    frequency_y, frequency_x = np.asarray(coordinates, np.float64).T / oversampling
    ellipses = phantom.head_slice()
    kspace = np.zeros((n_coils, len(coordinates)), np.complex128)
    for p, q in zip(*np.nonzero(np.abs(weights).max(axis=0)), strict=True):
        shifted = phantom.ellipse_kspace(ellipses, frequency_y - order[p] / 2, frequency_x - order[q] / 2)
        kspace += weights[:, p, q, None] * shifted
    kspace *= np.sqrt(np.prod(shape)) / oversampling**2
    random = np.random.default_rng(0)
    kspace += noise * (random.standard_normal(kspace.shape) + 1j * random.standard_normal(kspace.shape))
    return kspace.astype(np.complex64)


def head_truth(shape: tuple[int, int], n_coils: int, oversampling: int = 1) -> NDArray[np.float32]:
    """Root sum of squares of the coils' pictures of the head, ``(y, x)``."""
    image = phantom.phantom_image(shape, oversampling=(oversampling, oversampling))[0]
    maps = phantom.phantom_maps(shape, n_coils, oversampling=(oversampling, oversampling))
    return np.asarray(np.abs(image) * np.linalg.norm(maps, axis=0), np.float32)


def blobs(shape: tuple[int, int, int], n_coils: int) -> NDArray[np.complex128]:
    """Coil pictures ``(coil, z, y, x)`` of a smooth solid: a few Gaussian balls, seen by coils around it."""
    axes = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    solid = np.zeros(shape)
    for centre, width, height in (
        ((0, 0, 0), 0.2, 1.0),
        ((0.1, 0.12, -0.1), 0.06, 0.8),
        ((-0.1, -0.1, 0.12), 0.08, -0.5),
    ):
        square = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        solid += height * np.exp(-square / (2 * width**2))
    maps = []
    for coil in range(n_coils):
        turn = 2 * np.pi * coil / n_coils
        reach = (
            (axes[1] - 0.6 * np.cos(turn)) ** 2
            + (axes[2] - 0.6 * np.sin(turn)) ** 2
            + (axes[0] - 0.2 * coil % 0.5) ** 2
        )
        maps.append(np.exp(-reach) * np.exp(1j * (turn + axes[1] - 0.5 * axes[0])))
    return solid * np.stack(maps)


def grid_volume(pictures: NDArray[np.complex128]) -> NDArray[np.complex64]:
    """K-space ``(1, coil, kz, ky, kx)`` of coil pictures, centred and unitary."""
    axes = (-3, -2, -1)
    shifted = np.fft.fftn(np.fft.ifftshift(pictures, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(shifted, axes).astype(np.complex64)[None]


def sampled_volume(pictures: NDArray[np.complex128], coordinates: NDArray[np.floating]) -> NDArray[np.complex64]:
    """K-space ``(coil, sample)`` of coil pictures ``(coil, z, y, x)`` by the sum that defines it."""
    shape = pictures.shape[1:]
    waves = [
        np.exp(-2j * np.pi * np.multiply.outer(k, (np.arange(n) - n // 2) / n))
        for k, n in zip(np.asarray(coordinates, np.float64).T, shape, strict=True)
    ]
    lines = np.tensordot(pictures, waves[2], axes=(3, 1))  # (coil, z, y, sample)
    planes = np.einsum("czys,sy->czs", lines, waves[1])
    return (np.einsum("czs,sz->cs", planes, waves[0]) / np.sqrt(np.prod(shape))).astype(np.complex64)


def make_scan(
    kspace: NDArray[np.complex64],
    recon_shape: tuple[int, int],
    *,
    mask: NDArray[np.bool_] | None = None,
    trajectory: NDArray[np.floating] | None = None,
    encoded_shape: tuple[int, ...] | None = None,
    n_partitions: int = 1,
    reference: NDArray[np.float32] | None = None,
) -> Scan:
    """A scan of arrays; without trajectory and mask it is fully sampled."""
    if trajectory is None and mask is None:
        mask = np.ones(kspace.shape[2:], bool)
    return Scan(
        kspace=kspace,
        mask=mask,
        geometry=Geometry(recon_shape=recon_shape, n_partitions=n_partitions, encoded_shape=encoded_shape),
        source=Source(format="test", digest="sha256:0", n_slices=len(kspace), slices=(0, len(kspace))),
        reference=reference,
        trajectory=None if trajectory is None else np.asarray(trajectory, np.float32),
    )


def exchanged(scan: Scan) -> Scan:
    """The same with the last two axes exchanged."""
    assert scan.mask is not None
    height, width = scan.geometry.recon_shape
    return dataclasses.replace(
        scan,
        kspace=np.ascontiguousarray(scan.kspace.swapaxes(-2, -1)),
        mask=np.ascontiguousarray(scan.mask.swapaxes(-2, -1)),
        geometry=dataclasses.replace(scan.geometry, recon_shape=(width, height)),
    )
