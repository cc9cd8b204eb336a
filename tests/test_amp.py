"""Approximate message passing: exact identities on small problems, what it promises on larger ones."""

from __future__ import annotations

from itertools import islice, repeat

import pytest
import torch
from support.operators import random_complex

from mri_unroll.physics import DenseOperator
from mri_unroll.solvers import amp
from mri_unroll.solvers.amp import DIVERGED, amp_iterates
from mri_unroll.solvers.shrinkage import BernoulliGaussMean, ProbedDenoiser, SoftThreshold, soft_threshold
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT

M, N = 250, 500


def problem(n_signals: int = 20, dtype: torch.dtype = torch.float64):
    """Matrix, signals with one coefficient in ten, measurements at 40 dB."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(M, N, dtype=dtype, generator=generator) / M**0.5
    active = torch.rand(n_signals, N, generator=generator) < 0.1
    signals = active * torch.randn(n_signals, N, dtype=dtype, generator=generator)
    noise = (0.2e-4) ** 0.5 * torch.randn(n_signals, M, dtype=dtype, generator=generator)
    return DenseOperator(matrix), signals, signals @ matrix.mT + noise


def decibels(signals: torch.Tensor, estimates: torch.Tensor) -> float:
    ratios = (estimates - signals).abs().square().sum(-1) / signals.abs().square().sum(-1)
    return float(10 * ratios.median().log10())


def test_the_first_iterations_follow_the_formula() -> None:
    op, _, data = problem(2)
    level = (data.square().mean(-1, keepdim=True)).sqrt()
    first = soft_threshold(op.adjoint(data), 1.1402 * level)
    residual = data - op.forward(first) + N / M * (first != 0).double().mean(-1, keepdim=True) * data
    level = residual.square().mean(-1, keepdim=True).sqrt()
    second = soft_threshold(first + op.adjoint(residual), 1.1402 * level)
    torch.testing.assert_close(amp(op.forward, op.adjoint, data, SoftThreshold(), n_iterations=1).value, first)
    torch.testing.assert_close(amp(op.forward, op.adjoint, data, SoftThreshold(), n_iterations=2).value, second)


def test_sparse_signals_are_recovered_in_twenty_iterations() -> None:
    op, signals, data = problem()
    solution = amp(op.forward, op.adjoint, data, SoftThreshold(), n_iterations=20)
    assert decibels(signals, solution.value) < -34
    assert solution.status == FIXED_COUNT
    assert len(solution.residuals) == solution.n_iterations == 20
    better = amp(op.forward, op.adjoint, data, BernoulliGaussMean(0.1), n_iterations=10)
    assert decibels(signals, better.value) < -40


def test_the_noise_level_is_what_the_denoiser_is_told_and_only_with_the_onsager_term() -> None:
    op, signals, data = problem(50)
    misjudged = []
    for onsager in (True, False):
        belief, truth = [], []
        x = torch.zeros_like(signals)
        for k in range(5):  # what the denoiser saw is x + A^T v; the noise in it against the level it was told
            seen: list[torch.Tensor] = []

            def record(noisy, noise_var, seen=seen):
                seen[:] = [noisy, noise_var]
                return SoftThreshold()(noisy, noise_var)

            iterates = amp_iterates(op.forward, op.adjoint, data, repeat(record), onsager=onsager)
            *_, (x, _) = islice(iterates, k + 1)
            belief.append(seen[1].mean())
            truth.append((seen[0] - signals).square().mean())
        assert x.shape == signals.shape
        misjudged.append(float((torch.stack(truth) / torch.stack(belief)).log10().mul(10).abs().max()))
    assert misjudged[0] < 0.3
    assert misjudged[1] > 1.2


def test_without_the_onsager_term_it_diverges_and_says_so() -> None:
    op, signals, data = problem()
    solution = amp(op.forward, op.adjoint, data, SoftThreshold(), onsager=False, n_iterations=30)
    assert solution.status == DIVERGED
    assert decibels(signals, solution.value) > 0


def test_an_ill_conditioned_matrix_makes_it_diverge_and_say_so() -> None:
    op, _, data = problem()
    left, _, right = torch.linalg.svd(op.matrix, full_matrices=False)
    values = torch.logspace(0, -2, M, dtype=torch.float64)
    matrix = left @ torch.diag(values * (N / values.square().sum()) ** 0.5) @ right
    op = DenseOperator(matrix)
    assert amp(op.forward, op.adjoint, data, SoftThreshold(), n_iterations=40).status == DIVERGED


def test_it_stops_at_the_tolerance() -> None:
    op, _, data = problem(1)
    solution = amp(op.forward, op.adjoint, data, SoftThreshold(), n_iterations=300, tolerance=1e-8)
    assert solution.status == CONVERGED
    assert solution.residuals[-1] <= 1e-8
    assert solution.n_iterations < 300
    assert amp(op.forward, op.adjoint, data, SoftThreshold(), tolerance=1e-12, n_iterations=3).status == STOPPED_SHORT


def test_complex_signals_and_any_denoiser() -> None:
    matrix = random_complex((150, 300), torch.complex128, 0) / 150**0.5
    op = DenseOperator(matrix)
    signals = random_complex((4, 300), torch.complex128, 1) * (
        torch.rand(4, 300, generator=torch.Generator().manual_seed(2)) < 0.1
    )
    data = op.forward(signals)
    exact = amp(op.forward, op.adjoint, data, SoftThreshold(1.4), n_iterations=40)
    assert decibels(signals, exact.value) < -40
    probed = ProbedDenoiser(lambda r, v: SoftThreshold(1.4)(r, v)[0])
    assert decibels(signals, amp(op.forward, op.adjoint, data, probed, n_iterations=40).value) < -25


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_batches_are_independent(batch: tuple[int, ...]) -> None:
    op, _, data = problem(6)
    together = amp(op.forward, op.adjoint, data, SoftThreshold(), n_iterations=5).value
    shaped = amp(op.forward, op.adjoint, data.reshape(*batch, M) if batch else data[0], SoftThreshold(), n_iterations=5)
    torch.testing.assert_close(shaped.value, together.reshape(*batch, N) if batch else together[0])


def test_gradients_pass_through() -> None:
    matrix = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 5**0.5
    op = DenseOperator(matrix)
    data = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    denoiser = BernoulliGaussMean(0.3)
    assert torch.autograd.gradcheck(lambda y: amp(op.forward, op.adjoint, y, denoiser, n_iterations=3).value, (data,))
