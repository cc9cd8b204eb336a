"""Proximal gradient methods on dense, SENSE and blur problems, against closed forms and independent solvers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import sigpy
import torch
from support.operators import check_derivatives, check_operator, random_complex

from mri_unroll.errors import ShapeError
from mri_unroll.physics import BlurOperator, DenseOperator, LinearOperator, SenseOperator, gaussian_psf, operator_norm
from mri_unroll.solvers import fista, ista
from mri_unroll.solvers.shrinkage import soft_threshold
from mri_unroll.solvers.solution import CONVERGED


def lasso(op: LinearOperator, data: torch.Tensor, weight: float, solver=fista, **options) -> torch.Tensor:
    """argmin 1/2 ||A x - y||^2 + w ||x||_1 to a tight tolerance."""
    adjoint = op.adjoint(data)
    step = 0.99 / float(operator_norm(op, adjoint, n_iterations=200).max()) ** 2
    solution = solver(
        lambda x: op.gradient(x, adjoint),
        lambda x: soft_threshold(x, step * weight),
        torch.zeros_like(adjoint),
        step,
        **{"n_iterations": 20000, "tolerance": 1e-13, **options},
    )
    assert solution.status == CONVERGED
    return solution.value


def reference_lasso(matrix: np.ndarray, data: np.ndarray, weight: float) -> np.ndarray:
    """A quasi-Newton method on x = u - v, u and v >= 0, finds the support; normal equations on it give the digits."""
    n = matrix.shape[1]

    def objective(both: np.ndarray) -> tuple[float, np.ndarray]:
        residual = matrix @ (both[:n] - both[n:]) - data
        gradient = matrix.T @ residual
        slopes = np.concatenate([gradient, -gradient]) + weight
        return 0.5 * residual @ residual + weight * both.sum(), slopes

    options = {"maxiter": 20000, "maxfun": 100000, "ftol": 1e-15, "gtol": 1e-10}
    bounds = [(0, None)] * (2 * n)
    found = scipy.optimize.minimize(
        objective, np.zeros(2 * n), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    rough = found[:n] - found[n:]
    support = np.abs(rough) > 1e-5
    columns = matrix[:, support]
    exact = np.zeros(n)
    exact[support] = np.linalg.solve(columns.T @ columns, columns.T @ data - weight * np.sign(rough[support]))
    return exact


@pytest.mark.parametrize("solver", [ista, fista])
@pytest.mark.parametrize(("m", "n"), [(15, 31), (20, 12)])
def test_a_dense_lasso_agrees_with_an_independent_solver(solver, m: int, n: int) -> None:
    rng = np.random.default_rng(0)
    matrix, data = rng.standard_normal((m, n)) / m**0.5, rng.standard_normal((2, m))
    found = lasso(DenseOperator(torch.from_numpy(matrix)), torch.from_numpy(data), 0.2, solver)
    expected = np.stack([reference_lasso(matrix, row, 0.2) for row in data])
    assert 0 < np.count_nonzero(expected) < expected.size
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_an_orthonormal_lasso_is_one_threshold_of_complex_data() -> None:
    matrix = torch.linalg.qr(random_complex((7, 7), torch.complex128, 0)).Q
    data = random_complex((3, 7), torch.complex128, 1)
    op = DenseOperator(matrix)
    torch.testing.assert_close(lasso(op, data, 0.5), soft_threshold(op.adjoint(data), 0.5))


def test_a_complex_lasso_meets_its_optimality_conditions() -> None:
    op = DenseOperator(random_complex((9, 14), torch.complex128, 0))
    data, weight = random_complex((9,), torch.complex128, 1), 0.5
    x = lasso(op, data, weight)
    slope = op.adjoint(data - op.forward(x))  # in w times the subdifferential of sum |x_i|
    alive = x != 0
    assert 0 < int(alive.sum()) < 14
    torch.testing.assert_close(slope[alive], weight * x[alive] / x[alive].abs(), rtol=0, atol=1e-8)
    assert float(slope.abs().max()) <= weight + 1e-8


def test_a_sense_lasso_agrees_with_sigpy() -> None:
    shape, weight = (10, 9), 0.05
    maps = random_complex((3, *shape), torch.complex128, 0)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    op = SenseOperator(maps, mask[None])
    truth = torch.zeros(shape, dtype=torch.complex128)
    truth[2:6, 3:5] = 1 + 0.5j
    data = op.forward(truth) + 0.01 * random_complex((3, *shape), torch.complex128, 2) * mask
    found = lasso(op, data, weight)
    linop = (
        sigpy.linop.Multiply((3, *shape), mask.numpy())
        * sigpy.linop.FFT((3, *shape), axes=(-2, -1))
        * sigpy.linop.Multiply(shape, maps.numpy())
    )
    app = sigpy.app.LinearLeastSquares(
        linop, data.numpy(), proxg=sigpy.prox.L1Reg(shape, weight), max_iter=3000, show_pbar=False
    )
    np.testing.assert_allclose(found.numpy(), app.run(), atol=1e-6)


def test_a_blurred_picture_is_recovered_under_a_sparse_prior() -> None:
    op = BlurOperator(gaussian_psf((2.0, 2.5), torch.float64), (17, 12))
    truth = torch.zeros(17, 12, dtype=torch.complex128)
    truth[4, 5], truth[11, 3] = 2.0, -1.0j
    data = op.forward(truth)
    x = lasso(op, data, 1e-3, tolerance=1e-10)
    slope = op.adjoint(data - op.forward(x))
    assert float(slope.abs().max()) <= 1e-3 * (1 + 1e-4)
    assert float((x - truth).norm()) < 0.1 * float((data - truth).norm())


@pytest.mark.parametrize(("m", "n"), [(4, 7), (6, 3)])
def test_dense_operator_keeps_the_contract(m: int, n: int) -> None:
    matrix = random_complex((m, n), torch.complex128, 0)
    op = DenseOperator(matrix / torch.linalg.matrix_norm(matrix, 2))
    image, data = random_complex((2, n), torch.complex128, 1), random_complex((2, m), torch.complex128, 2)
    check_operator(op, image, data)
    check_derivatives(op, image, data)
    assert op.image_ndim == 1
    with pytest.raises(ShapeError, match="matrix"):
        DenseOperator(torch.zeros(3))
