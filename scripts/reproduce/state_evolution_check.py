"""State evolution against measurement: growing N, the Onsager term, and where recovery ends.

    python scripts/reproduce/state_evolution_check.py [--quick] [--out FOLDER]

Four questions about AMP at an undersampling of 1/2 and 40 dB: how far is the predicted error from the measured one and
does it come closer as N grows; does a prediction for the very signals come closer still; what happens without the
Onsager term; and does AMP without noise stop working where the formula of Donoho, Maleki and Montanari says.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import scipy.optimize
import torch
from figures import options, panels, write
from matplotlib.axes import Axes
from rich.progress import Progress
from sparse_problem import gaussian_problem
from torch import Tensor

from mri_unroll.solvers import state_evolution
from mri_unroll.solvers.amp import amp_iterates
from mri_unroll.solvers.shrinkage import BernoulliGaussMean, SoftThreshold
from mri_unroll.solvers.state_evolution import Instance, ScaleMixture, phase_transition, vamp_state_evolution
from mri_unroll.solvers.vamp import LinearHalf, vamp_iterates

SPARSITY, N_ITERATIONS = 0.1, 30
PRIOR = ScaleMixture.bernoulli_gauss(SPARSITY)
DELTAS = (0.1, 0.25, 0.5)
SUCCESS = 1e-4  # NMSE
Row = dict[str, Any]
Seen = tuple[list[Row], list[str]]  # lines of the table, sentences


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    matrices: dict[int, tuple[int, int]]  # N: how many matrices, signals each
    vamp: tuple[int, int, int]  # N, matrices, signals each
    transition_n: tuple[int, ...]
    n_trials: int  # at each sparsity


FULL = Sizes({500: (20, 100), 2000: (5, 200), 8000: (4, 100)}, (2000, 4, 250), (1000, 2000), 60)
QUICK = Sizes({250: (3, 40), 500: (2, 40), 1000: (1, 40)}, (500, 2, 40), (300,), 16)


@dataclass(frozen=True)
class Run:
    """Squared errors and beliefs of AMP on many signals, with what was predicted for them."""

    errors: Tensor  # (iteration, signal), mean over coefficients
    beliefs: Tensor  # (iteration, signal), noise level that the denoiser was told
    levels: Tensor  # (iteration, signal), noise level that there was
    power: Tensor  # (signal,)
    predicted: Tensor  # (iteration,), NMSE
    instance: Tensor  # (iteration, signal), squared error predicted for the signal


def decibels(value: Tensor) -> Tensor:
    """10 log10."""
    return 10 * value.double().log10()


def run_amp(n: int, n_matrices: int, n_signals: int, progress: Progress, *, onsager: bool = True) -> Run:
    """AMP with soft thresholds on fresh matrices and signals."""
    task = progress.add_task(f"AMP, N = {n}{'' if onsager else ', no Onsager'}", total=n_matrices * N_ITERATIONS)
    denoiser, parts = SoftThreshold(), []
    for seed in range(n_matrices):
        problem = gaussian_problem(n // 2, n, seed=100 + seed)
        signals, data = problem.test_set(n_signals, seed=200 + seed)
        matrix, seen = problem.matrix, []

        def record(noisy: Tensor, noise_var: Tensor, signals: Tensor = signals, seen: list[Tensor] = seen):
            seen.append((noisy - signals).square().mean(-1))
            return denoiser(noisy, noise_var)

        iterates = amp_iterates(
            lambda x, a=matrix: x @ a.mT, lambda y, a=matrix: y @ a, data, repeat(record, N_ITERATIONS), onsager=onsager
        )
        errors, beliefs = [], []
        for x, noise_var in iterates:
            errors.append((x - signals).double().square().mean(-1))
            beliefs.append(noise_var[:, 0])
            progress.advance(task)
        noise_var = (data - signals @ matrix.mT).double().square().mean(-1)
        of = {"undersampling": problem.undersampling, "n_iterations": N_ITERATIONS}
        instance = state_evolution(Instance(signals), denoiser, noise_var=noise_var, **of).value
        predicted = state_evolution(PRIOR, denoiser, noise_var=problem.noise_var, **of).value / PRIOR.power
        power = signals.double().square().mean(-1)
        parts.append((torch.stack(errors), torch.stack(beliefs), torch.stack(seen), power, instance))
    errors, beliefs, levels, power, instance = (torch.cat(p, -1) for p in zip(*parts, strict=True))
    return Run(errors, beliefs, levels, power, predicted, instance)


def compare_vamp(n: int, n_matrices: int, n_signals: int) -> tuple[Tensor, Tensor]:
    """NMSE of VAMP with the matched denoiser, median of signals, and its prediction, 8 iterations, no training."""
    denoiser, ratios, predicted = BernoulliGaussMean(SPARSITY), [], []
    for seed in range(n_matrices):
        problem = gaussian_problem(n // 2, n, seed=100 + seed)
        signals, data = problem.test_set(n_signals, seed=200 + seed)
        linear, known = LinearHalf.of(problem.matrix), {"noise_var": problem.noise_var}
        iterates = vamp_iterates(linear, data, repeat(denoiser, 8), signal_var=SPARSITY, **known)
        power = signals.square().sum(-1)
        ratios.append(torch.stack([(x - signals).square().sum(-1) / power for x, _ in iterates]))
        of = {"singular_values": linear.values, "n_unknowns": n, "n_iterations": 8}
        predicted.append(vamp_state_evolution(PRIOR, denoiser, **of, **known).value)
    return torch.cat(ratios, -1).median(-1).values, torch.stack(predicted).mean(0) / PRIOR.power


def success_rate(n: int, delta: float, sparsity: float, alpha: float, n_trials: int, seed: int) -> float:
    """Part of noiseless signals with ``sparsity`` non-zeros a measurement that AMP finds in 400 iterations."""
    m, n_matrices = round(delta * n), 4
    n_active, found = round(sparsity * m), 0
    for k in range(n_matrices):
        problem = gaussian_problem(m, n, seed=seed + k)
        generator = torch.Generator().manual_seed(seed + k)
        size = (n_trials // n_matrices, n)
        order = torch.rand(size, generator=generator).argsort(-1)
        signals = (order < n_active) * torch.randn(size, generator=generator)
        power = signals.square().sum(-1)
        matrix = problem.matrix
        iterates = amp_iterates(
            lambda x, a=matrix: x @ a.mT,
            lambda y, a=matrix: y @ a,
            signals @ matrix.mT,
            repeat(SoftThreshold(alpha), 400),
        )
        for x, _ in iterates:
            error = (x - signals).square().sum(-1) / power
            if bool((error < SUCCESS).all()):
                break
        found += int((error < SUCCESS).sum())
    return found / (n_trials // n_matrices * n_matrices)


def half_point(sparsities: np.ndarray, rates: np.ndarray) -> float:
    """Where the logistic curve through success rates passes one half."""

    def cost(parameters: np.ndarray) -> float:
        logits = np.clip((parameters[0] - sparsities / sparsities.mean()) * np.exp(parameters[1]), -30, 30)
        return float(np.sum(np.log1p(np.exp(-logits)) * rates + np.log1p(np.exp(logits)) * (1 - rates)))

    best = scipy.optimize.minimize(cost, np.array([1.0, 3.0]), method="Nelder-Mead").x
    return float(best[0] * sparsities.mean())


def measured_nmse(run: Run) -> Tensor:
    """Ratio of sums in dB, by iteration."""
    return decibels(run.errors.sum(-1) / run.power.sum())


def row(experiment: str, n: int, delta: float, at: float, *values: Tensor | float) -> Row:
    """One line of the table; ``values`` are measured, predicted, predicted for these signals, in dB or as rates."""
    names = ("measured", "predicted", "predicted_for_these")
    known = {name: round(float(value), 4) for name, value in zip(names, values, strict=False)}
    return {"experiment": experiment, "n": n, "delta": delta, "at": round(at, 5), **dict.fromkeys(names, ""), **known}


def growth(runs: dict[int, Run], curves: Axes, gaps_axis: Axes) -> Seen:
    """Prediction and measurement for growing N."""
    rows, sentences, iterations = [], [], range(1, N_ITERATIONS + 1)
    gaps: dict[str, list[float]] = {"ratio of sums": [], "median": [], "for these signals": []}
    for n, run in runs.items():
        measured, predicted = measured_nmse(run), decibels(run.predicted)
        instance = decibels(run.instance.sum(-1) / run.power.sum())
        median = decibels((run.errors / run.power).median(-1).values)
        differences = (measured - predicted, median - predicted, measured - instance)
        for values, difference in zip(gaps.values(), differences, strict=True):
            values.append(float(difference.abs().max()))
        rows += [row("growth", n, 0.5, k, *v) for k, *v in zip(iterations, measured, predicted, instance, strict=True)]
        last = [f"{values[-1]:.2f} dB ({name})" for name, values in gaps.items()]
        belief = decibels(run.beliefs / run.levels)
        sentences.append(
            f"N = {n}, {run.power.numel()} signals: largest error of the prediction over {N_ITERATIONS} iterations "
            f"{', '.join(last)}. The noise level AMP believes in is off by {float(belief.mean()):+.3f} dB on average, "
            f"{float(belief.std()):.2f} dB from signal to signal."
        )
        curves.plot(iterations, measured, "o", fillstyle="none", label=f"AMP, N = {n}")
    curves.plot(iterations, predicted, color="black", label="state evolution")
    curves.set(xlabel="iteration", ylabel="NMSE, ratio of sums [dB]", title="Prediction and measurement")
    curves.legend()
    for name, values in gaps.items():
        gaps_axis.loglog(list(runs), values, "o-", label=name)
    gaps_axis.set(xlabel="N", ylabel="largest error over iterations [dB]", title="It comes closer as N grows")
    gaps_axis.set_xticks(list(runs), [str(n) for n in runs], minor=False)
    gaps_axis.minorticks_off()
    gaps_axis.legend()
    return rows, sentences


def ablation(n: int, run: Run, without: Run, axis: Axes) -> Seen:
    """AMP with and without the Onsager term."""
    diverged = measured_nmse(without)
    for each, label in ((run, "with the Onsager term"), (without, "without")):
        axis.plot(range(1, N_ITERATIONS + 1), measured_nmse(each), "o-", label=label)
    axis.set(xlabel="iteration", ylabel="NMSE, ratio of sums [dB]", title=f"The Onsager term, N = {n}")
    axis.legend()
    belief = float(decibels(without.beliefs[:5] / without.levels[:5]).mean())
    sentence = (
        f"Without the Onsager term the NMSE at N = {n} is {diverged[0]:.1f}, {diverged[4]:.1f}, {diverged[9]:.1f}, "
        f"{diverged[-1]:.1f} dB after 1, 5, 10, {N_ITERATIONS} iterations: it diverges. Over the first five the noise "
        f"level it believes in is off by {belief:+.1f} dB."
    )
    return [row("no Onsager term", n, 0.5, k, value) for k, value in enumerate(diverged, start=1)], [sentence]


def matched_vamp(n: int, n_matrices: int, n_signals: int) -> Seen:
    """VAMP with the matched denoiser against its own state evolution."""
    measured, predicted = (decibels(values) for values in compare_vamp(n, n_matrices, n_signals))
    gap = (measured - predicted).abs()
    sentence = (
        f"VAMP with the matched denoiser, untrained, N = {n}: the median is within {gap[:6].max():.2f} dB of its state "
        f"evolution over 6 iterations, {gap.max():.2f} dB over {len(gap)}."
    )
    return [row("VAMP", n, 0.5, k, *v) for k, *v in zip(range(1, len(gap) + 1), measured, predicted, strict=True)], [
        sentence
    ]


def transitions(sizes: Sizes, progress: Progress, axis: Axes) -> Seen:
    """The sparsity at which half of the signals are recovered, against the formula."""
    rows, sentences = [], []
    curve = np.linspace(0.05, 0.8, 60)
    axis.plot(curve, [phase_transition(delta).sparsity for delta in curve], color="black", label="formula")
    spread = np.linspace(0.88, 1.08, 9)
    task = progress.add_task("phase transition", total=len(sizes.transition_n) * len(DELTAS) * len(spread))
    for n in sizes.transition_n:
        points = []
        for delta in DELTAS:
            edge, rates = phase_transition(delta), []
            for sparsity in spread * edge.sparsity:
                rates.append(success_rate(n, delta, sparsity, edge.alpha, sizes.n_trials, seed=300))
                rows.append(row("phase transition", n, delta, sparsity, rates[-1]))
                progress.advance(task)
            points.append(half_point(spread * edge.sparsity, np.array(rates)))
            sentences.append(
                f"Phase transition at delta = {delta:g}, N = {n}: predicted {edge.sparsity:.4f}, half of the signals "
                f"are recovered at {points[-1]:.4f} ({100 * (points[-1] / edge.sparsity - 1):+.1f} %)."
            )
        axis.plot(DELTAS, points, "o", fillstyle="none", label=f"AMP, N = {n}")
    axis.set(xlabel="measurements per unknown", ylabel="non-zeros per measurement", title="Where recovery ends")
    axis.legend()
    return rows, sentences


def main() -> None:
    """Run the four experiments."""
    arguments = options(__doc__, "state_evolution_check")
    sizes = QUICK if arguments.quick else FULL
    figure, axes = panels(4, width=3.7)
    with Progress() as progress:
        runs = {n: run_amp(n, *count, progress) for n, count in sizes.matrices.items()}
        n = min(runs)
        without = run_amp(n, *sizes.matrices[n], progress, onsager=False)
        seen = [
            growth(runs, axes[0], axes[1]),
            ablation(n, runs[n], without, axes[2]),
            matched_vamp(*sizes.vamp),
            transitions(sizes, progress, axes[3]),
        ]
    rows, sentences = ([item for part in parts for item in part] for parts in zip(*seen, strict=True))
    write(arguments.out, rows, figure, sentences)


if __name__ == "__main__":
    main()
