r"""Ways from one guess at a fixed point to the next: Picard, Anderson, Broyden.

Each works on real vectors, ``(sample, n)``; every sample has its own history and its own coefficients. A method is
called with a guess ``z``, its residual :math:`r = f(z) - z`, and the samples whose history no longer holds.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Acceleration(Protocol):
    """A rule that proposes the next guess."""

    def __call__(self, guess: Tensor, residual: Tensor, forget: Tensor | None) -> Tensor:
        """``(sample, n)`` twice, and which samples start anew, ``(sample,)``, if any, to the next guess."""
        ...


class Picard:
    r"""Plain iteration, :math:`z \leftarrow z + d\,r`.

    Parameters
    ----------
    damping
        ``d``, in (0, 1]; 1 applies the map itself.
    """

    def __init__(self, damping: float) -> None:
        self.damping = damping

    def __call__(self, guess: Tensor, residual: Tensor, forget: Tensor | None) -> Tensor:
        """Move along the residual."""
        return torch.add(guess, residual, alpha=self.damping)


class Anderson:
    r"""Anderson's mixing: the combination of the last guesses whose residuals cancel best.

    .. math:: z \leftarrow z + d\,r - \sum_i \gamma_i(\Delta z_i + d\,\Delta r_i), \qquad
              \gamma = \arg\min_\gamma \|r - \textstyle\sum_i \gamma_i \Delta r_i\|^2 .

    On a linear map it is as good as GMRES while the memory lasts. Columns are kept at unit length, which makes the
    small ridge of the least-squares problem relative.

    Parameters
    ----------
    memory
        Differences kept.
    damping
        ``d``, in (0, 1].

    Notes
    -----
    Anderson, J. ACM 12, 547 (1965), doi:10.1145/321296.321305; Walker and Ni, SIAM J. Numer. Anal. 49, 1715 (2011),
    doi:10.1137/10078356X.
    """

    _guess: Tensor
    _residual: Tensor

    def __init__(self, memory: int, damping: float) -> None:
        self.memory = memory
        self.damping = damping
        self._n_calls = 0

    def __call__(self, guess: Tensor, residual: Tensor, forget: Tensor | None) -> Tensor:
        """Remember the guess and mix."""
        if self._n_calls == 0:
            self._turns = residual.new_zeros(self.memory, *residual.shape)  # differences of residuals
            self._moves = torch.zeros_like(self._turns)  # what they change the next guess by
            self._gram = residual.new_zeros(residual.shape[0], self.memory, self.memory)
        else:
            slot = (self._n_calls - 1) % self.memory
            turn = residual - self._residual
            move = torch.add(guess - self._guess, turn, alpha=self.damping)
            size = torch.linalg.vector_norm(turn, dim=-1, keepdim=True)
            scale = torch.where(size > 0, size, 1).reciprocal()
            self._turns[slot], self._moves[slot] = turn * scale, move * scale
            if forget is not None:
                self._turns[:, forget], self._moves[:, forget], self._gram[forget] = 0, 0, 0
            row = _products(self._turns, self._turns[slot])
            self._gram[:, slot], self._gram[:, :, slot] = row, row
        self._guess, self._residual = guess, residual
        self._n_calls += 1
        used = min(self._n_calls - 1, self.memory)
        ahead = torch.add(guess, residual, alpha=self.damping)
        if used == 0:
            return ahead
        turns, moves = self._turns[:used], self._moves[:used]
        ridge = 100 * torch.finfo(residual.dtype).eps * torch.eye(used, dtype=residual.dtype, device=residual.device)
        weights = torch.linalg.solve_ex(self._gram[:, :used, :used] + ridge, _products(turns, residual))[0]
        return ahead - _combine(weights, moves)


class Broyden:
    r"""Broyden's good method on :math:`g(z) = f(z) - z`, its inverse Jacobian kept as :math:`-d I + \sum_i u_i v_i^T`.

    Parameters
    ----------
    memory
        Rank-one terms kept; when they are used up, the approximation starts anew.
    damping
        ``d``, in (0, 1].

    Notes
    -----
    Broyden, Math. Comp. 19, 577 (1965), doi:10.1090/S0025-5718-1965-0198670-6.
    """

    _residual: Tensor

    def __init__(self, memory: int, damping: float) -> None:
        self.memory = memory
        self.damping = damping
        self._rank = 0
        self._guess: Tensor | None = None

    def __call__(self, guess: Tensor, residual: Tensor, forget: Tensor | None) -> Tensor:
        """Update the inverse Jacobian by the last move, and step to where the linear model has its root."""
        if self._guess is None:
            self._left = residual.new_zeros(self.memory, *residual.shape)
            self._right = torch.zeros_like(self._left)
        else:
            if self._rank == self.memory:
                self._rank = 0
                self._left.zero_()
                self._right.zero_()
            move, turn = guess - self._guess, residual - self._residual
            predicted = self._inverse(turn, self._left, self._right)
            divisor = (move * predicted).sum(-1, keepdim=True)
            safe = divisor.abs() > torch.finfo(divisor.dtype).eps * move.square().sum(-1, keepdim=True)
            self._right[self._rank] = self._inverse(move, self._right, self._left)
            self._left[self._rank] = torch.where(safe, (move - predicted) / torch.where(safe, divisor, 1), 0)
            self._rank += 1
            if forget is not None:
                self._left[:, forget], self._right[:, forget] = 0, 0
        self._guess, self._residual = guess, residual
        return guess - self._inverse(residual, self._left, self._right)

    def _inverse(self, vector: Tensor, left: Tensor, right: Tensor) -> Tensor:
        left, right = left[: self._rank], right[: self._rank]
        return _combine(_products(right, vector), left) - self.damping * vector


def _products(vectors: Tensor, vector: Tensor) -> Tensor:
    """Inner products per sample: ``(term, sample, n)`` and ``(sample, n)`` to ``(sample, term)``."""
    return torch.einsum("tsn,sn->st", vectors, vector)


def _combine(weights: Tensor, vectors: Tensor) -> Tensor:
    """Weighted sum per sample: ``(sample, term)`` and ``(term, sample, n)`` to ``(sample, n)``."""
    return torch.einsum("st,tsn->sn", weights, vectors)
