"""What a `ModelConfig` offers: priors, weights over steps, refined coil maps; and what it built before, unchanged."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.operators import random_complex
from torch import Tensor, nn

from mri_unroll.errors import ConfigError, ModelError, ShapeError
from mri_unroll.nets import ModelConfig, build
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import PRIORS, load, save
from mri_unroll.nets.prior import FoldedPrior, ResNetPrior, SharedPrior, UNetPrior
from mri_unroll.nets.refinement import MapRefiner, MeasuredOperator, RefinedSolution, measured, refines_maps
from mri_unroll.nets.transfer import transfer
from mri_unroll.nets.zoo import ZOO
from mri_unroll.physics import DenseOperator, NufftOperator, SenseOperator
from mri_unroll.physics.linop import Composition
from mri_unroll.physics.sampling import varies_along
from mri_unroll.recon.calibrate import calibrate_slice
from mri_unroll.recon.learned import run_network
from mri_unroll.training.examples import prepare
from mri_unroll.training.simulate import simulate

WIDTHS = dict.fromkeys(PRIORS, (4, 6)) | {"resnet": (5, 5), "dncnn": (4, 6, 4)}
SMALL = ModelConfig(n_steps=3, n_cg=2, n_start_cg=2, widths=(4, 6))


def small(config: ModelConfig) -> ModelConfig:
    """The same choices in a network that takes no time."""
    n_steps = min(config.n_steps, 4)
    return replace(config, n_steps=n_steps, n_cg=2, n_start_cg=2, widths=WIDTHS[config.prior], map_width=4)


def scan(
    shape: tuple[int, int] = (13, 10), n_coils: int = 3, dtype: torch.dtype = torch.complex64, n_batch: int = 1
) -> tuple[SenseOperator, Tensor]:
    """Operator with unit maps and noisy measurements of another operator, whose maps differ a little."""
    maps = random_complex((n_batch, n_coils, *shape), dtype, 0)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = (torch.arange(shape[1]) % 3 != 1)[None, None, None]
    image = random_complex((n_batch, *shape), dtype, 2)
    op = SenseOperator(maps, mask)
    return op, op.forward(image) + 0.1 * random_complex((n_batch, n_coils, *shape), dtype, 3) * mask


def run(network: nn.Module, op: SenseOperator, kspace: Tensor, n_strength: int) -> Tensor:
    strength = torch.full((len(kspace), n_strength), 0.3, dtype=kspace.real.dtype)
    return network(op.adjoint(kspace), measured(network, op, kspace), strength).value


def awake(network: nn.Module) -> nn.Module:
    """Away from its fresh state, in which priors and refinements do almost nothing."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(network.named_parameters()):
            if f".{name}".endswith((".last.weight", ".scale", ".shift")):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return network


# What was built before. The numbers were computed with the code as it was before there was a choice of priors, sharing
# and refinement: names of the parameters, how many, sums over them, and two sums over a picture.

BEFORE = {
    "unrolled": (
        {"n_steps": 8, "n_strength": 3},
        "3ec6b1b576e8c1a8",
        (3471588, 10241.409369150413, 38.12851700702796),
        (20.34996795654297 - 8.777487754821777j, 261.0439453125),
    ),
    "unrolled-small": (
        {"n_steps": 4, "n_cg": 3, "n_start_cg": 6, "widths": (32, 48, 64), "n_strength": 3},
        "a35a6d91821b17f5",
        (871604, 3604.415010710712, -16.153738214105875),
        (20.001678466796875 - 8.634810447692871j, 259.5093994140625),
    ),
    "tied": (
        {"n_steps": 3, "tied": True, "widths": (8, 12), "momentum": "learned", "data_term": "gradient"},
        "2cf6c5c5bbac65fb",
        (6694, 134.00498176964282, -9.519178488319668),
        (20.310836791992188 - 7.9710588455200195j, 261.2931213378906),
    ),
    "equilibrium": (
        {"kind": "equilibrium", "widths": (8, 12, 16)},
        "ebb2d7e0acd590de",
        (15099, 233.0847132182712, -3.7309830227059013),
        (19.78879737854004 - 8.387709617614746j, 250.1676483154297),
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_was_built_before_is_built_still(name: str) -> None:
    settings, names, sums, picture = BEFORE[name]
    torch.manual_seed(0)
    config = ModelConfig(**settings)
    network = build(config)
    parameters = dict(network.named_parameters())
    assert hashlib.sha256(",".join(parameters).encode()).hexdigest()[:16] == names
    values = torch.cat([p.detach().double().flatten() for p in parameters.values()])
    waves = torch.sin(torch.arange(len(values), dtype=torch.float64))
    assert (len(values), float(values.square().sum()), float((values * waves).sum())) == pytest.approx(sums, rel=1e-6)
    with torch.no_grad():
        for key, parameter in parameters.items():
            if key.endswith("last.weight"):
                parameter.mul_(30)
        maps = random_complex((1, 3, 15, 18), torch.complex64, 0)
        maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
        op = SenseOperator(maps, (torch.arange(18) % 3 != 1)[None, None, None])
        data = op.adjoint(op.forward(random_complex((1, 15, 18), torch.complex64, 2)))
        value = network(data, op, torch.full((1, config.n_strength), 0.3)).value[0]
    turned = complex((value * torch.exp(1j * torch.arange(value.numel())).reshape(value.shape)).sum())
    assert turned == pytest.approx(picture[0], rel=1e-4)
    assert float(value.abs().square().sum()) == pytest.approx(picture[1], rel=1e-4)


def test_a_training_that_began_before_resumes() -> None:
    """Checkpoints of a training hold the text of their configuration."""
    assert repr(ModelConfig()) == (
        "ModelConfig(kind='unrolled', n_steps=5, tied=False, momentum='none', data_term='cg', n_cg=4, n_start_cg=8, "
        "widths=(48, 64, 96), n_strength=2, contraction=0.8, method='anderson', tolerance=0.001, n_iterations=30, "
        "backward='implicit', n_terms=5)"
    )
    texts = {repr(entry.config) for entry in ZOO.values()}
    assert len(texts) == len(ZOO)
    assert "n_priors=2" in repr(ZOO["two-priors"].config)


# Priors


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("fold", [1, 2, 4])
@pytest.mark.parametrize("shape", [(16, 16), (15, 9), (1, 7)])
def test_priors_accept_any_size_and_leave_brightness_alone(kind: str, fold: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    prior = awake(PRIORS[kind](1, 2, WIDTHS[kind], fold))
    image = random_complex((2, 2, *shape), torch.complex64, 0)
    strength = torch.zeros(2, 2)
    result = prior(image, strength)
    assert result.shape == (2, *shape)
    assert bool(torch.isfinite(torch.view_as_real(result)).all())
    assert not torch.allclose(result, image[:, 0], atol=1e-3)
    torch.testing.assert_close(prior(3 * image, strength), 3 * result, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior(image[:1], strength[:1]), result[:1])  # samples know nothing of each other


def test_priors_have_the_parameters_that_their_widths_say() -> None:
    def convolutions(*channels: tuple[int, int]) -> int:
        return sum(9 * n_in * n_out + n_out for n_in, n_out in channels)

    counts = {kind: sum(p.numel() for p in PRIORS[kind](1, 3, WIDTHS[kind], 2).parameters()) for kind in PRIORS}
    n_in = 8 * 2 + 3  # real and imaginary parts of two pictures folded by two, and three numbers
    assert counts == {
        "unet": convolutions((n_in, 4), (4, 4), (4, 6), (6, 6), (10, 4), (4, 4), (4, 8)),
        "resnet": convolutions((n_in, 5), *[(5, 5)] * 4, (5, 8)),
        "dncnn": convolutions((n_in, 4), (4, 6), (6, 4), (4, 8)),
    }


def test_deep_residual_priors_start_as_calm_as_shallow_ones() -> None:
    torch.manual_seed(0)
    image, strength = random_complex((1, 2, 32, 32), torch.complex64, 0), torch.zeros(1, 2)
    sizes = []
    for depth in (2, 16):
        with torch.no_grad():
            change = ResNetPrior(1, 2, (16,) * depth)(image, strength) - image[:, 0]
        sizes.append(float(change.abs().square().mean().sqrt()))
    assert sizes[1] < 2 * sizes[0]
    assert max(sizes) < 0.1


@pytest.mark.parametrize("kind", [*PRIORS, "shared"])
def test_gradcheck_of_priors(kind: str) -> None:
    torch.manual_seed(0)
    prior: nn.Module = PRIORS[kind](1, 2, (2, 2), 2) if kind != "shared" else SharedPrior(UNetPrior(1, 2, (2, 3)))
    prior = awake(prior).double()
    names, parameters = zip(*prior.named_parameters(), strict=True)

    def call(image: Tensor, strength: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(prior, dict(zip(names, values, strict=True)), (image, strength))

    inputs = (random_complex((1, 2, 5, 6), torch.complex128, 0), torch.randn(1, 2, dtype=torch.float64), *parameters)
    assert torch.autograd.gradcheck(call, tuple(x.detach().requires_grad_() for x in inputs), fast_mode=True)


def test_residual_blocks_of_several_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="one width"):
        ModelConfig(prior="resnet", widths=(48, 64))
    with pytest.raises(ConfigError, match="one width"):
        ResNetPrior(1, 2, (4, 5))


# Weights over steps


def test_shared_priors_are_one_module_with_a_few_numbers_a_step() -> None:
    untied, shared, grouped = (build(replace(SMALL, n_steps=4, n_priors=n)) for n in (0, 1, 2))
    count = [sum(p.numel() for p in network.parameters()) for network in (untied, shared, grouped)]
    prior = sum(p.numel() for p in untied.steps[0].prior.parameters())
    per_step = 2 * (4 + 6 + 4) + 3  # scale and shift of three blocks; the weight of the data
    assert count[0] - count[1] == 3 * prior - 4 * 2 * (4 + 6 + 4)
    assert count[2] - count[1] == prior
    assert count[1] == prior + 4 * per_step + 3  # and the weight of the start
    priors = [step.prior.shared for step in grouped.steps]
    assert priors[0] is priors[1]
    assert priors[1] is not priors[2]
    assert priors[2] is priors[3]


@pytest.mark.parametrize(("n_priors", "n_steps"), [(2, 3), (3, 5), (5, 5)])
def test_groups_are_consecutive_and_all_used(n_priors: int, n_steps: int) -> None:
    network = build(replace(SMALL, n_steps=n_steps, n_priors=n_priors))
    order = [id(step.prior.shared) for step in network.steps]
    groups = [len(list(group)) for _, group in itertools.groupby(order)]
    assert len(set(order)) == len(groups) == n_priors
    assert max(groups) - min(groups) <= 1


def test_fresh_shared_steps_are_the_bare_prior_and_scales_tell_them_apart() -> None:
    torch.manual_seed(0)
    prior = UNetPrior(1, 2, (4, 6))
    nn.init.normal_(prior.last.weight, std=0.1)
    one, two = SharedPrior(prior), SharedPrior(prior)
    image, strength = random_complex((1, 2, 8, 8), torch.complex64, 0), torch.ones(1, 2)
    torch.testing.assert_close(one(image, strength), prior(image, strength))
    with torch.no_grad():
        two.scale[1] = 0.5
    assert not torch.allclose(two(image, strength), prior(image, strength), atol=1e-5)
    torch.testing.assert_close(one(image, strength), prior(image, strength))


@pytest.mark.parametrize("kind", PRIORS)
def test_modulation_is_that_of_the_features(kind: str) -> None:
    """Scaling and shifting the last features is a change of the last convolution."""
    torch.manual_seed(0)
    prior: FoldedPrior = awake(PRIORS[kind](1, 2, WIDTHS[kind], 2)).double()
    image, strength = random_complex((1, 2, 8, 8), torch.complex128, 0), torch.ones(1, 2, dtype=torch.float64)
    shared = SharedPrior(prior).double()
    n_last = prior.n_features[-1]
    factor = torch.linspace(-0.5, 0.5, n_last, dtype=torch.float64)
    with torch.no_grad():
        shared.scale[-n_last:] = factor
        modulated = shared(image, strength)
        prior.last.weight.mul_(1 + factor[:, None, None])
        torch.testing.assert_close(modulated, prior(image, strength))


# All of the zoo


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_is_sound(name: str, tmp_path: Path) -> None:
    """Odd sizes, a gradient for every parameter, the same twice, batches, bfloat16, to a file and back."""
    config = small(ZOO[name].config)
    torch.manual_seed(0)
    network = awake(build(config))
    op, kspace = scan()
    value = run(network, op, kspace, config.n_strength)
    value.abs().square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert bool(torch.isfinite(parameter.grad).all()), key
    assert sum(bool((p.grad != 0).any()) for p in network.parameters()) > 0.9 * len(list(network.parameters()))
    with torch.no_grad():
        torch.testing.assert_close(run(network, op, kspace, config.n_strength), value, rtol=1e-4, atol=1e-5)
        assert torch.equal(*(run(network, op, kspace, config.n_strength) for _ in range(2)))
        pair, both = scan(n_batch=2)
        single = SenseOperator(pair.sens_maps[1:], (torch.arange(10) % 3 != 1)[None, None, None])
        alone = run(network, single, both[1:], config.n_strength)
        torch.testing.assert_close(run(network, pair, both, config.n_strength)[1:], alone, rtol=3e-3, atol=3e-3)
        with prior_precision(torch.bfloat16):
            rough = run(network, op, kspace, config.n_strength)
        assert rough.dtype == torch.complex64
        assert not torch.equal(rough, value)
        assert torch.linalg.norm(rough - value) < 0.05 * torch.linalg.norm(value)
        save(network, config, {}, tmp_path / "a.safetensors")
        loaded, found, _ = load(tmp_path / "a.safetensors")
        assert found == config
        again = run(loaded, op, kspace, config.n_strength)
        assert torch.linalg.norm(again - value) < 5e-3 * torch.linalg.norm(value)  # half precision
    torch.manual_seed(0)
    twin = awake(build(config))
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), network.parameters(), strict=True))


def test_the_zoo_says_what_is_in_it() -> None:
    assert all(entry.summary for entry in ZOO.values())
    configs = [entry.config for entry in ZOO.values()]
    assert len(set(configs)) == len(configs)
    assert {config.prior for config in configs} == set(PRIORS)
    assert {config.map_refinement for config in configs} == {"none", "once", "each"}
    assert sum(p.numel() for p in build(ZOO["unrolled-small"].config).parameters()) < 1_000_000


@pytest.mark.parametrize(
    "settings",
    [
        {"prior": "magic"},
        {"fold": 3},
        {"n_priors": -1},
        {"n_priors": 6},
        {"n_priors": 1, "tied": True},
        {"n_priors": 1, "kind": "equilibrium"},
        {"map_refinement": "always"},
        {"map_refinement": "once", "kind": "equilibrium"},
        {"map_width": 0},
        {"counts_coils": True, "data_term": "gradient"},
    ],
)
def test_impossible_configurations_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        ModelConfig(**settings)


# Coil maps


def _refiner(seed: int = 0, dtype: torch.dtype = torch.float32) -> MapRefiner:
    torch.manual_seed(seed)
    refiner = MapRefiner(2, 6)
    nn.init.normal_(refiner.last.weight, std=0.3)
    return refiner.to(dtype)


@pytest.mark.parametrize("refinement", ["once", "each"])
@pytest.mark.parametrize("n_coils", [1, 5])
def test_fresh_refinement_changes_nothing(refinement: str, n_coils: int) -> None:
    op, kspace = scan(n_coils=n_coils, dtype=torch.complex128)  # rounding of the maps alone moves single precision
    torch.manual_seed(0)
    plain = build(SMALL).double()
    torch.manual_seed(0)
    refined = build(replace(SMALL, map_refinement=refinement)).double()
    with torch.no_grad():
        expected, value = (run(network, op, kspace, 2) for network in (plain, refined))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert len(refined.refiners) == {"once": 1, "each": 3}[refinement]
    assert refines_maps(refined)
    assert not refines_maps(plain)


@pytest.mark.parametrize("n_coils", [1, 2, 7, 64])
@pytest.mark.parametrize("shape", [(8, 12), (13, 6), (5, 1)])
def test_refined_maps_keep_their_norm(n_coils: int, shape: tuple[int, int]) -> None:
    op, kspace = scan(shape, n_coils)
    maps = op.sens_maps * (torch.arange(shape[0]) > 1)[:, None]  # none outside the body
    known = MeasuredOperator(op.with_maps(maps), op.coil_images(kspace))
    with torch.no_grad():
        refined = _refiner()(op.adjoint(kspace), known, torch.zeros(1, 2)).sens_maps
    norms = [torch.linalg.vector_norm(x, dim=1) for x in (maps, refined)]
    torch.testing.assert_close(norms[1], norms[0])
    assert not torch.allclose(refined, maps, atol=1e-3)


def test_coils_may_come_in_any_order_and_with_silent_ones_among_them() -> None:
    op, kspace = scan((12, 9), 5)
    image, strength, refiner = op.adjoint(kspace), torch.ones(1, 2), _refiner()
    with torch.no_grad():
        refined = refiner(image, MeasuredOperator(op, op.coil_images(kspace)), strength).sens_maps
        order = torch.tensor([3, 0, 4, 1, 2])
        turned = MeasuredOperator(op.with_maps(op.sens_maps[:, order]), op.coil_images(kspace[:, order]))
        torch.testing.assert_close(refiner(image, turned, strength).sens_maps, refined[:, order])
        silent = torch.zeros_like(kspace[:, :2])
        padded = SenseOperator(torch.cat([op.sens_maps, silent], dim=1), (torch.arange(9) % 3 != 1)[None, None, None])
        known = MeasuredOperator(padded, padded.coil_images(torch.cat([kspace, silent], dim=1)))
        result = refiner(image, known, strength).sens_maps
    torch.testing.assert_close(result[:, :5], refined)
    assert not result[:, 5:].any()


def test_correction_is_smooth() -> None:
    op, kspace = scan((64, 60), 4)
    maps = torch.ones(1, 4, 64, 60, dtype=torch.complex64) / 2
    with torch.no_grad():
        known = MeasuredOperator(op.with_maps(maps), op.coil_images(kspace))
        change = _refiner()(op.adjoint(kspace), known, torch.zeros(1, 2)).sens_maps - maps
    power = torch.fft.fft2(change).abs().square().sum((0, 1))
    low = torch.fft.fftfreq(64).abs()[:, None].maximum(torch.fft.fftfreq(60).abs()) < 0.2
    assert float(power[low].sum() / power.sum()) > 0.97


def test_gradcheck_of_refinement_by_picture_maps_and_weights() -> None:
    refiner = _refiner(dtype=torch.float64)
    op, kspace = scan((6, 5), 2, torch.complex128)
    names, parameters = zip(*refiner.named_parameters(), strict=True)

    def call(image: Tensor, maps: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        known = MeasuredOperator(op.with_maps(maps), op.coil_images(kspace))
        arguments = (image, known, torch.ones(1, 2, dtype=torch.float64))
        found = torch.func.functional_call(refiner, dict(zip(names, values, strict=True)), arguments)
        return found.sens_maps, found.adjoint_kspace()

    inputs = (op.adjoint(kspace), op.sens_maps, *parameters)
    assert torch.autograd.gradcheck(call, tuple(x.detach().requires_grad_() for x in inputs), fast_mode=True)


def test_refinement_can_be_learned() -> None:
    """Maps with a smooth error: twenty steps on one scan undo a good part of it."""
    shape, torch_rng = (24, 20), torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, shape[0]), torch.linspace(-1, 1, shape[1]), indexing="ij")
    angles = torch.arange(4) * math.pi / 2
    true = torch.stack([torch.exp(-((y - a.sin()) ** 2) - (x - a.cos()) ** 2 + 1j * a) for a in angles])[None]
    true = true / torch.linalg.vector_norm(true, dim=1, keepdim=True)
    wrong = true * torch.exp(0.5j * torch.stack([y, x, -y, -x]))[None]
    image = (torch.hypot(y, x) < 0.8).to(torch.complex64)[None] * (1 + 0.2 * torch.rand(shape, generator=torch_rng))
    mask = (torch.arange(shape[1]) % 2 == 0)[None, None, None]
    kspace = SenseOperator(true, mask).forward(image)
    op = SenseOperator(wrong, mask)
    torch.manual_seed(0)
    refiner = MapRefiner(2, 8)
    optimiser = torch.optim.Adam(refiner.parameters(), 2e-2)
    known, errors = MeasuredOperator(op, op.coil_images(kspace)), []
    for _ in range(20):
        refined = refiner(image, known, torch.zeros(1, 2))
        loss = (refined.forward(image) - kspace).abs().square().sum() / kspace.abs().square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.3 * errors[0], errors


def test_measured_operator_is_the_operator_with_its_measurements() -> None:
    op, kspace = scan()
    known = measured(_refiner(), op, kspace)
    assert isinstance(known, MeasuredOperator)
    image = random_complex((1, 13, 10), torch.complex64, 5)
    torch.testing.assert_close(known.adjoint_kspace(), op.adjoint(kspace))
    torch.testing.assert_close(known.normal(image), op.normal(image))
    torch.testing.assert_close(known.forward(image), op.forward(image))
    torch.testing.assert_close(known.adjoint(kspace), op.adjoint(kspace))
    torch.testing.assert_close(known.gradient(image, op.adjoint(kspace)), op.gradient(image, op.adjoint(kspace)))
    other = op.sens_maps.flip(1)
    torch.testing.assert_close(known.with_maps(other).adjoint_kspace(), op.with_maps(other).adjoint(kspace))
    for axes in ((-1,), (-2, -1)):
        turned = known.reversed(axes)
        torch.testing.assert_close(turned.adjoint_kspace().flip(axes), op.adjoint(kspace))
        torch.testing.assert_close(turned.normal(image.flip(axes)).flip(axes), op.normal(image))
    with pytest.raises(ShapeError, match="one shape"):
        MeasuredOperator(op, kspace[:, 1:])


def _nufft(maps: Tensor) -> NufftOperator:
    grid = torch.meshgrid(torch.arange(8) - 4.0, torch.arange(6) - 3.0, indexing="ij")
    return NufftOperator(maps, torch.stack(grid, -1).reshape(-1, 2) * 0.9, toeplitz=True)


@pytest.mark.parametrize("make", [lambda m: SenseOperator(m, (torch.arange(6) != 2)[None, None, None]), _nufft])
def test_operators_with_other_maps_are_operators_of_those_maps(
    make: Callable[[Tensor], SenseOperator | NufftOperator],
) -> None:
    maps, other = (random_complex((1, 3, 8, 6), torch.complex128, seed) for seed in (0, 1))
    image = random_complex((1, 8, 6), torch.complex128, 2)
    op, expected = make(maps), make(other)
    op.normal(image)  # whatever it keeps of its maps is not to be passed on
    changed = op.with_maps(other)
    kspace = expected.forward(image)
    torch.testing.assert_close(changed.forward(image), kspace)
    torch.testing.assert_close(changed.normal(image), expected.normal(image))
    torch.testing.assert_close(changed.adjoint(kspace), expected.adjoint(kspace))
    torch.testing.assert_close((other.conj() * op.coil_images(kspace)).sum(1), expected.adjoint(kspace))
    seen = (other.conj() * op.sampled(other * image[:, None])).sum(1)
    torch.testing.assert_close(seen, expected.normal(image), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(op.normal(image), make(maps).normal(image))
    tracked = other.clone().requires_grad_()
    op.with_maps(tracked).normal(image).abs().square().sum().backward()
    assert bool((tracked.grad != 0).any())


def test_a_network_that_refines_asks_for_the_measurements() -> None:
    network = build(replace(SMALL, map_refinement="once"))
    op, kspace = scan()
    with pytest.raises(ModelError, match="SenseOperator") as caught:
        network(op.adjoint(kspace), op, torch.zeros(1, 2))
    assert "measured(" in caught.value.hint
    assert measured(build(SMALL), op, kspace) is op


@pytest.mark.parametrize("trajectory", [False, True])
def test_refined_maps_reach_picture_and_residual(trajectory: bool) -> None:
    op, kspace = scan((24, 20), 4)
    if trajectory:
        nufft = NufftOperator(op.sens_maps, (torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 18)
        kspace = nufft.forward(random_complex((1, 24, 20), torch.complex64, 2))
    problem = calibrate_slice(kspace[0], torch.ones(24, 20, dtype=torch.bool)) if not trajectory else None
    network = awake(build(replace(SMALL, map_refinement="each")))
    with torch.inference_mode():
        if problem is None:
            solution = network(nufft.adjoint(kspace), measured(network, nufft, kspace), torch.zeros(1, 2))
        else:
            solution = run_network(problem, network)
            assert problem.data_residual(solution.value, solution.op) != problem.data_residual(solution.value)
    assert isinstance(solution, RefinedSolution)
    assert bool(torch.isfinite(torch.view_as_real(solution.value)).all())
    assert isinstance(solution.op, MeasuredOperator)


def test_training_hands_on_what_was_measured() -> None:
    y, x = np.mgrid[-1:1:150j, -1:1:140j]
    acquired = simulate(1000.0 * (np.hypot(y, x) < 0.6), np.random.default_rng(1))
    assert not varies_along(acquired.mask)
    for strip in (None, 40):
        plain = prepare(acquired, strip, np.random.default_rng(0), 0.0)
        known = prepare(acquired, strip, np.random.default_rng(0), 0.0, refines_maps=True)
        assert isinstance(plain.op, SenseOperator)
        assert isinstance(known.op, MeasuredOperator)
        torch.testing.assert_close(known.op.adjoint_kspace(), plain.adjoint_kspace, rtol=1e-4, atol=1e-5)
        assert torch.equal(known.adjoint_kspace, plain.adjoint_kspace)
    network = build(ModelConfig(n_steps=2, n_cg=1, n_start_cg=2, widths=(4,), n_strength=3, map_refinement="each"))
    images = list(network.iterates(known.adjoint_kspace, known.op, known.strength))
    assert [image.shape[-2] for image in images] == [40] * 3
    images[-1].abs().sum().backward()
    assert all(bool((refiner.last.weight.grad != 0).any()) for refiner in network.refiners)


@pytest.mark.parametrize("widths", [SMALL.widths, (7, 11)])
@pytest.mark.parametrize("step", [None, 0, 1])
@pytest.mark.parametrize("sees_start", [False, True])
def test_an_equilibrium_begins_as_a_step(step: int | None, widths: tuple[int, ...], sees_start: bool) -> None:
    """Its step is one of the unrolled network, the last unless told, shrunk; what is new has no weight yet."""
    torch.manual_seed(0)
    source, op, kspace = awake(build(replace(SMALL, n_steps=2))), *scan()
    # One picture and one condition more; and shrunk the more, the less was sampled.
    wider = {"sees_start": True, "n_strength": 3, "contraction_slope": 0.5} if sees_start else {}
    target = build(replace(SMALL, kind="equilibrium", contraction=0.9, widths=widths, **wider))
    transfer(source, target, () if step is None else (step,))
    adjoint, strength = op.adjoint(kspace), torch.tensor([[1.0, 2.0]])
    image = random_complex(adjoint.shape, torch.complex64, 4)
    begun = source.steps[-1 if step is None else step]
    pair = torch.stack([image, op.gradient(image, adjoint)], dim=1)
    seen, told = pair, strength
    if sees_start:
        seen = torch.cat([pair, random_complex(adjoint.shape, torch.complex64, 5)[:, None]], dim=1)
        told = torch.cat([strength, torch.ones(1, 1)], dim=1)
    with torch.no_grad():
        shrinkage = 0.1 * 2.0 if sees_start else 0.1  # the second feature of strength is 2: 16x, four times 4x
        anchor = shrinkage * seen[:, 2] if sees_start else 0.0
        torch.testing.assert_close(
            target.step.prior(seen, told), (1 - shrinkage) * begun.prior(pair, strength) + anchor
        )
        torch.testing.assert_close(target.step.weight(told), begun.weight(strength))
    target.step.prior(seen, told).abs().square().sum().backward()
    for name, parameter in target.step.prior.named_parameters():  # and all of them can learn
        assert parameter.grad is not None
        if name.endswith("last.weight"):
            assert bool((parameter.grad.abs().amax((0, 2, 3)) > 0).all())


def test_steps_begin_as_those_that_are_named() -> None:
    """Repeated as they are, in the order given: the larger network computes what the smaller one's steps would."""
    torch.manual_seed(0)
    source, op, kspace = awake(build(replace(SMALL, n_steps=3))), *scan()
    order = (0, 1, 2, 1, 2)
    target = build(replace(SMALL, n_steps=5))
    transfer(source, target, order)
    adjoint, strength = op.adjoint(kspace), torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        *_, found = target.iterates(adjoint, op, strength)
        wanted = next(iter(source.iterates(adjoint, op, strength)))
        for index in order:
            wanted = source.steps[index](wanted, adjoint, op, strength)
    assert torch.equal(found, wanted)
    assert target.steps[1].prior.last.weight is not target.steps[3].prior.last.weight


@pytest.mark.parametrize(("named", "order"), [((), (1, 2)), ((2, 0), (2, 0))])
def test_steps_in_turn_begin_as_those_that_are_named_or_the_last(
    named: tuple[int, ...], order: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    source, op, kspace = awake(build(replace(SMALL, n_steps=3))), *scan()
    target = build(replace(SMALL, kind="equilibrium", contraction=1 - 1e-7, n_in_turn=2))
    transfer(source, target, named)
    adjoint, strength = op.adjoint(kspace), torch.tensor([[1.0, 2.0]])
    image = random_complex(adjoint.shape, torch.complex64, 4)
    again = build(replace(SMALL, kind="equilibrium", contraction=1 - 1e-7, n_in_turn=2))
    transfer(target, again)
    with torch.no_grad():
        wanted = image
        for index in order:
            wanted = source.steps[index](wanted, adjoint, op, strength)
        for network in (target, again):
            found = network.step(image, adjoint, op, strength)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_steps_cannot_begin_as() -> None:
    source = build(replace(SMALL, n_steps=2))
    target = build(replace(SMALL, kind="equilibrium"))
    for steps in ((-1,), (2,), (0, 1)):
        with pytest.raises(ConfigError, match="from 0 to 1, for each of the 1 ") as caught:
            transfer(source, target, steps)
    assert "`start_steps`" in caught.value.hint
    with pytest.raises(ConfigError, match=r"for each of the 2 .* got \[0\]"):
        transfer(source, build(replace(SMALL, n_steps=2)), (0,))
    with pytest.raises(ModelError, match="no counterpart"):
        transfer(target, build(SMALL))


def test_data_weights_may_count_coils() -> None:
    """A power of the number of coils, the same whether coils are behind a refinement, a trajectory or an operator."""
    torch.manual_seed(0)
    source, op, kspace = awake(build(replace(SMALL, n_steps=2))), *scan()
    target = build(replace(SMALL, n_steps=2, counts_coils=True))
    transfer(source, target)
    adjoint, strength = op.adjoint(kspace), torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        as_before = target(adjoint, op, strength).value
        torch.testing.assert_close(as_before, source(adjoint, op, strength).value)
        step = target.steps[1]
        step.log_weight.weight[0, -1] = 0.5
        assert not torch.allclose(target(adjoint, op, strength).value, as_before, rtol=1e-3)
        known = step.log_weight(torch.tensor([[1.0, 2.0, 0.0]])).exp()
        for n_coils in (1, 4, 12):
            expected = known.unsqueeze(-1) * math.exp(0.5 * math.log2(n_coils / 4))
            torch.testing.assert_close(step.weight(strength, n_coils), expected)
    more = build(replace(SMALL, n_steps=2, counts_coils=True, n_strength=4))
    transfer(target, more)  # conditions come before the number of coils
    with torch.no_grad():
        told = torch.cat([strength, torch.rand(1, 2)], dim=1)
        torch.testing.assert_close(more(adjoint, op, told).value, target(adjoint, op, strength).value)
    n_coils = op.sens_maps.shape[1]
    assert op.n_coils == MeasuredOperator(op, op.coil_images(kspace)).n_coils == n_coils
    assert _nufft(op.sens_maps[..., :8, :6]).n_coils == Composition(op, DenseOperator(torch.eye(4))).n_coils == n_coils
    assert DenseOperator(torch.eye(4)).n_coils == 1


def test_refinement_is_added_to_trained_weights() -> None:
    torch.manual_seed(0)
    source, op, kspace = awake(build(replace(SMALL, n_steps=2))), *scan()
    target = build(replace(SMALL, n_steps=2, map_refinement="each"))
    transfer(source, target)
    with torch.no_grad():
        torch.testing.assert_close(run(target, op, kspace, 2), run(source, op, kspace, 2), rtol=1e-4, atol=1e-5)


def test_the_table_of_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "model_zoo.py"))
    n_in, layers = 8 * 2 + 4, 64 * 64 * 7
    pixels = 160 * 128  # of a picture of 320 x 255, folded by two
    expected = 11 * 9 * pixels * (n_in * 64 + layers + 64 * 8) / 1e9
    assert script["prior_work"]("dncnn", (320, 255)) == pytest.approx(expected)
    monkeypatch.setitem(script["main"].__globals__, "peak_memory", lambda name, arguments: 0.5)
    config = replace(ZOO["unrolled-small"].config, n_steps=1)
    monkeypatch.setitem(ZOO, "unrolled-small", replace(ZOO["unrolled-small"], config=config))
    save(
        build(config),
        config,
        {"run": {"steps_done": 7, "validation_db": -20.5, "noisy_db": -21.25}},
        tmp_path / "a.safetensors",
    )
    arguments = argparse.Namespace(
        names=["unrolled-small", "two-priors"],
        weights=[tmp_path / "a.safetensors"],
        rounds=1,
        coils=2,
        matrix=[32, 28],
        threads=1,
        clock="cpu",
    )
    header, _, _, _, *rows = script["table"](arguments)
    assert "32 x 28, 2 coils" in header
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["`unrolled-small`", "`two-priors`"]
    assert [row[-2:] for row in cells] == [["7", "-20.50 (-21.25)"], ["–", "–"]]
    assert cells[0][2] == f"{sum(p.numel() for p in build(config).parameters()):,}"
    assert all(float(row[4]) > 0 and float(row[5]) > 0 for row in cells)
    if Path("/proc/self/status").is_file():
        assert 0.05 < script["own_peak"]() < 64
