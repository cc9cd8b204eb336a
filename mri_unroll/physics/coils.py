"""Receive coils: prewhitening, compression, and sensitivity maps from the calibration lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.physics.espirit import espirit_maps, soft_weights
from mri_unroll.physics.fourier import padded_ifft

__all__ = [
    "absorb_phase",
    "compression_matrix",
    "espirit_maps",
    "low_resolution_images",
    "low_resolution_maps",
    "mix_coils",
    "prewhiten",
    "soft_weights",
]


def prewhiten(kspace: Tensor, noise_cov: Tensor) -> Tensor:
    r"""Give every coil unit, uncorrelated noise: :math:`y \mapsto L^{-1} y` with :math:`\Psi = L L^H`.

    Parameters
    ----------
    kspace
        ``(*batch, coil, ky, kx)``.
    noise_cov
        Noise covariance :math:`\Psi`, ``(coil, coil)``, Hermitian. Where it is singular, as with a dead coil, a
        millionth of the mean power is added to its diagonal.

    Raises
    ------
    ShapeError
        If the covariance does not match the coils, or holds no noise.

    Notes
    -----
    Pruessmann et al., Magn. Reson. Med. 46, 638 (2001), doi:10.1002/mrm.1241.
    """
    n_coils = kspace.shape[-3]
    if noise_cov.shape != (n_coils, n_coils):
        raise ShapeError(f"Expected a noise covariance ({n_coils}, {n_coils}), got {tuple(noise_cov.shape)}.")
    noise_cov = noise_cov.to(torch.complex128)
    power = noise_cov.diagonal().real.mean()
    if not power > 0:
        raise ShapeError(f"Expected a noise covariance of positive power, got {float(power)}.")
    factor, failed = torch.linalg.cholesky_ex(noise_cov)
    if failed:
        factor = torch.linalg.cholesky(noise_cov + 1e-6 * power * torch.eye(n_coils, dtype=torch.complex128))
    flat = kspace.movedim(-3, 0).reshape(n_coils, -1)
    white = torch.linalg.solve_triangular(factor, flat.to(torch.complex128), upper=False)
    return white.to(kspace.dtype).reshape(n_coils, *kspace.shape[:-3], *kspace.shape[-2:]).movedim(0, -3)


def compression_matrix(kspace: Tensor, n_virtual: int) -> Tensor:
    r"""Rows of the unitary that packs most signal into the first ``n_virtual`` coils.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``; unmeasured samples are zero.
    n_virtual
        Coils to keep.

    Returns
    -------
    Tensor
        ``(n_virtual, coil)`` with orthonormal rows, in order of falling energy. Apply with `mix_coils`.

    Notes
    -----
    Buehrer et al., Magn. Reson. Med. 57, 1131 (2007), doi:10.1002/mrm.21237.
    """
    flat = kspace.flatten(1)
    vectors = torch.linalg.eigh((flat @ flat.mH).to(torch.complex128)).eigenvectors
    return vectors.flip(-1)[:, :n_virtual].mH.to(kspace.dtype)


def mix_coils(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Virtual coils ``sum_c matrix[v, c] kspace[..., c, :, :]``."""
    return torch.einsum("vc,...cyx->...vyx", matrix, kspace)


def low_resolution_maps(calibration: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps as the smooth part of the picture itself: low-resolution coil images over their root sum of squares.

    The fallback where too few calibration lines exist for `espirit_maps`.

    Parameters
    ----------
    calibration
        ``(coil, [nz,] ny, nx)`` with zero frequency at ``n // 2``.
    shape
        ``([z,] y, x)`` of the maps.
    """
    images = low_resolution_images(calibration, shape)
    return images / torch.linalg.vector_norm(images, dim=0, keepdim=True).clamp_min(1e-20)


def low_resolution_images(calibration: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Coil images ``(coil, [z,] y, x)`` from the centre of k-space, Hann-windowed against ringing."""
    sides = tuple(calibration.shape[-len(shape) :])
    if any(side > n for side, n in zip(sides, shape, strict=True)):
        raise ShapeError(f"Expected a calibration region inside {shape}, got {sides}.")
    window = torch.ones((), device=calibration.device)
    for side in sides:
        window = window.unsqueeze(-1) * _hann(side, calibration)
    return padded_ifft(calibration * window, shape)


def _hann(n: int, like: Tensor) -> Tensor:
    """Hann window with its maximum at ``n // 2`` and no zero inside."""
    index = torch.arange(n, device=like.device, dtype=like.real.dtype) - n // 2
    return torch.cos(math.pi * index / (n + 2)) ** 2


def absorb_phase(sens_maps: Tensor, calibration: Tensor) -> tuple[Tensor, Tensor]:
    r"""Move the smooth phase of the object into the maps, so that the picture comes out nearly real and positive.

    :math:`S \leftarrow S\, r / |r|` with :math:`r = \sum_c \bar S_c I_c` the low-resolution picture. The acquisition
    model stays the same up to this change of variable; what changes is what a prior sees: the phase of an unseen
    scanner, sequence or coil array no longer reaches it, and only phase finer than the calibration lines remains.

    Parameters
    ----------
    sens_maps
        ``(coil, [z,] y, x)``, unit norm over coils.
    calibration
        ``(coil, [nz,] ny, nx)`` with zero frequency at ``n // 2``.

    Returns
    -------
    sens_maps
        As given, with that phase.
    picture
        The low-resolution picture that is seen through them, real, ``([z,] y, x)``.
    """
    picture = (sens_maps.conj() * low_resolution_images(calibration, tuple(sens_maps.shape[1:]))).sum(0)
    return sens_maps * torch.polar(torch.ones_like(picture.real), picture.angle()), picture.abs()
