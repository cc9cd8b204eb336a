"""State evolution in MRI: variable-density message passing foretells its error, wavelet band by wavelet band.

    python scripts/reproduce/state_evolution_mri.py --scan FILE    about three minutes of one core
    python scripts/reproduce/state_evolution_mri.py --quick        under a minute: a small head, one mask

The analytic head, and one virtual coil of a fully sampled fastMRI file (its strongest, by singular values; by default
``kspace/brain_t1_7coil.h5`` of the folder that the variable MRI_UNROLL_DATA names). Noise is added 40 dB below the
signal; samples are drawn one by one, densely in the centre. What is believed about the error of the noisy picture is
held against that error, which only an experiment knows. FISTA has the same wavelets and, of five thresholds, the one
that ends best on this very picture.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import STYLE, write
from iteration_curves import iterates_of, shrink
from matplotlib.axes import Axes
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mri_unroll.io.registry import read_scan
from mri_unroll.nets.band_shrinkage import load
from mri_unroll.physics.density import ORDERED, regularity, sampling_probability
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import make_mask
from mri_unroll.recon.message_passing import shipped_denoiser
from mri_unroll.solvers.proximal import fista
from mri_unroll.solvers.shrinkage import soft_threshold
from mri_unroll.solvers.sure import BandsDenoiser
from mri_unroll.solvers.vdamp import GAUSSIAN, VdampIterate, vdamp_iterates
from mri_unroll.solvers.wavelet import WaveletBands, wavelet_bands

ACCELERATIONS = (4.0, 6.0, 8.0)
N_ITERATIONS, N_FISTA, N_SHIFTS = 20, 100, 4
THRESHOLDS = (2.5e-3, 6e-3, 1.6e-2, 4e-2, 0.1)  # with bright tissue near 1
NOISE = 1e-4  # its power over that of the signal
POWER, RADIUS = 8, 0.05  # of the density, and of the fully sampled centre; 1 in a corner


@dataclass(frozen=True)
class Problem:
    """One picture, and what a single coil measured of it."""

    truth: Tensor  # (y, x)
    kspace: Tensor  # (1, ky, kx)
    mask: Tensor  # (ky, kx)
    noise_var: float
    bands: WaveletBands

    def forward(self, image: Tensor) -> Tensor:
        """M F x."""
        return (centred_fft(image) * self.mask)[None]

    def adjoint(self, kspace: Tensor) -> Tensor:
        """F^H M y."""
        return centred_ifft(kspace[0] * self.mask)

    def decibels(self, image: Tensor) -> float:
        """NMSE of a complex picture."""
        error = (image - self.truth).abs().square().sum() / self.truth.abs().square().sum()
        return float(10 * error.log10())

    def iterates(self, probability: NDArray[np.float64], **settings: Any) -> Iterator[VdampIterate]:
        """Of message passing."""
        maps = torch.ones_like(self.kspace)
        drawn = torch.from_numpy(probability).to(maps.real)
        arguments = (self.kspace, self.mask, drawn, maps, self.noise_var, self.bands)
        return vdamp_iterates(self.forward, self.adjoint, *arguments, **settings)


def density(shape: tuple[int, int], acceleration: float) -> NDArray[np.float64]:
    """Probabilities that fall with the eighth power from the centre, with the mean asked for."""
    along = [np.linspace(-1, 1, n) for n in shape]
    distance = np.hypot(along[0][:, None], along[1]) / np.sqrt(2)
    lower, upper = 0.0, 1.0
    for _ in range(40):
        floor = (lower + upper) / 2
        probability = np.where(distance < RADIUS, 1.0, np.clip((1 - distance) ** POWER + floor, 0, 1))
        lower, upper = (lower, floor) if probability.mean() > 1 / acceleration else (floor, upper)
    return np.asarray(probability)


def measure(kspace: Tensor, mask: NDArray[np.bool_], seed: int) -> Problem:
    """Undersampled and with noise."""
    shape, kept = (kspace.shape[-2], kspace.shape[-1]), torch.from_numpy(mask)
    noise_var = NOISE * float(kspace.abs().square().mean())
    noise = torch.randn(shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(seed))
    noisy = (kspace + noise_var**0.5 * noise) * kept
    return Problem(centred_ifft(kspace), noisy[None], kept, noise_var, wavelet_bands(shape))


@dataclass
class Run:
    """What one run of message passing believed, and what was."""

    nmse: list[float] = field(default_factory=list)  # dB, of each iterate's picture
    whole: list[float] = field(default_factory=list)  # dB by which the belief about the noisy picture is too large
    believed: list[list[float]] = field(default_factory=list)  # dB below the signal, by iteration and band
    true: list[list[float]] = field(default_factory=list)
    kurtosis: list[float] = field(default_factory=list)  # median over bands
    belief: list[float] = field(default_factory=list)  # squared error of the noisy picture, believed

    @property
    def surest(self) -> float:
        """NMSE in dB of the picture of least believed error, which is where the methods end."""
        return self.nmse[int(np.argmin(self.belief))]

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Believed over true variance in dB, by iteration and band."""
        return np.array(self.believed) - np.array(self.true)


def follow(problem: Problem, iterates: Iterator[VdampIterate], n: int) -> Run:
    """Run and compare."""
    run, signal = Run(), problem.bands.analyse(problem.truth)
    energy = float(problem.truth.abs().square().mean())
    for iterate in islice(iterates, n):
        noises = [(noisy - x).abs().square() for noisy, x in zip(iterate.noisy, signal, strict=True)]
        total = sum(float(noise.sum()) for noise in noises)
        run.nmse.append(problem.decibels(iterate.image))
        run.whole.append(10 * np.log10(iterate.believed / total))
        run.believed.append([10 * np.log10(float(v.mean()) / energy) for v in iterate.noise_vars])
        run.true.append([10 * np.log10(float(noise.mean()) / energy) for noise in noises])
        moments = [GAUSSIAN / 2 * float(noise.square().mean() / noise.mean().square()) for noise in noises]
        run.kurtosis.append(float(np.median(moments)))
        run.belief.append(iterate.believed)
    return run


def best_fista(problem: Problem, n: int, shifted: bool, advance: Callable[[], None]) -> list[float]:
    """NMSE of each iterate with the threshold that ends best."""
    adjoint, random = problem.adjoint(problem.kspace), np.random.default_rng(0)
    curves = []
    for threshold in THRESHOLDS:

        def prox(image: Tensor, threshold: float = threshold) -> Tensor:
            shift = tuple(int(s) for s in random.integers(problem.bands.period, size=2)) if shifted else (0, 0)
            coarse, *fine = problem.bands.analyse(image.roll(shift, (0, 1)))
            kept = problem.bands.synthesise([coarse, *(soft_threshold(band, threshold) for band in fine)])
            return kept.roll((-shift[0], -shift[1]), (0, 1))

        pictures = iterates_of(
            lambda p: fista(
                lambda x: problem.adjoint(problem.forward(x) - problem.kspace), p, adjoint, 1.0, n_iterations=n
            ),
            prox,
        )
        curves.append([problem.decibels(picture) for picture in pictures])
        advance()
    return min(curves, key=lambda curve: curve[-1])


def settled(curve: list[float]) -> int:
    """Iterations until a curve is within 0.1 dB of its end for good."""
    outside = [k for k, value in enumerate(curve, start=1) if abs(value - curve[-1]) > 0.1]
    return outside[-1] + 1 if outside else 1


@dataclass
class Outcome:
    """All runs of one picture at one acceleration, a list entry a mask."""

    zero_filled: list[float] = field(default_factory=list)
    fixed: list[Run] = field(default_factory=list)
    estimated: list[Run] = field(default_factory=list)
    shifted: list[Run] = field(default_factory=list)
    learned: list[Run] = field(default_factory=list)
    without: list[Run] = field(default_factory=list)
    fista: list[list[float]] = field(default_factory=list)
    fista_shifted: list[list[float]] = field(default_factory=list)


def experiment(
    kspace: Tensor, acceleration: float, n_masks: int, n_fista: int, network: BandsDenoiser, advance: Callable[[], None]
) -> Outcome:
    """Every method on the same measurements."""
    outcome, probability = Outcome(), density((kspace.shape[-2], kspace.shape[-1]), acceleration)
    for seed in range(n_masks):
        mask = np.random.default_rng(seed).random(probability.shape) < probability
        problem = measure(kspace, mask, seed)
        outcome.zero_filled.append(problem.decibels(problem.adjoint(problem.kspace)))
        outcome.fixed.append(follow(problem, problem.iterates(probability), N_ITERATIONS))
        outcome.estimated.append(follow(problem, problem.iterates(sampling_probability(mask)), N_ITERATIONS))
        outcome.shifted.append(follow(problem, problem.iterates(probability, n_shifts=N_SHIFTS), N_ITERATIONS))
        learned = problem.iterates(probability, denoiser=network, n_shifts=N_SHIFTS)
        outcome.learned.append(follow(problem, learned, N_ITERATIONS))
        outcome.without.append(follow(problem, problem.iterates(probability, onsager=False), N_ITERATIONS))
        outcome.fista.append(best_fista(problem, n_fista, False, advance))
        outcome.fista_shifted.append(best_fista(problem, n_fista, True, advance))
    return outcome


def table(name: str, acceleration: float, outcome: Outcome) -> list[dict[str, Any]]:
    """One line a method."""
    rows = []
    zero_filled = round(float(np.mean(outcome.zero_filled)), 2)
    runs = {
        "VDAMP": outcome.fixed,
        "VDAMP, probabilities estimated": outcome.estimated,
        f"VDAMP, {N_SHIFTS} shifts": outcome.shifted,
        f"VDAMP, network, {N_SHIFTS} shifts": outcome.learned,
        "VDAMP without Onsager term": outcome.without,
    }
    start: dict[str, Any] = {"picture": name, "acceleration": acceleration, "zero_filled_db": zero_filled}
    for method, found in runs.items():
        gaps, whole = np.array([run.gaps for run in found]), np.array([run.whole for run in found])
        row = {
            "method": method,
            "nmse_db": np.mean([run.nmse[-1] for run in found]),
            "surest_db": np.mean([run.surest for run in found]),
            "iterations": np.mean([settled(run.nmse) for run in found]),
            "whole_gap_db": whole.mean(),
            "whole_gap_sd_db": whole.std(),
            "band_gap_db": np.abs(gaps).mean(),
            "band_gap_first_db": np.abs(gaps[:, 0]).mean(),
            "kurtosis": np.mean([run.kurtosis for run in found]),
        }
        rows.append(start | {key: round(float(v), 3) if not isinstance(v, str) else v for key, v in row.items()})
    for method, curves in (("FISTA", outcome.fista), ("FISTA, shifts", outcome.fista_shifted)):
        rows.append(
            dict.fromkeys(rows[0], "")
            | start
            | {
                "method": method,
                "nmse_db": round(float(np.mean([curve[-1] for curve in curves])), 3),
                "iterations": round(float(np.mean([settled(curve) for curve in curves])), 1),
            }
        )
    return rows


def sentences(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """What was seen at one acceleration."""
    by_method = {row["method"]: row for row in rows}
    found, without, fista_row = by_method["VDAMP"], by_method["VDAMP without Onsager term"], by_method["FISTA"]
    shifted, also = by_method[f"VDAMP, {N_SHIFTS} shifts"], by_method["FISTA, shifts"]
    estimated, learned = by_method["VDAMP, probabilities estimated"], by_method[f"VDAMP, network, {N_SHIFTS} shifts"]
    return [
        f"{name}, R = {found['acceleration']:g}: zero-filled {found['zero_filled_db']:.2f} dB. VDAMP "
        f"{found['nmse_db']:.2f} dB, there after {found['iterations']:.1f} iterations; FISTA "
        f"{fista_row['nmse_db']:.2f} dB after {fista_row['iterations']:.1f}; with shifted wavelets "
        f"{shifted['nmse_db']:.2f} dB after {shifted['iterations']:.1f}, FISTA {also['nmse_db']:.2f} dB after "
        f"{also['iterations']:.1f}; with a network as well, where it is "
        f"surest, {learned['surest_db']:.2f} dB; without Onsager term {without['nmse_db']:.2f} dB.",
        f"  Belief about the whole picture {found['whole_gap_db']:+.2f} dB (s.d. {found['whole_gap_sd_db']:.2f}); "
        f"about a band off by {found['band_gap_db']:.2f} dB in the mean ({found['band_gap_first_db']:.2f} in the first "
        f"iteration), kurtosis {found['kurtosis']:.2f}; with estimated probabilities {estimated['whole_gap_db']:+.2f} "
        f"and {estimated['band_gap_db']:.2f} dB; with shifts {shifted['whole_gap_db']:+.2f} and "
        f"{shifted['band_gap_db']:.2f} dB; with a network {learned['whole_gap_db']:+.2f} and "
        f"{learned['band_gap_db']:.2f} dB; without Onsager term {without['whole_gap_db']:+.2f} and "
        f"{without['band_gap_db']:.2f} dB.",
    ]


def lines(name: str, kspace: Tensor) -> str:
    """What happens with an ordinary mask of lines, which the method refuses."""
    mask = make_mask("random", (kspace.shape[-2], kspace.shape[-1]), 4.0, seed=0)
    probability = sampling_probability(mask)
    run = follow(measure(kspace, mask, 0), measure(kspace, mask, 0).iterates(probability), 10)
    return (
        f"{name}, random lines, R = 4: regularity {regularity(mask, probability):.0f}, above {ORDERED:g}: refused. Run "
        f"all the same: NMSE {run.nmse[0]:.1f}, {run.nmse[4]:.1f}, {run.nmse[9]:.1f} dB after 1, 5, 10 iterations, "
        f"kurtosis {run.kurtosis[0]:.1f} at first and {run.kurtosis[9]:.0f} then."
    )


def draw(axes: list[Axes], name: str, outcomes: dict[float, Outcome]) -> None:
    """Belief against truth by band, error by iteration, and the belief about the whole."""
    scatter, curves, belief = axes
    for index, (acceleration, outcome) in enumerate(outcomes.items()):
        color, label = f"C{index}", f"R = {acceleration:g}"
        run = outcome.fixed[0]
        scatter.plot(np.ravel(run.believed), np.ravel(run.true), ".", color=color, alpha=0.5, label=label)
        steps = np.arange(1, N_ITERATIONS + 1)
        curves.plot(steps, np.mean([r.nmse for r in outcome.fixed], 0), color=color, label=f"VDAMP, {label}")
        curves.plot(steps, np.mean([r.nmse for r in outcome.learned], 0), "-.", color=color)
        curves.plot(np.arange(1, len(outcome.fista[0]) + 1), np.mean(outcome.fista, 0), "--", color=color)
        curves.plot(steps, np.mean([r.nmse for r in outcome.without], 0), ":", color=color)
        belief.plot(steps, np.mean([r.whole for r in outcome.fixed], 0), color=color, label=label)
        belief.plot(steps, np.mean([r.whole for r in outcome.learned], 0), "-.", color=color)
        belief.plot(steps, np.mean([r.whole for r in outcome.without], 0), ":", color=color)
    ends = (min(scatter.get_xlim()[0], scatter.get_ylim()[0]), max(scatter.get_xlim()[1], scatter.get_ylim()[1]))
    scatter.plot(ends, ends, color="black", linewidth=0.8)
    scatter.set(title=f"{name}: error of each band", xlabel="believed, dB below the signal", ylabel="measured, dB")
    low = min(float(np.min([r.nmse for r in (*o.fixed, *o.learned)])) for o in outcomes.values())
    curves.set(xscale="log", ylim=(low - 1, low + 11), title="Error: network -., FISTA - -, no Onsager ...")
    curves.set(xlabel="iteration", ylabel="NMSE, dB")
    belief.axhline(0, color="black", linewidth=0.8)
    belief.set(title="Belief: network -., no Onsager ...", xlabel="iteration", ylabel="believed over true, dB")
    for one in axes:
        one.legend()


def virtual_coil(path: Path) -> Tensor:
    """The middle slice's strongest combination of coils, with bright tissue near 1."""
    measured = torch.from_numpy(read_scan(path).kspace)
    kspace = measured[len(measured) // 2]
    weights = torch.linalg.svd(kspace.flatten(1), full_matrices=False)[0][:, 0].conj()
    return scaled(torch.tensordot(weights, kspace, 1))


def scaled(kspace: Tensor) -> Tensor:
    """The 99th percentile of the picture is 1."""
    return kspace / torch.quantile(centred_ifft(kspace).abs(), 0.99)


def main() -> None:
    """Run on the head, and on a scan if there is one."""
    folder = os.environ.get("MRI_UNROLL_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("results/state_evolution_mri"), help="folder for CSV, PNG and text"
    )
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--masks", type=int, default=1, help="how many masks are averaged over")
    known = Path(folder) / "kspace" / "brain_t1_7coil.h5" if folder else None
    parser.add_argument("--scan", type=Path, default=known, help="a fully sampled fastMRI file, Cartesian")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    shape, n_fista = ((96, 80), 20) if arguments.quick else ((192, 160), N_FISTA)
    n_masks = 1 if arguments.quick else arguments.masks
    accelerations = ACCELERATIONS[:1] if arguments.quick else ACCELERATIONS
    pictures = {"analytic head": scaled(torch.from_numpy(phantom_kspace(shape, 1)[0, 0]))}
    if arguments.scan and not arguments.quick:
        pictures[arguments.scan.stem] = virtual_coil(arguments.scan)
    network = load(shipped_denoiser())[0]
    plt.rcParams.update(STYLE)
    figure, grid = plt.subplots(
        len(pictures), 3, figsize=(11, 3.3 * len(pictures)), layout="constrained", squeeze=False
    )
    rows, seen = [], []
    with Progress(console=Console(stderr=True)) as progress, torch.inference_mode():
        task = progress.add_task("running", total=len(pictures) * len(accelerations) * n_masks * 2 * len(THRESHOLDS))
        for axes, (name, kspace) in zip(grid, pictures.items(), strict=True):
            outcomes = {}
            for acceleration in accelerations:
                outcomes[acceleration] = experiment(
                    kspace, acceleration, n_masks, n_fista, network, lambda: progress.advance(task)
                )
                rows += (new := table(name, acceleration, outcomes[acceleration]))
                seen += sentences(name, new)
            seen.append(lines(name, kspace))
            draw(list(axes), name, outcomes)
    write(arguments.out, rows, figure, seen)
    shrink(arguments.out / "figure.png")


if __name__ == "__main__":
    main()
