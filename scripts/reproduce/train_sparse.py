"""Train the networks of the sparse recovery figures, one CPU core, a few minutes each.

    python scripts/reproduce/train_sparse.py                     # all that are not there yet
    python scripts/reproduce/train_sparse.py --only alista lamp  # these, anew
    python scripts/reproduce/train_sparse.py --refine lamp       # go on with this one, at a quarter of its rates

Each network is grown layer by layer: a new layer starts from the scalars of the last, then all are trained together on
fresh signals, and the full depth gets most of the time. Every finished network is saved at once, so that a killed run
goes on with the next.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from sparse_problem import (
    TRAINING_SEED,
    VALIDATION_SEED,
    WEIGHTS,
    SparseProblem,
    build,
    gaussian_problem,
    load,
    nmse,
    save,
    trained,
)
from torch import Tensor, nn

CLIP_NORM, BATCH = 10.0, 256


@dataclass(frozen=True)
class Recipe:
    """A network and how long it is trained."""

    config: dict[str, Any]
    n_final: int  # steps at full depth
    n_grow: int = 0  # steps at each depth before; 0 trains all layers together at once
    start_from: str = ""  # a trained network that this one starts from
    matrix_rate: float = 2e-3
    scalar_rate: float = 1e-2
    dtype: torch.dtype = torch.float32  # of the saved matrices


def _lista(n_layers: int, weights: str, **options: Any) -> dict[str, Any]:
    return {"kind": "lista", "n_layers": n_layers, "weights": weights, **options}


def _amp(n_layers: int, **options: Any) -> dict[str, Any]:
    return {"kind": "amp", "n_layers": n_layers, **options}


SUPPORT = (0.012, 0.13)
HALF = torch.float16
RECIPES = {
    "alista_support": Recipe(_lista(8, "analytic", support=SUPPORT), n_grow=300, n_final=2000),
    "lista_cp_support": Recipe(
        _lista(8, "coupled", support=SUPPORT), n_final=2000, start_from="alista_support", matrix_rate=1e-3
    ),
    "lista_tied": Recipe(_lista(6, "two-matrix"), n_final=1200, start_from="alista_support", matrix_rate=1e-3),
    "lista_untied": Recipe(
        _lista(6, "two-matrix", tied=False),
        n_final=400,
        start_from="lista_tied",
        matrix_rate=1e-4,
        scalar_rate=1e-3,
        dtype=HALF,
    ),
    "lista_cp": Recipe(_lista(8, "coupled"), n_final=700, start_from="alista_support", matrix_rate=1e-3),
    "amp_tuned": Recipe(_amp(8, learn_matrix=False, learn_gain=False), n_final=200),
    "lista_step": Recipe(_lista(8, "step"), n_grow=60, n_final=250),
    "lamp_analytic": Recipe(_amp(8, start="analytic", learn_matrix=False, alpha=1.5), n_final=200, scalar_rate=2e-2),
    "lamp": Recipe(_amp(8), n_final=1500, start_from="lamp_analytic", matrix_rate=1e-3, scalar_rate=4e-3),
    "lamp_bg": Recipe(
        _amp(6, shrinkage="bernoulli-gauss", start="analytic"), n_final=1200, matrix_rate=1e-3, scalar_rate=1e-2
    ),
    "alista": Recipe(_lista(8, "analytic"), n_final=300, start_from="alista_support"),
    "lista_momentum": Recipe(
        _lista(8, "coupled", momentum="learned"), n_final=400, start_from="lista_cp", matrix_rate=3e-4
    ),
    "lamp_untied": Recipe(
        _amp(8, tied=False), n_final=400, start_from="lamp", matrix_rate=2e-4, scalar_rate=1e-3, dtype=HALF
    ),
}


def warm_start(network: nn.Module, source: nn.Module) -> None:
    """Let ``network`` begin as ``source``: all its layers with the same matrices, without momentum."""
    there = {
        "adjoint": source.adjoint,
        "gram": source.adjoint @ source.matrix,
        "momentum_weights": torch.zeros(network.n_layers),
        **source.state_dict(),
    }
    network.load_state_dict(
        {
            name: there[name].expand_as(mine) if mine.ndim > 1 else there[name][: network.n_layers]
            for name, mine in network.state_dict().items()
        }
    )


def grow(network: nn.Module, depth: int) -> None:
    """Give layer ``depth`` the scalars of the layer before it."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 and name != "momentum_weights":
                parameter[depth - 1] = parameter[depth - 2]


def train(
    name: str, problem: SparseProblem, folder: Path, scale: float, refine: bool, progress: Progress
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train one network; the log holds the validation NMSE at the end of each depth."""
    generator = torch.Generator().manual_seed(TRAINING_SEED)
    validation = problem.draw(1000, torch.Generator().manual_seed(VALIDATION_SEED))
    recipe = RECIPES[name]
    if refine:
        recipe = replace(
            recipe, start_from=name, n_grow=0, matrix_rate=recipe.matrix_rate / 4, scalar_rate=recipe.scalar_rate / 4
        )
    network = build(recipe.config, problem.matrix)
    n_layers = recipe.config["n_layers"]
    if recipe.start_from:
        warm_start(network, load(recipe.start_from, problem, folder))
    depths = range(1 if recipe.n_grow else n_layers, n_layers + 1)
    lengths = [max(1, int(scale * (recipe.n_final if d == n_layers else recipe.n_grow))) for d in depths]
    task = progress.add_task(name, total=sum(d * n for d, n in zip(depths, lengths, strict=True)))
    log, begin = [], time.process_time()
    for depth, n_steps in zip(depths, lengths, strict=True):
        if depth > 1 and not recipe.start_from:
            grow(network, depth)
        fit(network, depth, n_steps, problem, generator, recipe, lambda d=depth: progress.advance(task, d))
        errors = evaluate(network, depth, validation)
        log.append(
            {
                "network": name,
                "depth": depth,
                "nmse_db": round(errors, 3),
                "steps": n_steps,
                "cpu_s": round(time.process_time() - begin),
            }
        )
        progress.console.log(log[-1])
    return network, log


def fit(
    network: nn.Module,
    depth: int,
    n_steps: int,
    problem: SparseProblem,
    generator: torch.Generator,
    recipe: Recipe,
    advance: Callable[[], None],
) -> None:
    """Adam on the logarithm of the NMSE after ``depth`` layers."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    scalars = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "lr": recipe.matrix_rate}, {"params": scalars, "lr": recipe.scalar_rate}]
    optimiser = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(n_steps):
        signals, measurements = problem.draw(BATCH, generator)
        *_, estimate = network.iterates(measurements, depth)
        loss = ((estimate - signals).square().sum() / signals.square().sum()).log()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
        schedule.step()
        advance()


@torch.no_grad()
def evaluate(network: nn.Module, depth: int, data: tuple[Tensor, Tensor]) -> float:
    """NMSE in dB, ratio of sums, after ``depth`` layers."""
    *_, estimate = network.iterates(data[1], depth)
    return nmse(data[0], estimate).ratio_of_sums


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=RECIPES, help="train these, also if they are there")
    which.add_argument("--refine", nargs="+", choices=RECIPES, help="train these further")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the networks and the training log")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all training lengths")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = gaussian_problem()
    with Progress() as progress:
        for name in (
            arguments.refine or arguments.only or [name for name in RECIPES if name not in trained(arguments.weights)]
        ):
            network, log = train(name, problem, arguments.weights, arguments.scale, bool(arguments.refine), progress)
            save(network, RECIPES[name].config, arguments.weights / f"{name}.safetensors", RECIPES[name].dtype)
            record(log, arguments.weights / "training_log.csv", keep=bool(arguments.refine))


def record(log: list[dict[str, Any]], path: Path, keep: bool) -> None:
    """Put the lines of one network in place of its older ones in the training log, or after them."""
    lines = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    if not keep:
        lines = [line for line in lines if line["network"] != log[0]["network"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(log[0]))
        writer.writeheader()
        writer.writerows(lines + log)


if __name__ == "__main__":
    main()
