r"""Fourier transforms of eight signals at a time, in place, inside functions that numba compiles.

A *tile* is a flat ``float32`` array of ``n`` split `lanes` values: sample k of eight signals lies at ``16 * k``. The
forward transform divides in frequency and leaves its result in the order of digits reversed; the inverse divides in
time and takes that order back, so that a filter never sorts:

.. math:: X_{k + r f} = \sum_{j<q} e^{-2\pi i jf/q} \Bigl( e^{-2\pi i jk/n}
          \sum_{t<r} e^{-2\pi i tk/r} x_{j+tq} \Bigr), \qquad n = r q

(Cooley and Tukey, Math. Comput. 19, 297 (1965), doi:10.1090/S0025-5718-1965-0178586-1; Gentleman and Sande, AFIPS Fall
Joint Computer Conf. 1966, doi:10.1145/1464291.1464352). Factors 2 to 5 have a butterfly of their own; larger primes
are sums over cosines and sines, each used for two frequencies and both parts.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri_unroll.physics.compiled import compiled
from mri_unroll.physics.lane_arithmetic import rotated, rotated_back, scaled, swapped, turned
from mri_unroll.physics.lanes import N_LANES, load, store

WIDTH = 2 * N_LANES  # numbers that a value takes in a tile
# Up to here sums over p^2 / 2 terms take about half as long as other libraries' FFTs (measured, docs/performance.md).
LARGEST_PRIME = 127

_HALF = np.float32(0.5)
_SIN_3 = np.float32(math.sin(2 * math.pi / 3))
_COS_5, _COS_5_TWICE = np.float32(math.cos(2 * math.pi / 5)), np.float32(math.cos(4 * math.pi / 5))
_SIN_5, _SIN_5_TWICE = np.float32(math.sin(2 * math.pi / 5)), np.float32(math.sin(4 * math.pi / 5))


class Plan(NamedTuple):
    """How to transform a length; compiled code takes it whole."""

    n: int
    radices: NDArray[np.int64]  # (stage,), their product is n
    twiddles: NDArray[np.float32]  # cosine and sine of each stage's (j, k), k > 0
    waves: NDArray[np.float32]  # cosines and sines of large primes, as `_prime` reads them
    waves_at: NDArray[np.int64]  # (stage,), where those of a stage begin
    order: NDArray[np.int64]  # (n,), the frequency at each place of a transformed tile


def has_plan(n: int) -> bool:
    """Whether all primes of the length ``n`` are small enough."""
    return n > 0 and all(prime <= LARGEST_PRIME for prime in _radices(n))


@functools.cache
def make_plan(n: int) -> Plan:
    """The plan for signals of length ``n``, kept for next time."""
    radices = _radices(n)
    twiddles, waves, waves_at, length = [np.zeros(0)], [np.zeros(0)], [], n
    for radix in radices:
        waves_at.append(sum(map(len, waves)))
        if radix > 5:
            waves.append(_prime_waves(radix))
        length //= radix
        turns = np.outer(np.arange(length), np.arange(1, radix)) / (length * radix)
        twiddles.append(_cosines_and_sines(-turns))
    return Plan(
        n,
        np.array(radices, np.int64),
        np.concatenate(twiddles).astype(np.float32),
        np.concatenate(waves).astype(np.float32),
        np.array(waves_at, np.int64),
        _reversed_digits(radices),
    )


def _radices(n: int) -> list[int]:
    radices = []
    for radix in (4, 2, 3, 5):
        while n % radix == 0:
            radices.append(radix)
            n //= radix
    prime = 7
    while n > 1:
        if prime * prime > n:
            prime = n
        while n % prime == 0:
            radices.append(prime)
            n //= prime
        prime += 2
    return radices


def _reversed_digits(radices: list[int]) -> NDArray[np.int64]:
    order = np.zeros(1, np.int64)
    for radix in reversed(radices):
        order = (np.arange(radix)[:, None] + radix * order).ravel()
    return order


def _cosines_and_sines(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    angles = 2 * np.pi * turns.ravel()
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel()


def _prime_waves(prime: int) -> NDArray[np.float64]:
    """For every three frequencies, and every sample of the first half: their cosines and sines."""
    half = prime // 2
    frequencies = np.arange(1, half + 1 + -half % 3).reshape(-1, 1, 3)
    return _cosines_and_sines(np.arange(1, half + 1)[:, None] * frequencies % prime / prime)


@compiled
def forward(tile: Any, plan: Any, spare: Any) -> None:
    """Transform a tile, without a factor; ``spare`` holds one tile of a large prime's length."""
    n, radices, twiddles, waves, waves_at, _ = plan
    length, at = n, 0
    for stage in range(len(radices)):
        radix = radices[stage]
        whole = length * WIDTH
        length //= radix
        step = length * WIDTH
        for j in range(length):
            for i in range(j * WIDTH, n * WIDTH, whole):
                if radix == 4:
                    a, b, c, d = _four(
                        load(tile, i), load(tile, i + step), load(tile, i + 2 * step), load(tile, i + 3 * step)
                    )
                    store(tile, i, a)
                    store(tile, i + step, rotated(b, twiddles, at))
                    store(tile, i + 2 * step, rotated(c, twiddles, at + 2))
                    store(tile, i + 3 * step, rotated(d, twiddles, at + 4))
                elif radix == 2:
                    a, b = load(tile, i), load(tile, i + step)
                    store(tile, i, a + b)
                    store(tile, i + step, rotated(a - b, twiddles, at))
                elif radix == 3:
                    a, b, c = _three(load(tile, i), load(tile, i + step), load(tile, i + 2 * step))
                    store(tile, i, a)
                    store(tile, i + step, rotated(b, twiddles, at))
                    store(tile, i + 2 * step, rotated(c, twiddles, at + 2))
                elif radix == 5:
                    a, b, c, d, e = _five(
                        load(tile, i),
                        load(tile, i + step),
                        load(tile, i + 2 * step),
                        load(tile, i + 3 * step),
                        load(tile, i + 4 * step),
                    )
                    store(tile, i, a)
                    store(tile, i + step, rotated(b, twiddles, at))
                    store(tile, i + 2 * step, rotated(c, twiddles, at + 2))
                    store(tile, i + 3 * step, rotated(d, twiddles, at + 4))
                    store(tile, i + 4 * step, rotated(e, twiddles, at + 6))
                else:
                    _prime(tile, i, step, radix, waves, waves_at[stage], spare)
                    for k in range(1, radix):
                        place = i + k * step
                        store(tile, place, rotated(load(tile, place), twiddles, at + 2 * k - 2))
            at += 2 * (radix - 1)


@compiled
def inverse(tile: Any, plan: Any, spare: Any) -> None:
    """Undo `forward`, times ``n``."""
    n, radices, twiddles, waves, waves_at, _ = plan
    length, behind = 1, len(twiddles)
    for stage in range(len(radices) - 1, -1, -1):
        radix = radices[stage]
        step = length * WIDTH
        whole = step * radix
        behind -= 2 * (radix - 1) * length
        at = behind
        for j in range(length):
            for i in range(j * WIDTH, n * WIDTH, whole):
                if radix == 4:
                    a, b, c, d = _four(
                        swapped(load(tile, i)),
                        swapped(rotated_back(load(tile, i + step), twiddles, at)),
                        swapped(rotated_back(load(tile, i + 2 * step), twiddles, at + 2)),
                        swapped(rotated_back(load(tile, i + 3 * step), twiddles, at + 4)),
                    )
                    store(tile, i, swapped(a))
                    store(tile, i + step, swapped(b))
                    store(tile, i + 2 * step, swapped(c))
                    store(tile, i + 3 * step, swapped(d))
                elif radix == 2:
                    a, b = load(tile, i), rotated_back(load(tile, i + step), twiddles, at)
                    store(tile, i, a + b)
                    store(tile, i + step, a - b)
                elif radix == 3:
                    a, b, c = _three(
                        swapped(load(tile, i)),
                        swapped(rotated_back(load(tile, i + step), twiddles, at)),
                        swapped(rotated_back(load(tile, i + 2 * step), twiddles, at + 2)),
                    )
                    store(tile, i, swapped(a))
                    store(tile, i + step, swapped(b))
                    store(tile, i + 2 * step, swapped(c))
                elif radix == 5:
                    a, b, c, d, e = _five(
                        swapped(load(tile, i)),
                        swapped(rotated_back(load(tile, i + step), twiddles, at)),
                        swapped(rotated_back(load(tile, i + 2 * step), twiddles, at + 2)),
                        swapped(rotated_back(load(tile, i + 3 * step), twiddles, at + 4)),
                        swapped(rotated_back(load(tile, i + 4 * step), twiddles, at + 6)),
                    )
                    store(tile, i, swapped(a))
                    store(tile, i + step, swapped(b))
                    store(tile, i + 2 * step, swapped(c))
                    store(tile, i + 3 * step, swapped(d))
                    store(tile, i + 4 * step, swapped(e))
                else:
                    for k in range(radix):
                        place = i + k * step
                        value = load(tile, place)
                        if k > 0:
                            value = rotated_back(value, twiddles, at + 2 * k - 2)
                        store(tile, place, swapped(value))
                    _prime(tile, i, step, radix, waves, waves_at[stage], spare)
                    for k in range(radix):
                        place = i + k * step
                        store(tile, place, swapped(load(tile, place)))
            at += 2 * (radix - 1)
        length *= radix


@compiled
def _three(a: Any, b: Any, c: Any) -> Any:
    both, odd = b + c, turned(scaled(b - c, _SIN_3))
    middle = a - scaled(both, _HALF)
    return a + both, middle + odd, middle - odd


@compiled
def _four(a: Any, b: Any, c: Any, d: Any) -> Any:
    even, odd = a + c, b + d
    steep, flat = a - c, turned(b - d)
    return even + odd, steep + flat, even - odd, steep - flat


@compiled
def _five(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    outer, inner = b + e, c + d
    outer_odd, inner_odd = turned(b - e), turned(c - d)
    first = a + scaled(outer, _COS_5) + scaled(inner, _COS_5_TWICE)
    second = a + scaled(outer, _COS_5_TWICE) + scaled(inner, _COS_5)
    first_odd = scaled(outer_odd, _SIN_5) + scaled(inner_odd, _SIN_5_TWICE)
    second_odd = scaled(outer_odd, _SIN_5_TWICE) - scaled(inner_odd, _SIN_5)
    return a + outer + inner, first + first_odd, second + second_odd, second - second_odd, first - first_odd


@compiled
def _prime(tile: Any, first: int, step: int, prime: int, waves: Any, at: int, spare: Any) -> None:
    """Transform ``prime`` values, ``step`` apart; three frequencies at a time fill the registers."""
    half = prime // 2
    middle = load(tile, first)
    total = middle
    for j in range(half):
        left, right = load(tile, first + (j + 1) * step), load(tile, first + (prime - 1 - j) * step)
        total = total + (left + right)
        store(spare, 2 * j * WIDTH, left + right)
        store(spare, (2 * j + 1) * WIDTH, turned(left - right))
    store(tile, first, total)
    for k in range(1, half + 1, 3):
        even_0 = even_1 = even_2 = middle
        odd_0 = odd_1 = odd_2 = middle - middle
        for j in range(half):
            even, odd = load(spare, 2 * j * WIDTH), load(spare, (2 * j + 1) * WIDTH)
            even_0, odd_0 = even_0 + scaled(even, waves[at]), odd_0 + scaled(odd, waves[at + 1])
            even_1, odd_1 = even_1 + scaled(even, waves[at + 2]), odd_1 + scaled(odd, waves[at + 3])
            even_2, odd_2 = even_2 + scaled(even, waves[at + 4]), odd_2 + scaled(odd, waves[at + 5])
            at += 6
        low, high = first + k * step, first + (prime - k) * step
        store(tile, low, even_0 + odd_0)
        store(tile, high, even_0 - odd_0)
        if k + 1 <= half:
            store(tile, low + step, even_1 + odd_1)
            store(tile, high - step, even_1 - odd_1)
        if k + 2 <= half:
            store(tile, low + 2 * step, even_2 + odd_2)
            store(tile, high - 2 * step, even_2 - odd_2)
