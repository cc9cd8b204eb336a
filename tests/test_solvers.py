"""Solvers against closed forms."""

from __future__ import annotations

import pytest
import torch
from support.operators import random_complex

from mri_unroll.errors import ConvergenceError
from mri_unroll.nets.prior import soft_threshold
from mri_unroll.solvers import cg, condat_vu, fista, ista
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT


def system(n: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    a = random_complex((n, n), dtype, 0)
    return a @ a.mH + torch.eye(n)


def as_image(vector: torch.Tensor) -> torch.Tensor:
    return vector[..., None]


def test_cg_solves_each_batch_entry() -> None:
    matrix = torch.stack([system(6), 3 * system(6) + 2 * torch.eye(6)])
    right = random_complex((2, 6, 1), torch.complex128, 1)
    solution = cg(lambda x: matrix @ x, right, n_iterations=30, tolerance=1e-12)
    assert solution.status == CONVERGED
    assert solution.residuals[-1] <= 1e-12
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, right))


def test_cg_start_is_used() -> None:
    matrix, right = system(5), random_complex((5, 1), torch.complex128, 1)
    exact = torch.linalg.solve(matrix, right)
    solution = cg(lambda x: matrix @ x, right, start=exact, n_iterations=1)
    torch.testing.assert_close(solution.value, exact)
    assert solution.status == FIXED_COUNT


def test_cg_of_zero_is_zero() -> None:
    solution = cg(lambda x: 2 * x, torch.zeros(3, 4, dtype=torch.complex64), n_iterations=5)
    assert torch.equal(solution.value, torch.zeros(3, 4, dtype=torch.complex64))


def test_cg_says_when_it_stopped_short() -> None:
    matrix, right = system(20), random_complex((20, 1), torch.complex128, 1)
    assert cg(lambda x: matrix @ x, right, n_iterations=2, tolerance=1e-10).status == STOPPED_SHORT
    with pytest.raises(ConvergenceError, match=r"above 1\.00e-10"):
        cg(lambda x: matrix @ x, right, n_iterations=2, tolerance=1e-10, strict=True)


def test_cg_is_differentiable() -> None:
    matrix = system(4)
    right = random_complex((4, 1), torch.complex128, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: cg(lambda x: matrix @ x, b, n_iterations=4).value, (right,), atol=1e-4)


def test_soft_threshold_shrinks_modulus_and_keeps_phase() -> None:
    x = torch.tensor([3 + 4j, 0.1j, 0j], dtype=torch.complex128)
    torch.testing.assert_close(soft_threshold(x, 1.0), torch.tensor([2.4 + 3.2j, 0, 0], dtype=torch.complex128))
    torch.testing.assert_close(soft_threshold(torch.tensor([-2.0, 0.5]), 1.0), torch.tensor([-1.0, 0.0]))


@pytest.mark.parametrize("solver", [ista, fista])
def test_proximal_gradient_reaches_the_closed_form_of_a_diagonal_lasso(solver) -> None:
    scale = torch.tensor([1.0, 0.5, 0.8], dtype=torch.float64)
    data = torch.tensor([2.0, -1.0, 0.1], dtype=torch.float64)
    weight = 0.3
    exact = soft_threshold(scale * data, weight) / scale**2
    solution = solver(
        lambda x: scale * (scale * x - data),
        lambda x: soft_threshold(x, weight),
        torch.zeros(3, dtype=torch.float64),
        1.0,
        n_iterations=2000,
        tolerance=1e-13,
    )
    assert solution.status == CONVERGED
    torch.testing.assert_close(solution.value, exact)


def test_fista_needs_far_fewer_iterations_than_ista() -> None:
    scale = torch.logspace(-2, 0, 30, dtype=torch.float64)
    data = torch.ones(30, dtype=torch.float64)
    counts = [
        solver(lambda x: scale * (scale * x - data), lambda x: x, torch.zeros_like(data), 1.0, n_iterations=2000).value
        for solver in (ista, fista)
    ]
    errors = [float((scale * x - data).norm()) for x in counts]
    assert errors[1] < 0.3 * errors[0]


def test_condat_vu_reaches_the_closed_form_of_two_point_total_variation() -> None:
    data = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    weight = 0.5  # min 1/2 |x - d|^2 + w |x_1 - x_0|: each end moves by w towards the other
    solution = condat_vu(
        lambda x: x - data,
        lambda x: x[:, 1:] - x[:, :1],
        lambda u: torch.cat([-u, u], dim=1),
        lambda u: u.clamp(-weight, weight),
        torch.zeros_like(data),
        lipschitz=1.0,
        transform_norm=2**0.5,
        n_iterations=2000,
    )
    torch.testing.assert_close(solution.value, torch.tensor([[0.5, 2.5]], dtype=torch.float64), rtol=1e-6, atol=1e-6)
