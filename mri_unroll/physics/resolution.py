r"""Loss of resolution: a smaller k-space, or fewer pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.physics.fourier import centred_fft, centred_ifft, fft, ifft
from mri_unroll.physics.linop import LinearOperator


class TruncationOperator(LinearOperator):
    r"""The low-resolution picture that the central block of k-space gives, :math:`A = F_m^H C F_n`.

    Both transforms are centred and unitary, so that the rows of :math:`A` are orthonormal, :math:`AA^H = 1`, the norm
    is 1, and :math:`A^H` zero-fills k-space. In return a flat region brightens by :math:`\sqrt{N/M}`, the root of the
    ratio of the numbers of pixels. The field of view stays, the origin is pixel ``n // 2`` before and ``m // 2`` after.

    Parameters
    ----------
    image_shape
        Shape of one picture, ``(y, x)`` or ``(z, y, x)``.
    kept_shape
        Shape ``m`` of the block that is kept, and of the low-resolution picture; at most ``image_shape``.

    Raises
    ------
    ShapeError
        If the block does not fit, or pictures are not complex and of the right shape.
    """

    def __init__(self, image_shape: tuple[int, ...], kept_shape: tuple[int, ...]) -> None:
        self.image_shape, self.kept_shape = tuple(image_shape), tuple(kept_shape)
        self.image_ndim = _ndim(self.image_shape)
        if len(self.kept_shape) != self.image_ndim or not all(
            1 <= m <= n for m, n in zip(self.kept_shape, self.image_shape, strict=True)
        ):
            raise ShapeError(f"Expected a block inside {self.image_shape}, got {self.kept_shape}.")
        self._axes = tuple(range(-self.image_ndim, 0))
        blocks = [(n // 2 - m // 2, m) for m, n in zip(self.kept_shape, self.image_shape, strict=True)]
        self._block: tuple[Any, ...] = (..., *(slice(first, first + m) for first, m in blocks))
        mask = torch.zeros(self.image_shape)
        mask[self._block] = 1
        self._mask = torch.fft.ifftshift(mask)  # for `normal`, where the shifts of the picture cancel

    def forward(self, image: Tensor) -> Tensor:
        """``(*batch, [z,] y, x)`` to the low-resolution picture."""
        _check(image, self.image_shape)
        return centred_ifft(centred_fft(image, self._axes)[self._block], self._axes)

    def adjoint(self, low: Tensor) -> Tensor:
        """The low-resolution picture on the fine grid, by zero-filling."""
        _check(low, self.kept_shape)
        kspace = low.new_zeros((*low.shape[: -self.image_ndim], *self.image_shape))
        kspace[self._block] = centred_fft(low, self._axes)
        return centred_ifft(kspace, self._axes)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``: one FFT pair without shifts."""
        _check(image, self.image_shape)
        return ifft(self._mask.to(image.device, image.real.dtype) * fft(image, self._axes), self._axes)


class DownsamplingOperator(LinearOperator):
    r"""Every ``factor``-th pixel, from ``offset`` on; detectors average before, ``DownsamplingOperator(...) @ blur``.

    Norm 1; the adjoint puts zeros between the pixels.

    Parameters
    ----------
    image_shape
        Shape of one picture, ``(y, x)`` or ``(z, y, x)``.
    factor
        1 or more, for each axis, or one for all.
    offset
        First pixel kept, 0 to ``factor - 1``, for each axis, or one for all.

    Raises
    ------
    ShapeError
        If factor or offset do not fit, or pictures are not complex and of the right shape.
    """

    def __init__(
        self, image_shape: tuple[int, ...], factor: int | tuple[int, ...], offset: int | tuple[int, ...] = 0
    ) -> None:
        self.image_shape = tuple(image_shape)
        self.image_ndim = _ndim(self.image_shape)
        factors = (factor,) * self.image_ndim if isinstance(factor, int) else tuple(factor)
        offsets = (offset,) * self.image_ndim if isinstance(offset, int) else tuple(offset)
        if not len(factors) == len(offsets) == self.image_ndim or not all(
            0 <= first < step and first < n for first, step, n in zip(offsets, factors, self.image_shape, strict=True)
        ):
            raise ShapeError(
                f"Expected factors and offsets, 0 <= offset < factor, for a picture {self.image_shape}, "
                f"got {factor} and {offset}."
            )
        kept = [slice(first, None, step) for first, step in zip(offsets, factors, strict=True)]
        self._kept: tuple[Any, ...] = (..., *kept)
        self.kept_shape = tuple(len(range(n)[part]) for n, part in zip(self.image_shape, kept, strict=True))

    def forward(self, image: Tensor) -> Tensor:
        """``(*batch, [z,] y, x)`` to the kept pixels."""
        _check(image, self.image_shape)
        return image[self._kept]

    def adjoint(self, kept: Tensor) -> Tensor:
        """The kept pixels in their places, zero between them."""
        _check(kept, self.kept_shape)
        image = kept.new_zeros((*kept.shape[: -self.image_ndim], *self.image_shape))
        image[self._kept] = kept
        return image


def _ndim(shape: tuple[int, ...]) -> int:
    if len(shape) not in (2, 3):
        raise ShapeError(f"Expected a picture of 2 or 3 axes, got {shape}.")
    return len(shape)


def _check(picture: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(picture.shape[-len(shape) :]) != shape or not picture.is_complex():
        raise ShapeError(
            f"Expected a complex picture (..., {', '.join(map(str, shape))}), got {tuple(picture.shape)} "
            f"{picture.dtype}."
        )
