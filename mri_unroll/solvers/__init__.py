"""Iterative methods on callables: they know gradients and proximal maps, never an operator class."""

from mri_unroll.solvers.cg import cg
from mri_unroll.solvers.proximal import condat_vu, fista, ista
from mri_unroll.solvers.solution import Solution

__all__ = ["Solution", "cg", "condat_vu", "fista", "ista"]
