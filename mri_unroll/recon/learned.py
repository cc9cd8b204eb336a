"""Reconstruction by a trained network."""

from __future__ import annotations

from mri_unroll.nets.model import Network
from mri_unroll.recon.calibrate import Problem
from mri_unroll.solvers.solution import Solution


def run_network(problem: Problem, network: Network) -> Solution:
    """Run a trained network, unrolled or equilibrium, on one calibrated plane."""
    return network(problem.op.adjoint(problem.kspace), problem.op, problem.strength)
