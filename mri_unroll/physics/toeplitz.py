r"""N^H W N as a convolution: the normal operator of a non-Cartesian scan without going to k-space.

:math:`G = N^H W N` is a Toeplitz matrix, :math:`(G x)_j = \sum_l p_{j-l} x_l` with

.. math:: p_r = \frac1{\prod n_a} \sum_s w_s \exp\Bigl(2\pi i \sum_a k_{sa} r_a / n_a\Bigr),

and a corner of a circulant matrix of twice the size, which the FFT of twice the size makes diagonal. That FFT of a
picture padded with zeros is never computed as one: its even and its odd frequencies, along every axis, are each an FFT
of the picture's own size,

.. math:: \mathrm{FFT}_{2m}(x)_{2k+\epsilon} = \mathrm{FFT}_m(e^{-\pi i \epsilon j/m} x_j)_k, \qquad
          G = \sum_\epsilon D_\epsilon^H F^H \mathrm{diag}(h_\epsilon) F D_\epsilon,

with real :math:`h`. A coil's workspace is then one picture, which stays in cache, and the modulations
:math:`D_\epsilon` multiply the picture and the sum over coils, not every coil.

References
----------
Fessler et al., IEEE Trans. Signal Process. 53, 3393 (2005), doi:10.1109/TSP.2005.853152.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from mri_unroll.physics.fourier import filter_
from mri_unroll.physics.nufft_engine import SIGPY_ERRORS, make_engine

# Bytes of pictures transformed at a time: what stays in a core's cache; on a GPU, what keeps it busy.
_BLOCK_BYTES = {"cpu": 2**20, "cuda": 2**28}


class GramOperator:
    r""":math:`G = N^H W N` for pictures of one size; outside autograd.

    Parameters
    ----------
    coordinates
        float64, ``(sample, ndim)``, cycles per field of view, on the device of the pictures.
    weights
        float64, ``(sample,)``, or None for ones.
    image_shape
        ``([z,] y, x)``.
    dtype
        Complex dtype of the pictures. The response is computed in double precision whatever it is.
    tolerance
        Relative error of the transform that this stands for; its own is far less.
    engine
        Name of the NUFFT engine that computes the response.
    """

    def __init__(
        self,
        coordinates: Tensor,
        weights: Tensor | None,
        image_shape: tuple[int, ...],
        dtype: torch.dtype,
        tolerance: float,
        engine: str,
    ) -> None:
        self.image_shape = image_shape
        padded_shape = tuple(next_fast_len(n) for n in image_shape)
        self._axes = tuple(range(-len(image_shape), 0))
        self._crop: tuple[Any, ...] = (..., *(slice(n) for n in image_shape))
        # functional.pad counts from the last axis on: (before, after) each
        extra = [m - n for m, n in zip(padded_shape, image_shape, strict=True)]
        self._padding = [p for after in reversed(extra) for p in (0, after)] if any(extra) else []
        spectrum = _spectrum(_response(coordinates, weights, image_shape, tolerance, engine), padded_shape)
        real = torch.empty((), dtype=dtype).real.dtype
        self._phases = [
            (_modulation(odd, image_shape, padded_shape).to(coordinates.device, dtype), part.to(real).contiguous())
            for odd in itertools.product((0, 1), repeat=len(image_shape))
            for part in [spectrum[tuple(slice(is_odd, None, 2) for is_odd in odd)]]
        ]

    def apply(self, stack: Tensor) -> Tensor:
        """``G x`` for every picture of ``(*lead, [z,] y, x)``."""
        rows = stack.reshape(-1, *self.image_shape)
        result = torch.zeros_like(rows, memory_format=torch.contiguous_format)
        at_once = self._at_once(stack)
        for part, out in zip(rows.split(at_once), result.split(at_once), strict=True):
            for modulation, response in self._phases:
                out.addcmul_(modulation.conj(), self._filter(part * modulation, response))
        return result.view(stack.shape)

    def normal(self, image: Tensor, sens_maps: Tensor, conj_maps: Tensor) -> Tensor:
        """``S^H G S x``.

        Parameters
        ----------
        image
            ``(*batch, [z,] y, x)``.
        sens_maps, conj_maps
            Coil maps and their conjugate, ``(coil, [z,] y, x)`` with the batch axes or without.
        """
        result = torch.zeros_like(image, memory_format=torch.contiguous_format)
        batch = image.shape[: -len(self.image_shape)]
        expanded = (*batch, *sens_maps.shape[-len(self.image_shape) - 1 :])
        sens_maps, conj_maps = sens_maps.expand(expanded), conj_maps.expand(expanded)
        at_once = self._at_once(image)
        for index in np.ndindex(*batch):
            maps, conj = sens_maps[index].split(at_once), conj_maps[index].split(at_once)
            for modulation, response in self._phases:
                modulated = image[index] * modulation
                total = torch.zeros_like(modulated)
                for some_maps, some_conj in zip(maps, conj, strict=True):
                    coils = self._filter(some_maps * modulated, response)
                    if len(coils) == 1:
                        total.addcmul_(some_conj[0], coils[0])
                    else:
                        total += (some_conj * coils).sum(0)
                result[index].addcmul_(modulation.conj(), total)
        return result

    def _at_once(self, x: Tensor) -> int:
        budget = _BLOCK_BYTES.get(x.device.type, _BLOCK_BYTES["cpu"])
        return max(1, budget // (x.element_size() * math.prod(self.image_shape)))

    def _filter(self, workspace: Tensor, response: Tensor) -> Tensor:
        if not self._padding:
            return filter_(workspace, response, self._axes)
        return filter_(functional.pad(workspace, self._padding), response, self._axes)[self._crop]


def _response(
    coordinates: Tensor, weights: Tensor | None, image_shape: tuple[int, ...], tolerance: float, engine: str
) -> Tensor:
    """``p_r``, ``r`` in the order 0 ... n-1, -n ... -1 along every axis, complex128; -n, which nothing needs, is 0."""
    # Tighter than the transform it stands for, as far as the engine goes.
    best = min(SIGPY_ERRORS.values()) / 3 if engine.startswith("sigpy") else 1e-14
    nufft = make_engine(coordinates, image_shape, max(tolerance / 100, best), engine)
    if weights is None:
        weights = coordinates.new_ones(len(coordinates))
    response = coordinates.new_zeros(tuple(2 * n for n in image_shape), dtype=torch.complex128)
    # Quarter by quarter (in 3-D, eighth by eighth) on the picture's own grid; a modulation moves its origin n // 2.
    for far in itertools.product((False, True), repeat=len(image_shape) - 1):
        turns = [(n // 2 - n * is_far) / n for is_far, n in zip((False, *far), image_shape, strict=True)]
        angle = 2 * math.pi * (coordinates * coordinates.new_tensor(turns)).sum(-1)
        response[_corner((False, *far), image_shape)] = nufft.adjoint(torch.polar(weights, angle))
    for axis, n in enumerate(image_shape):
        response.select(axis, n).zero_()
    # The other half is the mirror image, p_{-r} = conj(p_r).
    axes = tuple(range(len(image_shape)))
    mirrored = response[1 : image_shape[0]].flip(axes).conj()
    response[image_shape[0] + 1 :] = mirrored.roll((1,) * len(axes[1:]), axes[1:])
    return response / math.prod(image_shape)


def _spectrum(response: Tensor, padded_shape: tuple[int, ...]) -> Tensor:
    """Eigenvalues of the circulant matrix of twice ``padded_shape``; real, because the response is Hermitian."""
    image_shape = tuple(n // 2 for n in response.shape)
    circulant = response.new_zeros(tuple(2 * m for m in padded_shape))
    for far in itertools.product((False, True), repeat=len(image_shape)):
        # What lies far lies at the end, also where the padding has made room before it.
        where = tuple(slice(-n, None) if is_far else slice(n) for is_far, n in zip(far, image_shape, strict=True))
        circulant[where] = response[_corner(far, image_shape)]
    # Half of the inverse FFT of twice the size belongs to the even, half to the odd frequencies.
    return torch.fft.fftn(circulant).real / 2 ** len(image_shape)


def _corner(far: tuple[bool, ...], image_shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(n, None) if is_far else slice(n) for is_far, n in zip(far, image_shape, strict=True))


def _modulation(odd: tuple[int, ...], image_shape: tuple[int, ...], padded_shape: tuple[int, ...]) -> Tensor:
    product = torch.ones((), dtype=torch.complex128)
    for is_odd, n, m in zip(odd, image_shape, padded_shape, strict=True):
        angle = -math.pi * is_odd / m * torch.arange(n, dtype=torch.float64)
        product = product.unsqueeze(-1) * torch.polar(torch.ones_like(angle), angle)
    return product
