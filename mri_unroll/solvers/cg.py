r"""Conjugate gradients for Hermitian positive definite systems, batched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mri_unroll.errors import ConvergenceError
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT, Solution

def _inner(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    return (a.conj() * b).sum(tuple(range(-ndim, 0)), keepdim=True).real


def cg(
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor | None = None,
    *,
    n_iterations: int = 30,
    tolerance: float = 0.0,
    ndim: int = 2,
    strict: bool = False,
) -> Solution:
    r"""Solve :math:`N x = b` for Hermitian positive definite :math:`N`, each batch entry with its own step sizes.

    Parameters
    ----------
    normal
        ``x -> N x`` on ``(*batch, [z,] y, x)``.
    right
        ``b``, shape ``(*batch, [z,] y, x)``.
    start
        First guess; zero if None.
    n_iterations
        At most this many.
    tolerance
        Stop when ``||b - N x|| <= tolerance * ||b||`` in every batch entry; 0 runs all iterations.
    ndim
        Trailing axes that make up one unknown; those before are the batch.
    strict
        Raise when the tolerance was not reached.

    Returns
    -------
    Solution
        ``residuals`` are relative, by the recurrence. Differentiable by unrolling.

    Raises
    ------
    ConvergenceError
        Only with ``strict``.

    Notes
    -----
    Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952), doi:10.6028/jres.049.044.
    """
    x = torch.zeros_like(right) if start is None else start
    residual = right if start is None else right - normal(x)
    direction = residual
    size = _inner(residual, residual, ndim)
    scale = _inner(right, right, ndim)
    # Below this the residual is rounding noise. Going on would divide noise by noise, and backpropagation through such
    # a ratio overflows; a batch entry that has arrived stands still instead.
    floor = (4 * torch.finfo(scale.dtype).eps) ** 2 * scale
    one, zero = torch.ones_like(scale), torch.zeros_like(scale)
    residuals: list[float] = []
    converged = False
    for _ in range(n_iterations):
        image = normal(direction)
        moving = size > floor
        step = torch.where(moving, size / torch.where(moving, _inner(direction, image, ndim), one), zero)
        x = x + step * direction
        residual = residual - step * image
        new_size = _inner(residual, residual, ndim)
        turn = torch.where(moving, new_size / torch.where(moving, size, one), zero)
        direction = residual + turn * direction
        size = new_size
        if tolerance > 0:  # reading a number waits for the device, so it is read only when it decides something
            residuals.append(float((size / scale.clamp_min(torch.finfo(scale.dtype).tiny)).max().sqrt()))
            converged = residuals[-1] <= tolerance
            if converged:
                break
    if strict and tolerance > 0 and not converged:
        raise ConvergenceError(f"CG stopped at relative residual {residuals[-1]:.2e}, above {tolerance:.2e}.")
    status = CONVERGED if converged else STOPPED_SHORT if tolerance > 0 else FIXED_COUNT
    return Solution(x, status, len(residuals) or n_iterations, tuple(residuals))
