"""One set of weights for all layers or one a layer, and what learned layers do with their steps and thresholds.

    python scripts/reproduce/tied_vs_untied.py [--quick] [--out FOLDER]

Drawn from the weights beside this script. The step size of a layer with learned matrices is how far it goes along the
gradient: the projection of its matrix on that of ISTA, times its own step size.
"""

from __future__ import annotations

import torch
from figures import options, panels, write
from sparse_problem import gaussian_problem, load, nmse, trained

PAIRS = {"LISTA": ("lista_tied", "lista_untied"), "LAMP": ("lamp", "lamp_untied")}
STEPS = {
    "lista_tied": "LISTA, tied",
    "lista_untied": "LISTA, untied",
    "lista_step": "steps and thresholds only",
    "lista_cp": "coupled, tied",
}


@torch.no_grad()
def main() -> None:
    """Load, measure, draw."""
    arguments = options(__doc__, "tied_vs_untied")
    problem = gaussian_problem()
    n_signals = 200 if arguments.quick else 2000
    signals, data = problem.test_set(n_signals)
    figure, axes = panels(3, width=4.0)
    rows, sentences = [], [f"NMSE in dB over {n_signals} signals, ratio of sums, after the last layer."]
    for family, names in PAIRS.items():
        for name, way in zip(names, ("tied", "untied"), strict=True):
            if name not in trained():
                continue
            network = load(name, problem)
            values = [nmse(signals, x).ratio_of_sums for x in network.iterates(data)]
            axes[0].plot(range(1, len(values) + 1), values, "o-" if way == "tied" else "s--", label=f"{family}, {way}")
            rows += [
                {"quantity": "nmse_db", "network": name, "layer": k, "value": round(value, 3)}
                for k, value in enumerate(values, start=1)
            ]
            n_numbers = sum(parameter.numel() for parameter in network.parameters())
            sentences.append(f"{family}, {way}: {values[-1]:.2f} dB after {len(values)} layers, {n_numbers} numbers.")
    axes[0].set(xlabel="layer", ylabel="NMSE, ratio of sums [dB]", title="Tied against untied")
    gradient_step = 1 / float(torch.linalg.matrix_norm(problem.matrix, 2)) ** 2
    for name, label in STEPS.items():
        if name not in trained():
            continue
        network = load(name, problem)
        steps, thresholds = network.effective_step_sizes.tolist(), network.thresholds.tolist()
        layers = range(1, len(steps) + 1)
        axes[1].semilogy(layers, steps, "o-", label=label)
        axes[2].semilogy(layers, thresholds, "o-", label=label)
        for quantity, values in (("step_size", steps), ("threshold", thresholds)):
            rows += [
                {"quantity": quantity, "network": name, "layer": k, "value": round(value, 5)}
                for k, value in enumerate(values, start=1)
            ]
        ratio = [step / gradient_step for step in steps]
        sentences.append(
            f"{label}: steps of {min(ratio):.1f} to {max(ratio):.1f} times the safe 1/||A||^2; the threshold goes from "
            f"{thresholds[0]:.3f} to {thresholds[-1]:.3f}."
        )
    axes[1].axhline(gradient_step, color="black", linestyle=":", label="ISTA, 1/||A||²")
    axes[1].axhline(2 * gradient_step, color="grey", linestyle=":", label="descent ends, 2/||A||²")
    axes[1].set(xlabel="layer", ylabel="step along the gradient", ylim=(0.1, 200), title="Learned step sizes")
    axes[2].set(xlabel="layer", ylabel="threshold", title="Learned thresholds")
    for axis in axes:
        axis.legend()
    write(arguments.out, rows, figure, sentences)


if __name__ == "__main__":
    main()
