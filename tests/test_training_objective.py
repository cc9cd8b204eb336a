"""What training minimises: losses to choose from, deep supervision, memory against time."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import tiny

from mri_unroll.errors import ConfigError
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.contraction import drift, local_lipschitz
from mri_unroll.nets.model import ModelConfig, build
from mri_unroll.training.examples import Example, prepare
from mri_unroll.training.losses import kspace_loss, picture_weights, weighted_l1, weighted_nrmse
from mri_unroll.training.memory import recompute_steps
from mri_unroll.training.objective import Objective
from mri_unroll.training.simulate import simulate


@pytest.fixture(scope="module")
def example() -> Example:
    y, x = np.mgrid[-1:1:100j, -1:1:96j]
    acquired = simulate(1000.0 * (np.hypot(y, x) < 0.6), np.random.default_rng(1), n_coils=3)
    return prepare(acquired, 40, np.random.default_rng(0), 0.0, 2, with_coils=True)


def objective(**changes: Any) -> Objective:
    return Objective(tiny(Path(), Path(), **changes))


class Fixed(torch.nn.Module):
    """A network whose pictures are given."""

    def __init__(self, *pictures: torch.Tensor) -> None:
        super().__init__()
        self.pictures = pictures

    def iterates(self, *problem: Any) -> Any:
        return iter(self.pictures)


def test_picture_weights_belong_to_the_last_pictures() -> None:
    assert picture_weights((0.1, 0.3, 0.5), 5) == [0.1, 0.1, 0.1, 0.3, 0.5]
    assert picture_weights((0.1, 0.3, 0.5), 2) == [0.3, 0.5]
    assert picture_weights((1.0,), 3) == [1.0, 1.0, 1.0]


def test_l1_and_kspace_errors_are_relative() -> None:
    truth = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))
    body = torch.ones(1, 20, 20, dtype=torch.bool)
    assert float(weighted_l1(1.1 * truth, truth, body)) == pytest.approx(0.1, rel=1e-4)
    assert float(weighted_l1(1e6 * truth, 1e6 * truth, body)) == 0
    kspace = truth[:, None].to(torch.complex64)
    assert float(kspace_loss(0.5 * kspace, kspace)) == pytest.approx(1.0, rel=1e-5)  # a half in each norm
    assert float(kspace_loss(kspace, kspace)) == 0


@pytest.mark.parametrize("loss", ["relative", "l1", "ssim", "mixed", "kspace"])
def test_every_loss_falls_towards_the_truth_and_moves_every_step(loss: str, example: Example) -> None:
    start, truth = example.adjoint_kspace, example.coil_combined
    values = [
        float(objective(loss=loss)(Fixed(start, start + share * (truth - start)), example)) for share in (0, 0.5, 1.0)
    ]
    assert values[0] > values[1] > values[2]
    network = build(ModelConfig(n_steps=3, n_cg=2, n_start_cg=2, widths=(4,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    objective(loss=loss)(network, example).backward()
    for step in network.steps:
        assert step.prior.last.weight.grad.abs().max() > 0


def test_mixed_loss_is_a_mixture(example: Example) -> None:
    network = Fixed(example.adjoint_kspace, example.adjoint_kspace)
    l1, ssim, mixed = (
        float(objective(loss=loss, ssim_weight=0.3)(network, example)) for loss in ("l1", "ssim", "mixed")
    )
    assert mixed == pytest.approx(0.7 * l1 + 0.3 * ssim, rel=1e-5)


def test_deep_supervision_counts_only_what_has_weight(example: Example) -> None:
    start, truth = example.adjoint_kspace, example.coil_combined
    last_alone = objective(loss="l1", deep_supervision=(0.0, 1.0))
    assert float(last_alone(Fixed(start, start, start, truth), example)) == pytest.approx(
        float(last_alone(Fixed(start, truth, truth, truth), example))
    )
    every = objective(loss="l1", deep_supervision=(0.5, 1.0))
    assert float(every(Fixed(start, start, start, truth), example)) > 1.1 * float(
        every(Fixed(start, truth, truth, truth), example)
    )


def test_kspace_loss_sees_measured_or_held_out_samples(example: Example) -> None:
    """A picture that is wrong only where nothing was measured costs nothing at the measured samples."""
    from mri_unroll.physics.fourier import centred_fft, centred_ifft

    exact = Example(
        example.op,
        example.adjoint_kspace,
        example.strength,
        example.coil_combined,
        example.rss,
        example.body,
        example.mask,
        example.op.sens_maps * example.coil_combined[:, None],
    )
    if bool(example.mask.all()):
        pytest.fail("the example is fully sampled")
    one_coil = torch.ones_like(example.op.sens_maps[:, :1])
    single = Example(
        type(example.op)(one_coil, example.mask),
        example.adjoint_kspace,
        example.strength,
        example.coil_combined,
        example.rss,
        example.body,
        example.mask,
        example.coil_combined[:, None],
    )
    spectrum = centred_fft(example.coil_combined)
    aliased = centred_ifft(torch.where(example.mask[:, 0], spectrum, 0))
    values = {
        samples: float(objective(loss="kspace", kspace_samples=samples)(Fixed(aliased, aliased), single))
        for samples in ("measured", "held-out", "all")
    }
    assert values["measured"] < 1e-4
    assert values["held-out"] == pytest.approx(1.0, rel=1e-3)  # weight 0.5 of an error of 1 in both norms
    assert 0 < values["all"] < values["held-out"]
    whole = objective(loss="kspace")
    assert float(whole(Fixed(example.coil_combined, example.coil_combined), exact)) < 1e-4


@pytest.mark.parametrize("tied", [False, True])
def test_recomputing_steps_changes_neither_loss_nor_gradient(example: Example, tied: bool) -> None:
    torch.manual_seed(0)
    kept = build(ModelConfig(n_steps=3, n_cg=2, n_start_cg=2, widths=(4, 6), tied=tied))
    recomputed = copy.deepcopy(kept)
    recompute_steps(recomputed, torch.bfloat16)
    with prior_precision(torch.bfloat16):
        losses = [objective()(network, example) for network in (kept, recomputed)]
        for loss in losses:
            loss.backward()
    assert torch.equal(*losses)
    assert kept.state_dict().keys() == recomputed.state_dict().keys()
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_recomputing_an_equilibrium_is_refused() -> None:
    with pytest.raises(ConfigError, match="equilibrium"):
        recompute_steps(build(ModelConfig(kind="equilibrium", widths=(4,))), None)


def test_recomputing_steps_keeps_less(example: Example) -> None:
    """What autograd keeps of a forward pass: tensors other than weights, in bytes."""

    def kept_bytes(recompute: bool) -> int:
        network = build(ModelConfig(n_steps=4, n_cg=2, n_start_cg=2, widths=(8, 8)))
        if recompute:
            recompute_steps(network, None)
        weights = {parameter.data_ptr() for parameter in network.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = objective(deep_supervision=(0.0, 1.0), loss="l1")(network, example)
        assert loss.requires_grad
        return sum(kept.values())

    assert kept_bytes(True) < 0.4 * kept_bytes(False)


def equilibrium(gain: float) -> torch.nn.Module:
    """One whose prior is the identity, times ``gain``."""
    torch.manual_seed(0)
    network = build(
        ModelConfig(
            kind="equilibrium",
            widths=(4,),
            n_cg=2,
            n_start_cg=2,
            contraction=0.5,
            tolerance=0.05,
            n_iterations=12,
            backward="neumann",
            n_terms=2,
        )
    )
    network.step.prior.factor = gain
    return network


def test_an_equilibrium_that_contracts_is_not_penalised(example: Example) -> None:
    model = ModelConfig(kind="equilibrium", widths=(4,))
    plain, kept = objective(model=model), objective(model=model, contraction_penalty=3.0, contraction_limit=0.9)
    network = equilibrium(0.5)
    assert kept(network, example).detach() == plain(network, example).detach()


@pytest.mark.filterwarnings("ignore::mri_unroll.errors.ConvergenceWarning")  # that it does not converge is the case
def test_what_exceeds_the_limit_is_penalised(example: Example) -> None:
    network, model = equilibrium(1.2), ModelConfig(kind="equilibrium", widths=(4,))
    problem = example.adjoint_kspace, example.op, example.strength
    image = list(network.iterates(*problem))[-1].detach()
    gain, _ = local_lipschitz(lambda x: network.step(x, *problem), image, n_iterations=3)
    assert float(gain) > 1.1
    excess = 2.0 * (float(gain) - 0.9) ** 2
    kept = objective(model=model, contraction_penalty=2.0, contraction_limit=0.9)(network, example)
    plain = objective(model=model)(network, example)
    assert float((kept - plain).detach()) == pytest.approx(excess, rel=0.1)
    gradients = [
        torch.autograd.grad(loss, network.step.prior.parameters(), allow_unused=True) for loss in (kept, plain)
    ]
    assert any(not torch.allclose(own, other) for own, other in zip(*gradients, strict=True) if own is not None)


@pytest.mark.filterwarnings("ignore::mri_unroll.errors.ConvergenceWarning")  # that it does not converge is the case
def test_the_gain_along_the_drift_is_penalised(example: Example) -> None:
    network, model = equilibrium(1.2), ModelConfig(kind="equilibrium", widths=(4,))
    problem = example.adjoint_kspace, example.op, example.strength
    image = list(network.iterates(*problem, n_early=2))[-1].detach()
    step = network.step_of(*problem)
    along = drift(step, image)
    with torch.no_grad():
        gain = float((step(image + 1e-2 * along) - step(image - 1e-2 * along)).norm() / 2e-2)
    assert 0.9 < gain < float(local_lipschitz(step, image)[0])
    settings = {"model": model, "contraction_penalty": 2.0, "contraction_limit": 0.5}
    kept = objective(**settings, contraction_along="drift")(network, example)
    assert float((kept - objective(model=model)(network, example)).detach()) == pytest.approx(
        2.0 * (gain - 0.5) ** 2, rel=0.05
    )


def test_early_pictures_of_an_equilibrium_are_supervised(example: Example) -> None:
    network, model = equilibrium(0.5), ModelConfig(kind="equilibrium", widths=(4,))
    network.solver = functools.partial(network.solver, tolerance=1e-6, n_iterations=40)  # where it began is forgotten
    last = objective(model=model, deep_supervision=(1.0,))(network, example)
    both = objective(model=model, deep_supervision=(0.5, 1.0))(network, example)
    start, first, _ = network.iterates(example.adjoint_kspace, example.op, example.strength, n_early=1)
    start_error = weighted_nrmse(start.abs(), example.rss, example.body)
    added = 0.5 * weighted_nrmse(first, example.coil_combined, example.body) / (start_error + 0.02)
    assert float((both - last).detach()) == pytest.approx(float(added.detach()), rel=1e-3)


def test_only_an_equilibrium_has_a_contraction_to_keep() -> None:
    with pytest.raises(ConfigError, match="Only an equilibrium"):
        objective(contraction_penalty=1.0)
