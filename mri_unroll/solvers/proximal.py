r"""Proximal gradient methods for :math:`\min_x f(x) + g(x)`, ``f`` smooth, ``g`` with a known proximal map.

Solvers take callables, never operators: the gradient of ``f``, the proximal map of ``g``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT, Solution

Map = Callable[[Tensor], Tensor]


def _proximal_gradient(
    gradient: Map,
    prox: Map,
    start: Tensor,
    step_size: float,
    n_iterations: int,
    tolerance: float,
    momentum: Callable[[float], tuple[float, float]],
) -> Solution:
    x = point = start
    weight, status = 1.0, FIXED_COUNT if tolerance == 0 else STOPPED_SHORT
    changes: list[float] = []
    for _ in range(n_iterations):
        new = prox(point - step_size * gradient(point))
        beta, weight = momentum(weight)
        point = new + beta * (new - x)
        changes.append(float(torch.linalg.vector_norm(new - x) / torch.linalg.vector_norm(new).clamp_min(1e-30)))
        x = new
        if tolerance > 0 and changes[-1] <= tolerance:
            status = CONVERGED
            break
    return Solution(x, status, len(changes), tuple(changes))


def ista(
    gradient: Map, prox: Map, start: Tensor, step_size: float, *, n_iterations: int = 100, tolerance: float = 0.0
) -> Solution:
    r"""Iterative shrinkage: :math:`x \leftarrow \mathrm{prox}_{tg}(x - t\nabla f(x))`.

    Parameters
    ----------
    gradient
        :math:`\nabla f`.
    prox
        :math:`\mathrm{prox}_{tg}`, the step size already inside.
    start
        First iterate.
    step_size
        ``t``, at most one over the Lipschitz constant of the gradient.
    n_iterations, tolerance
        Stop after this many, or when the relative change of ``x`` falls to the tolerance; 0 runs all.

    Returns
    -------
    Solution
        ``residuals`` are the relative changes.

    Notes
    -----
    Daubechies, Defrise and De Mol, Comm. Pure Appl. Math. 57, 1413 (2004), doi:10.1002/cpa.20042.
    """
    return _proximal_gradient(gradient, prox, start, step_size, n_iterations, tolerance, lambda t: (0.0, t))


def fista(
    gradient: Map, prox: Map, start: Tensor, step_size: float, *, n_iterations: int = 100, tolerance: float = 0.0
) -> Solution:
    r"""`ista` with Nesterov's momentum; parameters and result as there.

    Notes
    -----
    Beck and Teboulle, SIAM J. Imaging Sci. 2, 183 (2009), doi:10.1137/080716542.
    """

    def momentum(weight: float) -> tuple[float, float]:
        new = (1 + math.sqrt(1 + 4 * weight**2)) / 2
        return (weight - 1) / new, new

    return _proximal_gradient(gradient, prox, start, step_size, n_iterations, tolerance, momentum)


def condat_vu(
    gradient: Map,
    transform: Map,
    transform_adjoint: Map,
    project_dual: Map,
    start: Tensor,
    *,
    lipschitz: float,
    transform_norm: float,
    n_iterations: int = 100,
    dual_step: float = 0.02,
) -> Solution:
    r"""Primal-dual method for :math:`\min_x f(x) + h(Dx)`, such as total variation.

    .. math:: x' = x - \tau(\nabla f(x) + D^H u), \qquad u' = \Pi(u + \sigma D(2x' - x)) .

    Parameters
    ----------
    gradient
        :math:`\nabla f`.
    transform, transform_adjoint
        :math:`D` and :math:`D^H`.
    project_dual
        Proximal map of the conjugate of ``h``: for ``w * |.|_1`` the projection onto moduli of at most ``w``.
    start
        First iterate.
    lipschitz
        Lipschitz constant of the gradient.
    transform_norm
        :math:`\|D\|`.
    n_iterations
        Iterations.
    dual_step
        :math:`\sigma`; the primal step is the largest that is safe, :math:`1 / (L/2 + \sigma\|D\|^2)`. Small suits
        duals bounded by a small weight: the primal step then is nearly that of plain gradient descent.

    Returns
    -------
    Solution
        ``residuals`` are the relative changes of ``x``.

    Notes
    -----
    Condat, J. Optim. Theory Appl. 158, 460 (2013), doi:10.1007/s10957-012-0245-9.
    """
    primal_step = 1.0 / (lipschitz / 2 + dual_step * transform_norm**2)
    x, dual = start, torch.zeros_like(transform(start))
    changes: list[float] = []
    for _ in range(n_iterations):
        new = x - primal_step * (gradient(x) + transform_adjoint(dual))
        dual = project_dual(dual + dual_step * transform(2 * new - x))
        changes.append(float(torch.linalg.vector_norm(new - x) / torch.linalg.vector_norm(new).clamp_min(1e-30)))
        x = new
    return Solution(x, FIXED_COUNT, n_iterations, tuple(changes))
