r"""Decimated wavelets of pictures as bands whose spectra are known: what tells coloured noise apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

N_LEVELS = 4
_COARSEST = 4  # samples along an axis below which no further level is taken


@dataclass(eq=False)
class WaveletBands:
    r"""Periodized wavelets of pictures ``(y, x)`` of any size, :math:`\Psi`, with :math:`\Psi^H\Psi = I`.

    Each band is a pair of matrices, one an axis: coefficients are :math:`L x R^T`. Sizes that the deepest level does
    not divide are filled up with zeros in front of the transform. Then :math:`\Psi` has a few more coefficients than
    pixels and is an isometry; where nothing is filled up it is orthogonal, :math:`\Psi\Psi^H = I` too.

    Parameters
    ----------
    rows, columns
        Of each band, the coarsest first: real ``(coefficients along y, y)`` and ``(coefficients along x, x)``.
    period
        Of the coarsest wavelets, in pixels.
    """

    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]
    period: int

    def analyse(self, image: Tensor) -> list[Tensor]:
        r""":math:`\Psi x`: a picture ``(y, x)``, real or complex, to coefficients, band by band."""
        return [
            left.to(image.dtype) @ image @ right.to(image.dtype).mT
            for left, right in zip(self.rows, self.columns, strict=True)
        ]

    def synthesise(self, coefficients: list[Tensor]) -> Tensor:
        r""":math:`\Psi^H c`: coefficients to a picture ``(y, x)``; undoes `analyse`."""
        dtype = coefficients[0].dtype
        parts = zip(self.rows, coefficients, self.columns, strict=True)
        image = coefficients[0].new_zeros(self.rows[0].shape[-1], self.columns[0].shape[-1])
        for left, band, right in parts:
            image = image + left.to(dtype).mT @ band @ right.to(dtype)
        return image

    @cached_property
    def spectra(self) -> tuple[tuple[Tensor, Tensor], ...]:
        r"""Power of a band's mean wavelet along ``ky`` and along ``kx``, zero frequency at ``n // 2``.

        Their product is :math:`|\psi_b(k)|^2`, which sums to 1 over k-space; wavelets that reach beyond the picture
        count by what of them is inside.
        """
        return tuple((_spectrum(left), _spectrum(right)) for left, right in zip(self.rows, self.columns, strict=True))

    def spread(self, variance: Tensor, band: int) -> Tensor:
        """Variance of each coefficient of a band, from that of the band's noise at each pixel, ``(y, x)``."""
        return self.rows[band].square() @ variance @ self.columns[band].square().mT

    def to(self, device: torch.device) -> WaveletBands:
        """The same on another device."""
        rows, columns = (tuple(matrix.to(device) for matrix in side) for side in (self.rows, self.columns))
        return WaveletBands(rows, columns, self.period)


def wavelet_bands(
    shape: tuple[int, int], wavelet: str = "db4", n_levels: int = N_LEVELS, dtype: torch.dtype = torch.float32
) -> WaveletBands:
    """Bands of an orthogonal wavelet: the coarse picture, then three a level, the coarsest level first.

    Parameters
    ----------
    shape
        ``(y, x)``, any.
    wavelet
        Name of an orthogonal wavelet in PyWavelets, such as ``haar`` or ``db4``.
    n_levels
        As many at most; fewer where a coarse picture would have less than four samples along an axis.
    dtype
        Of the matrices, real.

    Notes
    -----
    Mallat, IEEE Trans. Pattern Anal. Mach. Intell. 11, 674 (1989), doi:10.1109/34.192463; the filters are PyWavelets',
    in its mode ``periodization``.
    """
    while n_levels > 1 and min(shape) < _COARSEST << n_levels:
        n_levels -= 1
    along_y, along_x = (_along(n, wavelet, n_levels) for n in shape)
    pairs = [(along_y[-1][0], along_x[-1][0])]
    for (low_y, high_y), (low_x, high_x) in zip(reversed(along_y), reversed(along_x), strict=True):
        pairs += [(low_y, high_x), (high_y, low_x), (high_y, high_x)]
    rows, columns = (tuple(torch.from_numpy(m).to(dtype) for m in side) for side in zip(*pairs, strict=True))
    return WaveletBands(rows, columns, 1 << n_levels)


def _along(n: int, wavelet: str, n_levels: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Low- and high-pass matrices of each level along an axis, the finest first."""
    low = np.eye(-(-n >> n_levels) << n_levels)[:, :n]  # rows that meet only what is filled up are zero
    levels = []
    for _ in range(n_levels):
        low, high = pywt.dwt(low, wavelet, mode="periodization", axis=0)
        levels.append((low, high))
    return levels


def _spectrum(matrix: Tensor) -> Tensor:
    power = torch.fft.fft(matrix.double(), dim=-1, norm="ortho").abs().square().sum(0)
    return torch.fft.fftshift(power / power.sum()).to(matrix.dtype)
