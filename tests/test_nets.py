"""Priors, steps, unrolled networks and their files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.operators import random_complex

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets import ModelConfig, build
from mri_unroll.nets.complex import from_channels, to_channels
from mri_unroll.nets.model import digest, load, save
from mri_unroll.nets.prior import UNetPrior
from mri_unroll.nets.steps import GradientStep, ProximalStep, data_consistency
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.physics import SenseOperator
from mri_unroll.recon.reconstructor import shipped_models
from mri_unroll.solvers import fista, ista
from mri_unroll.solvers.shrinkage import soft_threshold

SMALL = ModelConfig(n_steps=2, n_cg=2, n_start_cg=3, widths=(4, 6))


def problem(shape: tuple[int, int], dtype: torch.dtype = torch.complex64) -> tuple[SenseOperator, torch.Tensor]:
    maps = random_complex((1, 3, *shape), dtype, 0)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.rand(1, 1, 1, shape[1], generator=torch.Generator().manual_seed(1)) < 0.6
    op = SenseOperator(maps, mask)
    return op, op.adjoint(op.forward(random_complex((1, *shape), dtype, 2)))


def test_channels_go_there_and_back() -> None:
    x = random_complex((2, 3, 4, 5), torch.complex64, 0)
    channels = to_channels(x)
    assert channels.shape == (2, 6, 4, 5)
    torch.testing.assert_close(channels[:, 2], x[:, 1].real)
    torch.testing.assert_close(from_channels(channels), x)


@pytest.mark.parametrize("shape", [(16, 16), (15, 9), (5, 33)])
def test_prior_accepts_any_size(shape: tuple[int, int]) -> None:
    prior = UNetPrior(n_evidence=1, n_strength=2, widths=(4, 6, 8))
    image = random_complex((2, 2, *shape), torch.complex64, 0)
    result = prior(image, torch.zeros(2, 2))
    assert result.shape == (2, *shape)
    assert bool(torch.isfinite(torch.view_as_real(result)).all())
    assert not torch.equal(result, image[:, 0])


@pytest.mark.parametrize("config", [SMALL, ModelConfig(n_steps=2, data_term="gradient", widths=(4, 6))])
def test_every_parameter_gets_a_finite_gradient(config: ModelConfig) -> None:
    torch.manual_seed(0)
    network = build(config)
    op, adjoint_kspace = problem((12, 14))
    solution = network(adjoint_kspace, op, torch.ones(1, 2))
    solution.value.abs().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_single_coil_does_not_poison_the_gradient() -> None:
    """One coil gives a projection: conjugate gradients arrive in two steps and must then stand still."""
    torch.manual_seed(0)
    network = build(ModelConfig(n_steps=1, n_cg=8, n_start_cg=12, widths=(4,)))
    op = SenseOperator(torch.ones(1, 1, 8, 10, dtype=torch.complex64), (torch.arange(10) % 2 == 0)[None, None, None])
    value = network(op.adjoint(random_complex((1, 1, 8, 10), torch.complex64, 0)), op, torch.zeros(1, 2)).value
    value.abs().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


def test_data_consistency_is_the_proximal_map_of_the_data_term() -> None:
    op, adjoint_kspace = problem((6, 7), torch.complex128)
    proposal, weight = random_complex((1, 6, 7), torch.complex128, 3), torch.full((1, 1, 1), 0.3, dtype=torch.float64)
    x = data_consistency(op, adjoint_kspace, proposal, weight, n_cg=60)
    stationary = op.gradient(x, adjoint_kspace) + weight * (x - proposal)
    assert float(stationary.abs().max()) < 1e-10


def test_unrolled_gradient_step_with_identity_prior_is_gradient_descent() -> None:
    op, adjoint_kspace = problem((6, 7))
    step = GradientStep(lambda image, strength: image[:, 0])
    network = Unrolled([step] * 3, n_strength=2, n_start_cg=2)
    iterates = list(network.iterates(adjoint_kspace, op, torch.zeros(1, 2)))
    for before, after in itertools.pairwise(iterates):
        torch.testing.assert_close(after, before - (op.normal(before) - adjoint_kspace))
    solution = network(adjoint_kspace, op, torch.zeros(1, 2))
    assert torch.equal(solution.value, iterates[-1])
    assert len(solution.on_the_way) == 3  # after a quarter, a half and three quarters of the steps
    assert all(torch.equal(kept, iterates[index]) for kept, index in zip(solution.on_the_way, (1, 2, 2), strict=True))


class _SoftThreshold(torch.nn.Module):
    def forward(self, image: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        return soft_threshold(image[:, 0], 0.05)


@pytest.mark.parametrize("momentum", ["none", "fista", "learned"])
def test_unrolled_network_with_a_classical_prox_is_its_algorithm(momentum: str) -> None:
    op, adjoint_kspace = problem((6, 7), torch.complex128)
    network = Unrolled([GradientStep(_SoftThreshold()) for _ in range(8)], 2, 2, momentum).double()
    iterates = list(network.iterates(adjoint_kspace, op, torch.zeros(1, 2, dtype=torch.float64)))
    for count, image in enumerate(iterates[1:], start=1):
        expected = (ista if momentum == "none" else fista)(
            lambda x: op.gradient(x, adjoint_kspace),
            lambda x: soft_threshold(x, 0.05),
            iterates[0].detach(),
            1.0,
            n_iterations=count,
        )
        # FISTA's weights are kept in single precision, like every weight
        torch.testing.assert_close(image, expected.value, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(iterates[-1], iterates[-2], rtol=1e-3)


def test_only_learned_momentum_has_weights_that_are_trained_and_saved(tmp_path: Path) -> None:
    op, adjoint_kspace = problem((6, 7))
    for momentum in ("none", "fista", "learned"):
        config = ModelConfig(n_steps=4, n_cg=1, n_start_cg=1, widths=(3,), momentum=momentum)
        network = build(config)
        assert ("momentum_weights" in dict(network.named_parameters())) == (momentum == "learned")
        if momentum == "learned":
            assert network.momentum_weights.shape == (3,)
            network(adjoint_kspace, op, torch.zeros(1, 2)).value.abs().sum().backward()
            assert bool((network.momentum_weights.grad != 0)[1:].all())
            with torch.no_grad():
                network.momentum_weights.copy_(torch.tensor([0.5, -0.25, 0.125]))
        save(network, config, {}, tmp_path / "a.safetensors")
        loaded, found, _ = load(tmp_path / "a.safetensors")
        assert found.momentum == momentum
        torch.testing.assert_close(loaded.momentum_weights, network.momentum_weights.detach())
    build(ModelConfig(n_steps=1, widths=(3,), momentum="learned"))


def test_weights_from_before_momentum_and_equilibria_still_load() -> None:
    network, config, _ = load(shipped_models()["unrolled"])
    assert (config.kind, config.momentum) == ("unrolled", "none")
    assert isinstance(network, Unrolled)


def _small_prior() -> UNetPrior:
    prior = UNetPrior(n_evidence=1, n_strength=2, widths=(2, 3))
    torch.nn.init.normal_(prior.last.weight, std=0.1)
    return prior


LAYERS = {
    "prior": _small_prior,
    "proximal step": lambda: ProximalStep(_small_prior(), 2, n_cg=2),
    "gradient step": lambda: GradientStep(_small_prior()),
    "unrolled": lambda: Unrolled(
        [GradientStep(_small_prior()), ProximalStep(_small_prior(), 2, 2)], 2, 2, momentum="learned"
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name: str) -> None:
    """By inputs and all parameters, in double precision; equilibria are checked in test_equilibrium."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    op, adjoint_kspace = problem((5, 6), torch.complex128)
    image = random_complex((1, 5, 6), torch.complex128, 3)
    strength = torch.randn(1, 2, dtype=torch.float64)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(image: torch.Tensor, data: torch.Tensor, strength: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        arguments = {
            "prior": (torch.stack([image, data], dim=1), strength),
            "unrolled": (data, op, strength),
        }.get(name, (image, data, op, strength))
        result = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), arguments)
        return result.value if name == "unrolled" else result

    inputs = tuple(x.detach().requires_grad_() for x in (image, adjoint_kspace, strength, *parameters))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_tied_steps_share_their_weights() -> None:
    tied, untied = (build(ModelConfig(n_steps=3, tied=tied, widths=(4,))) for tied in (True, False))
    count = [sum(p.numel() for p in network.parameters()) for network in (tied, untied)]
    assert count[1] > 2.5 * count[0]


@pytest.mark.parametrize("tied", [False, True])
def test_saved_network_gives_the_same_picture(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(n_steps=2, tied=tied, n_cg=2, n_start_cg=3, widths=(4, 6))
    network = build(config)
    save(network, config, {"title": "test"}, tmp_path / "a.safetensors")
    loaded, found, card = load(tmp_path / "a.safetensors")
    assert (found, card) == (config, {"title": "test"})
    op, adjoint_kspace = problem((12, 14))
    pictures = [n(adjoint_kspace, op, torch.ones(1, 2)).value for n in (network, loaded)]
    assert torch.linalg.norm(pictures[0] - pictures[1]) < 1e-3 * torch.linalg.norm(pictures[0])  # half precision
    assert digest(tmp_path / "a.safetensors").startswith("sha256:")


def test_unusable_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="safetensors checkpoint"):
        load(path)
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(ModelError, match="does not say which network"):
        load(path)
    save_file({"x": torch.ones(2)}, path, metadata={"config": json.dumps({"n_steps": 1, "widths": [4]})})
    with pytest.raises(ModelError, match="do not fit"):
        load(path)
    network = build(SMALL)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save(network, SMALL, {}, path)
    with pytest.raises(ModelError, match="not finite"):
        load(path)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="data_term"):
        ModelConfig(data_term="magic")
    with pytest.raises(ConfigError, match="at least one"):
        ModelConfig(n_steps=0)
