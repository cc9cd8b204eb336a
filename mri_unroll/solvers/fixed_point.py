r"""Fixed points :math:`z = f(z)`, batched, each sample with its own stopping and its own certificate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mri_unroll.errors import ConfigError, ConvergenceError, ShapeError
from mri_unroll.solvers.acceleration import Acceleration, Anderson, Broyden, Picard
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT, Solution

Map = Callable[[Tensor], Tensor]
Method = Literal["picard", "anderson", "broyden"]

_MEMORY = {"anderson": 8, "broyden": 20}  # vectors kept, two for each
_LEASH = 10.0  # a residual this many times the best one means that acceleration led astray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FixedPoint(Solution):
    """A guess, its image, and how far apart they are: measured for each sample at the guess itself."""

    image: Tensor  # step(value), shape of the unknown
    residual: Tensor  # ||step(value) - value|| / ||step(value)||, real, (*batch,)
    counts: Tensor  # evaluations of the step until each sample stood still, (*batch,)


@torch.no_grad()
def fixed_point(
    step: Map,
    start: Tensor,
    *,
    method: Method = "anderson",
    tolerance: float = 1e-4,
    n_iterations: int = 50,
    memory: int | None = None,
    damping: float = 1.0,
    ndim: int = 2,
    strict: bool = False,
) -> FixedPoint:
    r"""Iterate to :math:`z = f(z)`, without a graph.

    A sample that has arrived stands still while others go on, so that it ends where it would end alone. A sample whose
    residual grows far beyond its best, or is no longer finite, goes on from its best guess by a plain step. Complex
    pictures are vectors of real and imaginary parts: a network's map is linear over the reals at most.

    Parameters
    ----------
    step
        ``f``, on the shape of ``start``; must treat samples independently.
    start
        First guess, real or complex, ``(*batch, [z,] y, x)``.
    method
        ``"picard"``, ``"anderson"`` or ``"broyden"``: see `mri_unroll.solvers.acceleration`.
    tolerance
        A sample stops when ``||f(z) - z|| <= tolerance * ||f(z)||``; 0 runs all iterations.
    n_iterations
        At most this many evaluations of the step, at least 1.
    memory
        Vectors of history; None: 8 for Anderson, 20 for Broyden.
    damping
        Part of the residual that a plain step moves by, in (0, 1].
    ndim
        Trailing axes that make up one unknown; those before are the batch.
    strict
        Raise when a sample did not reach the tolerance.

    Returns
    -------
    FixedPoint
        Per sample the evaluated guess of smallest residual. ``residuals`` is the largest residual over the batch in
        each iteration.

    Raises
    ------
    ConfigError
        If a setting is out of its range.
    ShapeError
        If the step changes the shape.
    ConvergenceError
        Only with ``strict``.
    """
    accelerate = _acceleration(method, memory, damping)
    if n_iterations < 1 or not tolerance >= 0:
        raise ConfigError(f"Expected n_iterations >= 1 and tolerance >= 0, got {n_iterations} and {tolerance}.")
    batch = start.shape[: start.ndim - ndim]
    guess = best = best_image = _as_vectors(start, batch)
    best_size = guess.new_full(guess.shape[:1], math.inf)
    leash = torch.full_like(best_size, _LEASH)
    moving = torch.ones_like(best_size, dtype=torch.bool)
    counts = torch.zeros_like(moving, dtype=torch.int64)
    residuals: list[float] = []
    for index in range(n_iterations):
        picture = step(_as_picture(guess, start))
        if picture.shape != start.shape:
            raise ShapeError(f"Expected the step to keep the shape {tuple(start.shape)}, got {tuple(picture.shape)}.")
        image = _as_vectors(picture, batch)
        residual = image - guess
        size = torch.linalg.vector_norm(residual, dim=-1)
        size = size / torch.linalg.vector_norm(image, dim=-1).clamp_min(torch.finfo(size.dtype).tiny)
        counts += moving
        if index == 0:
            best_size, best, best_image = size.nan_to_num(nan=math.inf), guess, image
        else:
            better = moving & (size < best_size)
            best_size = torch.where(better, size, best_size)
            best = torch.where(better[:, None], guess, best)
            best_image = torch.where(better[:, None], image, best_image)
        moving = best_size > tolerance
        residuals.append(float(torch.where(moving, size, best_size).max()) if size.numel() else 0.0)
        if not bool(moving.any()):
            break
        lost = moving & ~(size <= leash * best_size)
        forget = lost if bool(lost.any()) else None
        if forget is not None:
            leash = torch.where(lost, _LEASH * leash, leash)  # the way may lead over a hill: no endless turning back
            guess = torch.where(lost[:, None], best, guess)
            residual = torch.where(lost[:, None], best_image - best, residual)
        guess = torch.where(moving[:, None], accelerate(guess, residual, forget), best)
    worst = float(best_size.max()) if best_size.numel() else 0.0
    converged = worst <= tolerance
    if strict and tolerance > 0 and not converged:
        raise ConvergenceError(
            f"The fixed point was sought to {tolerance:.2e}, but after {len(residuals)} iterations the relative "
            f"residual is {worst:.2e}.",
            "Allow more iterations, a looser tolerance, or make the step more of a contraction.",
        )
    return FixedPoint(
        _as_picture(best, start),
        CONVERGED if converged else STOPPED_SHORT if tolerance > 0 else FIXED_COUNT,
        len(residuals),
        tuple(residuals),
        image=_as_picture(best_image, start),
        residual=best_size.view(batch),
        counts=counts.view(batch),
    )


def _acceleration(method: str, memory: int | None, damping: float) -> Acceleration:
    if not 0 < damping <= 1 or (memory is not None and memory < 1):
        raise ConfigError(f"Expected 0 < damping <= 1 and memory >= 1, got {damping} and {memory}.")
    if method == "picard":
        return Picard(damping)
    if method not in _MEMORY:
        raise ConfigError(f"Expected the method 'picard', 'anderson' or 'broyden', got {method!r}.")
    memory = memory or _MEMORY[method]
    return Anderson(memory, damping) if method == "anderson" else Broyden(memory, damping)


def _as_vectors(picture: Tensor, batch: torch.Size) -> Tensor:
    """``(*batch, ...)``, real or complex, to real ``(sample, n)``; a view where memory allows it."""
    real = torch.view_as_real(picture.resolve_conj()) if picture.is_complex() else picture
    return real.reshape(math.prod(batch), math.prod(real.shape[len(batch) :]))


def _as_picture(vectors: Tensor, like: Tensor) -> Tensor:
    """Inverse of `_as_vectors`."""
    if like.is_complex():
        return torch.view_as_complex(vectors.reshape(*like.shape, 2))
    return vectors.reshape(like.shape)
