"""What is measured of one part of a scan, and of its picture, before anything is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mri_unroll.image import Evidence
from mri_unroll.nets.model import Network
from mri_unroll.nets.refinement import RefinedSolution
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.sampling import detect_acs, varies_along
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import CalibratedSlice
from mri_unroll.recon.learned import run_network
from mri_unroll.solvers.solution import Solution
from mri_unroll.trust import hold_out
from mri_unroll.trust.appearance import appearance
from mri_unroll.trust.continuity import displacement, step
from mri_unroll.trust.familiarity import unfamiliarity
from mri_unroll.trust.lines import agreement, alternation, coil_features, lags, line_features, log, squared
from mri_unroll.trust.missing import missing
from mri_unroll.trust.neighbours import predicted_from_neighbours

CHANNELS = ("magnitude", "disagreement", "aliasing", "residual")  # of the first pictures of the evidence
_FLOOR = 1e-4  # of pictures, in units where bright tissue is near 1


@dataclass(frozen=True, slots=True, eq=False)
class SecondOpinion:
    """What a second network made of fewer of the samples at low resolution, and how it fits the others."""

    picture: Tensor  # complex (y, x)
    features: dict[str, float]


def gather(
    problem: CalibratedSlice, solution: Solution, op: LinearOperator, second: SecondOpinion
) -> tuple[Evidence, Tensor]:
    """Hold a picture against its measurements, and against that of a second network.

    Parameters
    ----------
    problem
        Calibrated, on a grid, two-dimensional.
    solution
        Of any method, its value a complex picture ``(1, y, x)``.
    op
        With the coil maps that the method used.
    second
        Of `second_opinion`; it does not depend on the picture.

    Returns
    -------
    evidence
        Features of order one, most of them logarithms; NaN where there is nothing to make one from.
    pictures
        ``(channel, y, x)``, see `CHANNELS`, in units where bright tissue is near 1; then how far the picture still
        moved from each iterate that the method keeps.
    """
    assert isinstance(op, SenseOperator)
    mask, image = problem.op.mask, solution.value
    n = mask.numel()
    picture = image[0]
    energy = squared(picture) + 1e-12
    predicted = op.forward(image)
    error = predicted - problem.kspace
    data, unexplained = squared(problem.kspace) + 1e-12, squared(error)
    residual = op.adjoint(error)[0]
    noise = max(problem.noise_level, 1e-6)
    features = {
        "noise": log(noise),
        "fraction": log(problem.sampled_fraction),
        "coils": log(len(problem.op.sens_maps[0])),
        "filled": log(energy / n),
        "expected_noise": log(problem.unmeasured_noise * n / energy + 1e-7),
        "noise_share": log(noise**2 * n / energy),
        "residual": log(unexplained / data + 1e-7),
        "chi_square": log(unexplained / (noise**2 * float(mask.sum()) * error.shape[1])),
        "planar_mask": float(varies_along(mask.cpu().numpy())),
    }
    normal = op.normal(image)[0]
    aliasing = picture - normal
    features["invented"] = log(squared(aliasing) / energy + 1e-7)
    steps = [squared(picture.roll(1, d) - picture) for d in (0, 1)]
    features["roughness_readout"], features["roughness_phase"] = (log(step / energy + 1e-7) for step in steps)
    rows, columns = detect_acs(mask.cpu().numpy())
    features["centre"] = log((columns.stop - columns.start) / mask.shape[1] + 1e-3)
    ours = hold_out.low_pass_rows(image, second.picture.shape[-2])[0].abs()
    unlike = (ours - second.picture.abs()).abs()
    features["disagreement"] = log(float(unlike.square().sum() / ours.square().sum().clamp_min(1e-12)) + 1e-7)
    difference = hold_out.resampled_rows(unlike, image.shape[-2])
    features |= second.features | appearance(picture.abs())
    features |= _line_by_line(predicted[0], problem.kspace[0], mask, (rows, columns), noise)
    features |= step(problem.kspace[0], (rows, columns), mask) | missing(problem.kspace[0], mask, noise)
    features |= _places(picture.abs(), difference, residual.abs(), noise)
    features |= _expected(features)
    moved = [(image - before)[0].abs() for before in solution.on_the_way]
    pictures = torch.stack([picture.abs(), difference, aliasing.abs(), residual.abs(), *moved])
    return Evidence(features, energy * problem.scale**2, unfamiliarity(second.picture.abs())), pictures


def _expected(features: dict[str, float]) -> dict[str, float]:
    """Errors as theory has them: noise of what was not measured, and its energy, if lines left out stand for it."""
    unmeasured = log(1 - math.exp(features["fraction"]) + 1e-4)
    noise = features["noise_share"] + unmeasured
    held = features["held_outer_error"]
    structure = features["missing_1"] + (0.0 if math.isnan(held) else held)
    both = float(np.logaddexp(noise, structure))
    return {"unmeasured": unmeasured, "error_noise": noise, "error_structure": structure, "error_both": both}


def second_opinion(problem: CalibratedSlice, network: Network) -> SecondOpinion:
    """Let a network predict, at low resolution, samples that are kept from it, and compare.

    Parameters
    ----------
    problem
        Calibrated, on a grid, two-dimensional.
    network
        Small, and independent of the method in question; in evaluation mode.
    """
    acs = detect_acs(problem.op.mask.cpu().numpy())
    low = hold_out.at_low_resolution(problem)
    mask = low.op.mask
    held = torch.from_numpy(hold_out.left_out(mask.cpu().numpy())).to(mask.device)
    given = mask & ~held
    asked = hold_out.with_samples(low, given)
    solution = run_network(asked, network, noise_kept=1.0)
    used = solution.op if isinstance(solution, RefinedSolution) else asked.op
    assert isinstance(used, SenseOperator)
    full = SenseOperator(used.sens_maps, torch.ones_like(mask)[None, None])
    predicted = full.forward(solution.value)[0]
    measured, noise = low.kspace[0], low.noise_level
    centre = torch.zeros_like(mask)
    first = mask.shape[0] // 2 - (acs[0].stop - acs[0].start) // 2
    centre[max(first, 0) : max(first, 0) + acs[0].stop - acs[0].start, acs[1]] = True
    features: dict[str, float] = {}
    everything = agreement(predicted, measured, mask, noise)
    inside = centre.any(0)
    for name, which in (("held", held), ("given", given)):
        sums = agreement(predicted, measured, which, noise)
        lines = which.any(0)
        features |= line_features(sums, lines & inside, f"{name}_inner")
        features |= line_features(sums, lines & ~inside, f"{name}_outer")
    features |= alternation(everything, mask.any(0))
    features |= lags(predicted, measured, centre & mask, noise)
    features |= _among_neighbours(measured, acs[1], centre, noise)
    features |= {f"outer_{name}": value for name, value in lags(predicted, measured, mask & ~centre, noise).items()}
    features |= coil_features(predicted, measured, centre & mask, mask, noise)
    features |= displacement(measured, used.sens_maps[0], centre & mask, mask & ~centre)
    return SecondOpinion(solution.value[0], features)


def _among_neighbours(measured: Tensor, columns: slice, centre: Tensor, noise: float) -> dict[str, float]:
    """How well lines of the centre agree with the lines beside them; NaN where the centre is too small."""
    rows = centre.any(1).nonzero().flatten()
    where = slice(0, 0) if not len(rows) else slice(int(rows[0]), int(rows[-1]) + 1)
    predicted = predicted_from_neighbours(measured, columns, where)
    known = torch.zeros_like(centre) if predicted is None else predicted.abs().sum(0) > 0
    there = torch.zeros_like(measured) if predicted is None else predicted
    sums, lines = agreement(there, measured, known, noise), known.any(0)
    found = line_features(sums, lines, "beside")
    found |= {f"beside_{name}": value for name, value in lags(there, measured, known, noise).items()}
    return found | {f"beside_{name}": value for name, value in alternation(sums, lines).items()}


def _line_by_line(
    predicted: Tensor, measured: Tensor, mask: Tensor, acs: tuple[slice, slice], noise: float
) -> dict[str, float]:
    """How the picture itself agrees with each line."""
    sums, lines = agreement(predicted, measured, mask, noise), mask.any(0)
    inside = torch.zeros_like(lines)
    inside[acs[1]] = True
    found = line_features(sums, lines & inside, "picture_inner") | line_features(sums, lines & ~inside, "picture_outer")
    found |= {f"picture_{name}": value for name, value in alternation(sums, lines).items()}
    return found | {f"picture_{name}": value for name, value in lags(predicted, measured, mask, noise).items()}


def _places(magnitude: Tensor, difference: Tensor, residual: Tensor, noise: float) -> dict[str, float]:
    """How much single places stand out: where the pictures differ, and where the data are not explained."""
    found = {}
    surrounding = functional.avg_pool2d(_blocks(magnitude), 7, 1, 3, count_include_pad=False)
    for name, picture in (("difference", difference), ("residual", residual)):
        smooth = _blocks(picture)
        level = float(torch.quantile(smooth.flatten(), 0.95)) + _FLOOR
        found[f"place_{name}"] = log(float(smooth.max()) / level)
        found[f"peak_{name}"] = log(float(smooth.max()) / (noise + _FLOOR))
        found[f"local_{name}"] = log(float((smooth / (surrounding + 0.05)).max()) + 1e-4)
    return found


def _blocks(picture: Tensor) -> Tensor:
    """Means over overlapping blocks, ``(1, 1, y / 4, x / 4)``."""
    return functional.avg_pool2d(picture[None, None], 8, 4, 2, count_include_pad=False)
