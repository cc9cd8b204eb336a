"""Coil maps, compression and whitening against sigpy and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy.mri.app
import torch
from support.operators import random_complex

from mri_unroll.errors import ShapeError
from mri_unroll.physics.coils import (
    absorb_phase,
    compression_matrix,
    espirit_maps,
    low_resolution_maps,
    mix_coils,
    prewhiten,
)
from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.physics.phantom import phantom_kspace


def head(shape: tuple[int, int], n_coils: int = 5) -> torch.Tensor:
    """Noise-free analytic k-space of one slice, ``(coil, ky, kx)``."""
    return torch.from_numpy(phantom_kspace(shape, n_coils)[0])


def centre(kspace: torch.Tensor, n: int) -> torch.Tensor:
    """The central ``n x n`` block, zero frequency at ``n // 2``."""
    y, x = (size // 2 - n // 2 for size in kspace.shape[-2:])
    return kspace[:, y : y + n, x : x + n]


@pytest.mark.parametrize("shape", [(64, 60), (63, 71)])
def test_espirit_maps_explain_the_coil_images(shape: tuple[int, int]) -> None:
    kspace = head(shape)
    images = centred_ifft(kspace)
    maps, eigenvalue = espirit_maps(centre(kspace, 20), shape)
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(shape), rtol=1e-4, atol=1e-4)
    picture = (maps.conj() * images).sum(0)
    rss = torch.linalg.vector_norm(images, dim=0)
    body = rss > 0.2 * rss.max()
    unexplained = torch.linalg.vector_norm(images - maps * picture, dim=0)[body]
    assert torch.linalg.vector_norm(unexplained) < 0.03 * torch.linalg.vector_norm(rss[body])
    assert float(eigenvalue[body].mean()) > 0.98


def test_espirit_maps_equal_sigpy_up_to_phase() -> None:
    kspace = head((64, 64))
    ours, _ = espirit_maps(centre(kspace, 20), (64, 64), threshold=0.02)
    theirs = sigpy.mri.app.EspiritCalib(
        kspace.numpy(), calib_width=20, thresh=0.02, kernel_width=6, crop=0, show_pbar=False
    ).run()
    overlap = np.abs((ours.numpy().conj() * theirs).sum(0))
    rss = torch.linalg.vector_norm(centred_ifft(kspace), dim=0)
    assert overlap[(rss > 0.2 * rss.max()).numpy()].min() > 0.99


def test_narrow_calibration_still_gives_maps() -> None:
    maps, _ = espirit_maps(head((48, 40))[:, 14:34, 18:22], (48, 40))  # four lines: the kernel shrinks with them
    assert maps.shape == (5, 48, 40)
    assert bool(torch.isfinite(torch.view_as_real(maps)).all())


def test_low_resolution_maps_have_unit_norm() -> None:
    maps = low_resolution_maps(centre(head((40, 48)), 8), (40, 48))
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(40, 48), rtol=1e-4, atol=1e-4)


def test_low_resolution_region_must_fit() -> None:
    with pytest.raises(ShapeError, match="calibration region"):
        low_resolution_maps(torch.ones(2, 10, 10, dtype=torch.complex64), (8, 12))


def test_absorbed_phase_makes_the_picture_positive_whatever_the_phase_was() -> None:
    kspace = head((64, 60))
    calibration = centre(kspace, 20)
    maps, _ = espirit_maps(calibration, (64, 60))
    images = centred_ifft(kspace)
    twist = torch.polar(torch.ones(64, 60), 3 * torch.rand(64, 60, generator=torch.Generator().manual_seed(0)))
    pictures = [(absorb_phase(m, calibration).conj() * images).sum(0) for m in (maps, maps * twist)]
    torch.testing.assert_close(pictures[0], pictures[1], rtol=1e-4, atol=1e-5 * float(pictures[0].abs().max()))
    bright = pictures[0].abs() > 0.3 * pictures[0].abs().max()
    assert float(pictures[0].angle()[bright].abs().mean()) < 0.15


def test_compression_keeps_the_energy_of_few_sources() -> None:
    sources = random_complex((3, 16, 18), torch.complex64, 0)
    kspace = mix_coils(sources, random_complex((9, 3), torch.complex64, 1))
    matrix = compression_matrix(kspace, 3)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(3, dtype=torch.complex64), rtol=1e-5, atol=1e-5)
    packed = mix_coils(kspace, matrix)
    rss = [torch.linalg.vector_norm(k, dim=0) for k in (kspace, packed)]
    torch.testing.assert_close(rss[0], rss[1], rtol=1e-4, atol=1e-4)


def test_prewhitened_noise_is_white() -> None:
    factor = torch.eye(4) + 0.5 * random_complex((4, 4), torch.complex64, 0)
    covariance = factor @ factor.mH
    noise = mix_coils(random_complex((4, 100, 100), torch.complex64, 1), factor)
    flat = prewhiten(noise, covariance).flatten(1)
    torch.testing.assert_close(flat @ flat.mH / flat.shape[1], torch.eye(4, dtype=torch.complex64), rtol=0, atol=0.05)
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        prewhiten(noise[:3], covariance)
