"""Learned AMP: it begins as AMP, and every layer has exact gradients."""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
import torch

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.nets import LearnedAMP
from mri_unroll.nets.lista import analytic_weights
from mri_unroll.solvers.amp import amp_iterates
from mri_unroll.solvers.shrinkage import BernoulliGaussMean, SoftThreshold
from mri_unroll.solvers.state_evolution import ScaleMixture, state_evolution


def gauss(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


DENOISERS = {"soft": SoftThreshold(), "bernoulli-gauss": BernoulliGaussMean(0.1)}


@pytest.mark.parametrize("shrinkage", list(DENOISERS))
@pytest.mark.parametrize(("tied", "learn_matrix"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_before_training_it_is_amp_layer_by_layer(shrinkage, tied, learn_matrix, dtype) -> None:
    matrix = gauss(40, 81, dtype=dtype) / 40**0.5
    data = gauss(3, 40, seed=1, dtype=dtype) / 3
    network = LearnedAMP(matrix, 4, shrinkage=shrinkage, tied=tied, learn_matrix=learn_matrix)
    iterates = amp_iterates(lambda x: x @ matrix.mT, lambda y: y @ matrix, data, repeat(DENOISERS[shrinkage], 4))
    for layer, (expected, _) in zip(network.iterates(data), iterates, strict=True):
        tolerance = 2e-5 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(layer.detach(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shrinkage", list(DENOISERS))
@pytest.mark.parametrize(("tied", "learn_matrix"), [(True, True), (False, True), (True, False)])
def test_gradcheck_of_every_layer(shrinkage: str, tied: bool, learn_matrix: bool) -> None:
    network = LearnedAMP(
        gauss(4, 6) / 2, 3, shrinkage=shrinkage, tied=tied, learn_matrix=learn_matrix, alpha=0.5, sparsity=0.4
    ).eval()  # in training mode a count's gradient is replaced on purpose, see the next test
    names, values = zip(*network.named_parameters(), strict=True)
    data = gauss(2, 4, seed=1).requires_grad_()

    def run(y: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (y,)).value

    assert torch.autograd.gradcheck(run, (data, *values))


def test_training_follows_thresholds_through_the_onsager_term() -> None:
    matrix = gauss(500, 1000, seed=3) / 500**0.5
    signals = gauss(20, 1000, seed=1) * (torch.rand(20, 1000, generator=torch.Generator().manual_seed(2)) < 0.1)
    data = signals @ matrix.mT

    def loss_at(network: LearnedAMP, alpha: float) -> torch.Tensor:
        with torch.no_grad():
            network.log_alphas[0] = torch.tensor(alpha).log()
        return (network(data).value - signals).square().mean()

    network = LearnedAMP(matrix, 3, learn_matrix=False)
    slope = (loss_at(network, 1.26) - loss_at(network, 1.14)).detach() / np.log(1.26 / 1.14)
    gradients = []
    for training in (True, False):
        network.train(training)
        gradients.append(float(torch.autograd.grad(loss_at(network, 1.2), network.log_alphas)[0][0]))
    errors = [abs(gradient / float(slope) - 1) for gradient in gradients]
    assert errors[0] < 0.25 < errors[1]
    torch.testing.assert_close(network.train()(data).value, network.eval()(data).value)


def test_what_is_learned_is_what_the_options_say() -> None:
    def shapes(**options) -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in LearnedAMP(gauss(4, 6), 3, **options).state_dict().items()}

    soft = {"log_alphas": (3,), "log_gains": (3,)}
    assert shapes() == soft | {"adjoint": (1, 6, 4)}
    assert shapes(tied=False) == soft | {"adjoint": (3, 6, 4)}
    assert shapes(learn_matrix=False) == soft
    assert shapes(learn_matrix=False, learn_gain=False) == {"log_alphas": (3,)}
    scalars = {"log_noise_scales": (3,), "logit_sparsities": (3,), "log_variances": (3,)}
    assert shapes(shrinkage="bernoulli-gauss", learn_matrix=False) == scalars


@pytest.mark.parametrize("shrinkage", list(DENOISERS))
def test_a_signal_found_exactly_keeps_its_gradients_finite(shrinkage: str) -> None:
    network = LearnedAMP(torch.eye(5), 3, shrinkage=shrinkage)
    value = network(torch.zeros(2, 5)).value
    value.sum().backward()
    assert torch.equal(value, torch.zeros(2, 5))
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("shrinkage", list(DENOISERS))
def test_it_learns(shrinkage: str) -> None:
    matrix = gauss(25, 50) / 5
    network = LearnedAMP(matrix, 4, shrinkage=shrinkage)
    signals = gauss(200, 50, seed=1) * (torch.rand(200, 50, generator=torch.Generator().manual_seed(2)) < 0.1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = ((network(signals @ matrix.mT).value - signals).square().sum() / signals.square().sum()).log10() * 10
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 1.5


@pytest.mark.parametrize("shrinkage", list(DENOISERS))
def test_state_evolution_takes_its_layers(shrinkage: str) -> None:
    network = LearnedAMP(gauss(4, 6), 3, shrinkage=shrinkage).eval()
    prior, of = ScaleMixture.bernoulli_gauss(0.1), {"undersampling": 0.5, "noise_var": 1e-4, "n_iterations": 3}
    expected = state_evolution(prior, DENOISERS[shrinkage], **of).value
    with torch.no_grad():
        predicted = state_evolution(prior, network.denoisers(), **of).value
        torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=0)
        if shrinkage == "soft":
            network.log_gains += 0.1
            assert not torch.allclose(state_evolution(prior, network.denoisers(), **of).value, expected, rtol=1e-3)


def test_the_analytic_start_is_message_passing_with_that_matrix() -> None:
    matrix, data = gauss(6, 9) / 6**0.5, gauss(2, 6, seed=1)
    weights = analytic_weights(matrix)
    network = LearnedAMP(matrix, 3, start="analytic", learn_matrix=False)
    iterates = amp_iterates(lambda x: x @ matrix.mT, lambda y: y @ weights.mT, data, repeat(SoftThreshold(), 3))
    for layer, (expected, _) in zip(network.iterates(data), iterates, strict=True):
        torch.testing.assert_close(layer.detach(), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="shrinkage"):
        LearnedAMP(gauss(4, 6), 3, shrinkage="firm")
    with pytest.raises(ConfigError, match="start"):
        LearnedAMP(gauss(4, 6), 3, start="random")
    with pytest.raises(ConfigError, match="alpha"):
        LearnedAMP(gauss(4, 6), 3, alpha=0.0)
    with pytest.raises(ShapeError, match="measurements"):
        LearnedAMP(gauss(4, 6), 3)(gauss(2, 6))
