"""Reconstruction by a trained network."""

from __future__ import annotations

from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.recon.calibrate import CalibratedSlice
from mri_unroll.solvers.solution import Solution


def unrolled(problem: CalibratedSlice, network: Unrolled) -> Solution:
    """Run a trained network on one calibrated slice."""
    return network(problem.op.adjoint(problem.kspace), problem.op, problem.strength)
