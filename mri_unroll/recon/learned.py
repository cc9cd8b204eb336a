"""Reconstruction by a trained network."""

from __future__ import annotations

import torch

from mri_unroll.nets.model import Network
from mri_unroll.recon.calibrate import Problem
from mri_unroll.solvers.solution import Solution


def run_network(problem: Problem, network: Network, noise_kept: float | None = None) -> Solution:
    """Run a trained network, unrolled or equilibrium, on one calibrated plane.

    Parameters
    ----------
    problem
        The plane.
    network
        In evaluation mode, on the problem's device.
    noise_kept
        Share of the noise that the picture is to keep, 0..1; None for a network that was not trained to be told.
    """
    strength = problem.strength
    if noise_kept is not None:
        strength = torch.cat([strength, strength.new_full((1, 1), noise_kept)], dim=1)
    return network(problem.op.adjoint(problem.kspace), problem.op, strength)
