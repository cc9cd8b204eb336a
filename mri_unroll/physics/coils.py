"""Receive coils: prewhitening, compression, and sensitivity maps from the calibration lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.physics.fourier import centred_ifft


def prewhiten(kspace: Tensor, noise_cov: Tensor) -> Tensor:
    r"""Give every coil unit, uncorrelated noise: :math:`y \mapsto L^{-1} y` with :math:`\Psi = L L^H`.

    Parameters
    ----------
    kspace
        ``(*batch, coil, ky, kx)``.
    noise_cov
        Noise covariance :math:`\Psi`, ``(coil, coil)``, Hermitian positive definite.

    Raises
    ------
    ShapeError
        If the covariance does not match the coils.

    Notes
    -----
    Pruessmann et al., Magn. Reson. Med. 46, 638 (2001), doi:10.1002/mrm.1241.
    """
    n_coils = kspace.shape[-3]
    if noise_cov.shape != (n_coils, n_coils):
        raise ShapeError(f"Expected a noise covariance ({n_coils}, {n_coils}), got {tuple(noise_cov.shape)}.")
    factor = torch.linalg.cholesky(noise_cov.to(torch.complex128))
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


def espirit_maps(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel_width: int = 6,
    threshold: float = 0.02,
    n_iterations: int = 12,
) -> tuple[Tensor, Tensor]:
    r"""Coil sensitivities from fully sampled calibration lines (ESPIRiT).

    Every :math:`k \times k` patch of the calibration region lies in the span of the leading right singular vectors of
    the matrix of all patches. Projecting each patch of k-space onto that span and averaging is a convolution, hence a
    ``coil x coil`` matrix :math:`G(r)` at each pixel; the sensitivities at ``r`` are its eigenvector of eigenvalue 1.

    Parameters
    ----------
    calibration
        Fully sampled centre of k-space, complex, ``(coil, ny, nx)``; only its patches matter, not its exact centring.
    shape
        ``(y, x)`` of the maps.
    kernel_width
        ``k``; reduced to the calibration size where that is smaller.
    threshold
        Singular values above ``threshold`` times the largest span the patches.
    n_iterations
        Power iterations for the eigenvector.

    Returns
    -------
    sens_maps
        ``(coil, y, x)``, unit norm over coils at *every* pixel, phase relative to the strongest virtual coil.
    eigenvalue
        ``(y, x)``, near 1 where the maps explain the data, small in air.

    Notes
    -----
    Uecker et al., Magn. Reson. Med. 71, 990 (2014), doi:10.1002/mrm.24751. ``G`` has bandwidth ``2k - 1`` and is
    evaluated from its lags by two small matrix products instead of ``coil**2`` zero-padded image-sized FFTs; the
    projector comes from the Gram matrix of the patches, which is far smaller than the patch matrix.
    """
    n_coils = calibration.shape[0]
    width_y, width_x = (min(kernel_width, n) for n in calibration.shape[-2:])
    patches = calibration.unfold(-2, width_y, 1).unfold(-2, width_x, 1)  # (coil, py, px, ky, kx)
    patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * width_y * width_x)
    values, vectors = torch.linalg.eigh(patches.mT @ patches.conj())
    keep = values > threshold**2 * values[-1]
    span = vectors[:, keep]
    projector = (span @ span.mH).reshape(n_coils, width_y, width_x, n_coils, width_y, width_x)

    # Sum the projector over equal lags d = p - p'; lag (0, 0) sits at index (width - 1, width - 1).
    n_lags_y, n_lags_x = 2 * width_y - 1, 2 * width_x - 1
    lags = projector.new_zeros(n_lags_y, n_lags_x, n_coils, n_coils)
    for py in range(width_y):
        for px in range(width_x):
            block = projector[:, py, px].permute(2, 3, 0, 1).flip(0, 1)  # (p', p', coil, coil), reversed
            lags[py : py + width_y, px : px + width_x] += block
    lags /= width_y * width_x

    def harmonics(n: int, n_lags: int) -> Tensor:
        position = (torch.arange(n, dtype=torch.float64) - n // 2) / n
        lag = torch.arange(n_lags, dtype=torch.float64) - n_lags // 2
        angle = 2 * math.pi * position[:, None] * lag
        return torch.polar(torch.ones_like(angle), angle).to(calibration)

    along_x = torch.einsum("xq,pqcd->pxcd", harmonics(shape[1], n_lags_x), lags).reshape(n_lags_y, -1)
    along_y = harmonics(shape[0], n_lags_y)
    start = torch.linalg.eigh(torch.einsum("cyx,dyx->cd", calibration, calibration.conj()))[1][:, -1]
    maps = calibration.new_empty(shape[0], shape[1], n_coils)
    eigenvalue = calibration.real.new_empty(shape)
    rows = max(1, 2**20 // (shape[1] * n_coils**2))  # a block of G stays in cache while it is iterated on
    for first in range(0, shape[0], rows):
        pixel_matrix = (along_y[first : first + rows] @ along_x).reshape(-1, n_coils, n_coils)
        vector = pixel_matrix @ start[:, None]
        for _ in range(n_iterations - 1):  # eigenvalues lie in [0, 1]: single precision needs no rescaling on the way
            vector = pixel_matrix @ vector
        vector = vector / _pixel_norm(vector).clamp_min(1e-20)
        vector = pixel_matrix @ vector
        size = _pixel_norm(vector)
        vector = vector / size.clamp_min(1e-20)
        reference = (start.conj() * vector[..., 0]).sum(-1)
        vector = vector[..., 0] * torch.polar(torch.ones_like(reference.real), -reference.angle())[:, None]
        maps[first : first + rows] = vector.reshape(-1, shape[1], n_coils)
        eigenvalue[first : first + rows] = size.reshape(-1, shape[1])
    return maps.permute(2, 0, 1).contiguous(), eigenvalue


def _pixel_norm(vector: Tensor) -> Tensor:
    """Norm over coils, ``(pixel, coil, 1)`` to ``(pixel, 1, 1)``; far faster than vector_norm on this axis."""
    return torch.view_as_real(vector).square().sum((-3, -1), keepdim=True)[..., 0].sqrt()


def low_resolution_maps(calibration: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps as the smooth part of the picture itself: low-resolution coil images over their root sum of squares.

    The fallback where too few calibration lines exist for `espirit_maps`.

    Parameters
    ----------
    calibration
        ``(coil, ny, nx)`` with zero frequency at ``n // 2``.
    shape
        ``(y, x)`` of the maps.
    """
    images = low_resolution_images(calibration, shape)
    return images / torch.linalg.vector_norm(images, dim=0, keepdim=True).clamp_min(1e-20)


def low_resolution_images(calibration: Tensor, shape: tuple[int, int]) -> Tensor:
    """Coil images ``(coil, y, x)`` from the centre of k-space, Hann-windowed against ringing."""
    ny, nx = calibration.shape[-2:]
    if ny > shape[0] or nx > shape[1]:
        raise ShapeError(f"Expected a calibration region inside {shape}, got ({ny}, {nx}).")
    window = _hann(ny, calibration)[:, None] * _hann(nx, calibration)
    full = calibration.new_zeros(*calibration.shape[:-2], *shape)
    top, left = shape[0] // 2 - ny // 2, shape[1] // 2 - nx // 2
    full[..., top : top + ny, left : left + nx] = calibration * window
    return centred_ifft(full)


def _hann(n: int, like: Tensor) -> Tensor:
    """Hann window with its maximum at ``n // 2`` and no zero inside."""
    index = torch.arange(n, device=like.device, dtype=like.real.dtype) - n // 2
    return torch.cos(math.pi * index / (n + 2)) ** 2


def absorb_phase(sens_maps: Tensor, calibration: Tensor) -> Tensor:
    r"""Move the smooth phase of the object into the maps, so that the picture comes out nearly real and positive.

    :math:`S \leftarrow S\, r / |r|` with :math:`r = \sum_c \bar S_c I_c` the low-resolution picture. The acquisition
    model stays the same up to this change of variable; what changes is what a prior sees: the phase of an unseen
    scanner, sequence or coil array no longer reaches it, and only phase finer than the calibration lines remains.

    Parameters
    ----------
    sens_maps
        ``(coil, y, x)``, unit norm over coils.
    calibration
        ``(coil, ny, nx)`` with zero frequency at ``n // 2``.
    """
    shape = (sens_maps.shape[-2], sens_maps.shape[-1])
    picture = (sens_maps.conj() * low_resolution_images(calibration, shape)).sum(0)
    return sens_maps * torch.polar(torch.ones_like(picture.real), picture.angle())
