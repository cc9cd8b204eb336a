"""Vector approximate message passing, and its learned form."""

from __future__ import annotations

from itertools import repeat

import pytest
import torch
from support.operators import random_complex

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.nets import LearnedVAMP
from mri_unroll.solvers import vamp
from mri_unroll.solvers.shrinkage import BernoulliGaussMean, SoftThreshold
from mri_unroll.solvers.state_evolution import ScaleMixture, vamp_state_evolution
from mri_unroll.solvers.vamp import LinearHalf, vamp_iterates

M, N, NOISE_VAR = 200, 400, 2e-5
PRIOR = ScaleMixture.bernoulli_gauss(0.1)


def problem(condition: float, n_signals: int = 100):
    """A right-orthogonally invariant matrix with geometric singular values, signals, measurements."""
    generator = torch.Generator().manual_seed(0)

    def gauss(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    left, right = torch.linalg.qr(gauss(M, M)).Q, torch.linalg.qr(gauss(N, M)).Q
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), M, dtype=torch.float64)
    matrix = left @ torch.diag(values * (N / values.square().sum()) ** 0.5) @ right.mT
    signals = gauss(n_signals, N) * (torch.rand(n_signals, N, generator=generator) < 0.1)
    return matrix, signals, signals @ matrix.mT + NOISE_VAR**0.5 * gauss(n_signals, M)


def ratios(signals: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    return (estimate - signals).square().sum(-1) / signals.square().sum(-1)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_the_linear_half_is_the_posterior_mean_less_its_guess(shape: tuple[int, int]) -> None:
    matrix = random_complex(shape, torch.complex128, 0)
    data, guess = random_complex((3, shape[0]), torch.complex128, 1), random_complex((3, shape[1]), torch.complex128, 2)
    guess_var, noise_var = torch.tensor([[0.1], [1.0], [3.0]], dtype=torch.float64), 0.2
    estimate, variance = LinearHalf.of(matrix)(data, guess, guess_var, noise_var)
    for k in range(3):
        precision = matrix.mH @ matrix / noise_var + torch.eye(shape[1]) / guess_var[k]
        mean = torch.linalg.solve(precision, matrix.mH @ data[k] / noise_var + guess[k] / guess_var[k])
        alpha = torch.linalg.inv(precision).diagonal().real.mean() / guess_var[k]
        torch.testing.assert_close(estimate[k], (mean - alpha * guess[k]) / (1 - alpha))
        torch.testing.assert_close(variance[k], alpha * guess_var[k] / (1 - alpha))


@pytest.mark.parametrize("condition", [1.0, 30.0])
@pytest.mark.parametrize("denoiser", [BernoulliGaussMean(0.1), SoftThreshold(1.3)])
def test_its_state_evolution_predicts_it(condition: float, denoiser) -> None:
    matrix, signals, data = problem(condition)
    linear = LinearHalf.of(matrix)
    predicted = vamp_state_evolution(
        PRIOR, denoiser, singular_values=linear.values, n_unknowns=N, noise_var=NOISE_VAR, n_iterations=5
    ).value
    iterates = vamp_iterates(linear, data, repeat(denoiser, 5), noise_var=NOISE_VAR, signal_var=0.1)
    measured = torch.stack([ratios(signals, x).median() for x, _ in iterates])
    assert float((measured * 0.1 / predicted).log10().mul(10).abs().max()) < 1.0


def test_ill_conditioned_problems_are_solved() -> None:
    matrix, signals, data = problem(30.0)
    solution = vamp(matrix, data, BernoulliGaussMean(0.1), noise_var=NOISE_VAR, signal_var=0.1, n_iterations=15)
    assert float(ratios(signals, solution.value).median()) < 1e-4
    assert len(solution.residuals) == 15
    assert solution.residuals[-1] < 0.1 * solution.residuals[0]


def test_learned_vamp_begins_as_vamp() -> None:
    matrix, _, data = problem(10.0, 5)
    network = LearnedVAMP(matrix, 6, noise_var=NOISE_VAR)
    layers = list(network.iterates(data))
    for k in (1, 3, 6):
        expected = vamp(
            matrix, data, BernoulliGaussMean(0.1), noise_var=NOISE_VAR, signal_var=0.1, n_iterations=k
        ).value
        torch.testing.assert_close(layers[k - 1], expected)
    torch.testing.assert_close(network(data).value, layers[-1])
    assert len(list(network.iterates(data, 2))) == 2


def test_learned_vamp_has_gradients_and_learns_a_wrong_prior() -> None:
    matrix = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small = LearnedVAMP(matrix, 2, noise_var=0.1, sparsity=0.3)
    names, values = zip(*small.named_parameters(), strict=True)
    data = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def run(y: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(small, dict(zip(names, parameters, strict=True)), (y,)).value

    assert torch.autograd.gradcheck(run, (data, *values))
    matrix, signals, data = problem(10.0)
    network = LearnedVAMP(matrix, 3, noise_var=NOISE_VAR, sparsity=0.4, variance=0.3)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    losses = []
    for _ in range(25):
        loss = ratios(signals, network(data).value).mean().log()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.5


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="sparsity"):
        LearnedVAMP(torch.eye(3), 2, noise_var=0.1, sparsity=1.5)
    with pytest.raises(ShapeError, match="measurements"):
        LearnedVAMP(torch.eye(3), 2, noise_var=0.1)(torch.zeros(2, 4))
