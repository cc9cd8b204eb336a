"""Iterative methods on callables: they know gradients and proximal maps, never an operator class."""

from mri_unroll.solvers.amp import amp
from mri_unroll.solvers.cg import cg
from mri_unroll.solvers.fixed_point import FixedPoint, fixed_point
from mri_unroll.solvers.implicit import equilibrate
from mri_unroll.solvers.primal_dual import admm, condat_vu
from mri_unroll.solvers.proximal import fista, ista, lipschitz_constant
from mri_unroll.solvers.solution import Solution
from mri_unroll.solvers.state_evolution import state_evolution
from mri_unroll.solvers.vamp import vamp
from mri_unroll.solvers.vdamp import vdamp

__all__ = [
    "FixedPoint",
    "Solution",
    "admm",
    "amp",
    "cg",
    "condat_vu",
    "equilibrate",
    "fista",
    "fixed_point",
    "ista",
    "lipschitz_constant",
    "state_evolution",
    "vamp",
    "vdamp",
]
