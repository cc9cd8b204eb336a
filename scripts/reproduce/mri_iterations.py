"""Multi-coil MRI: the shipped network, layer by layer, against its own classical algorithms.

python scripts/reproduce/mri_iterations.py              a few minutes; needs nothing but the repository
python scripts/reproduce/mri_iterations.py --quick      seconds: a small picture, few iterations
python scripts/reproduce/mri_iterations.py --scan FILE  also a fully sampled fastMRI file, to report on

K-space of the analytic head, eight coils, with noise, undersampled four times by lines. Maps, scale and noise level are
estimated from the undersampled data. The classical thresholds are those that are best on these very slices; the
network, which never saw the head, gets no such help. ``--scan`` changes no setting: its thresholds are chosen anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from figures import STYLE, write
from iteration_curves import CountedOperator, Curve, draw, follow, iterates_of, shrink, table, wavelet_prox
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mri_unroll.io.registry import read_scan
from mri_unroll.nets.model import load
from mri_unroll.nets.prior import n_conditions
from mri_unroll.nets.steps import data_consistency
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import make_mask
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.recon.reconstructor import shipped_models
from mri_unroll.solvers.cg import cg
from mri_unroll.solvers.proximal import fista, ista

ACCELERATION, CENTER_FRACTION = 4.0, 0.08
NOISE = 0.01  # of the head's tissue of 0.1 to 0.9, in the real and the imaginary part
THRESHOLDS = (4e-4, 1e-3, 2.5e-3, 6e-3, 1.6e-2, 4e-2, 0.1)  # in units where bright tissue is near 1
N_CG = 4  # per step of the half-quadratic method, as in the network


@dataclass
class Slice:
    """One undersampled slice with its truth."""

    problem: CalibratedSlice
    reference: Tensor  # (y, x), root sum of squares of the fully sampled coil images, in units of the problem

    def psnr(self, picture: Tensor) -> float:
        """Of the magnitude, for the reference's maximum."""
        error = (picture[0].abs() - self.reference).square().mean()
        return float(10 * torch.log10(self.reference.max().square() / error))


def undersample(measured: Tensor, reference: Tensor, seed: int) -> Slice:
    """Keep a quarter of the lines of ``(coil, ky, kx)`` and calibrate on what is left."""
    shape = (measured.shape[-2], measured.shape[-1])
    # Lines that were filled with zeros were not measured.
    columns = np.broadcast_to((measured != 0).any(0).any(0).numpy(), shape)
    mask = make_mask("equispaced_fraction", shape, ACCELERATION, CENTER_FRACTION, seed=seed, measured=columns)
    problem = calibrate_slice(measured, torch.from_numpy(np.array(mask)))
    return Slice(problem, reference / problem.scale)


def root_sum_of_squares(kspace: Tensor) -> Tensor:
    """``(slice, coil, ky, kx)`` to magnitudes ``(slice, y, x)``."""
    return torch.linalg.vector_norm(centred_ifft(kspace), dim=1)


def head(shape: tuple[int, int], n_slices: int) -> list[Slice]:
    """Slices of the analytic head; the truth is what a scanner without noise would have given."""
    clean = torch.from_numpy(phantom_kspace(shape, 8, n_slices=n_slices))
    noisy = torch.from_numpy(phantom_kspace(shape, 8, n_slices=n_slices, noise=NOISE, seed=0))
    pairs = zip(noisy, root_sum_of_squares(clean), strict=True)
    return [undersample(kspace, reference, seed) for seed, (kspace, reference) in enumerate(pairs)]


def half_quadratic(problem: CalibratedSlice, op: CountedOperator, threshold: float, n: int) -> Iterator[Tensor]:
    """The network's own iteration with wavelets in place of its priors: shrink, then agree with the measurements."""
    adjoint = problem.op.adjoint(problem.kspace)
    prox = wavelet_prox(threshold, tuple(adjoint.shape[-2:]))
    weight = torch.tensor(0.05)  # where training of the network starts from
    image = data_consistency(op, adjoint, torch.zeros_like(adjoint), torch.tensor(0.01), 8)
    yield image
    for _ in range(n):
        image = data_consistency(op, adjoint, prox(image), weight, N_CG)
        yield image


def proximal(
    solver: Callable[..., object], problem: CalibratedSlice, op: CountedOperator, threshold: float, n: int
) -> Iterator[Tensor]:
    """ISTA or FISTA with wavelets, from the zero-filled picture."""
    adjoint = problem.op.adjoint(problem.kspace)
    prox = wavelet_prox(threshold, tuple(adjoint.shape[-2:]))
    pictures = iterates_of(
        lambda p: solver(lambda x: problem.op.gradient(x, adjoint), p, adjoint, 1.0, n_iterations=n), prox
    )
    for picture in pictures:
        op.count += 1
        yield picture


def cg_sense(problem: CalibratedSlice, op: CountedOperator, n: int) -> Iterator[Tensor]:
    """Least squares by conjugate gradients, whose early iterates are its only regularisation."""
    adjoint = problem.op.adjoint(problem.kspace)
    for count in range(1, n + 1):
        op.count = count
        yield cg(problem.op.normal, adjoint, n_iterations=count).value


def mean_curve(
    method: str, slices: list[Slice], iterates: Callable[[Slice, CountedOperator], Iterable[Tensor]]
) -> Curve:
    """Run a method on every slice, and average the decibels of each iterate."""
    curves = []
    for item in slices:
        op = CountedOperator(item.problem.op)
        curves.append(follow(method, iterates(item, op), op, item.psnr))
    psnr = np.mean([curve.psnr for curve in curves], axis=0).tolist()
    return Curve(method, curves[0].cost, psnr, curves[-1].picture)


def compare(
    slices: list[Slice], network: Unrolled, n: int, thresholds: tuple[float, ...], advance: Callable[[], None]
) -> list[Curve]:
    """The network, then each classical method with the threshold that ends best."""

    def learned(item: Slice, op: CountedOperator) -> Iterator[Tensor]:
        adjoint = item.problem.op.adjoint(item.problem.kspace)
        strength = item.problem.conditions(n_conditions(network), noise_kept=0.0)  # the truth here has no noise
        return network.iterates(adjoint, op, strength)

    def best(name: str, iterates: Callable[[Slice, CountedOperator, float], Iterable[Tensor]]) -> Curve:
        tried = []
        for w in thresholds:
            tried.append(mean_curve(f"{name} ({w:g})", slices, lambda item, op, w=w: iterates(item, op, w)))
            advance()
        return max(tried, key=lambda curve: curve.psnr[-1])

    curves = [mean_curve(f"learned, {len(network.steps)} steps", slices, learned)]
    curves.append(best("same steps, wavelets", lambda s, op, w: half_quadratic(s.problem, op, w, n // 5)))
    curves.append(best("FISTA, wavelets", lambda s, op, w: proximal(fista, s.problem, op, w, n)))
    curves.append(best("ISTA, wavelets", lambda s, op, w: proximal(ista, s.problem, op, w, n)))
    curves.append(mean_curve("CG-SENSE", slices, lambda s, op: cg_sense(s.problem, op, min(n, 30))))
    advance()
    return curves


def describe(name: str, slices: list[Slice], curves: list[Curve]) -> str:
    """A few sentences on one scan."""
    zero_filled = np.mean([s.psnr(s.problem.op.adjoint(s.problem.kspace)) for s in slices])
    learned = curves[0]
    lines = [f"{name}: zero-filled {zero_filled:.2f} dB; the network by layer (start first):"]
    lines.append("  " + ", ".join(f"{p:.2f} ({c:g})" for p, c in zip(learned.psnr, learned.cost, strict=True)))
    lines.append("  in brackets: applications of A^H A so far")
    for curve in curves[1:]:
        at = curve.cost[curve.psnr.index(curve.best)]
        reached, passed = curve.cost_of(learned.psnr[-1]), learned.cost_of(curve.best)
        lines.append(
            f"  {curve.method}: best {curve.best:.2f} dB after {at:g} A^H A; "
            + (f"never the network's in {curve.cost[-1]:g}" if reached is None else f"the network's after {reached:g}")
            + ("; the network never reaches it" if passed is None else f"; the network passes it after {passed:g}")
        )
    return "\n".join(lines)


def draw_all(results: dict[str, tuple[list[Slice], list[Curve]]]) -> Figure:
    """Curves of each scan, and the last slice of the first with its errors."""
    canvas = Figure(figsize=(9, 6), layout="constrained", facecolor="white")
    top, bottom = canvas.subfigures(2, 1, height_ratios=(1, 1.15))
    for axes, (name, (_, curves)) in zip(np.atleast_1d(top.subplots(1, len(results))), results.items(), strict=True):
        draw(axes, curves, name)
        axes.legend(fontsize=6)
    slices, curves = next(iter(results.values()))
    item = slices[-1]
    zero_filled = item.problem.op.adjoint(item.problem.kspace)
    panels = {
        "zero-filled": zero_filled,
        **{curve.method: curve.picture for curve in (curves[2], curves[1], curves[0])},
    }
    rows = bottom.subplots(2, 1 + len(panels))
    window = float(item.reference.max()) * 0.8
    rows[0, 0].imshow(item.reference, cmap="gray", vmin=0, vmax=window)
    rows[0, 0].set_title("fully sampled", fontsize=8)
    rows[1, 0].text(0.5, 0.5, "error x 10", ha="center", va="center", fontsize=8, transform=rows[1, 0].transAxes)
    for column, (name, picture) in enumerate(panels.items(), start=1):
        assert picture is not None
        rows[0, column].imshow(picture[0].abs(), cmap="gray", vmin=0, vmax=window)
        rows[0, column].set_title(f"{name}\n{item.psnr(picture):.1f} dB", fontsize=8)
        rows[1, column].imshow((picture[0].abs() - item.reference).abs(), cmap="magma", vmin=0, vmax=window / 10)
    for axes in rows.flat:
        axes.axis("off")
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/mri_iterations"), help="folder for CSV, PNG and text")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--scan", type=Path, help="a fully sampled fastMRI file, to report on")
    arguments = parser.parse_args()
    network = load(shipped_models()["unrolled"])[0]
    assert isinstance(network, Unrolled)
    n, thresholds = (10, THRESHOLDS[3:4]) if arguments.quick else (200, THRESHOLDS)
    scans = {"analytic head, 8 coils, 4x": head((64, 56), 1) if arguments.quick else head((192, 160), 2)}
    if arguments.scan:
        kspace = torch.from_numpy(read_scan(arguments.scan).kspace)
        pairs = zip(kspace, root_sum_of_squares(kspace), strict=True)
        scans[f"{arguments.scan.stem}, 4x"] = [undersample(k, r, seed) for seed, (k, r) in enumerate(pairs)]
    results = {}
    with Progress(console=Console(stderr=True)) as progress, torch.inference_mode():
        task = progress.add_task("reconstructing", total=len(scans) * (3 * len(thresholds) + 1))
        for name, slices in scans.items():
            results[name] = slices, compare(slices, network, n, thresholds, lambda: progress.advance(task))
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = table({name: curves for name, (_, curves) in results.items()})
    with rc_context(STYLE):
        write(arguments.out, rows, draw_all(results), [describe(name, *result) for name, result in results.items()])
    shrink(arguments.out / "figure.png")


if __name__ == "__main__":
    main()
