"""The multi-coil operator: properties, sigpy's operator, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy.mri
import torch
from support.operators import check_derivatives, check_operator, random_complex

from mri_unroll.errors import ShapeError
from mri_unroll.physics import SenseOperator, sense


def unit_maps(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    maps = random_complex(shape, dtype, seed)
    return maps / torch.linalg.vector_norm(maps, dim=-3, keepdim=True)


def masks(shape: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "lines": (torch.rand(1, shape[1], generator=generator) < 0.5).expand(1, *shape),
        "points": (torch.rand(shape, generator=generator) < 0.5)[None],
        "full": torch.ones(1, *shape, dtype=torch.bool),
    }


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (12, 5)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("kind", ["lines", "points", "full"])
def test_operator_properties(dtype: torch.dtype, shape: tuple[int, int], batch: tuple[int, ...], kind: str) -> None:
    op = SenseOperator(unit_maps((*batch, 3, *shape), dtype), masks(shape)[kind])
    check_operator(op, random_complex((*batch, *shape), dtype, 1), random_complex((*batch, 3, *shape), dtype, 2))


@pytest.mark.parametrize("kind", ["lines", "points"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_derivatives(kind: str, shape: tuple[int, int]) -> None:
    op = SenseOperator(unit_maps((2, *shape), torch.complex128), masks(shape)[kind])
    check_derivatives(op, random_complex(shape, torch.complex128, 1), random_complex((2, *shape), torch.complex128, 2))


def test_gradient_reaches_maps() -> None:
    maps = unit_maps((2, 3, 4), torch.complex128).requires_grad_()
    mask = masks((3, 4))["lines"]
    image = random_complex((3, 4), torch.complex128, 1)
    assert torch.autograd.gradcheck(lambda m: SenseOperator(m, mask).normal(image), (maps,))


@pytest.mark.parametrize("shape", [(16, 16), (15, 18), (9, 7)])
def test_equals_sigpy(shape: tuple[int, int]) -> None:
    maps, mask = unit_maps((4, *shape), torch.complex64), masks(shape)["points"]
    op = SenseOperator(maps, mask)
    reference = sigpy.mri.linop.Sense(maps.numpy(), weights=mask[0].numpy().astype(np.float32))
    image, kspace = random_complex(shape, torch.complex64, 1), random_complex((4, *shape), torch.complex64, 2)
    for ours, theirs in (
        (op.forward(image), reference * image.numpy()),
        (op.adjoint(kspace), reference.H * kspace.numpy()),
    ):
        assert np.linalg.norm(ours.numpy() - theirs) <= 1e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7)])
@pytest.mark.parametrize("varies", ["kx", "kz, kx", "kz, ky", "all", "none"])
def test_three_dimensions(dtype: torch.dtype, shape: tuple[int, ...], varies: str) -> None:
    axes = {"none": ()}.get(varies, ("kz", "ky", "kx") if varies == "all" else tuple(varies.split(", ")))
    size = [n if name in axes else 1 for name, n in zip(("kz", "ky", "kx"), shape, strict=True)]
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.6
    maps = random_complex((2, 3, *shape), dtype, 0)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    op = SenseOperator(maps, mask.expand(1, *shape), ndim=3)
    image, kspace = random_complex((2, *shape), dtype, 1), random_complex((2, 3, *shape), dtype, 2)
    check_operator(op, image, kspace)
    reference = sigpy.mri.linop.Sense(maps[1].numpy(), weights=mask.expand(shape).numpy().astype(np.float32))
    theirs = reference.H * (reference * image[1].numpy())
    assert np.linalg.norm(op.normal(image)[1].numpy() - theirs) <= 1e-6 * max(np.linalg.norm(theirs), 1.0)


@pytest.mark.parametrize("kind", ["lines", "points", "full"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_several_sets_of_maps_add_up(kind: str, dtype: torch.dtype) -> None:
    shape = (6, 7)
    maps = random_complex((2, 2, 3, *shape), dtype, 0)  # (batch, set, coil, y, x)
    maps = maps / torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True)
    mask = masks(shape)[kind]
    op = SenseOperator(maps, mask, soft=True)
    image, kspace = random_complex((2, 2, *shape), dtype, 1), random_complex((2, 3, *shape), dtype, 2)
    assert op.forward(image).shape == kspace.shape
    check_operator(op, image, kspace)
    parts = sum(SenseOperator(maps[:, i], mask).forward(image[:, i]) for i in range(2))
    torch.testing.assert_close(op.forward(image), parts)


def test_several_sets_have_derivatives() -> None:
    maps = random_complex((2, 2, 3, 4), torch.complex128, 0) / 4
    mask = masks((3, 4))["lines"]
    image, kspace = random_complex((2, 3, 4), torch.complex128, 1), random_complex((2, 3, 4), torch.complex128, 2)
    check_derivatives(SenseOperator(maps, mask, soft=True), image, kspace)
    maps = maps.requires_grad_()
    for function in (
        lambda m: SenseOperator(m, mask, soft=True).normal(image),
        lambda m: SenseOperator(m, mask, soft=True).forward(image),
        lambda m: SenseOperator(m, mask, soft=True).adjoint(kspace),
    ):
        assert torch.autograd.gradcheck(function, (maps,))


@pytest.mark.parametrize("kind", ["lines", "points", "full"])
@pytest.mark.parametrize("budget", [1, 200, 2**20])
def test_blocks_change_nothing(kind: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    op = SenseOperator(unit_maps((2, 5, 6, 7), torch.complex128), masks((6, 7))[kind])
    image, kspace = random_complex((2, 6, 7), torch.complex128, 1), random_complex((2, 5, 6, 7), torch.complex128, 2)
    whole = op.normal(image), op.gradient(image, image), op.forward(image), op.adjoint(kspace)
    monkeypatch.setattr(sense, "_BLOCK_BYTES", {"cpu": budget})
    monkeypatch.setattr(sense, "_SMALL_PICTURE", 0)
    for a, b in zip(
        whole, (op.normal(image), op.gradient(image, image), op.forward(image), op.adjoint(kspace)), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("axes", [(), (-3,), (-2,), (-1,), (-3, -2), (-3, -1), (-2, -1), (-3, -2, -1)])
@pytest.mark.parametrize("budget", [1, 3000, 2**20])
def test_blocks_change_nothing_in_3d(axes: tuple[int, ...], budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the mask depends on, and however the gradient's right-hand side lies in memory."""
    monkeypatch.setattr(sense, "_SMALL_PICTURE", 64)
    monkeypatch.setitem(sense._BLOCK_BYTES, "cpu", budget)
    shape, generator = (5, 6, 7), torch.Generator().manual_seed(3)
    maps = random_complex((2, 3, *shape), torch.complex128, 1)
    sides = [n if axis in axes else 1 for axis, n in zip((-3, -2, -1), shape, strict=True)]
    mask = torch.rand(2, 1, *sides, generator=generator) < 0.5
    op = SenseOperator(maps, mask, ndim=3)
    image = random_complex((2, *shape), torch.complex128, 2)
    expected = op.adjoint(op.forward(image))
    torch.testing.assert_close(op.normal(image), expected)
    right = random_complex((2, *reversed(shape)), torch.complex128, 4).permute(0, 3, 2, 1)
    before = right.clone()
    torch.testing.assert_close(op.gradient(image, right), expected - right)
    assert torch.equal(right, before)


def test_gradient_under_autograd_is_the_fused_one() -> None:
    op = SenseOperator(unit_maps((3, 6, 7), torch.complex128), masks((6, 7))["lines"])
    image, data = random_complex((6, 7), torch.complex128, 1), random_complex((6, 7), torch.complex128, 2)
    torch.testing.assert_close(op.gradient(image.clone().requires_grad_(), data).detach(), op.gradient(image, data))
    assert torch.autograd.gradcheck(
        op.gradient, (image.clone().requires_grad_(), data.clone().requires_grad_()), check_forward_ad=True
    )


def test_one_picture_for_all_maps_and_many_pictures_for_one() -> None:
    maps, mask = unit_maps((2, 3, 4, 5), torch.complex128), masks((4, 5))["lines"]
    image = random_complex((4, 5), torch.complex128, 1).requires_grad_()
    op = SenseOperator(maps, mask)
    torch.testing.assert_close(op.normal(image)[1], SenseOperator(maps[1], mask).normal(image))
    assert torch.autograd.gradcheck(op.normal, (image,))
    many = random_complex((4, 2, 4, 5), torch.complex128, 2)
    torch.testing.assert_close(op.normal(many)[3, 1], SenseOperator(maps[1], mask).normal(many[3, 1]))


@pytest.mark.parametrize("n", [256, 512])
@pytest.mark.parametrize(("dtype", "n_pictures"), [(torch.complex64, 0), (torch.complex128, 2)])
def test_normal_keeps_no_more_than_result_and_two_coil_pictures(
    n: int, dtype: torch.dtype, n_pictures: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """In single precision no coil picture at all; what the compiled kernels keep, `test_fused` counts."""
    op = SenseOperator(unit_maps((12, n, n), dtype), masks((n, n))["lines"])
    image = random_complex((n, n), dtype, 1)
    op.normal(image)
    with torch.profiler.profile(profile_memory=True) as profile:
        op.normal(image)
    capfd.readouterr()  # the profiler talks of the GPU it did not find
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    expected = (1 + n_pictures) * n * n * dtype.itemsize
    assert expected <= held.max() <= 1.02 * expected


def test_masks_per_slice() -> None:
    mask = torch.stack([masks((6, 8), seed)["lines"] for seed in (0, 1)])
    maps = unit_maps((2, 3, 6, 8), torch.complex128)
    image = random_complex((2, 6, 8), torch.complex128, 1)
    together = SenseOperator(maps, mask).normal(image)
    for i in range(2):
        torch.testing.assert_close(together[i], SenseOperator(maps[i], mask[i]).normal(image[i]))


def test_weights_hold_the_normal_identity() -> None:
    weights = torch.rand(1, 1, 8, generator=torch.Generator().manual_seed(0))
    op = SenseOperator(unit_maps((3, 6, 8), torch.complex128), weights)
    image = random_complex((6, 8), torch.complex128, 1)
    torch.testing.assert_close(op.normal(image), op.adjoint(op.forward(image)))


def test_refusals_name_the_shapes() -> None:
    maps = unit_maps((3, 6, 8), torch.complex64)
    with pytest.raises(ShapeError, match=r"\(1, 6, 8\), got \(1, 6, 7\)"):
        SenseOperator(maps, torch.ones(1, 6, 7))
    with pytest.raises(ShapeError, match="complex maps"):
        SenseOperator(maps.real, torch.ones(1, 6, 8))
    op = SenseOperator(maps, torch.ones(1, 6, 8))
    with pytest.raises(ShapeError, match=r"got \(6, 7\)"):
        op.forward(torch.ones(6, 7, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="complex picture"):
        op.normal(torch.ones(6, 8))
    with pytest.raises(ShapeError, match=r"got \(2, 6, 8\)"):
        op.adjoint(torch.ones(2, 6, 8, dtype=torch.complex64))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["lines", "points", "full"])
def test_gpu_operator_properties(kind: str) -> None:
    mask = masks((15, 18))[kind].cuda()
    op = SenseOperator(unit_maps((2, 3, 15, 18), torch.complex64).cuda(), mask)
    image, kspace = random_complex((2, 15, 18), torch.complex64, 1), random_complex((2, 3, 15, 18), torch.complex64, 2)
    check_operator(op, image.cuda(), kspace.cuda())
    host = SenseOperator(op.sens_maps.cpu(), mask.cpu())
    torch.testing.assert_close(op.normal(image.cuda()).cpu(), host.normal(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (12, 5)])
@pytest.mark.parametrize("kind", ["lines", "points", "full"])
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_reversed_operator_has_the_reversed_normal_form(
    kind: str, shape: tuple[int, int], axes: tuple[int, ...]
) -> None:
    op = SenseOperator(unit_maps((2, 3, *shape), torch.complex128), masks(shape)[kind])
    image = random_complex((2, *shape), torch.complex128, 1)
    turned = op.reversed(axes).normal(image.flip(axes)).flip(axes)
    torch.testing.assert_close(turned, op.normal(image))
