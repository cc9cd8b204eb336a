"""NMSE after each layer or iteration, for everything, on the 250 x 500 problem, with what state evolution predicts.

    python scripts/reproduce/nmse_by_layer.py [--quick] [--out FOLDER]

Learned networks are drawn from the weights beside this script; `train_sparse.py` makes them anew. A network is trained
for its last layer: what its earlier layers give is on the way there and no result of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import torch
from figures import options, panels, write
from matplotlib.axes import Axes
from rich.progress import track
from sparse_problem import Errors, SparseProblem, calibrated_weight, gaussian_problem, load, nmse, trained
from torch import Tensor

from mri_unroll.nets.lista import ListaNetwork
from mri_unroll.solvers import state_evolution
from mri_unroll.solvers.amp import amp_iterates
from mri_unroll.solvers.shrinkage import BernoulliGaussMean, SoftThreshold
from mri_unroll.solvers.state_evolution import ScaleMixture, tuned_thresholds, vamp_state_evolution
from mri_unroll.solvers.vamp import LinearHalf, vamp_iterates

N_LAYERS = 8
Curves = dict[str, list[Errors]]
LABELS = {
    "lista_step": "LISTA, steps only (16 numbers)",
    "lista_tied": "LISTA, tied",
    "lista_untied": "LISTA, untied",
    "lista_cp": "LISTA, coupled",
    "lista_cp_support": "LISTA, coupled + support",
    "lista_momentum": "LISTA, coupled + momentum",
    "alista": "ALISTA (16 numbers)",
    "alista_support": "ALISTA + support (16 numbers)",
    "amp_tuned": "AMP, thresholds learned",
    "lamp_analytic": "LAMP, soft, analytic B (16 numbers)",
    "lamp": "LAMP, soft",
    "lamp_untied": "LAMP, soft, untied",
    "lamp_bg": "LAMP, Bernoulli-Gauss",
}


@torch.no_grad()
def measure(problem: SparseProblem, n_signals: int) -> Curves:
    """NMSE by layer of every method."""
    signals, data = problem.test_set(n_signals)
    matrix = problem.matrix

    def errors(iterates: Iterable[Tensor]) -> list[Errors]:
        return [nmse(signals, x) for x in iterates]

    def message_passing(denoiser: SoftThreshold | BernoulliGaussMean) -> list[Errors]:
        iterates = amp_iterates(lambda x: x @ matrix.mT, lambda y: y @ matrix, data, repeat(denoiser, N_LAYERS))
        return errors(x for x, _ in iterates)

    weight, curves = calibrated_weight(problem), Curves()
    for name, momentum in (("ISTA", "none"), ("FISTA", "fista")):  # untrained networks are these
        network = ListaNetwork(matrix, N_LAYERS, weights="step", momentum=momentum, reg_weight=weight)
        curves[name] = errors(network.iterates(data))
    curves["AMP, soft"] = message_passing(SoftThreshold())
    bayes = BernoulliGaussMean(problem.sparsity)
    curves["AMP, Bernoulli-Gauss"] = message_passing(bayes)
    known = {"noise_var": problem.noise_var, "signal_var": problem.sparsity}
    vamp = vamp_iterates(LinearHalf.of(matrix), data, repeat(bayes, N_LAYERS), **known)
    curves["VAMP, Bernoulli-Gauss"] = errors(x for x, _ in vamp)
    for name in track([name for name in LABELS if name in trained()], "networks"):
        curves[LABELS[name]] = errors(load(name, problem).iterates(data))
    return curves


@torch.no_grad()
def predict(problem: SparseProblem) -> dict[str, list[float]]:
    """NMSE in dB by iteration, from state evolution alone."""
    prior, bayes = ScaleMixture.bernoulli_gauss(problem.sparsity), BernoulliGaussMean(problem.sparsity)
    of = {"undersampling": problem.undersampling, "noise_var": problem.noise_var, "n_iterations": N_LAYERS}
    denoisers = {
        "AMP, soft": SoftThreshold(),
        "AMP, Bernoulli-Gauss": bayes,
        "AMP, best thresholds": tuned_thresholds(prior, **of),
    }
    if "amp_tuned" in trained():
        denoisers[LABELS["amp_tuned"]] = load("amp_tuned", problem).denoisers()
    values = {name: state_evolution(prior, denoiser, **of).value for name, denoiser in denoisers.items()}
    values["VAMP, Bernoulli-Gauss"] = vamp_state_evolution(
        prior,
        bayes,
        singular_values=torch.linalg.svdvals(problem.matrix),
        n_unknowns=problem.matrix.shape[1],
        noise_var=problem.noise_var,
        n_iterations=N_LAYERS,
    ).value
    return {name: (10 * (value / prior.power).log10()).tolist() for name, value in values.items()}


def draw(
    axis: Axes, names: Iterable[str], curves: Curves, predicted: dict[str, list[float]], convention: str, title: str
) -> None:
    """Measured by markers, predicted by dashes of the same colour."""
    for marker, name in zip("os^vDP*X<>", names, strict=False):
        color = None
        if name in curves:
            values = [getattr(error, convention) for error in curves[name]]
            (line,) = axis.plot(range(1, len(values) + 1), values, marker + "-", label=name)
            color = line.get_color()
        if name in predicted:
            label = None if name in curves else f"state evolution: {name}"
            axis.plot(range(1, N_LAYERS + 1), predicted[name], "--", color=color or "black", label=label)
    axis.set(xlabel="layer", ylabel=f"NMSE, {convention.replace('_', ' ')} [dB]", ylim=(-47, 0), title=title)
    axis.legend(loc="lower left")


def main() -> None:
    """Measure, predict, draw."""
    arguments = options(__doc__, "nmse_by_layer")
    problem = gaussian_problem()
    n_signals = 200 if arguments.quick else 2000
    curves, predicted = measure(problem, n_signals), predict(problem)
    rows = []
    for name in dict.fromkeys((*curves, *predicted)):
        for k in range(max(len(curves.get(name, ())), len(predicted.get(name, ())))):
            row = {"method": name, "layer": k + 1}
            known = vars(curves[name][k]) if name in curves else dict.fromkeys(vars(curves["ISTA"][0]), float("nan"))
            row |= {convention: round(value, 3) for convention, value in known.items()}
            rows.append(row | {"state_evolution": round(predicted[name][k], 3) if name in predicted else ""})
    figure, axes = panels(2, width=5.2, height=5.4)
    gradient = [name for name in curves if "ISTA" in name]
    draw(axes[0], gradient, curves, predicted, "ratio_of_sums", "Proximal gradient: given and learned")
    passing = [name for name in dict.fromkeys((*curves, *predicted)) if "ISTA" not in name]
    draw(axes[1], passing, curves, predicted, "median", "Message passing; dashed: state evolution")
    sentences = [f"NMSE in dB over {n_signals} signals after the last layer: ratio of sums, mean of ratios, median."]
    for name, errors in curves.items():
        last = errors[-1]
        sentences.append(
            f"{name}, {len(errors)} layers: {last.ratio_of_sums:.2f}, {last.mean_of_ratios:.2f}, {last.median:.2f}"
            + (f"; state evolution {predicted[name][-1]:.2f}" if name in predicted else "")
        )
    write(arguments.out, rows, figure, sentences)


if __name__ == "__main__":
    main()
