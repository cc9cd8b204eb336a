r""":math:`A^H A = \sum_c \overline{S_c} F^H \mathrm{diag}(h) F S_c` in one pass over the coil maps, on CPU.

Eight lines of the picture, or one plane, stay in the processor's cache while every coil goes by: its map is read from
memory, multiplied, transformed, weighted, transformed back, multiplied by the conjugate of the same map and added up.
FFT libraries take and leave whole arrays; what they gain by their kernels goes into the ways to memory between them.

Numba compiles the kernels when they are first needed: some seconds, once per machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.physics.compiled import aligned, in_threads, numbers
from mri_unroll.physics.fourier import engine_name
from mri_unroll.physics.fused_kernels import lines, planes
from mri_unroll.physics.lanes import LANE_ORDER, N_LANES
from mri_unroll.physics.tile_fft import LARGEST_PRIME, WIDTH, has_plan, make_plan

_THREADED_BYTES = 2**21  # of maps; for less, handing work to threads costs more than they save


class FusedNormal:
    r""":math:`A^H A` of Cartesian acquisitions whose mask depends on one axis, or on two of which one is the last.

    Parameters
    ----------
    response
        :math:`h`, real, ``(*batch, 1, [z,] y, x)``, 1 along axes that are not transformed, zero frequency at index 0.
    axes
        Axes to transform, counted from the last, -1, in increasing order.
    spatial
        ``([z,] y, x)``, the size of a picture.
    """

    def __init__(self, response: Tensor, axes: tuple[int, ...], spatial: tuple[int, ...]) -> None:
        self._plans = [make_plan(spatial[axis]) for axis in axes]
        self._ndim = len(spatial)
        self._size = 2 * math.prod(spatial)
        self._batch = response.shape[: -len(spatial) - 1]
        self._responses = self._ordered(response.double().numpy())
        before = math.prod(spatial[: len(spatial) + axes[0]])
        behind = 2 * math.prod(spatial[len(spatial) + axes[0] + 1 :])
        n = spatial[axes[0]]
        self._layout: tuple[int, ...]
        if len(axes) == 2:
            across = spatial[-1]
            between = behind // (2 * across)
            self._n_blocks = before * between
            # Planes lie one behind the other, or row by row between each other's rows.
            self._layout = (2 * across if between > 1 else n * behind, behind)
        elif axes == (-1,):
            self._n_blocks = -(-before // N_LANES)
            self._layout = (before, 0, 2, 2 * n)
        else:
            self._n_blocks = before * -(-behind // (2 * N_LANES))
            self._layout = (behind // 2, n * behind, behind, 2)

    def _ordered(self, response: NDArray[np.float64]) -> NDArray[np.float32]:
        """The response of each problem, ``(*batch, number)``, in the order in which kernels meet it."""
        lengths = [plan.n for plan in self._plans]
        values = response.reshape(-1, *lengths) / math.prod(lengths)
        for axis, plan in enumerate(self._plans, 1):
            values = values.take(plan.order, axis)
        if len(lengths) == 2:
            values = np.pad(values.swapaxes(1, 2), ((0, 0), (0, -lengths[1] % N_LANES), (0, 0)))
            values = values.reshape(len(values), -1, N_LANES, lengths[0])[:, :, LANE_ORDER].swapaxes(2, 3)
        return np.ascontiguousarray(values, np.float32).reshape(*self._batch, -1)

    def add_to(self, total: Tensor, image: Tensor, maps: Tensor) -> None:
        """Add :math:`A^H A x` to ``total``.

        Parameters
        ----------
        total, image
            ``(*batch, set, [z,] y, x)``, complex64, contiguous.
        maps
            ``(*batch, set, coil, [z,] y, x)``, complex64; each problem's contiguous.
        """
        batch = maps.shape[: maps.ndim - self._ndim - 2]
        responses = np.broadcast_to(self._responses, (*batch, self._responses.shape[-1]))
        n_threads = torch.get_num_threads() if maps.numel() * maps.element_size() >= _THREADED_BYTES else 1
        tasks: list[tuple[Any, ...]] = []
        sums: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        for index in np.ndindex(*batch):
            n_sets, n_coils = maps.shape[-self._ndim - 2 : -self._ndim]
            problem = [numbers(tensor[index]) for tensor in (maps, image)]
            target = numbers(total[index])
            n_parts = n_threads if math.prod(batch) < n_threads else 1
            for part in range(n_parts):
                blocks, coils, own = (0, self._n_blocks), (0, n_coils), target
                if self._n_blocks >= n_parts:
                    blocks = _share(self._n_blocks, part, n_parts)
                else:  # few planes: coils are shared out instead, and each part has a sum of its own
                    coils = _share(n_coils, part, n_parts)
                    if part > 0:
                        own = np.zeros_like(target)
                        sums.append((target, own))
                tasks.append((*problem, own, n_sets, (n_coils, *coils), responses[index], blocks))
        in_threads(lambda task: self._run(*task), tasks, n_threads)
        for target, own in sums:
            target += own

    def _run(
        self,
        maps: NDArray[np.float32],
        image: NDArray[np.float32],
        total: NDArray[np.float32],
        n_sets: int,
        coils: tuple[int, int, int],
        response: NDArray[np.float32],
        blocks: tuple[int, int],
    ) -> None:
        spare = LARGEST_PRIME * WIDTH
        longest = max(plan.n for plan in self._plans) * WIDTH
        common = (maps, image, total, n_sets, coils, self._size, self._layout, response, *self._plans, blocks)
        if len(self._plans) == 2:
            n_rows, n_columns = (plan.n for plan in self._plans)
            planes(*common, aligned(2 * n_columns * WIDTH + longest + 2 * n_rows * n_columns + spare))
        else:
            lines(*common, aligned((3 * n_sets + 1) * longest + spare))


def fused_normal(
    response: Tensor, axes: tuple[int, ...], spatial: tuple[int, ...], dtype: torch.dtype
) -> FusedNormal | None:
    """`FusedNormal` where there is one for these axes, lengths and precision, or None: the one place that decides."""
    if response.device.type != "cpu" or dtype != torch.complex64 or engine_name() != "torch+scipy":
        return None
    if axes not in ((-1,), (-2,), (-3,), (-2, -1), (-3, -1)):
        return None
    if not all(has_plan(spatial[axis]) for axis in axes):
        return None
    return FusedNormal(response, axes, spatial)


def _share(n: int, part: int, n_parts: int) -> tuple[int, int]:
    return part * n // n_parts, (part + 1) * n // n_parts
