r"""Derivatives of a fixed point :math:`z^* = f(z^*, \theta)` that need the graph of one evaluation of ``f``.

With :math:`J = \partial f / \partial z` at the fixed point, a cotangent ``g`` of :math:`z^*` becomes

.. math:: w = g + J^T w = (I - J^T)^{-1} g = \sum_{i \ge 0} (J^T)^i g , \qquad
          \bar\theta = (\partial f / \partial \theta)^T w .

The adjoint fixed point is solved to a tolerance, or its Neumann series is cut off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mri_unroll.errors import ConfigError, ConvergenceError, ConvergenceWarning, MriUnrollError
from mri_unroll.solvers.fixed_point import FixedPoint, Map
from mri_unroll.solvers.solution import STOPPED_SHORT, Solution

Backward = Literal["implicit", "neumann", "one-step"]
Solver = Callable[..., FixedPoint]  # `fixed_point`, with settings bound by functools.partial

NOT_RUN = "The backward pass has not run."
CUT_OFF = "The Neumann series was cut off after the set number of terms."
ONE_STEP = "One step only: the gradient leaves out how the fixed point moves, and this error was not measured."


@dataclass(slots=True)
class Adjoint:
    """What the backward pass of a fixed point did; filled in when it runs.

    The residual is the largest over the batch; that of a Neumann series is over the batch as a whole.
    """

    status: str = NOT_RUN
    n_iterations: int = 0  # products with the transposed Jacobian
    residual: float = float("nan")  # ||g + J^T w - w|| / ||g + J^T w|| of the last w but one; one step: not known


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Equilibrated(Solution):
    """A fixed point, with its certificate and, after the backward pass, the certificate of its gradient."""

    residual: Tensor  # ||f(z) - z|| / ||f(z)|| of the guess whose image the value is, (*batch,)
    counts: Tensor  # evaluations until each sample stood still, (*batch,)
    adjoint: Adjoint


def equilibrate(
    step: Map,
    start: Tensor,
    *,
    solver: Solver,
    adjoint_solver: Solver,
    backward: Backward = "implicit",
    n_terms: int = 0,
    strict: bool = False,
) -> Equilibrated:
    r"""Find the fixed point of a step, differentiable by whatever the step is made of.

    The value is :math:`f(z)` of the guess ``z`` that the solver certifies; the Jacobian is taken there. For a step of
    Lipschitz constant ``L`` below 1 the value is within ``L / (1 - L)`` times the absolute residual of the fixed point.
    Memory for the backward pass is that of one step.

    Parameters
    ----------
    step
        ``f``; gradients flow to every tensor that it closes over. None flows to ``start``, on which a fixed point does
        not depend.
    start
        First guess.
    solver, adjoint_solver
        `fixed_point` with settings bound, for the forward and the backward pass.
    backward
        ``"implicit"``: solve the adjoint fixed point. ``"neumann"``: the series up to :math:`(J^T)^k`, equal to
        backpropagation through the last ``k + 1`` steps. ``"one-step"``: its first term, no product with ``J`` at all.
    n_terms
        ``k``.
    strict
        Raise instead of warning when the adjoint fixed point was not reached.

    Returns
    -------
    Equilibrated
        With an `Adjoint` that the backward pass fills in.

    Raises
    ------
    ConfigError
        If the kind of backward pass is unknown or ``n_terms`` negative.
    ConvergenceError
        Only with ``strict``: from here if the forward pass falls short, from ``backward()`` if that does.
    MriUnrollError
        From ``backward(create_graph=True)``: second derivatives are not supported.

    Notes
    -----
    Bai, Kolter and Koltun, NeurIPS 2019, arXiv:1909.01377; Gilton, Ongie and Willett, IEEE Trans. Comput. Imaging 7,
    1123 (2021), doi:10.1109/TCI.2021.3118944; one step: Fung et al., AAAI 2022, arXiv:2103.12803.
    """
    if backward not in ("implicit", "neumann", "one-step") or n_terms < 0:
        raise ConfigError(
            f"Expected backward 'implicit', 'neumann' or 'one-step' and n_terms >= 0, got {backward!r} and {n_terms}."
        )
    found = solver(step, start, strict=strict)
    adjoint = Adjoint()
    value = found.image
    if torch.is_grad_enabled():
        point = found.value.detach().requires_grad_()
        image = step(point)

        def solve(cotangent: Tensor) -> Tensor:
            def transposed(w: Tensor) -> Tensor:
                """``J^T w``."""
                return torch.autograd.grad(image, point, w, retain_graph=True, materialize_grads=True)[0]

            if backward == "implicit":
                return _solve_adjoint(transposed, cotangent, adjoint_solver, strict, adjoint)
            return _neumann(transposed, cotangent, n_terms if backward == "neumann" else 0, adjoint)

        value = _Implicit.apply(image, solve) if image.requires_grad else image
    return Equilibrated(
        value,
        found.status,
        found.n_iterations,
        found.residuals,
        residual=found.residual,
        counts=found.counts,
        adjoint=adjoint,
    )


class _Implicit(torch.autograd.Function):
    """Identity whose backward pass replaces the cotangent ``g`` by ``w``."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, solve: Map) -> Tensor:
        ctx.solve = solve
        return image.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise MriUnrollError(
                "Expected a first derivative, but a graph of the gradient of a fixed point was asked for.",
                "Call backward without create_graph, or unroll tied steps where second derivatives are needed.",
            )
        return ctx.solve(cotangents[0]), None


def _solve_adjoint(transposed: Map, cotangent: Tensor, solver: Solver, strict: bool, report: Adjoint) -> Tensor:
    found = solver(lambda w: cotangent + transposed(w), cotangent)
    report.status, report.n_iterations = found.status, found.n_iterations
    report.residual = float(found.residual.max())
    if found.status == STOPPED_SHORT:
        message = (
            f"The gradient of a fixed point is inexact: after {found.n_iterations} iterations its adjoint equation has "
            f"a relative residual of {report.residual:.2e}."
        )
        hint = "Allow more iterations, a looser tolerance, or make the step more of a contraction."
        if strict:
            raise ConvergenceError(message, hint)
        warnings.warn(f"{message} {hint}", ConvergenceWarning, stacklevel=2)
    return found.image


def _neumann(transposed: Map, cotangent: Tensor, n_terms: int, report: Adjoint) -> Tensor:
    term = total = cotangent
    for _ in range(n_terms):
        term = transposed(term)
        total = total + term
    report.status, report.n_iterations = (CUT_OFF if n_terms else ONE_STEP), n_terms
    if n_terms:
        tiny = torch.finfo(total.dtype).tiny
        report.residual = float(torch.linalg.vector_norm(term) / torch.linalg.vector_norm(total).clamp_min(tiny))
    return total
