r"""Approximate message passing: iterative thresholding whose errors stay Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat

import torch
from torch import Tensor

from mri_unroll.solvers.shrinkage import Denoiser
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT, Solution

DIVERGED = "Diverged: the matrix is too far from i.i.d. for message passing; use vamp, or fista, which cannot diverge."

Map = Callable[[Tensor], Tensor]


def amp_iterates(
    forward: Map, adjoint: Map, measurements: Tensor, denoisers: Iterable[Denoiser], *, onsager: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Yield for :math:`k = 1, 2, \dots` the estimate :math:`x_k` and the noise level it came from.

    .. math:: v_k = y - Ax_k + \tfrac{n}{m}\langle D'_{k-1}\rangle v_{k-1}, \qquad
              \tau_k^2 = \|v_k\|^2/m, \qquad x_{k+1} = D_k(x_k + A^Hv_k, \tau_k^2) .

    The last term of the residual is Onsager's. It makes :math:`x_k + A^Hv_k` the truth in white Gaussian noise of
    variance :math:`\tau_k^2`, which is what the denoiser is made for, and what state evolution rests on.

    Parameters
    ----------
    forward, adjoint
        :math:`A`, ``(*batch, n)`` to ``(*batch, m)``, and :math:`A^H`: i.i.d. entries of variance ``1/m``.
    measurements
        ``y``, ``(*batch, m)``, real or complex.
    denoisers
        One an iteration, ``itertools.repeat(denoiser)`` for one without end: callables ``(noisy, noise_var) ->
        (estimate, slope)``, see `mri_unroll.solvers.shrinkage`.
    onsager
        False leaves the Onsager term out, to see what it is for: iterative thresholding that misjudges its noise.

    Yields
    ------
    tuple
        ``x_k``, ``(*batch, n)``, and :math:`\tau_{k-1}^2`, ``(*batch, 1)``, the noise level that its denoiser was told.

    Notes
    -----
    Donoho, Maleki and Montanari, PNAS 106, 18914 (2009), doi:10.1073/pnas.0909892106.
    """
    x = torch.zeros_like(adjoint(measurements))
    residual, slope = torch.zeros_like(measurements), measurements.new_zeros(()).real
    ratio = x.shape[-1] / measurements.shape[-1]
    smallest = torch.finfo(slope.dtype).eps ** 2  # keeps the noise level of a signal that is found exactly positive
    for denoiser in denoisers:
        echo = ratio * slope * residual if onsager else 0.0
        residual = measurements - forward(x) + echo
        noise_var = residual.abs().square().mean(-1, keepdim=True).clamp_min(smallest)
        x, slope = denoiser(x + adjoint(residual), noise_var)
        yield x, noise_var


def amp(
    forward: Map,
    adjoint: Map,
    measurements: Tensor,
    denoiser: Denoiser,
    *,
    n_iterations: int = 30,
    tolerance: float = 0.0,
    onsager: bool = True,
) -> Solution:
    r"""Recover ``x`` from :math:`y = Ax + w` by approximate message passing.

    Parameters
    ----------
    forward, adjoint, measurements, onsager
        As for `amp_iterates`.
    denoiser
        One for all iterations.
    n_iterations, tolerance
        Stop after this many, or when the relative change of every signal falls to the tolerance; 0 runs all.

    Returns
    -------
    Solution
        ``value`` is ``(*batch, n)``; ``residuals`` are the largest relative changes. The status says if a signal's
        noise level ended above where it began, or its estimate is not finite.
    """
    iterates = amp_iterates(forward, adjoint, measurements, repeat(denoiser), onsager=onsager)
    x, first = next(iterates)
    noise_var = first
    changes = [1.0]
    while len(changes) < n_iterations and not (tolerance > 0 and changes[-1] <= tolerance):
        new, noise_var = next(iterates)
        size = torch.linalg.vector_norm(new.detach(), dim=-1).clamp_min(torch.finfo(first.dtype).tiny)
        changes.append(float((torch.linalg.vector_norm((new - x).detach(), dim=-1) / size).max()))
        x = new
    if not bool(torch.isfinite(x.abs()).all() & (noise_var <= first).all()):
        status = DIVERGED
    elif tolerance > 0:
        status = CONVERGED if changes[-1] <= tolerance else STOPPED_SHORT
    else:
        status = FIXED_COUNT
    return Solution(x, status, len(changes), tuple(changes))
