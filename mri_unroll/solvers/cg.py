r"""Conjugate gradients for Hermitian positive definite systems, batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_unroll.errors import ConvergenceError
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT, Solution


@dataclass(frozen=True, slots=True, eq=False)
class CertifiedSolution(Solution):
    """A solution with the residual that it truly has."""

    certificate: Tensor | None  # ||b - N x|| / ||b|| of each batch entry, shape batch; None: not asked for


def _inner(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    """Real part of the inner product over the last ``ndim`` axes, kept as ones; in one pass over the data."""
    batch = a.shape[: a.ndim - ndim]
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    product = a.reshape(*batch, 1, -1) @ b.reshape(*batch, -1, 1)
    return product.reshape(*batch, *(1,) * ndim)


def cg(
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor | None = None,
    *,
    n_iterations: int = 30,
    tolerance: float = 0.0,
    ndim: int = 2,
    certify: bool = False,
    strict: bool = False,
) -> CertifiedSolution:
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
    certify
        Measure ``||b - N x|| / ||b||`` at the end, at the price of one more product.
    strict
        Raise when the tolerance was not reached.

    Returns
    -------
    CertifiedSolution
        ``residuals`` are relative, by the recurrence, which rounding lets drift from the truth; ``certificate``, if
        asked for, is the true one of each batch entry. Differentiable by unrolling.

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
        step = step.to(right.dtype)
        x = torch.addcmul(x, step, direction)
        residual = torch.addcmul(residual, -step, image)
        new_size = _inner(residual, residual, ndim)
        turn = torch.where(moving, new_size / torch.where(moving, size, one), zero)
        direction = torch.addcmul(residual, turn.to(right.dtype), direction)
        size = new_size
        if tolerance > 0:  # reading a number waits for the device, so it is read only when it decides something
            residuals.append(float(_relative(size, scale).max().detach()))
            converged = residuals[-1] <= tolerance
            if converged:
                break
    if strict and tolerance > 0 and not converged:
        raise ConvergenceError(f"CG stopped at relative residual {residuals[-1]:.2e}, above {tolerance:.2e}.")
    certificate = None
    if certify:
        rest = right - normal(x)
        certificate = _relative(_inner(rest, rest, ndim), scale).reshape(right.shape[: right.ndim - ndim])
    status = CONVERGED if converged else STOPPED_SHORT if tolerance > 0 else FIXED_COUNT
    return CertifiedSolution(x, status, len(residuals) or n_iterations, tuple(residuals), certificate)


def _relative(size: Tensor, scale: Tensor) -> Tensor:
    return (size / scale.clamp_min(torch.finfo(scale.dtype).tiny)).sqrt()
