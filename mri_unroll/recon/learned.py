"""Reconstruction by a trained network."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import Network
from mri_unroll.nets.refinement import MeasuredOperator, measured
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import Problem
from mri_unroll.solvers.solution import Solution

REVERSALS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))


def run_network(
    problem: Problem,
    network: Network,
    noise_kept: float | None = None,
    precision: torch.dtype | None = None,
    best: bool = False,
) -> Solution:
    """Run a trained network, unrolled or equilibrium, on one calibrated plane.

    Parameters
    ----------
    problem
        The plane.
    network
        In evaluation mode, on the problem's device.
    noise_kept
        Share of the noise that the picture is to keep, 0..1; None for a network that was not trained to be told.
    precision
        In which its priors compute, see `prior_precision`.
    best
        Mean of four passes, over the plane as it is and reversed along either axis and both: networks are not quite
        symmetric, and their errors partly cancel. On a grid only; elsewhere one pass.
    """
    strength = problem.strength
    if noise_kept is not None:
        strength = torch.cat([strength, strength.new_full((1, 1), noise_kept)], dim=1)
    adjoint_kspace = problem.op.adjoint(problem.kspace)
    op = measured(network, problem.op, problem.kspace)
    with prior_precision(precision):
        solution = network(adjoint_kspace, op, strength)
        if not (best and isinstance(problem.op, SenseOperator) and isinstance(op, SenseOperator | MeasuredOperator)):
            return solution
        pictures: list[Tensor] = [solution.value]
        for axes in REVERSALS[1:]:
            turned = network(adjoint_kspace.flip(axes), op.reversed(axes), strength)
            pictures.append(turned.value.flip(axes))
    return dataclasses.replace(
        solution,
        value=torch.stack(pictures).mean(0),
        status=f"Mean of {len(pictures)} passes. {solution.status}",
        n_iterations=len(pictures) * solution.n_iterations,
    )


def fitting_precision(device: torch.device) -> torch.dtype | None:
    """In which precision the priors of a network run where speed counts: bfloat16 where that is faster.

    On a CPU that multiplies in bfloat16 by itself (AVX-512 BF16 or AMX) a U-Net prior takes half the time of single
    precision (docs/models.md); where bfloat16 is only emulated it takes longer. Elsewhere, GPUs included, single
    precision.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else None
