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
    soft_weights,
)
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.solvers import cg


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


@pytest.mark.parametrize(("shape", "n_coils", "n_lines"), [((64, 64), 5, 20), ((75, 63), 8, 21)])
def test_espirit_maps_equal_sigpy_up_to_phase(shape: tuple[int, int], n_coils: int, n_lines: int) -> None:
    kspace = head(shape, n_coils)
    ours, eigenvalue = espirit_maps(centre(kspace, n_lines), shape, threshold=0.02)
    theirs = sigpy.mri.app.EspiritCalib(
        kspace.numpy(), calib_width=n_lines, thresh=0.02, kernel_width=6, crop=0, max_iter=300, show_pbar=False
    ).run()
    overlap = np.abs((ours.numpy().conj() * theirs).sum(0))
    rss = torch.linalg.vector_norm(centred_ifft(kspace), dim=0)
    body = (rss > 0.1 * rss.max()) & (eigenvalue > 0.95)
    assert body.sum() > 0.3 * body.numel()
    assert overlap[body.numpy()].min() > 0.9999


def pixel_matrices(calibration: np.ndarray, shape: tuple[int, ...], width: int, threshold: float) -> np.ndarray:
    """``G``, ``(*shape, coil, coil)``, as the paper has it: patches, SVD, a Fourier sum for every kernel."""
    ndim = len(shape)
    windows = np.lib.stride_tricks.sliding_window_view(calibration, (width,) * ndim, tuple(range(1, ndim + 1)))
    patches = np.moveaxis(windows, 0, ndim).reshape(-1, len(calibration) * width**ndim)
    _, values, rows = np.linalg.svd(patches, full_matrices=False)
    kernels = rows[values > threshold * values[0]].reshape(-1, len(calibration), *(width,) * ndim)
    for axis, n in enumerate(shape, start=2):
        wave = np.exp(2j * np.pi * np.outer(np.arange(n) - n // 2, np.arange(width)) / n)
        kernels = np.moveaxis(np.tensordot(kernels, wave, (axis, 1)), -1, axis)
    return np.einsum("kc...,kd...->...cd", kernels, kernels.conj()) / width**ndim


@pytest.mark.parametrize(("shape", "n_coils", "n_sets"), [((33, 28), 6, 1), ((26, 31), 5, 3), ((12, 15, 14), 4, 2)])
def test_sets_are_the_leading_eigenvectors(shape: tuple[int, ...], n_coils: int, n_sets: int) -> None:
    calibration = random_complex((n_coils, *(9,) * len(shape)), torch.complex64, 3)  # nothing low-rank about noise
    calibration *= torch.exp(-0.2 * torch.arange(9.0))  # but not white either
    maps, eigenvalue = espirit_maps(calibration, shape, kernel_width=3, threshold=0.3, n_sets=n_sets, n_iterations=20)
    values, vectors = np.linalg.eigh(pixel_matrices(calibration.numpy().astype(complex), shape, 3, 0.3))
    if n_sets == 1:
        maps, eigenvalue = maps[None], eigenvalue[None]
    for index in range(n_sets):
        np.testing.assert_allclose(eigenvalue[index], values[..., -1 - index], atol=5e-4)
        overlap = np.abs(np.einsum("c...,...c->...", maps[index].numpy().conj(), vectors[..., -1 - index]))
        apart = np.abs(np.diff(values, axis=-1))[..., n_coils - 2 - index] > 0.05
        if index > 0:
            apart &= np.abs(np.diff(values, axis=-1))[..., n_coils - 1 - index] > 0.05
        assert apart.mean() > 0.2
        assert overlap[apart].min() > 0.999


def test_few_iterations_are_enough_for_a_head() -> None:
    kspace = head((60, 66), 8)
    few, most = (espirit_maps(centre(kspace, 24), (60, 66), n_sets=2, n_iterations=n) for n in (1, 8))
    clear = most[1][0] - most[1][1] > 0.02
    assert float((few[0][0].conj() * most[0][0]).sum(0).abs()[clear].min()) > 0.9999
    torch.testing.assert_close(few[1][0], most[1][0], rtol=0, atol=1e-4)
    strong = most[1][1] > 0.5
    torch.testing.assert_close(few[1][1][strong], most[1][1][strong], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("shape", "n_coils"), [((64, 66), 6), ((63, 71), 7), ((30, 5), 1), ((160, 150), 8), ((20, 24), 33)]
)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_compiled_maps_are_those_of_double_precision(shape: tuple[int, int], n_coils: int, n_threads: int) -> None:
    """Eigenvalues at every pixel, maps in the body; with more coils than are compiled for, by iterating subspaces."""
    calibration = centre(torch.nn.functional.pad(head(shape, n_coils), (12, 12, 12, 12)), 24)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        maps, value = espirit_maps(calibration, shape)
    finally:
        torch.set_num_threads(before)
    exact, exact_value = espirit_maps(calibration.to(torch.complex128), shape, n_iterations=8)
    torch.testing.assert_close(value.double(), exact_value, rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(shape), rtol=0, atol=1e-5)
    body = exact_value > 0.8
    assert float(torch.quantile((maps.conj() * exact).sum(0).abs()[body], 0.01)) > 0.9999
    if n_coils > 1:  # phases too: relative to the strongest virtual coil
        assert float((maps - exact).abs()[:, body].mean()) < 2e-3


def test_data_that_autograd_follows_gives_maps_too() -> None:
    calibration = centre(head((32, 30)), 16)
    maps, value = espirit_maps(calibration, (32, 30))
    followed, _ = espirit_maps(calibration.clone().requires_grad_(), (32, 30))
    assert float((maps.conj() * followed.detach()).sum(0).abs()[value > 0.9].min()) > 0.9999


def test_equal_eigenvalues_give_a_vector_of_their_space() -> None:
    """Two coils that never see the same pixel, nor a third: any mixture of the first two explains the data."""
    calibration = torch.zeros(3, 12, 12, dtype=torch.complex64)
    calibration[:2] = random_complex((2, 12, 12), torch.complex64, 0)
    maps, value = espirit_maps(calibration, (16, 20), kernel_width=3)
    assert float(maps[2].abs().max()) < 1e-3
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(16, 20), rtol=0, atol=1e-5)
    torch.testing.assert_close(value, torch.ones(16, 20), rtol=0, atol=1e-4)


def test_two_sets_explain_a_picture_that_folds() -> None:
    images = centred_ifft(head((72, 64), 8))
    folded = images[:, :40] + torch.nn.functional.pad(images[:, 40:], (0, 0, 0, 8))  # a field of view too short for it
    calibration = centre(centred_fft(folded), 24)
    maps, eigenvalue = espirit_maps(calibration, (40, 64), n_sets=2)
    assert maps.shape == (2, 8, 40, 64)
    assert eigenvalue.shape == (2, 40, 64)
    gram = torch.einsum("scyx,tcyx->styx", maps.conj(), maps)
    torch.testing.assert_close(
        gram, torch.eye(2, dtype=gram.dtype)[:, :, None, None].expand_as(gram), rtol=0, atol=2e-3
    )

    def unexplained(sets: torch.Tensor) -> float:
        components = torch.einsum("scyx,cyx->syx", sets.conj(), folded)
        return float((folded - torch.einsum("scyx,syx->cyx", sets, components)).norm() / folded.norm())

    one, two = unexplained(maps[:1]), unexplained(maps)
    soft = unexplained(maps * soft_weights(eigenvalue).sqrt()[:, None])
    assert one > 0.1
    assert two < 0.05
    assert soft < 0.07
    single, single_value = espirit_maps(calibration, (40, 64))
    clear = eigenvalue[0] - eigenvalue[1] > 0.05
    assert float((single.conj() * maps[0]).sum(0).abs()[clear].min()) > 0.999
    torch.testing.assert_close(single_value, eigenvalue[0], rtol=0, atol=1e-3)


def test_soft_reconstruction_of_a_picture_that_folds() -> None:
    images = centred_ifft(head((72, 64), 8))
    folded = images[:, :40] + torch.nn.functional.pad(images[:, 40:], (0, 0, 0, 8))
    kspace = centred_fft(folded)
    mask = torch.zeros(1, 64)
    mask[:, ::2] = 1
    mask[:, 20:44] = 1
    maps, eigenvalue = espirit_maps(centre(kspace, 24), (40, 64), n_sets=2)
    weighted = soft_weights(eigenvalue)[:, None] * maps

    def error(sets: torch.Tensor) -> float:
        op = SenseOperator(sets, mask, soft=True)
        picture = cg(lambda x: op.normal(x) + 1e-3 * x, op.adjoint(mask * kspace), n_iterations=30, ndim=3).value
        return float(((sets * picture[:, None]).sum(0) - folded).norm() / folded.norm())

    assert error(weighted) < 0.06
    assert error(weighted) < 0.5 * error(weighted[:1])


def test_soft_weights_fade_between_cutoff_and_one() -> None:
    weights = soft_weights(torch.tensor([0.0, 0.8, 0.85, 0.9, 1.0]), cutoff=0.8)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


@pytest.mark.parametrize("shape", [(16, 20, 18), (15, 17, 22)])
def test_maps_of_a_volume_explain_the_coil_images(shape: tuple[int, int, int]) -> None:
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (sum((axis / 0.7) ** 2 for axis in axes) < 1).to(torch.complex64)
    places = 1.4 * torch.nn.functional.normalize(random_complex((5, 3), torch.complex64, 0).real, dim=1)
    near = [sum((axis - p) ** 2 for axis, p in zip(axes, place, strict=True)) for place in places]
    images = body * torch.stack([torch.polar(torch.exp(-0.4 * r), 0.7 * r + i) for i, r in enumerate(near)])
    kspace = centred_fft(images, (-3, -2, -1))
    z, y, x = (slice(n // 2 - 6, n // 2 + 6) for n in shape)
    maps, eigenvalue = espirit_maps(kspace[:, z, y, x], shape, kernel_width=4)
    assert maps.shape == (5, *shape)
    inside = (sum((axis / 0.6) ** 2 for axis in axes) < 1).expand(shape)
    assert float(eigenvalue[inside].min()) > 0.95
    unexplained = (images - maps * (maps.conj() * images).sum(0))[:, inside]
    assert unexplained.norm() < 0.02 * images[:, inside].norm()


def test_single_precision_survives_tiny_and_empty_data() -> None:
    calibration = centre(head((32, 30)), 16)
    maps, eigenvalue = espirit_maps(calibration, (32, 30))
    tiny_maps, tiny_eigenvalue = espirit_maps(calibration * 1e-12, (32, 30))
    clear = eigenvalue > 0.9
    assert float((maps.conj() * tiny_maps).sum(0).abs()[clear].min()) > 0.999
    torch.testing.assert_close(eigenvalue[clear], tiny_eigenvalue[clear], rtol=0, atol=1e-2)
    empty, value = espirit_maps(torch.zeros_like(calibration), (32, 30))
    assert not bool(empty.any())
    assert not bool(value.any())


@pytest.mark.parametrize("n_coils", [4, 8, 12])
def test_data_of_next_to_no_rank_still_give_maps(n_coils: int) -> None:
    """Single-precision LAPACK does not converge on one or two in twelve of these."""
    for place in range(12):
        kspace = torch.zeros(n_coils, 24, 24, dtype=torch.complex64)
        kspace[:, :, place] = 1 + 0.5j
        maps, _ = espirit_maps(kspace, (64, 64))
        assert bool(torch.isfinite(torch.view_as_real(maps)).all())


def test_sets_and_dimensions_are_checked() -> None:
    with pytest.raises(ShapeError, match="between 1 and 3"):
        espirit_maps(torch.ones(3, 10, 10, dtype=torch.complex64), (12, 12), n_sets=4)
    with pytest.raises(ShapeError, match="calibration data"):
        espirit_maps(torch.ones(3, 10, 10, dtype=torch.complex64), (12, 12, 12))


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
    absorbed = [absorb_phase(m, calibration) for m in (maps, maps * twist)]
    pictures = [(m.conj() * images).sum(0) for m, _ in absorbed]
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


def test_prewhitening_survives_a_dead_coil() -> None:
    noise_cov = torch.diag(torch.tensor([4.0, 0.0, 1.0])).to(torch.complex64)
    kspace = random_complex((3, 4, 5), torch.complex64, 0)
    kspace[1] = 0
    white = prewhiten(kspace, noise_cov)
    torch.testing.assert_close(white[0], kspace[0] / 2, rtol=1e-5, atol=1e-6)
    assert torch.equal(white[1], kspace[1])
    with pytest.raises(ShapeError, match="positive power"):
        prewhiten(kspace, torch.zeros(3, 3, dtype=torch.complex64))
