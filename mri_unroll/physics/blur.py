r"""Convolution with a point spread function (PSF), the forward model of deblurring."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.physics.fourier import fft, ifft
from mri_unroll.physics.linop import LinearOperator

BOUNDARIES = ("periodic", "reflect", "zero")


class BlurOperator(LinearOperator):
    r"""Convolution of a picture with a PSF, kept to the size of the picture.

    .. math:: (Ax)_i = \sum_k h_k \, \tilde x_{i - (k - c)}, \qquad c = \lfloor n_h / 2 \rfloor ,

    along every axis, where :math:`\tilde x` continues the picture beyond its edges. The PSF is transformed once. A
    periodic application costs one FFT pair, and so does its normal operator; the other boundaries cost one pair on a
    grid larger by the PSF, two in the normal operator.

    Parameters
    ----------
    psf
        Point spread function, real or complex, ``(*batch, [z,] y, x)``, along no axis larger than the picture; its
        origin is index ``n // 2`` of each axis, the middle of an odd size. Batch axes broadcast with those of the
        picture: one PSF for each. Its precision and device are those of the pictures. Gradients flow to it.
    image_shape
        Shape of one picture, ``(y, x)`` or ``(z, y, x)``.
    boundary
        How the picture goes on beyond its edges. ``"reflect"``: half-sample symmetric, ``c b a | a b c``, as
        `scipy.ndimage` names it; `numpy.pad` calls it ``symmetric``, and what NumPy and torch call ``reflect``, where
        the edge pixel is not repeated, is another one. ``"periodic"``: it starts again (SciPy's ``wrap``).
        ``"zero"``: there is nothing (SciPy's ``constant``).

    Raises
    ------
    ShapeError
        If the PSF does not fit the picture, or a picture is given that is not complex and of ``image_shape``: a real
        one is passed as ``torch.complex(x, zeros)``.
    ConfigError
        If there is no such boundary.

    Notes
    -----
    The norm is at most ``abs(psf).sum()`` for ``periodic`` and ``zero``, and for ``reflect`` if the PSF is the same
    mirrored along every axis. Otherwise reflection can add to it, by at most a factor of :math:`2^{d/2}` in ``d``
    dimensions: see `operator_norm`. The adjoint folds the margin back onto the picture; it is no convolution.
    Hansen, Nagy and O'Leary, "Deblurring Images", SIAM 2006, doi:10.1137/1.9780898718874.
    """

    def __init__(self, psf: Tensor, image_shape: tuple[int, ...], boundary: str = "reflect") -> None:
        if boundary not in BOUNDARIES:
            raise ConfigError(f"Expected a boundary {', '.join(BOUNDARIES)}, got {boundary!r}.")
        self.image_shape = tuple(image_shape)
        self.image_ndim = len(self.image_shape)
        self.boundary = boundary
        self._axes = tuple(range(-self.image_ndim, 0))
        self._picture: tuple[Any, ...] = (..., *(slice(n) for n in self.image_shape))  # its place on the FFT grid
        psf_shape = tuple(psf.shape[-self.image_ndim :])
        if self.image_ndim not in (2, 3) or psf.ndim < self.image_ndim:
            raise ShapeError(f"Expected a PSF and pictures of 2 or 3 axes, got {tuple(psf.shape)} and {image_shape}.")
        if not all(1 <= n_psf <= n for n_psf, n in zip(psf_shape, self.image_shape, strict=True)):
            raise ShapeError(f"Expected a PSF no larger than the picture {self.image_shape}, got {psf_shape}.")
        # x_{i - (k - c)} reaches this far before the first and behind the last pixel
        self._before = tuple(n - 1 - n // 2 for n in psf_shape)
        self._behind = tuple(n // 2 for n in psf_shape)
        self._grid = self.image_shape
        if boundary == "zero":  # the two margins may share one stretch of zeros
            self._grid = tuple(next_fast_len(n + b) for n, b in zip(self.image_shape, self._behind, strict=True))
        if boundary == "reflect":
            self._grid = tuple(next_fast_len(n + p - 1) for n, p in zip(self.image_shape, psf_shape, strict=True))
        self.psf = psf
        psf = psf.to(psf.dtype.to_complex())
        wrapped = torch.roll(_pad_behind(psf, self._grid), tuple(-b for b in self._behind), self._axes)
        self._transfer = math.sqrt(math.prod(self._grid)) * fft(wrapped, self._axes)
        self._power = self._transfer.abs().square() if boundary == "periodic" else None

    def to(self, device: torch.device) -> BlurOperator:
        """The same on another device."""
        return BlurOperator(self.psf.to(device), self.image_shape, self.boundary)

    @property
    def mean_power(self) -> float:
        r"""Mean of :math:`|H|^2` over frequencies, the squared norm of the PSF: 1 of a point, less the wider it is."""
        return float(self._transfer.detach().abs().square().mean())

    def forward(self, image: Tensor) -> Tensor:
        """Blur: ``(*batch, [z,] y, x)`` to the same shape."""
        self._check(image)
        return self._crop(self._filter(self._extend(image), self._transfer))

    def adjoint(self, blurred: Tensor) -> Tensor:
        """Correlate with the PSF and fold what lies beyond the edges back: the same shape again."""
        self._check(blurred)
        return self._fold(self._filter(_pad_behind(blurred, self._grid), self._transfer.conj()))

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``; by a single FFT pair if the boundary is periodic."""
        if self._power is None:
            return self.adjoint(self.forward(image))
        self._check(image)
        return self._filter(image, self._power)

    def _filter(self, extended: Tensor, transfer: Tensor) -> Tensor:
        return ifft(transfer * fft(extended, self._axes), self._axes)

    def _extend(self, image: Tensor) -> Tensor:
        """Fill the FFT grid: the picture, its margin behind, and at the end, where index -1 lies, its margin before."""
        if self.boundary != "reflect":
            return _pad_behind(image, self._grid)
        for axis, length, before, behind in self._margins():
            n = image.shape[axis]
            gap = list(image.shape)
            gap[axis] = length - n - before - behind
            right = image.narrow(axis, n - behind, behind).flip(axis)
            left = image.narrow(axis, 0, before).flip(axis)
            image = torch.cat([image, right, image.new_zeros(gap), left], axis)
        return image

    def _fold(self, extended: Tensor) -> Tensor:
        """Adjoint of `_extend`."""
        if self.boundary != "reflect":
            return self._crop(extended)
        for axis, length, before, behind in self._margins():
            n = self.image_shape[axis]
            # The margins are shorter than the picture together, so that what they are added to does not overlap.
            head = extended.narrow(axis, 0, before) + extended.narrow(axis, length - before, before).flip(axis)
            tail = extended.narrow(axis, n - behind, behind) + extended.narrow(axis, n, behind).flip(axis)
            extended = torch.cat([head, extended.narrow(axis, before, n - before - behind), tail], axis)
        return extended

    def _crop(self, extended: Tensor) -> Tensor:
        return extended[self._picture]

    def _margins(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self._axes, self._grid, self._before, self._behind, strict=True))

    def _check(self, picture: Tensor) -> None:
        if tuple(picture.shape[-self.image_ndim :]) != self.image_shape or picture.dtype != self._transfer.dtype:
            raise ShapeError(
                f"Expected a picture (..., {', '.join(map(str, self.image_shape))}) {self._transfer.dtype}, "
                f"got {tuple(picture.shape)} {picture.dtype}.",
                "The PSF decides the precision; a real picture is passed as torch.complex(x, zeros).",
            )


def gaussian_psf(fwhm: tuple[float, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Gaussian PSF of sum 1, odd along every axis, cut at three standard deviations.

    Parameters
    ----------
    fwhm
        Full width at half maximum along each axis, in pixels, above 0.
    dtype
        Real.

    Raises
    ------
    ConfigError
        If a width is not positive.
    """
    if not all(width > 0 for width in fwhm):
        raise ConfigError(f"Expected widths above 0 pixels, got {fwhm}.")
    psf = torch.ones((), dtype=torch.float64)
    for width in fwhm:
        sigma = width / math.sqrt(8 * math.log(2))
        reach = math.ceil(3 * sigma)
        profile = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / (2 * sigma**2))
        psf = psf.unsqueeze(-1) * (profile / profile.sum())
    return psf.to(dtype)


def _pad_behind(picture: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros behind the last pixel of each of the last axes, up to ``shape``."""
    amounts: list[int] = []
    for wanted, n in zip(reversed(shape), reversed(picture.shape), strict=False):
        amounts += [0, wanted - n]
    return pad(picture, amounts)
