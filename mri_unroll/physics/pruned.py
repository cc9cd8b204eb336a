r"""Fourier filters along one axis by matrix products that compute only what was measured.

A mask of phase-encoding lines keeps :math:`K` of :math:`n` frequencies, and :math:`F^H \mathrm{diag}(h) F` needs no
others. With :math:`n = a b`, frequencies of one residue :math:`c = k \bmod a` see the picture only folded
:math:`a` times,

.. math:: X_k = \frac1{\sqrt n} \sum_{j<b} e^{-2\pi i jk/n} \, y_{c,j}, \qquad
          y_{c,j} = \sum_{m<a} e^{-2\pi i mc/a} \, x_{mb+j},

(decimation in frequency: Cooley and Tukey, Math. Comput. 19, 297 (1965), doi:10.1090/S0025-5718-1965-0178586-1). For
:math:`a \le 4` the fold is additions; the rest is one dense :math:`b \times K_c` product a residue, which runs at the
processor's full speed whatever primes :math:`n` has, where an FFT of a length such as 372 = 4 * 3 * 31 does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mri_unroll.physics.fourier import engine_name, has_small_primes

# Measured lines up to which products are faster than the FFT pair, by axis, for lengths with a prime of 17 or more; for
# other lengths they never are (measured, docs/performance.md).
_MOST_LINES = {-1: 64, -2: 150}
_LINES_AT_A_TIME = 8


class PrunedFilter:
    r"""The complex conjugate of :math:`F^H \mathrm{diag}(h) F` along one axis, on CPU and outside autograd.

    Parameters
    ----------
    response
        :math:`h`, real, ``(n,)``, zero frequency at index 0; what is zero is skipped.
    axis
        -1 or -2, the axis of the pictures to filter.
    dtype
        Of the pictures, complex.
    """

    def __init__(self, response: Tensor, axis: int, dtype: torch.dtype) -> None:
        n = response.shape[0]
        self._axis = axis
        self._n_folds = math.gcd(n, 4)
        measured = response.nonzero().flatten()
        positions = torch.arange(n // self._n_folds)
        self._products: list[tuple[Tensor, Tensor]] = []
        for residue in range(self._n_folds):
            lines = measured[measured % self._n_folds == residue]
            # Weights of zero fill up the lines that processors multiply at a time: up to 1.6 times faster (measured).
            missing = -len(lines) % _LINES_AT_A_TIME
            weights = functional.pad(response[lines].double(), (0, missing))
            lines = functional.pad(lines, (0, missing))
            angle = -2 * math.pi / n * torch.remainder(positions[:, None] * lines, n).double()
            waves = torch.polar(torch.full_like(angle, n**-0.5), angle)
            weighted = waves * weights
            onto, back = (waves, weighted.T) if axis == -1 else (waves.T, weighted)
            self._products.append((onto.to(dtype).contiguous(), back.to(dtype).contiguous()))

    def __call__(self, x: Tensor) -> Tensor:
        """Filter the workspace ``x``, ``(..., n)`` or ``(..., n, m)``, in place, and return it."""
        parts = x.chunk(self._n_folds, self._axis)
        folded = _fourier(parts)
        for residue, (onto, back) in enumerate(self._products):
            values = folded[residue]
            if self._axis == -1:
                folded[residue] = (values @ onto).conj_physical_() @ back
            else:
                folded[residue] = back @ (onto @ values).conj_physical_()
        _fourier(folded, parts)
        return x


def pruned_filter(response: Tensor, axes: tuple[int, ...], dtype: torch.dtype) -> PrunedFilter | None:
    """`PrunedFilter` where it is faster than FFTs, or None: the one place that decides.

    Parameters
    ----------
    response
        Real, zero frequency at index 0, broadcastable to the pictures.
    axes
        Axes on which it depends, counted from the last, -1.
    dtype
        Of the pictures, complex.
    """
    if response.device.type != "cpu" or engine_name() != "torch+scipy" or axes not in ((-1,), (-2,)):
        return None
    n = response.shape[axes[0]]
    if response.numel() != n:  # a mask for each slice
        return None
    if has_small_primes(n) or int(response.count_nonzero()) > _MOST_LINES[axes[0]]:
        return None
    return PrunedFilter(response.flatten(), axes[0], dtype)


def _fourier(parts: Sequence[Tensor], out: Sequence[Tensor | None] = (None,) * 4) -> list[Tensor]:
    """Discrete Fourier transform over 1, 2 or 4 parts, into ``out`` or new memory."""
    if len(parts) == 1:
        return [parts[0] if out[0] is None else out[0].copy_(parts[0])]
    if len(parts) == 2:
        return [torch.add(*parts, alpha=sign, out=out[i]) for i, sign in enumerate((1, -1))]
    (even, flat), (odd, steep) = _fourier(parts[::2]), _fourier(parts[1::2])
    pairs = ((even, odd), (flat, steep))
    return [torch.add(*pairs[i % 2], alpha=turn, out=out[i]) for i, turn in enumerate((1, -1j, -1, 1j))]
