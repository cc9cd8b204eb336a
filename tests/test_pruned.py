"""Filters by matrix products against the transforms that they stand in for."""

from __future__ import annotations

import pytest
import torch

from mri_unroll.physics import SenseOperator
from mri_unroll.physics.fourier import fft, ifft, use_engine
from mri_unroll.physics.pruned import PrunedFilter, pruned_filter

AWKWARD = 68  # 4 * 17


def response(n: int, lines: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    h = torch.zeros(n)
    h[torch.randperm(n, generator=generator)[:lines]] = 0.5 + torch.rand(lines, generator=generator)
    return h


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(("n", "lines"), [(68, 17), (34, 9), (17, 3), (51, 51), (1, 1), (68, 0)])
def test_products_are_the_conjugate_of_the_filter(n: int, lines: int, axis: int, dtype: torch.dtype) -> None:
    h = response(n, lines)
    x = torch.randn(2, 5, n, dtype=dtype).movedim(-1, axis).contiguous()
    right = ifft((h if axis == -1 else h[:, None]) * fft(x, (axis,)), (axis,)).conj()
    workspace = x.clone()
    result = PrunedFilter(h, axis, dtype)(workspace)
    assert result.data_ptr() == workspace.data_ptr()
    assert torch.linalg.vector_norm(result - right) <= (1e-6 if dtype == torch.complex64 else 1e-14) * x.norm()


@pytest.mark.parametrize("n_measured", [1, 3, 4], ids="only {} residues".format)
def test_lines_of_one_residue_are_enough(n_measured: int) -> None:
    h = torch.zeros(AWKWARD)
    h[: n_measured * 4 : 4] = 1  # as every fourth line
    x = torch.randn(3, AWKWARD, dtype=torch.complex128)
    right = ifft(h * fft(x, (-1,)), (-1,)).conj()
    assert torch.allclose(PrunedFilter(h, -1, x.dtype)(x.clone()), right, atol=1e-14)


@pytest.mark.parametrize(
    ("why", "mask", "axes"),
    [
        ("primes are small", response(64, 9), (-1,)),
        ("many lines", response(372, 100), (-1,)),
        ("two axes", torch.ones(AWKWARD, AWKWARD), (-2, -1)),
        ("no axis", torch.ones(1), ()),
        ("a mask for each slice", response(2 * AWKWARD, 20).view(2, 1, 1, AWKWARD), (-1,)),
    ],
)
def test_transforms_stay_where_they_are_faster(why: str, mask: torch.Tensor, axes: tuple[int, ...]) -> None:
    assert pruned_filter(mask, axes, torch.complex64) is None, why


@pytest.mark.parametrize("shape", [(40, AWKWARD), (AWKWARD, 40)])
@pytest.mark.parametrize("n_coils", [3, 40])
def test_the_operator_uses_them_and_agrees_with_the_engines(shape: tuple[int, int], n_coils: int) -> None:
    axis = shape.index(AWKWARD) - 2
    mask = response(AWKWARD, 20).view((1, -1) if axis == -1 else (-1, 1))
    maps = torch.randn(2, n_coils, *shape, dtype=torch.complex64)
    image = torch.randn(2, *shape, dtype=torch.complex64)
    operator = SenseOperator(maps, mask)
    assert operator._pruned is not None
    for engine in ("torch", "scipy", "sigpy/numpy"):
        with use_engine(engine):
            other = SenseOperator(maps, mask)
            assert other._pruned is None
            right = other.normal(image)
        assert torch.linalg.vector_norm(operator.normal(image) - right) <= 1e-6 * right.norm(), engine
    pair = operator.adjoint(operator.forward(image))
    assert torch.linalg.vector_norm(operator.normal(image) - pair) <= 1e-6 * pair.norm()
