r"""What `fused` compiles: :math:`\sum_c \overline{S_c} F^H \mathrm{diag}(h) F S_c x` of eight lines, and of a plane.

Arrays are flat, ``float32``, interleaved (see `lanes`), and steps count single numbers, two a pixel. Maps are
``(set, coil, picture)``, pictures ``(set, picture)``; coils see the sum of all sets. Results are added to ``total``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mri_unroll.physics.compiled import compiled
from mri_unroll.physics.lane_arithmetic import plus_conj_times, plus_times, scaled, times, weighted
from mri_unroll.physics.lanes import N_LANES, load, load_columns, load_row, store, store_columns, store_row
from mri_unroll.physics.tile_fft import WIDTH, forward, inverse


@compiled
def _gather(tile: Any, at: int, array: Any, first: int, along: int, across: int, count: int, n: int, edge: Any) -> None:
    """``count`` lines of ``n`` numbers into a tile, from ``at`` on; either the lines or their numbers are neighbours.

    Numbers of a line are ``along`` apart and lines ``across``, one of which is 2. Where there are fewer than eight
    lines, the last stands in for those that are missing, or anything finite does.
    """
    if across == 2 and count >= N_LANES:
        for k in range(n):
            store(tile, at + k * WIDTH, load_row(array, first + k * along))
        return
    if across == 2:
        for k in range(n):
            for i in range(2 * count):
                edge[i] = array[first + k * along + i]
            store(tile, at + k * WIDTH, load_row(edge, 0))
        return
    last, whole = first + (min(count, N_LANES) - 1) * across, n // 4 * 4
    for k in range(0, whole, 4):
        a, b, c, d = load_columns(array, first + 2 * k, across, last + 2 * k)
        place = at + k * WIDTH
        store(tile, place, a)
        store(tile, place + WIDTH, b)
        store(tile, place + 2 * WIDTH, c)
        store(tile, place + 3 * WIDTH, d)
    for k in range(whole, n):
        for lane in range(N_LANES):
            place = min(first + lane * across, last) + 2 * k
            edge[2 * lane] = array[place]
            edge[2 * lane + 1] = array[place + 1]
        store(tile, at + k * WIDTH, load_row(edge, 0))


@compiled
def _scatter(
    tile: Any, at: int, array: Any, first: int, along: int, across: int, count: int, n: int, edge: Any
) -> None:
    """Write a tile where `_gather` reads it."""
    if across == 2 and count >= N_LANES:
        for k in range(n):
            store_row(array, first + k * along, load(tile, at + k * WIDTH))
        return
    if across == 2:
        for k in range(n):
            store_row(edge, 0, load(tile, at + k * WIDTH))
            for i in range(2 * count):
                array[first + k * along + i] = edge[i]
        return
    last, whole = first + (min(count, N_LANES) - 1) * across, n // 4 * 4
    for k in range(0, whole, 4):
        place = at + k * WIDTH
        a, b = load(tile, place), load(tile, place + WIDTH)
        c, d = load(tile, place + 2 * WIDTH), load(tile, place + 3 * WIDTH)
        store_columns(array, first + 2 * k, across, last + 2 * k, (a, b, c, d))
    for k in range(whole, n):
        store_row(edge, 0, load(tile, at + k * WIDTH))
        for lane in range(N_LANES):
            place = min(first + lane * across, last) + 2 * k
            array[place] = edge[2 * lane]
            array[place + 1] = edge[2 * lane + 1]


@compiled
def _see(coil: Any, weights: Any, weights_at: int, x: Any, x_at: int, n: int, more: bool) -> None:
    """What a coil sees, a tile of maps times a tile of pictures; with ``more``, added to what there is."""
    if more:
        for k in range(0, n, WIDTH):
            store(coil, k, plus_times(load(coil, k), load(weights, weights_at + k), load(x, x_at + k)))
    else:
        for k in range(0, n, WIDTH):
            store(coil, k, times(load(weights, weights_at + k), load(x, x_at + k)))


@compiled
def _add_up(total: Any, total_at: int, weights: Any, weights_at: int, coil: Any, n: int) -> None:
    """Add the conjugate of a tile of maps times what their coil gives back."""
    for k in range(0, n, WIDTH):
        before = load(total, total_at + k)
        store(total, total_at + k, plus_conj_times(before, load(weights, weights_at + k), load(coil, k)))


@compiled
def lines(
    maps: Any, image: Any, total: Any, n_sets: int, coils: Any, size: int, layout: Any, response: Any, plan: Any,
    blocks: Any, work: Any,
) -> None:  # fmt: skip
    """Blocks of eight lines.

    Parameters
    ----------
    coils
        How many there are, the first to take, and the one behind the last.
    size
        Of a picture.
    layout
        Lines in a group, from group to group, and along and across as in `_gather`.
    response
        :math:`h / n`, in the order of a transformed tile.
    plan
        Of the transform.
    blocks
        The first to do, and the one behind the last.
    work
        Room for ``(3 * n_sets + 1) * n`` values, and for one of a large prime's length.
    """
    n_coils, coil_from, coil_to = coils
    n_lines, group_step, along, across = layout
    tile = plan.n * WIDTH
    edge = np.zeros(WIDTH, np.float32)
    x, added, weights = 0, n_sets * tile, 2 * n_sets * tile
    coil, spare = work[3 * n_sets * tile : (3 * n_sets + 1) * tile], work[(3 * n_sets + 1) * tile :]
    in_group = (n_lines + N_LANES - 1) // N_LANES
    for block in range(blocks[0], blocks[1]):
        line = block % in_group * N_LANES
        first, count = block // in_group * group_step + line * across, n_lines - line
        for s in range(n_sets):
            _gather(work, x + s * tile, image, s * size + first, along, across, count, plan.n, edge)
            _gather(work, added + s * tile, total, s * size + first, along, across, count, plan.n, edge)
        for c in range(coil_from, coil_to):
            for s in range(n_sets):
                place = (s * n_coils + c) * size + first
                _gather(work, weights + s * tile, maps, place, along, across, count, plan.n, edge)
                _see(coil, work, weights + s * tile, work, x + s * tile, tile, s > 0)
            forward(coil, plan, spare)
            for k in range(plan.n):
                store(coil, k * WIDTH, scaled(load(coil, k * WIDTH), response[k]))
            inverse(coil, plan, spare)
            for s in range(0, n_sets * tile, tile):
                _add_up(work, added + s, work, weights + s, coil, tile)
        for s in range(n_sets):
            _scatter(work, added + s * tile, total, s * size + first, along, across, count, plan.n, edge)


@compiled
def planes(
    maps: Any, image: Any, total: Any, n_sets: int, coils: Any, size: int, layout: Any, response: Any, down: Any,
    across: Any, blocks: Any, work: Any,
) -> None:  # fmt: skip
    """Planes, transformed along their rows, which are contiguous, then along their columns.

    Parameters
    ----------
    coils, size, blocks
        As for `lines`; a block is a plane.
    layout
        From plane to plane, and from row to row.
    response
        :math:`h / n`, for every eight columns ``(row, lane)``, all in the order of transformed tiles.
    down, across
        Plans for columns and for rows.
    work
        Room for two tiles of a row and one of the longer side, for one of a large prime's length, and for a plane.
    """
    n_coils, coil_from, coil_to = coils
    plane_step, row_step = layout
    n_rows, n_columns, row = down.n, across.n, 2 * across.n
    edge = np.zeros(WIDTH, np.float32)
    in_row, side = n_columns * WIDTH, max(n_rows, n_columns) * WIDTH
    weights, other, tile = work[:in_row], work[in_row : 2 * in_row], work[2 * in_row :]
    plane = tile[side:]
    spare = plane[n_rows * row :]
    for block in range(blocks[0], blocks[1]):
        for c in range(coil_from, coil_to):
            for line in range(0, n_rows, N_LANES):
                first, count = block * plane_step + line * row_step, n_rows - line
                for s in range(n_sets):
                    map_at = (s * n_coils + c) * size + first
                    _gather(weights, 0, maps, map_at, 2, row_step, count, n_columns, edge)
                    _gather(other, 0, image, s * size + first, 2, row_step, count, n_columns, edge)
                    _see(tile, weights, 0, other, 0, in_row, s > 0)
                forward(tile, across, spare)
                _scatter(tile, 0, plane, line * row, 2, row, count, n_columns, edge)
            for column in range(0, row, WIDTH):
                count = (row - column) // 2
                _gather(tile, 0, plane, column, row, 2, count, n_rows, edge)
                forward(tile, down, spare)
                for k in range(n_rows):
                    place = column // 2 * n_rows + k * N_LANES
                    store(tile, k * WIDTH, weighted(load(tile, k * WIDTH), response, place))
                inverse(tile, down, spare)
                _scatter(tile, 0, plane, column, row, 2, count, n_rows, edge)
            for line in range(0, n_rows, N_LANES):
                first, count = block * plane_step + line * row_step, n_rows - line
                _gather(tile, 0, plane, line * row, 2, row, count, n_columns, edge)
                inverse(tile, across, spare)
                for s in range(n_sets):
                    map_at = (s * n_coils + c) * size + first
                    _gather(weights, 0, maps, map_at, 2, row_step, count, n_columns, edge)
                    _gather(other, 0, total, s * size + first, 2, row_step, count, n_columns, edge)
                    _add_up(other, 0, weights, 0, tile, in_row)
                    _scatter(other, 0, total, s * size + first, 2, row_step, count, n_columns, edge)
