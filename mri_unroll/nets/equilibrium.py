"""Deep equilibrium: infinitely many tied layers as the fixed point of one."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mri_unroll.nets.steps import least_squares
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.solvers.fixed_point import Map, fixed_point
from mri_unroll.solvers.implicit import Adjoint, Backward, Equilibrated, Solver, equilibrate

START_WEIGHT = 0.01  # of the regularised least squares that iterations start from


class Equilibrium(nn.Module):
    r"""The picture that a learned step leaves as it is, :math:`x^* = T(x^*, A^Hy, A, s)`.

    The forward pass runs to a tolerance that is chosen at run time; the backward pass differentiates the fixed point
    itself, in the memory of one step. A fixed point exists and is found if the step is a contraction: see
    `mri_unroll.nets.contraction`. The step must hold no normalisation over the picture, dropout or momentum.

    Parameters
    ----------
    step
        `ProximalStep`, `GradientStep` or alike: ``(image, adjoint_kspace, op, strength)`` to an image.
    n_start_cg
        Conjugate gradients of the start; the result does not depend on them, the number of iterations does.
    solver
        `fixed_point` with settings bound by `functools.partial`.
    adjoint_solver
        The same for the backward pass; None: the forward solver.
    backward, n_terms, strict
        See `equilibrate`.
    sees_start
        Show the prior the start, as a third picture after the iterate and its gradient. It is made of the data alone
        and stays as it is while the step is repeated, so that the step contracts as before; what the network reads off
        it (how this mask folds) no contraction holds back. No gradient flows through it to the data. A
        `ContractivePrior` is to be anchored there.

    Attributes
    ----------
    last_adjoint
        What the backward pass of the latest forward pass did, or None before the first; also in its result.
    """

    def __init__(
        self,
        step: nn.Module,
        *,
        n_start_cg: int = 8,
        solver: Solver = fixed_point,
        adjoint_solver: Solver | None = None,
        backward: Backward = "implicit",
        n_terms: int = 0,
        strict: bool = False,
        sees_start: bool = False,
    ) -> None:
        super().__init__()
        self.step = step
        self.n_start_cg = n_start_cg
        self.solver = solver
        self.adjoint_solver = adjoint_solver or solver
        self.backward: Backward = backward
        self.n_terms = n_terms
        self.strict = strict
        self.sees_start = sees_start
        self.last_adjoint: Adjoint | None = None

    @torch.no_grad()
    def start(self, adjoint_kspace: Tensor, op: LinearOperator) -> Tensor:
        r""":math:`x_0 = (A^HA + \lambda_0)^{-1} A^H y`."""
        weight = adjoint_kspace.real.new_full((), START_WEIGHT)
        return least_squares(op, adjoint_kspace, weight, self.n_start_cg)

    def step_of(
        self, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor, regularised: Tensor | None = None
    ) -> Map:
        """The step of one problem, as a map from picture to picture; `start` is computed unless it is at hand."""
        evidence: tuple[Tensor, ...] = ()
        if self.sees_start:
            evidence = (self.start(adjoint_kspace, op) if regularised is None else regularised,)
        return lambda image: self.step(image, adjoint_kspace, op, strength, *evidence)

    def forward(
        self,
        adjoint_kspace: Tensor,
        op: LinearOperator,
        strength: Tensor,
        *,
        start: Tensor | None = None,
        tolerance: float | None = None,
        n_iterations: int | None = None,
    ) -> Equilibrated:
        """Reconstruct.

        Parameters
        ----------
        adjoint_kspace
            ``A^H y``, complex ``(batch, y, x)``, scaled so that bright tissue is near 1.
        op
            The forward operator.
        strength
            ``(batch, n_strength)``.
        start
            First guess; None: `start`.
        tolerance, n_iterations
            Of both passes, in place of the solvers' own.

        Returns
        -------
        Equilibrated
            Picture, certificate of each sample, and the `Adjoint` that a backward pass fills in.
        """
        changed = {"tolerance": tolerance, "n_iterations": n_iterations}
        settings = {name: value for name, value in changed.items() if value is not None}
        regularised = self.start(adjoint_kspace, op) if start is None or self.sees_start else start
        step = self.step_of(adjoint_kspace, op, strength, regularised)
        return self._solve(step, regularised if start is None else start, op.image_ndim, settings)

    def iterates(
        self, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor, n_early: int = 0
    ) -> Iterator[Tensor]:
        """Yield the start and the equilibrium, as `Unrolled.iterates` yields all of its pictures.

        ``n_early`` pictures of plain iterations come between, from where the solver goes on. Each is differentiable by
        its own step alone: a loss on them asks of the step to come near at once, wherever it is, and so to contract.
        (Bai, Geng, Savani and Kolter, CVPR 2022, arXiv:2204.08442, correct a fixed point on its way.)
        """
        image = regularised = self.start(adjoint_kspace, op)
        yield regularised
        step = self.step_of(adjoint_kspace, op, strength, regularised)
        for _ in range(n_early):
            image = step(image.detach())
            yield image
        yield self._solve(step, image.detach(), op.image_ndim, {}).value

    def _solve(self, step: Map, start: Tensor, ndim: int, settings: dict[str, float]) -> Equilibrated:
        result = equilibrate(
            step,
            start,
            solver=functools.partial(self.solver, ndim=ndim, **settings),
            adjoint_solver=functools.partial(self.adjoint_solver, ndim=ndim, **settings),
            backward=self.backward,
            n_terms=self.n_terms,
            strict=self.strict,
        )
        self.last_adjoint = result.adjoint
        return result
