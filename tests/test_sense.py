"""The multi-coil operator: properties, sigpy's operator, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy.mri
import torch
from support.operators import check_derivatives, check_operator, random_complex

from mri_unroll.errors import ShapeError
from mri_unroll.physics import SenseOperator


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
