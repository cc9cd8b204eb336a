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
_MARGIN = 1.02  # power iteration approaches the Lipschitz constant from below


def lipschitz_constant(gradient: Map, example: Tensor, n_iterations: int = 30, seed: int = 0) -> float:
    r"""Lipschitz constant of an affine gradient :math:`\nabla f(x) = Nx - b`, by power iteration on :math:`N`.

    Parameters
    ----------
    gradient
        :math:`\nabla f` of a quadratic ``f``.
    example
        Any unknown of the right shape, dtype and device; axes before the unknown's own share one constant.
    n_iterations
        Power iterations. The estimate approaches the constant from below, so leave a margin of a few per cent.
    seed
        Of the random start.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(example.shape, dtype=example.dtype, generator=generator).to(example.device)
    offset = gradient(torch.zeros_like(example))
    size = 0.0
    for _ in range(n_iterations):
        x = gradient(x / torch.linalg.vector_norm(x)) - offset
        size = float(torch.linalg.vector_norm(x))
        if size == 0.0:
            break
    return size


def _proximal_gradient(
    gradient: Map,
    prox: Map,
    start: Tensor,
    step_size: float | None,
    n_iterations: int,
    tolerance: float,
    momentum: Callable[[float], tuple[float, float]],
    restart: bool,
) -> Solution:
    if step_size is None:
        step_size = 1.0 / (_MARGIN * lipschitz_constant(gradient, start))
    x = point = start
    weight, status = 1.0, FIXED_COUNT if tolerance == 0 else STOPPED_SHORT
    changes: list[float] = []
    for _ in range(n_iterations):
        new = prox(torch.sub(point, gradient(point), alpha=step_size))
        move = new - x
        if restart and float(_inner(point - new, move).detach()) > 0:  # momentum points uphill: forget it
            weight = 1.0
        beta, weight = momentum(weight)
        point = torch.add(new, move, alpha=beta) if beta else new
        changes.append(float((_norm(move) / _norm(new).clamp_min(1e-30)).detach()))
        x = new
        if tolerance > 0 and changes[-1] <= tolerance:
            status = CONVERGED
            break
    return Solution(x, status, len(changes), tuple(changes))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.vdot(a.flatten(), b.flatten()).real


def ista(
    gradient: Map, prox: Map, start: Tensor, step_size: float | None, *, n_iterations: int = 100, tolerance: float = 0.0
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
        ``t``, at most one over the Lipschitz constant of the gradient; None: measured by `lipschitz_constant`, for a
        quadratic ``f`` and a proximal map that does not depend on ``t``.
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
    return _proximal_gradient(gradient, prox, start, step_size, n_iterations, tolerance, lambda t: (0.0, t), False)


def fista(
    gradient: Map,
    prox: Map,
    start: Tensor,
    step_size: float | None,
    *,
    n_iterations: int = 100,
    tolerance: float = 0.0,
    restart: bool = False,
) -> Solution:
    r"""`ista` with Nesterov's momentum; parameters and result as there.

    Parameters
    ----------
    gradient, prox, start, step_size, n_iterations, tolerance
        As for `ista`.
    restart
        Drop the momentum where it points uphill, :math:`\langle z_k - x_{k+1}, x_{k+1} - x_k\rangle > 0`: faster where
        the problem is strongly convex near its solution.

    Notes
    -----
    Beck and Teboulle, SIAM J. Imaging Sci. 2, 183 (2009), doi:10.1137/080716542; restart: O'Donoghue and Candes, Found.
    Comput. Math. 15, 715 (2015), doi:10.1007/s10208-013-9150-3.
    """

    def momentum(weight: float) -> tuple[float, float]:
        new = (1 + math.sqrt(1 + 4 * weight**2)) / 2
        return (weight - 1) / new, new

    return _proximal_gradient(gradient, prox, start, step_size, n_iterations, tolerance, momentum, restart)
