"""Reconstruction by a trained network."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import Network
from mri_unroll.nets.prior import n_conditions
from mri_unroll.nets.refinement import MeasuredOperator, measured
from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.physics.linop import LinearOperator
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
    strength = problem.conditions(n_conditions(network), 1.0 if noise_kept is None else noise_kept)
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


def as_fully_sampled(problem: Problem, image: Tensor, op: LinearOperator, noise_kept: float) -> Tensor:
    r"""The magnitude that a fully sampled scan would show: what was measured stays, the network gives the rest.

    Coil pictures are :math:`S_c x + \kappa F^H(y_c - (Ax)_c)`: with :math:`\kappa = 1` their measured samples are the
    data themselves, noise and all, and only samples that were not measured come from the network. Their root sum of
    squares is what references are. In air it has a floor, the noise of all coils; the part of it that samples not
    measured would have given is added as its mean power.

    Parameters
    ----------
    problem
        The plane.
    image
        What the network made of it, ``(1, y, x)``.
    op
        With the maps that the network used.
    noise_kept
        :math:`\kappa`; 0 gives the magnitude of ``image``.

    Returns
    -------
        ``(1, y, x)``. Off the grid, where samples cannot be put back, the magnitude of ``image``.
    """
    if noise_kept == 0 or not isinstance(op, SenseOperator):
        return image.abs()
    missing = centred_ifft(problem.kspace - op.forward(image))
    coils = torch.addcmul(noise_kept * missing, op.sens_maps, image.unsqueeze(-3))
    power = torch.view_as_real(coils).square().sum((-4, -1))  # coil, part: without the roots of `abs`
    return (power + noise_kept**2 * problem.unmeasured_noise).sqrt()


def fitting_precision(device: torch.device) -> torch.dtype | None:
    """In which precision the priors of a network run where speed counts: bfloat16 where that is faster.

    On a CPU that multiplies in bfloat16 by itself (AVX-512 BF16 or AMX) a U-Net prior takes half the time of single
    precision (docs/models.md); where bfloat16 is only emulated it takes longer. Elsewhere, GPUs included, single
    precision.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else None
