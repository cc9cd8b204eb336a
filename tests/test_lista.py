"""Learned ISTA: every form begins as the iteration it comes from, and every layer has exact gradients."""

from __future__ import annotations

import pytest
import torch

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.nets import ListaNetwork
from mri_unroll.nets.lista import analytic_weights, fista_momentum
from mri_unroll.solvers import fista, ista
from mri_unroll.solvers.shrinkage import soft_threshold, support_threshold
from mri_unroll.solvers.solution import FIXED_COUNT

FORMS = ["step", "two-matrix", "coupled", "analytic"]


def gauss(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def matrix_of(m: int, n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return gauss(m, n, dtype=dtype) / m**0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("momentum", ["none", "fista", "learned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_before_training_it_is_the_solver_layer_by_layer(form, tied, momentum, dtype) -> None:
    matrix, data, weight, n_layers = matrix_of(15, 31, dtype), gauss(4, 15, seed=1, dtype=dtype), 0.1, 9
    network = ListaNetwork(matrix, n_layers, weights=form, tied=tied, momentum=momentum, reg_weight=weight)
    adjoint = analytic_weights(matrix) if form == "analytic" else matrix.mT  # what stands for A^T in the gradient
    step = 1 / float(torch.linalg.matrix_norm(adjoint @ matrix, 2))
    solver = ista if momentum == "none" else fista
    layers = list(network.iterates(data))
    assert len(layers) == n_layers
    for k, layer in enumerate(layers, start=1):
        expected = solver(
            lambda x: (x @ matrix.mT - data) @ adjoint.mT,
            lambda x: soft_threshold(x, step * weight),
            data.new_zeros(4, 31),
            step,
            n_iterations=k,
        ).value
        torch.testing.assert_close(layer.detach(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_with_support_selection_it_is_the_iteration_with_that_activation(form: str) -> None:
    matrix, data = matrix_of(10, 20), gauss(3, 10, seed=1)
    network = ListaNetwork(matrix, 5, weights=form, support=(0.05, 0.15))
    adjoint = analytic_weights(matrix) if form == "analytic" else matrix.mT
    step = 1 / float(torch.linalg.matrix_norm(adjoint @ matrix, 2))
    x = torch.zeros(3, 20, dtype=torch.float64)
    for n_trusted, layer in zip([1, 2, 3, 3, 3], network.iterates(data), strict=True):
        x = support_threshold(x + step * (data - x @ matrix.mT) @ adjoint.mT, step * 0.1, n_trusted)
        torch.testing.assert_close(layer.detach(), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("support", [None, (0.2, 0.4)])
def test_gradcheck_of_every_layer(form: str, tied: bool, support) -> None:
    network = ListaNetwork(matrix_of(3, 5), 2, weights=form, tied=tied, momentum="learned", support=support)
    names, values = zip(*network.named_parameters(), strict=True)
    data = gauss(2, 3, seed=1).requires_grad_()

    def run(y: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (y,)).value

    assert torch.autograd.gradcheck(run, (data, *values))


def test_what_is_learned_is_what_the_form_says() -> None:
    matrix = matrix_of(6, 9)

    def shapes(**options) -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in ListaNetwork(matrix, 4, **options).state_dict().items()}

    scalars = {"log_step_sizes": (4,), "log_thresholds": (4,)}
    assert shapes(weights="step") == shapes(weights="analytic") == scalars
    assert shapes(weights="coupled") == scalars | {"adjoint": (1, 9, 6)}
    assert shapes(weights="coupled", tied=False) == scalars | {"adjoint": (4, 9, 6)}
    assert shapes(weights="two-matrix") == scalars | {"adjoint": (1, 9, 6), "gram": (1, 9, 9)}
    assert shapes(weights="step", momentum="learned") == scalars | {"momentum_weights": (4,)}


def test_effective_steps_follow_the_learned_matrices() -> None:
    network = ListaNetwork(matrix_of(6, 9), 3, weights="coupled", tied=False)
    before = network.step_sizes.detach().clone()
    torch.testing.assert_close(network.effective_step_sizes.detach(), before)
    with torch.no_grad():
        network.adjoint[1] *= 2
    torch.testing.assert_close(network.effective_step_sizes.detach(), before * torch.tensor([1.0, 2.0, 1.0]))


@pytest.mark.parametrize("shape", [(6, 11), (5, 8)])
def test_analytic_weights_have_the_least_coherence(shape: tuple[int, int]) -> None:
    matrix = matrix_of(*shape)
    found = analytic_weights(matrix)
    torch.testing.assert_close((found @ matrix).diagonal(), torch.ones(shape[1], dtype=torch.float64))
    least = (found @ matrix).square().sum()
    for seed in range(10):  # any other rows that meet their own column with 1 are worse
        other = found + 0.1 * gauss(*found.shape, seed=seed)
        other = other / (other @ matrix).diagonal()[:, None]
        assert (other @ matrix).square().sum() > least


def test_momentum_is_that_of_beck_and_teboulle() -> None:
    t = [1.0]
    for _ in range(4):
        t.append((1 + (1 + 4 * t[-1] ** 2) ** 0.5) / 2)
    expected = [0.0] + [(t[k - 1] - 1) / t[k] for k in range(1, 4)]
    torch.testing.assert_close(fista_momentum(4), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("form", "support"), [(f, None) for f in FORMS] + [("analytic", (0.02, 0.1))])
def test_it_learns(form: str, support) -> None:
    matrix = matrix_of(25, 50)
    network = ListaNetwork(matrix, 4, weights=form, support=support)
    signals = gauss(200, 50, seed=1) * (torch.rand(200, 50, generator=torch.Generator().manual_seed(2)) < 0.1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = ((network(signals @ matrix.mT).value - signals).square().sum() / signals.square().sum()).log10() * 10
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.5


def test_shapes_and_what_is_refused() -> None:
    network = ListaNetwork(matrix_of(4, 7), 3)
    solution = network(gauss(2, 5, 4))
    assert solution.value.shape == (2, 5, 7)
    assert (solution.status, solution.n_iterations) == (FIXED_COUNT, 3)
    assert len(list(network.iterates(gauss(4), 2))) == 2
    with pytest.raises(ShapeError, match="measurements"):
        network(gauss(2, 5))
    for wrong in ({"weights": "other"}, {"momentum": "heavy"}, {"support": (0.3, 0.2)}, {"reg_weight": 0.0}):
        with pytest.raises(ConfigError, match="Expected"):
            ListaNetwork(matrix_of(4, 7), 3, **wrong)
