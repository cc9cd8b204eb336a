"""Deblurring: a few learned proximal gradient steps against hundreds of ISTA and FISTA with a fixed prior.

python scripts/reproduce/deblurring.py                  a few minutes; needs nothing but the repository
python scripts/reproduce/deblurring.py --quick          seconds: one picture, few iterations

Five pictures that no training has seen (four photographs, one analytic head), three kinds of blur, 1 % noise. The
weights of total variation and wavelets are those that are best on these very pictures; the network gets no such help.
Its steps are those of ISTA, of learned size and with a small U-Net as proximal map, after twelve conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from deblurring_problem import TEST_PHOTOS, WEIGHTS, Problem, acquire, disc, gaussian, motion, photo
from figures import STYLE, options, write
from iteration_curves import (
    CountedOperator,
    Curve,
    Prox,
    draw,
    follow,
    iterates_of,
    shrink,
    table,
    tv_prox,
    wavelet_prox,
)
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mri_unroll.nets.model import load
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.physics import operator_norm
from mri_unroll.physics.phantom import phantom_image
from mri_unroll.solvers.proximal import fista, ista
from mri_unroll.solvers.solution import Solution

SHAPE = (112, 144)
NOISE = 0.01
BLURS = {
    "Gaussian, standard deviation 1.6 pixels": gaussian(1.6, 1.6, 0.0),
    "motion over 9 pixels": motion(9.0, 0.5),
    "out of focus, radius 3 pixels": disc(3.0),
}
WEIGHTS_TRIED = {"TV": (3e-4, 6e-4, 1.2e-3, 2.5e-3), "wavelets": (3e-4, 6e-4, 1.2e-3, 2.5e-3)}


def test_pictures(shape: tuple[int, int], names: tuple[str, ...]) -> Tensor:
    """The middle of each photograph, and the analytic head, ``(batch, y, x)``."""
    pictures = []
    for name in names:
        image = photo(name)
        top, left = ((n - m) // 2 for n, m in zip(image.shape, shape, strict=True))
        pictures.append(image[top : top + shape[0], left : left + shape[1]])
    pictures.append(np.abs(phantom_image(shape)[0]).astype(np.float32))
    return torch.from_numpy(np.stack(pictures))


def make_prox(kind: str, weight: float, shape: tuple[int, ...]) -> Prox:
    """The proximal map of a prior by its name; pictures are real here."""
    prox = tv_prox(weight) if kind == "TV" else wavelet_prox(weight, shape)
    return lambda image: prox(image.real) + 0j


def psnr_of(problem: Problem) -> Callable[[Tensor], float]:
    """PSNR of the real part for a range of 1, mean of the decibels over pictures."""
    return lambda x: float((-10 * torch.log10((x - problem.truth).real.square().mean((-2, -1)))).mean())


def compare(
    problem: Problem,
    network: Unrolled,
    n_iterations: int,
    tried: dict[str, tuple[float, ...]],
    advance: Callable[[], None],
) -> list[Curve]:
    """The learned network, then ISTA and FISTA with the best weight that was tried."""
    op, psnr = CountedOperator(problem.op), psnr_of(problem)
    adjoint = problem.op.adjoint(problem.blurred)
    step_size = 0.99 / float(operator_norm(problem.op, problem.truth[:1])) ** 2
    shape = tuple(problem.truth.shape[-2:])

    def run(solver: Callable[..., Solution], kind: str, weight: float, n: int) -> Curve:
        prox = make_prox(kind, step_size * weight, shape)
        iterates = iterates_of(
            lambda p: solver(lambda x: op.gradient(x, adjoint), p, adjoint, step_size, n_iterations=n), prox
        )
        curve = follow(f"{solver.__name__.upper()}, {kind}", iterates, op, psnr)
        curve.cost = [float(i + 1) for i in range(len(curve.psnr))]
        advance()
        return curve

    learned = f"learned, {len(network.steps)} steps"
    curves = [follow(learned, network.iterates(adjoint, op, problem.strength), op, psnr)]
    for kind, weights in tried.items():
        best = max(weights, key=lambda w, k=kind: run(fista, k, w, n_iterations // 3).psnr[-1])
        curves += [run(solver, kind, best, n_iterations) for solver in (ista, fista)]
        for curve in curves[-2:]:
            curve.method += f" (weight {best:g})"
    return curves


def describe(name: str, blurred: float, curves: list[Curve]) -> str:
    """A few sentences on one problem."""
    learned, *others = curves
    layers = ", ".join(f"{value:.2f}" for value in learned.psnr)
    lines = [
        f"{name}: blurred {blurred:.2f} dB.",
        f"  {learned.method}: {layers} dB, start and layers; {learned.cost[-1]:g} A^H A in all",
    ]
    for curve in others:
        settled, reached = curve.cost_of(curve.best - 0.1), curve.cost_of(learned.psnr[-1])
        at_equal_cost = curve.psnr[int(learned.cost[-1]) - 1]
        lines.append(
            f"  {curve.method}: {at_equal_cost:.2f} dB at the network's cost, at best {curve.best:.2f}, "
            f"within 0.1 of that after {settled:g}; "
            + (f"never the network's in {len(curve.psnr)}" if reached is None else f"the network's after {reached:g}")
        )
    return "\n".join(lines)


def draw_all(results: dict[str, list[Curve]], problem: Problem, index: int = 0) -> Figure:
    """Curves of each blur above, one picture of the first blur below."""
    canvas = Figure(figsize=(9, 5.4), layout="constrained", facecolor="white")
    top, bottom = canvas.subfigures(2, 1, height_ratios=(1, 0.9))
    for axes, (name, curves) in zip(np.atleast_1d(top.subplots(1, len(results))), results.items(), strict=True):
        draw(axes, curves, name)
        axes.title.set_fontsize(9)
    top.axes[0].legend(fontsize=6)
    curves = next(iter(results.values()))
    learned, *others = curves
    best = max(others, key=lambda curve: curve.psnr[-1])
    panels = {"truth": problem.truth, "blurred, 1 % noise": problem.blurred}
    panels |= {curve.method: curve.picture for curve in (best, learned) if curve.picture is not None}
    for axes, (name, picture) in zip(bottom.subplots(1, len(panels)), panels.items(), strict=True):
        psnr = -10 * np.log10(float((picture - problem.truth)[index].real.square().mean()) or 1.0)
        axes.imshow(picture[index].real, cmap="gray", vmin=0, vmax=1)
        axes.set_title(name if name == "truth" else f"{name}\n{psnr:.1f} dB", fontsize=8)
        axes.axis("off")
    return canvas


def main() -> None:
    arguments = options(__doc__, "deblurring")
    network = load(WEIGHTS)[0]
    assert isinstance(network, Unrolled)
    shape, names, n_iterations, blurs, tried = SHAPE, TEST_PHOTOS, 200, BLURS, WEIGHTS_TRIED
    if arguments.quick:
        shape, names, n_iterations = (96, 96), TEST_PHOTOS[:1], 20
        blurs = dict(list(BLURS.items())[:1])
        tried = {kind: weights[2:3] for kind, weights in WEIGHTS_TRIED.items()}
    truth = test_pictures(shape, names)
    problems = {
        name: acquire(
            truth,
            torch.from_numpy(psf).float(),
            torch.full((len(truth),), NOISE),
            torch.Generator().manual_seed(0),
        )
        for name, psf in blurs.items()
    }
    results, sentences = {}, []
    with Progress(console=Console(stderr=True)) as progress, torch.inference_mode():
        task = progress.add_task("deblurring", total=len(blurs) * sum(len(w) + 2 for w in tried.values()))
        for name, problem in problems.items():
            results[name] = compare(problem, network, n_iterations, tried, lambda: progress.advance(task))
            sentences.append(describe(name, psnr_of(problem)(problem.blurred), results[name]))
        steps = ", ".join(f"{float(step.step_size):.2f}" for step in network.steps)
    sentences.append(
        f"Step sizes learned, layer by layer: {steps}; that of ISTA and FISTA is 0.99 / |A|^2, at most 0.99."
    )
    with rc_context(STYLE):
        write(arguments.out, table(results), draw_all(results, next(iter(problems.values()))), sentences)
    shrink(arguments.out / "figure.png")


if __name__ == "__main__":
    main()
