r"""How many iterations ISTA, FISTA and AMP need until the NMSE is -35 dB, on the 250 x 500 problem.

    python scripts/reproduce/iterations_to_accuracy.py [--quick] [--out FOLDER]

The l1 weight of ISTA and FISTA is not tuned: it is the one whose minimiser AMP converges to, which state evolution
gives.
"""

from __future__ import annotations

import torch
from figures import options, panels, write
from rich.progress import Progress
from sparse_problem import SparseProblem, calibrated_weight, gaussian_problem, nmse
from torch import Tensor

from mri_unroll.solvers import fista, ista
from mri_unroll.solvers.amp import amp
from mri_unroll.solvers.shrinkage import SoftThreshold, soft_threshold

TARGET = -35.0  # dB
LENGTHS = {"ISTA": 5000, "FISTA": 400, "AMP": 60}
CONVENTIONS = ("ratio_of_sums", "mean_of_ratios", "median")


def traces(problem: SparseProblem, n_signals: int, progress: Progress) -> dict[str, list[dict[str, float]]]:
    """NMSE after each iteration of each method, by the three conventions."""
    signals, data = problem.test_set(n_signals)
    matrix, denoiser = problem.matrix, SoftThreshold()
    step = 1 / float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    weight = calibrated_weight(problem)
    found: dict[str, list[dict[str, float]]] = {}

    def note(name: str, estimate: Tensor) -> None:
        found[name].append(vars(nmse(signals, estimate)))
        progress.advance(tasks[name])

    def shrink(name: str, x: Tensor) -> Tensor:  # what the proximal map gives back is the iterate
        x = soft_threshold(x, step * weight)
        note(name, x)
        return x

    def shrink_noisy(noisy: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = denoiser(noisy, noise_var)
        note("AMP", x)
        return x, slope

    def gradient(x: Tensor) -> Tensor:
        return (x @ matrix.mT - data) @ matrix

    tasks = {name: progress.add_task(name, total=length) for name, length in LENGTHS.items()}
    start = torch.zeros_like(signals)
    for name, solver in (("ISTA", ista), ("FISTA", fista)):
        found[name] = []
        solver(gradient, lambda x, name=name: shrink(name, x), start, step, n_iterations=LENGTHS[name])
    found["AMP"] = []
    amp(lambda x: x @ matrix.mT, lambda y: y @ matrix, data, shrink_noisy, n_iterations=LENGTHS["AMP"])
    return found


def main() -> None:
    """Run, count, draw."""
    arguments = options(__doc__, "iterations_to_accuracy")
    problem = gaussian_problem()
    n_signals = 50 if arguments.quick else 1000
    with Progress() as progress:
        found = traces(problem, n_signals, progress)
    rows, sentences = [], [f"Iterations to {TARGET:g} dB over {n_signals} signals, by convention of the NMSE:"]
    figure, (axis,) = panels(1, width=5.5)
    for name, errors in found.items():
        counts = {}
        for convention in CONVENTIONS:
            reached = [k for k, error in enumerate(errors, start=1) if error[convention] <= TARGET]
            counts[convention] = reached[0] if reached else None
            row = {"method": name, "convention": convention, "iterations": counts[convention]}
            rows.append(row | {"last_nmse_db": round(errors[-1][convention], 2)})
        sentences.append(
            f"{name}: "
            + ", ".join(f"{counts[c] or 'never'} ({c.replace('_', ' ')})" for c in CONVENTIONS)
            + f"; after {len(errors)} iterations the median is {errors[-1]['median']:.2f} dB."
        )
        layers = range(1, len(errors) + 1)
        (line,) = axis.semilogx(layers, [error["median"] for error in errors], label=name)
        axis.semilogx(layers, [error["ratio_of_sums"] for error in errors], ":", color=line.get_color())
    axis.axhline(TARGET, color="black", linewidth=0.8)
    axis.set(xlabel="iteration", ylabel="NMSE [dB]", ylim=(-40, 0), title="Median (solid) and ratio of sums (dotted)")
    axis.legend(loc="upper right")
    sentences.append("Where AMP's ratio of sums stays above its median, a few signals failed: the matrix is finite.")
    write(arguments.out, rows, figure, sentences)


if __name__ == "__main__":
    main()
