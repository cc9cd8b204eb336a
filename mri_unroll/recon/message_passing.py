"""Message passing for scans whose samples lie at random in two directions: nothing to set, an error foretold."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from mri_unroll.errors import UnsupportedScan
from mri_unroll.image import Image
from mri_unroll.nets.band_shrinkage import load
from mri_unroll.nets.weights import digest
from mri_unroll.physics.density import ORDERED, regularity, sampling_probability
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import Problem, corner_noise_power
from mri_unroll.recon.slicewise import Progress, SlicewiseReconstructor, quiet
from mri_unroll.scan import Scan
from mri_unroll.solvers.solution import Solution
from mri_unroll.solvers.sure import BandsDenoiser
from mri_unroll.solvers.vdamp import VdampSolution, vdamp
from mri_unroll.solvers.wavelet import N_LEVELS, wavelet_bands

DENOISERS = "message_passing"  # folder of their weights, below that of all weights
WAVELET = "db4"
N_SHIFTS = 4  # positions of the wavelets that are averaged over: 1 to 4 dB better than one
MAX_ITERATIONS = 20

_SETTINGS = {"wavelet": WAVELET, "n_levels": N_LEVELS, "n_shifts": N_SHIFTS, "max_iterations": MAX_ITERATIONS}
_HINT = "Choose l1-wavelet, or a trained network such as unrolled."
_LEAST = 1e-6  # error over the picture's energy that is told; less is told as this


def solve_vdamp(problem: Problem, *, denoiser: BandsDenoiser | None = None, levels: bool = True) -> Solution:
    """One calibrated slice by `vdamp`, with probabilities and noise estimated from what was measured.

    Parameters
    ----------
    problem
        On a grid ``(ky, kx)``, one slice.
    denoiser
        Of wavelet coefficients, on the problem's device; None: soft thresholds.
    levels
        Also tell the error of each level of wavelets.

    Raises
    ------
    UnsupportedScan
        If samples do not lie on a grid, if they lie in lines or a lattice, or if none were left out at random.
    """
    if not isinstance(problem.op, SenseOperator):
        raise UnsupportedScan("Message passing takes samples on a grid, but this acquisition is not Cartesian.", _HINT)
    sampled = problem.op.mask
    mask = sampled.cpu().numpy()
    probability = sampling_probability(mask)
    order = regularity(mask, probability)
    if order == 0:
        raise UnsupportedScan(
            "Message passing recovers what was left out at random, but no sample was left out so in this scan.",
            "Choose cg-sense, l1-wavelet or a trained network; --accelerate 4 --mask poisson leaves samples out.",
        )
    if order > ORDERED:
        raise UnsupportedScan(
            "Message passing takes samples that lie at random in two directions, but in this scan they lie in lines "
            f"or a lattice (regularity {order:.0f}, at most {ORDERED:.0f}): it would diverge.",
            _HINT,
        )
    kspace, sens_maps = problem.kspace[0], problem.op.sens_maps[0]
    # Ends of the readout, which `noise_level` is read from, hold signal; corners hold less, but may not be measured.
    corner = corner_noise_power(kspace, sampled) / kspace.shape[0]
    height, width = mask.shape
    bands = wavelet_bands((height, width), WAVELET, N_LEVELS, sens_maps.real.dtype)
    solution = vdamp(
        lambda image: problem.op.forward(image[None])[0],
        lambda measured: problem.op.adjoint(measured[None])[0],
        kspace,
        sampled,
        torch.from_numpy(probability).to(sens_maps.real),
        sens_maps,
        corner or problem.noise_level**2,
        bands.to(kspace.device),
        denoiser=denoiser,
        n_shifts=N_SHIFTS,
        n_iterations=MAX_ITERATIONS,
    )
    status = solution.status + _foretold(solution, levels)
    return Solution(solution.value[None], status, solution.n_iterations, solution.residuals)


def _foretold(solution: VdampSolution, levels: bool) -> str:
    """The predicted error in whole decibels: it is good to about one. Nothing where it is not to be believed."""
    if math.isnan(solution.predicted_nmse):
        return ""
    told = f" Predicted NMSE {_decibels(solution.predicted_nmse)} dB against a picture without noise"
    if levels:
        coarse, *rest = solution.band_errors
        by_level = [coarse, *(sum(rest[i : i + 3]) for i in range(0, len(rest), 3))]
        told += f"; by wavelet level, coarse to fine: {', '.join(map(_decibels, by_level))} dB"
    return told + "."


def _decibels(error: float) -> str:
    return f"{10 * math.log10(max(error, _LEAST)):.0f}"


@dataclass(frozen=True, slots=True, eq=False)
class MessagePassing(SlicewiseReconstructor):
    """`solve_vdamp` on each slice, or on each plane of a volume; then levels are not told, plane by plane."""

    denoiser: BandsDenoiser | None = None

    def reconstruct(self, scan: Scan, *, progress: Progress = quiet) -> Image:
        """Reconstruct a scan; refuses what `solve_vdamp` refuses."""
        solve = functools.partial(solve_vdamp, denoiser=self.denoiser, levels=scan.ndim == 2)
        return SlicewiseReconstructor.reconstruct(dataclasses.replace(self, solve=solve), scan, progress=progress)


def message_passing(device: torch.device) -> MessagePassing:
    """The method ``vdamp``; there is nothing to set."""
    return MessagePassing("vdamp", solve_vdamp, device, _SETTINGS, planar=True)


def learned_message_passing(device: torch.device) -> MessagePassing:
    """The method ``vdamp-cnn``: a network in place of thresholds; there is nothing to set."""
    path = shipped_denoiser()
    network = load(path)[0].to(device)
    solve = functools.partial(solve_vdamp, denoiser=network)
    return MessagePassing("vdamp-cnn", solve, device, _SETTINGS, digest(path), planar=True, denoiser=network)


def shipped_denoiser() -> Path:
    """Where the weights of ``vdamp-cnn`` lie."""
    return Path(str(resources.files("mri_unroll") / "weights" / DENOISERS / "vdamp-cnn.safetensors"))
