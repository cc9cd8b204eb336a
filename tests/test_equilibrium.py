"""Deep equilibria: gradients against dense solves and unrolling, memory, reports, contraction."""

from __future__ import annotations

import csv
import functools
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.operators import random_complex
from torch import Tensor, nn

from mri_unroll.errors import ConfigError, ConvergenceError, ConvergenceWarning, MriUnrollError
from mri_unroll.nets import Equilibrium, ModelConfig, build
from mri_unroll.nets.contraction import (
    ContractivePrior,
    contraction_penalty,
    convolution_norm_bound,
    drift,
    limit_unet,
    local_lipschitz,
    unet_lipschitz_bound,
)
from mri_unroll.nets.model import load, save
from mri_unroll.nets.prior import UNetPrior
from mri_unroll.nets.steps import GradientStep
from mri_unroll.physics import BlurOperator, LinearOperator, SenseOperator
from mri_unroll.solvers import equilibrate, fixed_point
from mri_unroll.solvers.implicit import CUT_OFF, NOT_RUN, ONE_STEP
from mri_unroll.solvers.solution import CONVERGED, STOPPED_SHORT

SHAPE = (5, 6)
EXACT = functools.partial(fixed_point, tolerance=1e-14, n_iterations=500)


def relative(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest relative error over several tensors."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def sense(shape: tuple[int, int], batch: int, dtype: torch.dtype = torch.complex128) -> SenseOperator:
    maps = random_complex((batch, 3, *shape), dtype, 0)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return SenseOperator(maps, torch.rand(batch, 1, 1, shape[1], generator=torch.Generator().manual_seed(1)) < 0.6)


def blur(shape: tuple[int, int]) -> BlurOperator:
    psf = torch.exp(-torch.linspace(-1, 1, 3)[:, None].square() - torch.linspace(-2, 1, 5).square()).double()
    return BlurOperator(psf / psf.sum(), shape, boundary="zero")


class Case:
    """A network of random weights on a random problem in double precision, with all that gradients flow to."""

    def __init__(
        self,
        op: LinearOperator,
        data_term: str,
        batch: int = 1,
        seed: int = 0,
        gain: float = 80,
        **settings: bool | int,
    ) -> None:
        torch.manual_seed(seed)
        config = ModelConfig(
            kind="equilibrium", data_term=data_term, n_cg=3, widths=(3, 4), contraction=0.6, **settings
        )
        self.network = build(config).double()
        assert isinstance(self.network, Equilibrium)
        self.network.solver = self.network.adjoint_solver = EXACT
        with torch.no_grad():  # a prior that does something
            for module in self.network.modules():
                if isinstance(module, UNetPrior):
                    module.last.weight.mul_(gain)
        shape = (batch, *SHAPE)
        self.op = op
        self.adjoint_kspace = op.adjoint(op.forward(random_complex(shape, torch.complex128, seed + 1))).requires_grad_()
        self.strength = torch.randn(batch, 2, dtype=torch.float64).requires_grad_()
        self.start = random_complex(shape, torch.complex128, seed + 2)
        self.cotangent = random_complex(shape, torch.complex128, seed + 3)
        self.inputs = (*self.network.parameters(), self.adjoint_kspace, self.strength)

    def solve(self, **settings):
        return self.network(self.adjoint_kspace, self.op, self.strength, start=self.start, **settings)

    def step(self, image: Tensor) -> Tensor:
        return self.network.step_of(self.adjoint_kspace, self.op, self.strength)(image)

    def gradient(self, value: Tensor, cotangent: Tensor | None = None) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, self.inputs, self.cotangent if cotangent is None else cotangent)

    def jacobian(self, image: Tensor) -> Tensor:
        """Dense and real, real and imaginary parts interleaved."""

        def real_step(pairs: Tensor) -> Tensor:
            return torch.view_as_real(self.step(torch.view_as_complex(pairs)))

        n = 2 * image.numel()
        return torch.autograd.functional.jacobian(real_step, torch.view_as_real(image.detach())).reshape(n, n)

    def solve_adjoint(self, jacobian: Tensor) -> Tensor:
        """``(I - J)^-T g``, dense."""
        eye = torch.eye(len(jacobian), dtype=jacobian.dtype)
        w = torch.linalg.solve(eye - jacobian.T, torch.view_as_real(self.cotangent).flatten())
        return torch.view_as_complex(w.view(*self.cotangent.shape, 2))


CASES: dict[str, Callable[[], Case]] = {
    "mri, conjugate gradients": lambda: Case(sense(SHAPE, 1), "cg"),
    "mri, conjugate gradients, other weights": lambda: Case(sense(SHAPE, 1), "cg", seed=10),
    "mri, gradient": lambda: Case(sense(SHAPE, 1), "gradient"),
    "mri, the start in sight": lambda: Case(sense(SHAPE, 1), "cg", sees_start=True),
    "mri, gradient, the start in sight": lambda: Case(sense(SHAPE, 1), "gradient", sees_start=True),
    "mri, three steps in turn": lambda: Case(sense(SHAPE, 1), "cg", gain=30, sees_start=True, n_in_turn=3),
    "mri, two gradient steps in turn": lambda: Case(sense(SHAPE, 1), "gradient", n_in_turn=2),
    "mri, two at once": lambda: Case(sense(SHAPE, 2), "cg", batch=2),
    "blur, gradient": lambda: Case(blur(SHAPE), "gradient"),
    "blur, conjugate gradients": lambda: Case(blur(SHAPE), "cg"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def test_gradient_equals_a_dense_solve_and_deep_unrolling(case: Case) -> None:
    result = case.solve()
    assert result.status == CONVERGED
    gradient = case.gradient(result.value)
    dense = case.solve_adjoint(case.jacobian(result.value))
    assert relative(gradient, case.gradient(case.step(result.value.detach()), dense)) < 1e-12
    image = case.start
    for _ in range(80):
        image = case.step(image)
    torch.testing.assert_close(result.value, image, rtol=1e-12, atol=1e-12)
    assert relative(gradient, case.gradient(image)) < 1e-10


def test_steps_in_turn_are_one_after_the_other(tmp_path: Path) -> None:
    """With weights of their own, and the last has the last word: the equilibrium is its picture."""
    case = Case(sense(SHAPE, 1), "cg", n_in_turn=3)
    first, second, third = case.network.step.steps
    assert not torch.equal(first.prior.prior.last.weight, third.prior.prior.last.weight)
    image, rest = case.start, (case.adjoint_kspace, case.op, case.strength)
    torch.testing.assert_close(case.step(image), third(second(first(image, *rest), *rest), *rest))
    found = case.solve().value
    torch.testing.assert_close(third(second(first(found, *rest), *rest), *rest), found, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(first(found, *rest), found, rtol=1e-3)  # alone none leaves it as it is
    config = ModelConfig(kind="equilibrium", widths=(3, 4), n_in_turn=3)
    save(build(config), config, {}, tmp_path / "three.safetensors")
    network, read, _ = load(tmp_path / "three.safetensors")
    assert read == config
    assert len(network.step.steps) == 3


def test_how_many_steps_can_be_taken_in_turn() -> None:
    for settings in ({"kind": "equilibrium", "n_in_turn": 0}, {"n_in_turn": 2}):
        with pytest.raises(ConfigError, match="n_in_turn of at least 1, and 1 in an unrolled network") as caught:
            ModelConfig(**settings)
    assert "n_steps" in caught.value.hint


def test_what_the_prior_sees_of_the_start_is_not_where_it_began() -> None:
    """The evidence is made of the data: it acts on the equilibrium, which stays the same wherever iterations begin."""
    case = Case(sense(SHAPE, 1), "cg", sees_start=True)
    found = case.solve().value
    case.start = 3 * case.start + 1
    torch.testing.assert_close(case.solve().value, found, rtol=1e-11, atol=1e-11)
    *_, last = case.network.iterates(case.adjoint_kspace, case.op, case.strength)
    torch.testing.assert_close(last, found, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        blind = case.network.step(found, case.adjoint_kspace, case.op, case.strength, torch.zeros_like(found))
    assert relative((blind,), (found.detach(),)) > 1e-3
    for setting in ({"sees_start": True}, {"contraction_slope": 0.5}):
        with pytest.raises(ConfigError, match="sees_start and contraction_slope of an equilibrium only"):
            ModelConfig(**setting)


def test_early_pictures_are_plain_iterations_that_know_their_own_step_alone() -> None:
    case = Case(sense(SHAPE, 1), "cg", sees_start=True)
    start, *early, last = case.network.iterates(case.adjoint_kspace, case.op, case.strength, n_early=3)
    assert len(early) == 3
    before = start
    for image in early:
        alone = case.step(before.detach())
        torch.testing.assert_close(image, alone)
        assert relative(case.gradient(image), case.gradient(alone)) < 1e-12
        before = image
    torch.testing.assert_close(last, case.solve().value, rtol=1e-11, atol=1e-11)
    *_, plain = case.network.iterates(case.adjoint_kspace, case.op, case.strength)
    assert relative(case.gradient(last), case.gradient(plain)) < 1e-10


def test_away_from_the_fixed_point_the_gradient_is_that_of_the_linearised_step(case: Case) -> None:
    """After two iterations from a random start the value is no fixed point; the identities hold for its Jacobian."""
    case.network.solver = functools.partial(fixed_point, method="picard", tolerance=0)
    case.network.adjoint_solver = lambda *args, **settings: EXACT(*args, ndim=2)
    result = case.solve(n_iterations=2)
    assert float(result.residual.max()) > 1e-2
    point = case.step(case.start).detach()  # the guess that the value is the image of
    torch.testing.assert_close(result.value, case.step(point))
    jacobian = case.jacobian(point)
    dense = case.gradient(case.step(point), case.solve_adjoint(jacobian))
    assert relative(case.gradient(result.value), dense) < 1e-12
    case.network.backward, case.network.n_terms = "neumann", 3
    g = torch.view_as_real(case.cotangent).flatten()
    series = sum((torch.linalg.matrix_power(jacobian.T, k) @ g for k in range(4)), torch.zeros_like(g))
    series = torch.view_as_complex(series.view(*case.cotangent.shape, 2))
    truncated = case.gradient(case.solve(n_iterations=2).value)
    assert relative(truncated, case.gradient(case.step(point), series)) < 1e-12


@pytest.mark.parametrize("n_terms", [0, 1, 6])
def test_neumann_series_equals_backpropagation_through_the_last_steps(case: Case, n_terms: int) -> None:
    case.network.backward, case.network.n_terms = "neumann", n_terms
    result = case.solve()
    gradient = case.gradient(result.value)
    assert result.adjoint.status == (CUT_OFF if n_terms else ONE_STEP)
    assert result.adjoint.n_iterations == n_terms
    image = result.value.detach()
    for _ in range(n_terms + 1):
        image = case.step(image)
    assert relative(gradient, case.gradient(image)) < 1e-12
    if n_terms == 0:
        case.network.backward = "one-step"
        assert all(map(torch.equal, gradient, case.gradient(case.solve().value)))


def test_start_and_method_do_not_change_value_or_gradient() -> None:
    case = Case(sense(SHAPE, 1), "cg")
    result = case.solve()
    gradient = case.gradient(result.value)
    for seed, method in enumerate(("picard", "anderson", "broyden"), start=20):
        case.network.solver = functools.partial(EXACT, method=method)
        case.start = 5 * random_complex((1, *SHAPE), torch.complex128, seed)
        again = case.solve()
        torch.testing.assert_close(again.value, result.value, rtol=1e-12, atol=1e-12)
        assert relative(case.gradient(again.value), gradient) < 1e-11


def test_samples_of_a_batch_end_where_each_would_end_alone() -> None:
    case = Case(sense(SHAPE, 3), "cg", batch=3)
    with torch.no_grad():  # one sample starts at its answer, one near it
        exact = case.solve().value
        case.start[0] = exact[0]
        case.start[1] = exact[1] + 1e-3 * case.start[1]
    together = case.solve(tolerance=1e-6)
    assert len(set(together.counts.tolist())) == 3
    gradient = case.gradient(together.value)[-2:]
    for index in range(3):
        part = slice(index, index + 1)
        op = SenseOperator(sense(SHAPE, 3).sens_maps[part], sense_mask(3)[part])
        alone = case.network(case.adjoint_kspace[part], op, case.strength[part], start=case.start[part], tolerance=1e-6)
        assert alone.n_iterations == int(together.counts[index])
        torch.testing.assert_close(alone.value[0], together.value[index], rtol=1e-10, atol=1e-12)
        own = torch.autograd.grad(alone.value, (case.adjoint_kspace, case.strength), case.cotangent[part])
        for a, b in zip(own, gradient, strict=True):
            torch.testing.assert_close(a[index], b[index], rtol=1e-10, atol=1e-12)


def sense_mask(batch: int) -> Tensor:
    return torch.rand(batch, 1, 1, SHAPE[1], generator=torch.Generator().manual_seed(1)) < 0.6


def saved_bytes(run: Callable[[], Tensor]) -> int:
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        run()
    return total


def test_memory_for_the_backward_pass_does_not_grow_with_iterations() -> None:
    case = Case(sense(SHAPE, 1), "gradient")
    case.network.solver = functools.partial(fixed_point, tolerance=0, method="picard")
    few, many = (saved_bytes(lambda n=n: case.solve(n_iterations=n).value) for n in (10, 1000))
    assert 0 < few == many

    def unrolled(n: int) -> Tensor:
        image = case.start
        for _ in range(n):
            image = case.step(image)
        return image

    assert saved_bytes(lambda: unrolled(10)) > 8 * few


def test_gradient_error_is_proportional_to_the_forward_tolerance() -> None:
    case = Case(sense(SHAPE, 1), "gradient")
    exact = case.gradient(case.solve().value)
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        case.network.solver = functools.partial(fixed_point, method="picard", n_iterations=500, tolerance=tolerance)
        case.network.adjoint_solver = EXACT
        errors.append(relative(case.gradient(case.solve().value), exact))
    ratios = [before / after for before, after in itertools.pairwise(errors)]
    assert all(20 < ratio < 500 for ratio in ratios), errors


def test_gradcheck() -> None:
    case = Case(sense(SHAPE, 1), "gradient")
    case.network.solver = case.network.adjoint_solver = functools.partial(fixed_point, tolerance=1e-11)

    def value(adjoint_kspace: Tensor, strength: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in case.network.named_parameters()]
        settings = {"start": case.start}
        arguments = (adjoint_kspace, case.op, strength)
        return torch.func.functional_call(
            case.network, dict(zip(names, parameters, strict=True)), arguments, settings
        ).value

    arguments = (case.adjoint_kspace, case.strength, *case.network.parameters())
    assert torch.autograd.gradcheck(value, arguments, fast_mode=True)


def test_gradient_reaches_coil_maps() -> None:
    case = Case(sense(SHAPE, 1), "gradient")
    maps = sense(SHAPE, 1).sens_maps.requires_grad_()

    def value(maps: Tensor) -> Tensor:
        op = SenseOperator(maps, sense_mask(1))
        return case.network(case.adjoint_kspace, op, case.strength, start=case.start).value

    assert torch.autograd.gradcheck(value, (maps,), fast_mode=True)


def linear(slope: Tensor, **settings):
    """The fixed point of ``z = a z + 1``."""
    settings = {"solver": EXACT, "adjoint_solver": EXACT} | settings
    return equilibrate(lambda z: slope * z + 1, torch.zeros(2, 1, 1, dtype=torch.float64), **settings)


def test_the_backward_pass_says_what_it_did() -> None:
    slope = torch.tensor([0.5, -0.9], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    result = linear(slope, adjoint_solver=functools.partial(fixed_point, method="picard", tolerance=1e-6))
    assert result.adjoint.status == NOT_RUN
    with pytest.warns(ConvergenceWarning, match=r"after 50 iterations .* relative residual of"):
        result.value.sum().backward()
    assert result.adjoint.status == STOPPED_SHORT
    assert result.adjoint.n_iterations == 50
    assert result.adjoint.residual > 1e-3
    result = linear(slope)
    (gradient,) = torch.autograd.grad(result.value.sum(), slope)
    torch.testing.assert_close(gradient, (1 - slope.detach()) ** -2)
    assert result.adjoint.status == CONVERGED
    assert result.adjoint.residual < 1e-14


def test_strict_refuses_what_did_not_converge() -> None:
    slope = torch.tensor([0.5, 1.5], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    short = functools.partial(fixed_point, method="picard", n_iterations=5)
    with pytest.raises(ConvergenceError, match="fixed point was sought"):
        linear(slope, solver=short, strict=True)
    with pytest.raises(ConvergenceError, match="gradient of a fixed point is inexact"):
        linear(slope, adjoint_solver=short, strict=True).value.sum().backward()


def test_second_derivatives_are_refused() -> None:
    slope = torch.tensor([0.5, 0.1], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    with pytest.raises(MriUnrollError, match="first derivative"):
        torch.autograd.grad(linear(slope).value.sum(), slope, create_graph=True)


def test_impossible_backward_passes_are_refused() -> None:
    for settings in ({"backward": "magic"}, {"backward": "neumann", "n_terms": -1}):
        with pytest.raises(ConfigError, match="Expected backward"):
            linear(torch.tensor(0.5), **settings)


def test_without_a_graph_the_value_is_the_same() -> None:
    case = Case(sense(SHAPE, 1), "cg")
    with_graph = case.solve().value
    with torch.no_grad():
        assert torch.equal(case.solve().value, with_graph)
    with torch.inference_mode():
        assert torch.equal(case.solve().value, with_graph)


def test_a_loose_tolerance_at_run_time_costs_fewer_iterations() -> None:
    case = Case(sense(SHAPE, 1), "cg")
    loose, tight = case.solve(tolerance=1e-2), case.solve(tolerance=1e-8)
    assert loose.n_iterations < tight.n_iterations
    assert float(loose.residual) <= 1e-2
    assert case.solve(n_iterations=3, tolerance=1e-8).n_iterations == 3


# Contraction


def test_a_fresh_equilibrium_contracts_and_a_residual_step_would_not() -> None:
    """A single coil sees half of k-space: a residual step leaves the other half as it is."""
    op = SenseOperator(torch.ones(1, 1, 12, 14, dtype=torch.complex128), (torch.arange(14) % 2 == 0)[None, None, None])
    strength = torch.zeros(1, 2, dtype=torch.float64)
    image = random_complex((1, 12, 14), torch.complex128, 3)
    sizes = []
    for kind in ("equilibrium", "unrolled"):
        torch.manual_seed(0)
        network = build(ModelConfig(kind=kind, n_steps=1, widths=(4, 6), contraction=0.9)).double()
        step = network.step if kind == "equilibrium" else network.steps[0]
        size, _ = local_lipschitz(lambda x, step=step: step(x, op.adjoint(op.forward(image)), op, strength), image)
        sizes.append(float(size))
    assert sizes[0] < 0.92
    assert sizes[1] > 0.99


def test_local_lipschitz_is_the_norm_of_the_jacobian() -> None:
    case = Case(sense(SHAPE, 2), "cg", batch=2)
    image = random_complex(tuple(case.start.shape), torch.complex128, 9)
    size, direction = local_lipschitz(case.step, image, n_iterations=40)
    n = 2 * image[0].numel()
    jacobian = case.jacobian(image).view(len(image), n, len(image), n)
    for index in range(len(image)):
        norm = torch.linalg.matrix_norm(jacobian[index, :, index], 2)
        assert 0.98 * norm < size[index] < (1 + 1e-12) * norm
    again, _ = local_lipschitz(case.step, image, direction, n_iterations=1)
    torch.testing.assert_close(again, size, rtol=1e-3, atol=0)
    assert bool((again >= (1 - 1e-12) * size).all())  # it goes on where the first call ended


def test_penalty_is_zero_below_its_limit_and_trains_a_step_to_contract() -> None:
    case = Case(sense(SHAPE, 1), "gradient", gain=1200)
    image = random_complex((1, *SHAPE), torch.complex128, 9)
    before = float(local_lipschitz(case.step, image, n_iterations=30)[0])
    assert before > 1.05
    penalty, direction = contraction_penalty(case.step, image, 0.9, n_iterations=30)
    assert float(penalty.detach()) == pytest.approx((before - 0.9) ** 2, rel=1e-3)
    assert float(contraction_penalty(case.step, image, before + 0.1)[0].detach()) == 0
    optimiser = torch.optim.Adam(case.network.parameters(), lr=6e-3)
    for _ in range(25):
        optimiser.zero_grad()
        penalty, direction = contraction_penalty(case.step, image, 0.9, direction)
        penalty.backward()
        optimiser.step()
    assert float(local_lipschitz(case.step, image, n_iterations=30)[0]) < 0.95


@pytest.mark.parametrize(("n_in", "n_out", "side"), [(3, 4, 3), (4, 2, 3), (2, 2, 5), (1, 1, 1)])
def test_convolution_bound_holds_and_is_tight(n_in: int, n_out: int, side: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(n_in, n_out, side, padding=side // 2, bias=False).double()
    bound = float(convolution_norm_bound(convolution.weight.detach()))
    for shape in ((4, 5), (9, 9)):
        x = torch.zeros(n_in, *shape, dtype=torch.float64)
        matrix = torch.autograd.functional.jacobian(lambda x: convolution(x[None])[0], x).reshape(-1, x.numel())
        assert float(torch.linalg.matrix_norm(matrix, 2)) <= bound
    assert float(torch.linalg.matrix_norm(matrix, 2)) > 0.75 * bound
    circular = nn.Conv2d(n_in, n_out, side, padding=side // 2, bias=False, padding_mode="circular").double()
    circular.weight = convolution.weight
    matrix = torch.autograd.functional.jacobian(lambda x: circular(x[None])[0], x).reshape(-1, x.numel())
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= bound


def test_the_norm_of_the_reshaped_weight_is_no_bound() -> None:
    weight = torch.ones(1, 1, 3, 3)
    assert float(torch.linalg.matrix_norm(weight.view(1, -1), 2)) == pytest.approx(3)
    assert 9 <= float(convolution_norm_bound(weight)) < 9.4
    with pytest.raises(ConfigError, match="n_grid"):
        convolution_norm_bound(weight, n_grid=4)


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (5, 5)])
def test_a_limited_unet_keeps_its_word_at_any_size(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    prior = UNetPrior(n_evidence=1, n_strength=2, widths=(3, 4, 5)).double()
    nn.init.normal_(prior.last.weight)

    def change(image: Tensor) -> Tensor:
        return prior(image, torch.ones(1, 2, dtype=torch.float64)) - image[:, 0]

    image = random_complex((1, 2, *shape), torch.complex128, 1)
    assert float(local_lipschitz(change, image)[0]) > 0.3
    assert float(local_lipschitz(change, image)[0]) <= unet_lipschitz_bound(prior, shape)
    limit_unet(prior, 0.3)
    assert unet_lipschitz_bound(prior, shape) <= 0.3 * (1 + 1e-6)
    assert 0 < float(local_lipschitz(change, image)[0]) <= 0.3
    weights = [parameter.clone() for parameter in prior.parameters()]
    limit_unet(prior, 0.3)
    for before, after in zip(weights, prior.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_a_limited_step_has_one_fixed_point_that_every_start_finds() -> None:
    torch.manual_seed(0)
    prior = UNetPrior(n_evidence=1, n_strength=2, widths=(4, 6)).double()
    nn.init.normal_(prior.last.weight)
    limit_unet(prior, 0.2)
    op = sense(SHAPE, 1)
    network = Equilibrium(GradientStep(ContractivePrior(prior, 0.75)).double(), solver=EXACT)
    data = op.adjoint(op.forward(random_complex((1, *SHAPE), torch.complex128, 1)))
    strength = torch.ones(1, 2, dtype=torch.float64)
    with torch.no_grad():
        found = [
            network(data, op, strength, start=size * random_complex((1, *SHAPE), torch.complex128, seed)).value
            for seed, size in enumerate((0.1, 1, 30))
        ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-10)


def test_the_less_is_sampled_the_more_it_shrinks() -> None:
    torch.manual_seed(0)
    inside = UNetPrior(n_evidence=2, n_strength=3, widths=(4, 6))
    prior = ContractivePrior(inside, 0.98, anchored=True, slope=0.5)
    strength = torch.tensor([[0.3, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])  # 4x, 8x, 2x
    shrinkage = 0.02 * torch.tensor([1.0, 2.0, 0.5]).sqrt().view(-1, 1, 1)
    torch.testing.assert_close(1 - prior.factor_at(strength), shrinkage)
    seen = random_complex((3, 3, 12, 14), torch.complex64, 1)
    expected = (1 - shrinkage) * inside(seen, strength) + shrinkage * seen[:, 2]
    torch.testing.assert_close(prior(seen, strength), expected, rtol=1e-5, atol=1e-6)
    assert float(prior.factor_at(torch.tensor([[0.0, 100.0, 0.0]]))) == 0.5  # of all that is left of a picture
    assert ContractivePrior(inside, 0.98).factor_at(strength) == 0.98


def test_the_drift_is_the_slowest_direction_where_the_largest_gain_is_another() -> None:
    """Of a map that is no orthogonal one, what plain iterations go along is an eigenvector, not a singular one."""
    matrix = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.2, 3.0], [0.0, 0.0, 0.1]], dtype=torch.float64)

    def step(x: Tensor) -> Tensor:
        return torch.einsum("ij,bpj->bpi", matrix, x)

    image = torch.ones(2, 1, 3, dtype=torch.float64) * torch.tensor([1.0, -7.0])[:, None, None]
    direction = drift(step, image, n_steps=30)
    torch.testing.assert_close(direction.abs(), torch.tensor([[[1.0, 0.0, 0.0]]] * 2, dtype=torch.float64))
    assert float(local_lipschitz(step, image)[0].max()) > 3
    penalty, used = contraction_penalty(step, image, 0.8, direction, n_iterations=0)
    assert float(penalty) == pytest.approx(0.1**2)
    assert torch.equal(used, direction)
    assert torch.equal(drift(step, torch.zeros_like(image)), torch.zeros_like(image))  # at rest


def test_a_factor_that_does_not_contract_is_refused() -> None:
    with pytest.raises(ConfigError, match="contraction factor"):
        ContractivePrior(UNetPrior(1, 2, (4,)), 1.0)
    with pytest.raises(ConfigError, match="Lipschitz"):
        limit_unet(UNetPrior(1, 2, (4,)), 0.0)


# The configured network


@pytest.mark.parametrize("backward", ["implicit", "neumann", "one-step"])
def test_configured_equilibrium_gives_every_parameter_a_gradient(backward: str) -> None:
    torch.manual_seed(0)
    network = build(ModelConfig(kind="equilibrium", widths=(4, 6), backward=backward, n_terms=2, tolerance=1e-3))
    op = sense((12, 14), 2, torch.complex64)
    data = op.adjoint(op.forward(random_complex((2, 12, 14), torch.complex64, 1)))
    result = network(data, op, torch.zeros(2, 2))
    assert result.status == CONVERGED
    result.value.abs().square().sum().backward()
    assert network.last_adjoint is result.adjoint
    assert result.adjoint.status == {"implicit": CONVERGED, "neumann": CUT_OFF, "one-step": ONE_STEP}[backward]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    start, value = network.iterates(data, op, torch.zeros(2, 2))
    torch.testing.assert_close(start, network.start(data, op))
    torch.testing.assert_close(value, result.value)


def test_saved_equilibrium_gives_the_same_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(kind="equilibrium", widths=(4, 6), method="broyden", tolerance=1e-5, n_iterations=60)
    network = build(config)
    save(network, config, {}, tmp_path / "a.safetensors")
    loaded, found, _ = load(tmp_path / "a.safetensors")
    assert found == config
    assert isinstance(loaded, Equilibrium)
    op = sense((12, 14), 1, torch.complex64)
    data = op.adjoint(op.forward(random_complex((1, 12, 14), torch.complex64, 1)))
    pictures = [n(data, op, torch.ones(1, 2)).value for n in (network, loaded)]
    assert torch.linalg.norm(pictures[0] - pictures[1]) < 2e-3 * torch.linalg.norm(pictures[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "magic"},
        {"contraction": 1.0},
        {"n_iterations": 0},
        {"tolerance": -1.0},
        {"n_terms": -1},
        {"method": "newton"},
        {"backward": "magic"},
        {"kind": "equilibrium", "momentum": "fista"},
    ],
)
def test_impossible_configurations_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        ModelConfig(**settings)


@pytest.mark.slow
def test_the_experiment_runs_and_shows_what_the_theory_says(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parent.parent / "scripts" / "reproduce" / "implicit_gradients.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=250)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))

    def values(quantity: str) -> list[float]:
        return [float(row["value"]) for row in rows if row["quantity"] == quantity]

    assert max(values("implicit")) < 1e-12
    assert max(values("neumann against unrolling from the fixed point")) < 1e-12
    assert len(set(values("bytes, implicit"))) == 1
    unrolled = values("bytes, unrolled")
    assert unrolled[-1] > 9 * unrolled[0]
    assert (tmp_path / "figure.png").stat().st_size < 150_000
    assert (tmp_path / "seen.txt").read_text() == done.stdout
