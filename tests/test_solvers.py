"""Solvers against closed forms."""

from __future__ import annotations

import pytest
import torch
from support.operators import random_complex

from mri_unroll.errors import ConvergenceError
from mri_unroll.solvers import admm, cg, condat_vu, fista, ista, lipschitz_constant
from mri_unroll.solvers.shrinkage import soft_threshold
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


def test_cg_certificate_is_the_true_residual_of_each_entry() -> None:
    matrix = torch.stack([system(20), torch.eye(20, dtype=torch.complex128)])
    right = random_complex((2, 20, 1), torch.complex128, 1)
    solution = cg(lambda x: matrix @ x, right, n_iterations=4, certify=True)
    true = torch.linalg.vector_norm(right - matrix @ solution.value, dim=(-2, -1))
    assert solution.certificate is not None
    torch.testing.assert_close(solution.certificate, true / torch.linalg.vector_norm(right, dim=(-2, -1)))
    assert float(solution.certificate[1]) < 1e-12 < float(solution.certificate[0])


def test_cg_takes_unknowns_of_three_axes_as_one() -> None:
    scale = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    right = random_complex((2, 3, 4, 5), torch.complex128, 1)
    solution = cg(lambda x: scale * x, right, n_iterations=100, tolerance=1e-12, ndim=3)
    torch.testing.assert_close(solution.value, right / scale)


def test_lipschitz_constant_of_a_quadratic_is_its_largest_eigenvalue() -> None:
    matrix, data = system(8), random_complex((8, 1), torch.complex128, 1)
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    assert lipschitz_constant(lambda x: matrix @ x - data, data, 200) == pytest.approx(largest, rel=1e-6)
    assert lipschitz_constant(lambda x: 0 * x - data, data) == 0.0


@pytest.mark.parametrize("solver", [ista, fista])
def test_step_size_is_measured_where_none_is_given(solver) -> None:
    matrix, data = system(8) * 100, random_complex((8, 1), torch.complex128, 1)
    solution = solver(lambda x: matrix @ x - data, lambda x: x, torch.zeros_like(data), None, n_iterations=3000)
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, data), rtol=1e-6, atol=1e-9)


def test_restart_is_faster_where_the_problem_is_strongly_convex() -> None:
    scale = torch.logspace(-1.5, 0, 30, dtype=torch.float64)
    errors = []
    for restart in (False, True):
        x = fista(
            lambda x: scale * (scale * x - 1.0),
            lambda x: x,
            torch.zeros(30).double(),
            1.0,
            n_iterations=400,
            restart=restart,
        ).value
        errors.append(float((scale * x - 1).norm()))
    assert errors[1] < 0.1 * errors[0]


def noisy_steps() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    steps = torch.zeros(6, 7, dtype=torch.float64)
    steps[2:, 3:] = 2.0
    return steps + 0.2 * torch.randn(6, 7, dtype=torch.float64, generator=generator)


def differences(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.roll(-1, dim) - x for dim in (-2, -1)])


def differences_adjoint(u: torch.Tensor) -> torch.Tensor:
    return u[0].roll(1, -2) - u[0] + u[1].roll(1, -1) - u[1]


def test_admm_and_condat_vu_agree_on_total_variation() -> None:
    data, weight = noisy_steps(), 0.3

    def objective(x: torch.Tensor) -> float:
        return float(0.5 * (x - data).square().sum() + weight * differences(x).norm(dim=0).sum())

    split = admm(
        lambda x: x,
        data,
        differences,
        differences_adjoint,
        lambda v, t: v * (1 - t * weight / v.norm(dim=0).clamp_min(1e-30)).clamp_min(0),
        data,
        penalty=1.0,
        n_iterations=400,
        n_cg=10,
    ).value
    dual = condat_vu(
        lambda x: x - data,
        differences,
        differences_adjoint,
        lambda u: u / (u.norm(dim=0) / weight).clamp_min(1.0),
        data,
        lipschitz=1.0,
        transform_norm=8**0.5,
        n_iterations=4000,
        dual_step=0.1,
    ).value
    assert objective(split) == pytest.approx(objective(dual), rel=1e-6)
    assert objective(split) < 0.8 * objective(data)
    torch.testing.assert_close(split, dual, rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", [ista, fista])
def test_gradients_pass_through_the_iterations(solver) -> None:
    scale = torch.tensor([1.0, 0.5, 0.8], dtype=torch.float64)

    def solve(data: torch.Tensor) -> torch.Tensor:
        start = torch.zeros_like(data)
        return solver(
            lambda x: scale * (scale * x - data), lambda x: soft_threshold(x, 0.1), start, 1.0, n_iterations=5
        ).value

    data = torch.tensor([2.0, -1.0, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(solve, (data,))
