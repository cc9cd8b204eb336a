"""Gradients of a fixed point: implicit, unrolled and truncated, held against a dense solve.

    python scripts/reproduce/implicit_gradients.py             about two minutes
    python scripts/reproduce/implicit_gradients.py --quick     seconds: fewer points per curve

Two kinds of fixed point in double precision with fixed seeds: a learned proximal gradient step on 64 numbers whose
spectral radius is set three ways, and an equilibrium network with a convolutional prior on a multi-coil MRI problem of
10 x 12 pixels. Writes a table, a figure and a short text.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from figures import STYLE, options, write
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mri_unroll.nets import ModelConfig, build
from mri_unroll.nets.contraction import limit_unet, local_lipschitz, unet_lipschitz_bound
from mri_unroll.nets.model import load
from mri_unroll.physics import SenseOperator
from mri_unroll.recon.reconstructor import shipped_models
from mri_unroll.solvers import equilibrate, fixed_point

EXACT = functools.partial(fixed_point, tolerance=1e-14, n_iterations=3000)
ROUNDING = 1e-13  # errors below this are not drawn into a rate
SHIPPED = "first prior of the shipped network"
Row = tuple[str, str, float, float]  # problem, quantity, at, value


@dataclass
class Problem:
    """A step, what it is made of, and a linear function of its fixed point."""

    name: str
    step: Callable[[Tensor], Tensor]
    start: Tensor
    parameters: tuple[Tensor, ...]
    cotangent: Tensor  # gradient of the function by the fixed point
    radius: float = (
        0.0  # largest modulus of the Jacobian's eigenvalues at the fixed point: what a step leaves of an error
    )
    exact: Tensor | None = None  # gradient through a dense solve

    def gradient(self, value: Tensor, cotangent: Tensor | None = None) -> Tensor:
        """By all parameters, as one real vector."""
        parts = torch.autograd.grad(value, self.parameters, self.cotangent if cotangent is None else cotangent)
        return torch.cat([_real(part).flatten() for part in parts])

    def equilibrium(self, solver: Callable = EXACT, adjoint_solver: Callable = EXACT, **settings):
        """The fixed point, differentiable."""
        return equilibrate(self.step, self.start, solver=solver, adjoint_solver=adjoint_solver, **settings)

    def unroll(self, image: Tensor, n_steps: int) -> Tensor:
        """Plain iterations, all of them in the graph."""
        for _ in range(n_steps):
            image = self.step(image)
        return image


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def vector_problem(contraction: float) -> Problem:
    """``z <- c u + W2 tanh(W1 u)`` after a gradient step ``u`` on 64 numbers."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int, size: float) -> Tensor:
        return size * torch.randn(*shape, dtype=torch.float64, generator=random)

    matrix = draw(40, 64, size=1.0)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    data, cotangent = draw(1, 1, 40, size=1.0), draw(1, 1, 64, size=1.0)
    inner, outer = draw(64, 64, size=64**-0.5).requires_grad_(), draw(64, 64, size=0.08 * 64**-0.5).requires_grad_()

    def step(z: Tensor) -> Tensor:
        u = z - (z @ matrix.T - data) @ matrix
        return contraction * u + torch.tanh(u @ inner.T) @ outer.T

    start = torch.zeros(1, 1, 64, dtype=torch.float64)
    return solve_densely(Problem("64 numbers", step, start, (inner, outer), cotangent))


def mri_problem() -> Problem:
    """An equilibrium network on two coils and about half of the phase encodings."""
    torch.manual_seed(0)
    shape = (10, 12)
    network = build(ModelConfig(kind="equilibrium", n_cg=3, widths=(4, 6), contraction=0.9)).double()
    with torch.no_grad():  # a fresh prior changes next to nothing; this one does
        network.step.prior.prior.last.weight.mul_(40)
    maps = torch.randn(1, 2, *shape, dtype=torch.complex128)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    op = SenseOperator(maps, (torch.arange(shape[1]) % 3 != 1)[None, None, None])
    truth, cotangent = (torch.randn(1, *shape, dtype=torch.complex128) for _ in range(2))
    adjoint_kspace = op.adjoint(op.forward(truth)).requires_grad_()
    strength = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    parameters = (*network.parameters(), adjoint_kspace, strength)
    return solve_densely(
        Problem(
            "MRI, 2 coils",
            lambda x: network.step(x, adjoint_kspace, op, strength),
            torch.zeros_like(truth),
            parameters,
            cotangent,
        )
    )


def solve_densely(problem: Problem) -> Problem:
    """Add what the dense Jacobian at the fixed point tells: its spectral radius and the exact gradient."""
    fixed = EXACT(problem.step, problem.start).image

    def step(pairs: Tensor) -> Tensor:
        return _real(problem.step(torch.view_as_complex(pairs) if fixed.is_complex() else pairs))

    pairs = _real(fixed)
    jacobian = torch.autograd.functional.jacobian(step, pairs).reshape(pairs.numel(), pairs.numel())
    problem.radius = float(torch.linalg.eigvals(jacobian).abs().max())
    eye = torch.eye(len(jacobian), dtype=jacobian.dtype)
    w = torch.linalg.solve(eye - jacobian.T, _real(problem.cotangent).flatten()).view(pairs.shape)
    problem.exact = problem.gradient(problem.step(fixed), torch.view_as_complex(w) if fixed.is_complex() else w)
    problem.name += f", radius {problem.radius:.2f}"
    return problem


def errors(problem: Problem, counts: list[int], tolerances: list[float], advance: Callable[[], None]) -> list[Row]:
    """Everything that is measured against the dense solve."""
    rows: list[Row] = []

    def note(quantity: str, at: float, value: float) -> None:
        rows.append((problem.name, quantity, at, value))

    result = problem.equilibrium()
    fixed = result.value.detach()
    exact = problem.exact
    assert exact is not None
    note("spectral radius", 0, problem.radius)
    note("implicit", 0, _relative(problem.gradient(result.value), exact))
    one = problem.gradient(problem.equilibrium(backward="one-step").value)
    note("one-step", 0, _relative(one, exact))
    note("one-step cosine", 0, float(torch.nn.functional.cosine_similarity(one, exact, dim=0)))
    for method in ("picard", "anderson", "broyden"):
        solver = functools.partial(EXACT, method=method)
        run = problem.equilibrium(solver, solver)
        problem.gradient(run.value)
        note(f"forward iterations, {method}", 1e-14, run.n_iterations)
        note(f"adjoint iterations, {method}", 1e-14, run.adjoint.n_iterations)
    advance()
    for count in counts:
        note("unrolled", count, _relative(problem.gradient(problem.unroll(problem.start, count)), exact))
        series = problem.gradient(problem.equilibrium(backward="neumann", n_terms=count - 1).value)
        note("neumann", count, _relative(series, exact))
        note(
            "neumann against unrolling from the fixed point",
            count,
            _relative(problem.gradient(problem.unroll(fixed, count)), series),
        )
        advance()
    for tolerance in tolerances:
        solver = functools.partial(fixed_point, method="picard", tolerance=tolerance, n_iterations=3000)
        note("forward tolerance", tolerance, _relative(problem.gradient(problem.equilibrium(solver).value), exact))
    advance()
    return rows


def costs(problem: Problem, counts: list[int], repeats: int, advance: Callable[[], None]) -> list[Row]:
    """Bytes kept for the backward pass, and time of both passes in units of one plain step."""
    rows: list[Row] = []
    loose = functools.partial(fixed_point, tolerance=1e-6, n_iterations=3000)

    def implicit(n: int) -> Tensor:
        return problem.equilibrium(
            functools.partial(fixed_point, method="picard", tolerance=0, n_iterations=n), loose
        ).value

    def unrolled(n: int) -> Tensor:
        return problem.unroll(problem.start, n)

    def seconds(run: Callable[[], object]) -> float:
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
        return float(np.median(taken))

    with torch.no_grad():
        unit = seconds(lambda: unrolled(50)) / 50
    for count in counts:
        for name, method in (("unrolled", unrolled), ("implicit", implicit)):
            rows.append((problem.name, f"bytes, {name}", count, saved_bytes(lambda m=method, n=count: m(n))))
            taken = seconds(lambda m=method, n=count: problem.gradient(m(n)))
            rows.append((problem.name, f"time in steps, {name}", count, taken / unit))
        advance()
    return rows


def guarantee(limit: float = 0.14) -> list[Row]:
    """What a trained U-Net does to small changes of a picture, and what its bound says, before and after a limit."""
    rows: list[Row] = []
    prior = load(shipped_models()["unrolled"])[0].steps[0].prior
    picture = 0.3 * torch.randn(1, 2, 32, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    strength = torch.zeros(1, prior.n_strength)  # 1 % noise, fourfold undersampling, no noise kept
    for stage in ("as trained", f"limited to {limit}"):
        if stage != "as trained":
            limit_unet(prior, limit, (32, 32))
        measured = local_lipschitz(lambda x: prior(x, strength) - x[:, 0], picture)[0]
        rows.append((SHIPPED, f"bound, {stage}", 0, unet_lipschitz_bound(prior, (32, 32))))
        rows.append((SHIPPED, f"measured, {stage}", 0, float(measured)))
    return rows


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """What autograd keeps between the two passes."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        run()
    return total


def select(rows: list[Row], problem: str, quantity: str) -> tuple[list[float], list[float]]:
    """Places and values of one curve."""
    points = [(at, value) for name, what, at, value in rows if (name, what) == (problem, quantity)]
    return [at for at, _ in points], [value for _, value in points]


def rate(rows: list[Row], problem: str, quantity: str) -> float:
    """Factor per iteration by which an error falls, fitted between 1e-2 and rounding."""
    at, value = map(np.array, select(rows, problem, quantity))
    inside = (value < 1e-2) & (value > ROUNDING)
    return float(np.exp(np.polyfit(at[inside], np.log(value[inside]), 1)[0]))


def draw(rows: list[Row], problems: list[str]) -> Figure:
    """Four panels: truncation, tolerance, memory, time."""
    plt.rcParams.update(STYLE)
    canvas = plt.figure(figsize=(7.0, 5.4), layout="constrained")
    (truncation, tolerance), (memory, duration) = canvas.subplots(2, 2)
    for index, name in enumerate(problems):
        color = f"C{index}"
        truncation.semilogy(*select(rows, name, "unrolled"), "-", color=color, label="" if index else "unrolled")
        truncation.semilogy(
            *select(rows, name, "neumann"), "--", color=color, label="" if index else "truncated Neumann"
        )
        truncation.plot(1, select(rows, name, "one-step")[1], "o", color=color)
        truncation.axhline(select(rows, name, "implicit")[1][0], color=color, linewidth=0.7, linestyle=":")
        tolerance.loglog(*select(rows, name, "forward tolerance"), "o-", color=color, label=name, markersize=3)
    truncation.set(xlabel="steps unrolled, or terms of the series + 1", ylabel="relative error of the gradient")
    truncation.set_title("Truncation (dots: one step; dotted: implicit)", fontsize=9)
    truncation.legend(fontsize=6, loc=(0.6, 0.27), title="colours as on the right", title_fontsize=6)
    ends = np.array(select(rows, problems[0], "forward tolerance")[0])
    tolerance.loglog(ends, ends, color="0.6", linewidth=0.8, label="error = tolerance")
    tolerance.set(xlabel="forward tolerance", ylabel="relative error of the gradient")
    tolerance.set_title("Loose forward pass, loose gradient", fontsize=9)
    tolerance.legend(fontsize=6)
    for axes, what, label in ((memory, "bytes", "bytes kept for backward"), (duration, "time in steps", "time / step")):
        for name, style in (("unrolled", "o-"), ("implicit", "s-")):
            axes.loglog(*select(rows, problems[-1], f"{what}, {name}"), style, label=name, markersize=4)
        axes.set(xlabel="forward iterations", ylabel=label)
        axes.legend(fontsize=7)
    memory.set_title(f"Memory ({problems[-1]})", fontsize=9)
    duration.set_title("Time of both passes, in plain steps", fontsize=9)
    return canvas


def describe(rows: list[Row], problems: list[str]) -> list[str]:
    """What is seen, in sentences made of the numbers."""
    lines = []
    for name in problems:

        def value(quantity: str, name: str = name) -> float:
            return select(rows, name, quantity)[1][-1]

        proportional = np.array(select(rows, name, "forward tolerance"))
        factors = (proportional[1] / proportional[0])[proportional[0] < 2e-4]
        counts = [
            f"{m.capitalize()} {value(f'forward iterations, {m}'):.0f}" for m in ("picard", "anderson", "broyden")
        ]
        lines += [
            f"{name}:",
            f"  The implicit gradient differs from the dense solve by {value('implicit'):.1e} (relative).",
            f"  One step: error {value('one-step'):.2f}, cosine {value('one-step cosine'):.3f}.",
            f"  Per step the error falls by {rate(rows, name, 'unrolled'):.3f} (unrolled) and "
            f"{rate(rows, name, 'neumann'):.3f} (Neumann); the spectral radius is {value('spectral radius'):.3f}.",
            "  Neumann series and unrolling from the fixed point differ by at most "
            f"{max(select(rows, name, 'neumann against unrolling from the fixed point')[1]):.1e}.",
            f"  From a forward tolerance of 1e-4 down, the gradient's error is {factors.min():.1f} to "
            f"{factors.max():.1f} times the tolerance.",
            f"  Iterations to 1e-14: {', '.join(counts)}.",
        ]
    at, unrolled = select(rows, problems[-1], "bytes, unrolled")
    implicit = select(rows, problems[-1], "bytes, implicit")[1]
    times = [select(rows, problems[-1], f"time in steps, {m}")[1][-1] for m in ("unrolled", "implicit")]
    lines += [
        f"Memory for backward from {at[0]:.0f} to {at[-1]:.0f} iterations ({problems[-1]}): unrolled "
        f"{unrolled[0] / 1e6:.2f} to {unrolled[-1] / 1e6:.2f} MB, implicit {implicit[0] / 1e6:.2f} to "
        f"{implicit[-1] / 1e6:.2f} MB.",
        f"Time of both passes at {at[-1]:.0f} iterations, in plain steps: unrolled {times[0]:.0f}, implicit "
        f"{times[1]:.0f}.",
    ]
    return lines


def describe_guarantee(rows: list[Row]) -> list[str]:
    """What is seen of Lipschitz constants."""
    values = [f"{quantity} {value:.1e}" for name, quantity, _, value in rows if name == SHIPPED]
    return [f"Lipschitz constant of the change by the {SHIPPED}: {'; '.join(values)}."]


def main() -> None:
    arguments = options(__doc__, "implicit_gradients")
    counts = [1, 10, 40, 80] if arguments.quick else [1, 2, 5, *range(10, 101, 10), 125, 150, 175, 200, 250]
    tolerances = [1e-2, 1e-4, 1e-6] if arguments.quick else [10.0**-k for k in range(1, 11)]
    lengths = [10, 100] if arguments.quick else [10, 30, 100, 300, 1000]
    problems = [vector_problem(c) for c in ((0.8,) if arguments.quick else (0.4, 0.8, 0.92))] + [mri_problem()]
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("gradients", total=len(problems) * (len(counts) + 2) + len(lengths))
        advance = functools.partial(progress.advance, task)
        for problem in problems:
            rows += errors(problem, counts, tolerances, advance)
        rows += costs(problems[-1], lengths, 1 if arguments.quick else 3, advance)
    names = [problem.name for problem in problems]
    rows += guarantee()
    table = [dict(zip(("problem", "quantity", "at", "value"), row, strict=True)) for row in rows]
    write(arguments.out, table, draw(rows, names), describe(rows, names) + describe_guarantee(rows))


if __name__ == "__main__":
    main()
