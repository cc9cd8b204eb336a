"""Draw how good the pictures of an equilibrium are, iteration by iteration, far beyond where it stops.

    python scripts/figures/equilibrium.py --data ../shared/data/truth --scan SCAN.h5 --out docs/models/equilibrium.png

Simulated scans of people whom no network was trained on, and one real, fully sampled scan at 4x; beside them what
`unrolled` has. Prints what twice the iterations change, and 200.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from mri_unroll import metrics
from mri_unroll.config import load_toml
from mri_unroll.io.registry import read_scan
from mri_unroll.nets.equilibrium import Equilibrium
from mri_unroll.nets.model import Network, load
from mri_unroll.nets.prior import n_conditions
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.recon.learned import as_fully_sampled
from mri_unroll.recon.parts import take_apart
from mri_unroll.recon.reconstructor import shipped_models
from mri_unroll.recon.retrospective import undersample
from mri_unroll.training.dataset import SimulatedScans, find_volumes
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import POISSON_SHARE, Acquisition

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
ITERATIONS = 200
SHOWN = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60, 80, 100, 120, 160, 200)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A problem, and how good a picture of it is, in decibels, more being better."""

    problem: CalibratedSlice
    quality: Callable[[Tensor], float]

    def of(self, network: Network) -> tuple[Tensor, LinearOperator, Tensor]:
        """What a network is given, the noise to be kept."""
        strength = self.problem.conditions(n_conditions(network))
        return self.problem.op.adjoint(self.problem.kspace), self.problem.op, strength


def simulated(data: Path, count: int) -> list[Case]:
    """Scans of people whom no network was trained on; quality is that of what is shown, in the body, noise kept."""
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    scans = SimulatedScans(find_volumes(data, config.held_out)[1], 9, count, None, POISSON_SHARE)
    return [_simulated(scans[index]) for index in range(count)]


def _simulated(acquired: Acquisition) -> Case:
    assert acquired.coil_images is not None
    assert acquired.noise_images is not None
    problem = calibrate_slice(torch.from_numpy(acquired.kspace), torch.from_numpy(acquired.mask))
    truth = np.linalg.norm(acquired.coil_images + acquired.noise_images, axis=0)[acquired.body]

    def quality(image: Tensor) -> float:
        shown = as_fully_sampled(problem, image, problem.op, 1.0)[0].numpy()[acquired.body] * problem.scale
        return -10 * math.log10(float(np.square(shown - truth).sum() / np.square(truth).sum()))

    return Case(problem, quality)


def measured(path: Path) -> Case:
    """One slice of a real scan at 4x; quality is that of what is shown, in the body, against its full sampling."""
    scan = read_scan(path, slice(0, 1))
    assert scan.reference is not None
    truth, parts = scan.reference, take_apart(undersample(scan, "random", 4.0, 0.08, seed=0))
    problem = parts.take(0).calibrated()

    def quality(image: Tensor) -> float:
        shown = as_fully_sampled(problem, image, problem.op, 1.0)[0] * problem.scale
        return -10 * math.log10(metrics.in_body(truth, parts.assembled([parts.cropped(shown)]))["nmse"])

    return Case(problem, quality)


def by_iteration(network: Equilibrium, case: Case, tolerance: float | None) -> tuple[list[float], int]:
    """Quality of what the solver would give after each number of iterations, and how many it takes by itself."""
    images: list[Tensor] = []
    step = network.step

    class Watched(torch.nn.Module):
        def forward(self, image: Tensor, *rest: Tensor) -> Tensor:
            images.append(step(image, *rest))
            sizes.append(float((images[-1] - image).norm() / images[-1].norm()))
            return images[-1]

    sizes: list[float] = []
    given = case.of(network)
    own = network(*given, tolerance=tolerance).n_iterations
    network.step = Watched()
    try:
        network(*given, tolerance=0.0, n_iterations=ITERATIONS)
    finally:
        network.step = step
    best = [int(np.argmin(sizes[:count])) for count in range(1, ITERATIONS + 1)]  # what `fixed_point` gives back
    wanted = {count: best[count - 1] for count in {*SHOWN, own, min(2 * own, ITERATIONS)}}
    quality = {index: case.quality(images[index]) for index in set(wanted.values())}
    return [quality[wanted[count]] if count in wanted else math.nan for count in range(1, ITERATIONS + 1)], own


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of magnitude images, see docs/training.md")
    parser.add_argument("--scan", type=Path, help="a real, fully sampled scan")
    parser.add_argument("--weights", type=Path, help="of an equilibrium; default: the one that ships")
    parser.add_argument("--tolerance", type=float, help="relative residual at which it stops; default: its own")
    parser.add_argument("--count", type=int, default=8, help="simulated scans")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network: Network = load(arguments.weights or shipped_models()["equilibrium"])[0]
    assert isinstance(network, Equilibrium)
    unrolled = load(shipped_models()["unrolled"])[0]
    groups = {f"{arguments.count} simulated scans": simulated(arguments.data, arguments.count)}
    if arguments.scan:
        groups[f"{arguments.scan.stem}, 4x"] = [measured(arguments.scan)]
    figure, axes = plt.subplots(1, len(groups), figsize=(4.4 * len(groups), 3.3), layout="constrained", squeeze=False)
    for axis, (name, cases) in zip(axes[0], groups.items(), strict=True):
        with torch.inference_mode():
            found = [by_iteration(network, case, arguments.tolerance) for case in cases]
            beside = [case.quality(unrolled(*case.of(unrolled)).value) for case in cases]
        curves, own = np.array([curve for curve, _ in found]), np.array([count for _, count in found])
        rows = np.arange(len(cases))
        stopped = curves[rows, own - 1]
        twice, last = curves[rows, np.minimum(2 * own, ITERATIONS) - 1], curves[:, -1]
        print(
            f"{name}: equilibrium {stopped.mean():.2f} dB in {np.median(own):.0f} iterations (median), unrolled "
            f"{np.mean(beside):.2f} dB; twice the iterations change {(twice - stopped).mean():+.3f} dB, at worst "
            f"{(twice - stopped).min():+.3f}; {ITERATIONS} iterations {(last - stopped).mean():+.3f} dB, at worst "
            f"{(last - stopped).min():+.3f}"
        )
        at = np.array(SHOWN)
        axis.plot(at, curves[:, at - 1].mean(0), "o-", ms=3, color="#0072b2", label="equilibrium")
        axis.axhline(float(np.mean(beside)), color="#d55e00", label=f"unrolled, {len(unrolled.steps)} steps")
        axis.axvline(float(np.median(own)), color="0.5", ls=":", label="where it stops (median)")
        axis.set(xscale="log", xlabel="iterations", ylabel="-NMSE in the body [dB]", title=name)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
