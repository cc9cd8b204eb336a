r"""Splitting methods for :math:`\min_x f(x) + h(Dx)`: regularisers whose proximal map hides behind a transform.

Total variation is the case in point: ``D`` takes differences, ``h`` sums their moduli.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mri_unroll.solvers.cg import cg
from mri_unroll.solvers.solution import FIXED_COUNT, Solution

Map = Callable[[Tensor], Tensor]


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
        new = torch.sub(x, gradient(x) + transform_adjoint(dual), alpha=primal_step)
        move = new - x
        dual = project_dual(torch.add(dual, transform(new + move), alpha=dual_step))
        changes.append(_relative_change(move, new))
        x = new
    return Solution(x, FIXED_COUNT, n_iterations, tuple(changes))


def admm(
    normal: Map,
    adjoint_data: Tensor,
    transform: Map,
    transform_adjoint: Map,
    prox: Callable[[Tensor, float], Tensor],
    start: Tensor,
    *,
    penalty: float,
    n_iterations: int = 30,
    n_cg: int = 5,
    ndim: int = 2,
) -> Solution:
    r"""Alternating directions for :math:`\min_x \tfrac12\|Ax-y\|^2 + h(Dx)`.

    .. math:: (A^HA + \rho D^HD)\, x' = A^Hy + \rho D^H(z - u), \qquad
              z' = \mathrm{prox}_{h/\rho}(Dx' + u), \qquad u' = u + Dx' - z' .

    Parameters
    ----------
    normal, adjoint_data
        :math:`A^HA` and :math:`A^Hy`.
    transform, transform_adjoint
        :math:`D` and :math:`D^H`.
    prox
        ``prox(v, t)``: proximal map of ``t * h``.
    start
        First iterate.
    penalty
        :math:`\rho`, > 0: how firmly ``Dx`` and ``z`` are held together.
    n_iterations, n_cg
        Outer iterations, and conjugate gradients in each, started where the last ended.
    ndim
        Trailing axes of one unknown.

    Returns
    -------
    Solution
        ``residuals`` are the relative changes of ``x``.

    Notes
    -----
    Boyd et al., Found. Trends Mach. Learn. 3, 1 (2011), doi:10.1561/2200000016.
    """
    x, split = start, transform(start)
    dual = torch.zeros_like(split)
    changes: list[float] = []
    for _ in range(n_iterations):
        right = torch.add(adjoint_data, transform_adjoint(split - dual), alpha=penalty)
        new = cg(
            lambda v: torch.add(normal(v), transform_adjoint(transform(v)), alpha=penalty),
            right,
            x,
            n_iterations=n_cg,
            ndim=ndim,
        ).value
        image = transform(new)
        split = prox(image + dual, 1 / penalty)
        dual = dual + image - split
        changes.append(_relative_change(new - x, new))
        x = new
    return Solution(x, FIXED_COUNT, n_iterations, tuple(changes))


def _relative_change(move: Tensor, new: Tensor) -> float:
    return float((torch.linalg.vector_norm(move) / torch.linalg.vector_norm(new).clamp_min(1e-30)).detach())
