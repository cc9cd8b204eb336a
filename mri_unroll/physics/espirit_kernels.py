r"""What `espirit` compiles: the leading eigenvector of the Hermitian matrix of every pixel, eight pixels at a time.

.. math:: P_0 = G, \qquad P_{k+1} = P_k^2 / \operatorname{tr} P_k^2,

has the projector on that vector as its limit, which it reaches after :math:`k` squares up to
:math:`(\lambda_2 / \lambda_1)^{2^k}`. The trace of the square of :math:`P_k` says how near that is: of a projector it
is 1. Working with whole matrices, this needs no start that might be orthogonal to the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mri_unroll.physics.compiled import compiled
from mri_unroll.physics.lane_arithmetic import (
    all_above,
    conjugate,
    parts_times,
    plus_conj_times,
    plus_rotated,
    plus_rotated_back,
    plus_times,
    power,
    real_parts,
    reciprocal,
    root,
    rotated,
    where_larger,
)
from mri_unroll.physics.lanes import N_LANES, load, store, store_row
from mri_unroll.physics.tile_fft import WIDTH

_PURE = np.float32(1 - 1e-6)  # trace of the square from which a matrix is a projector, to single precision
_MOST_SQUARES = 12  # (1 - 1/500)^(2^12) = 3e-4; eigenvalues that are closer mix, and any mixture explains as much
_TINY = np.float32(1e-30)  # keeps what is zero from being divided by zero


@compiled
def leading_vectors(
    lags: Any, waves: Any, reference: Any, n: int, maps: Any, values: Any, n_columns: int, blocks: Any, work: Any
) -> None:
    """Unit eigenvectors of the largest eigenvalue, and those, in one plane.

    Parameters
    ----------
    lags
        Which :math:`G` sums: for every eight columns of pixels ``(lag, coil, coil up to it)``, split; ``n`` coils.
    waves
        What it sums them with, ``(y, lag)``, interleaved.
    reference
        ``(coil,)``, interleaved; each vector's inner product with it becomes positive. It names the coils that there
        are, ``n`` or one less: ``n`` is even.
    maps, values
        Results, interleaved: ``(coil, y, x)``, and ``(y, x)`` in the real parts.
    n_columns
        Pixels in a row.
    blocks
        The first eight columns to do, and the one behind the last.
    work
        Room for ``3 * n * n + n + 2`` split values.
    """
    n_coils, n_pairs, size = len(reference) // 2, n * (n + 1) // 2, n * n * WIDTH
    n_lags = len(lags) // ((n_columns + N_LANES - 1) // N_LANES * n_pairs * WIDTH)
    n_rows = len(waves) // (2 * n_lags)
    first, second, vector, factor = size, 2 * size, 3 * size, 3 * size + n * WIDTH
    edge = np.zeros(WIDTH, np.float32)
    work[factor + WIDTH : factor + 2 * WIDTH] = _TINY
    tiny, nothing = load(work, factor + WIDTH), load(edge, 0)
    for block in range(blocks[0], blocks[1]):
        for y in range(n_rows):
            place = block * n_lags * n_pairs * WIDTH
            for c in range(n):
                for d in range(c + 1):
                    entry = rotated(load(lags, place), waves, 2 * y * n_lags)
                    for lag in range(1, n_lags):
                        at = place + lag * n_pairs * WIDTH
                        entry = plus_rotated(entry, load(lags, at), waves, 2 * (y * n_lags + lag))
                    store(work, (d * n + c) * WIDTH, conjugate(entry))
                    store(work, (c * n + d) * WIDTH, entry)
                    place += WIDTH
            now, then = 0, first
            for step in range(_MOST_SQUARES):
                purity = tiny
                for i in range(now, now + size, WIDTH):
                    purity = purity + power(load(work, i))
                if step > 0 and all_above(purity, _PURE):
                    break
                store(work, factor, reciprocal(purity))
                _square(work, now, then, n, factor)
                now, then = then, first + second - then
            # Of a projector every column is the vector; the one with the longest is the most exact.
            longest = load(work, now)
            for c in range(n):
                store(work, vector + c * WIDTH, load(work, now + c * n * WIDTH))
            for d in range(1, n):
                other = load(work, now + d * (n + 1) * WIDTH)
                for c in range(n):
                    at = vector + c * WIDTH
                    column = load(work, now + (c * n + d) * WIDTH)
                    store(work, at, where_larger(other, longest, column, load(work, at)))
                longest = where_larger(other, longest, other, longest)
            length, image_power, phase = tiny, nothing, nothing
            for c in range(n):
                image = nothing
                for d in range(n):
                    image = plus_times(image, load(work, (c * n + d) * WIDTH), load(work, vector + d * WIDTH))
                store(work, then + c * WIDTH, image)  # a matrix that is no longer needed
                length = length + power(load(work, vector + c * WIDTH))
                image_power = image_power + power(image)
                if c < n_coils:
                    phase = plus_rotated_back(phase, image, reference, 2 * c)
            over = reciprocal(parts_times(root(power(phase) + tiny), root(image_power + tiny)))
            count, at = n_columns - block * N_LANES, 2 * (y * n_columns + block * N_LANES)
            _put(values, at, count, parts_times(root(image_power), reciprocal(root(length))), edge)
            for c in range(n_coils):
                image = plus_conj_times(nothing, phase, load(work, then + c * WIDTH))
                _put(maps, 2 * c * n_rows * n_columns + at, count, parts_times(image, over), edge)


@compiled
def _square(work: Any, source: int, target: int, n: int, factor: int) -> None:
    """The square of a Hermitian matrix of even size, times a real number a lane; two rows by two columns at a time."""
    zero, by = load(work, source) - load(work, source), real_parts(load(work, factor))
    row = n * WIDTH
    for c in range(0, n, 2):
        for d in range(0, c + 1, 2):
            a = b = e = f = zero
            left, right = source + c * row, source + d * row
            for k in range(0, row, WIDTH):
                upper, lower = load(work, left + k), load(work, left + row + k)
                one, other = load(work, right + k), load(work, right + row + k)
                a, b = plus_conj_times(a, one, upper), plus_conj_times(b, other, upper)
                e, f = plus_conj_times(e, one, lower), plus_conj_times(f, other, lower)
            a, b, e, f = parts_times(a, by), parts_times(b, by), parts_times(e, by), parts_times(f, by)
            at, mirrored = target + c * row + d * WIDTH, target + d * row + c * WIDTH
            store(work, mirrored, conjugate(a))
            store(work, mirrored + row, conjugate(b))
            store(work, mirrored + WIDTH, conjugate(e))
            store(work, mirrored + row + WIDTH, conjugate(f))
            store(work, at, a)
            store(work, at + row, e)
            if d < c:
                store(work, at + WIDTH, b)
                store(work, at + row + WIDTH, f)


@compiled
def _put(array: Any, at: int, count: int, value: Any, edge: Any) -> None:
    """Write up to eight numbers one behind the other."""
    if count >= N_LANES:
        store_row(array, at, value)
    else:
        store_row(edge, 0, value)
        for i in range(2 * count):
            array[at + i] = edge[i]
