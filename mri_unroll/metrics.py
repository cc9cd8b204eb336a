"""How far a picture is from its reference: the fastMRI measures over a volume, and the same inside the body.

Everything is computed in float64 (SSIM in float32 is NaN at the 1e-10 scale of some scanners' units). Nothing is
aligned, scaled or clipped: a picture in other units than its reference scores badly, and should.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from mri_unroll.errors import ShapeError

CONVENTION = (
    "NMSE, PSNR and SSIM are taken over the whole volume as fastMRI's evaluation does (data range: the maximum of the"
    " reference volume; SSIM: mean over slices, 7 x 7 uniform window); in-body figures use only pixels inside the body"
    " as found in the reference (Otsu threshold on its smoothed square root, closed, holes filled)."
)

SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03


def nmse(reference: ArrayLike, image: ArrayLike) -> float:
    r"""Return the normalised squared error, :math:`\|x - x_0\|^2 / \|x_0\|^2`, over the whole volume.

    Parameters
    ----------
    reference
        The truth :math:`x_0`, ``(slice, y, x)`` or ``(y, x)``.
    image
        The picture :math:`x`, same shape and units.

    Returns
    -------
    0 for a perfect picture. For a reference of zeros: 0 if the picture is zero too, else infinity.

    Raises
    ------
    ShapeError
        If the shapes differ or are not those of a picture or volume.
    """
    truth, picture = _volumes(reference, image)
    return _ratio(np.sum((truth - picture) ** 2), np.sum(truth**2))


def psnr(reference: ArrayLike, image: ArrayLike, data_range: float | None = None) -> float:
    r"""Return the peak signal-to-noise ratio in dB, :math:`10 \log_{10}(L^2 / \mathrm{MSE})`, over the whole volume.

    Parameters
    ----------
    reference, image
        As in `nmse`.
    data_range
        The peak :math:`L`; None: the maximum of the reference volume, as in fastMRI.

    Returns
    -------
    Infinity for a perfect picture (of zeros too), minus infinity for a wrong picture of a reference of zeros.
    """
    truth, picture = _volumes(reference, image)
    return _decibels(_range_of(truth, data_range), float(np.mean((truth - picture) ** 2)))


def ssim(reference: ArrayLike, image: ArrayLike, data_range: float | None = None) -> float:
    r"""Return the structural similarity, mean over slices.

    Per slice, the mean of the SSIM map over a 7 x 7 uniform window with sample covariances, 3 pixels from the border
    on. The data range is that of the whole volume, so that an almost empty slice is not blown up.

    Parameters
    ----------
    reference, image
        As in `nmse`; at least 7 pixels along both axes.
    data_range
        The range :math:`L` in the constants :math:`(0.01 L)^2` and :math:`(0.03 L)^2`; None: the maximum of the
        reference volume, as in fastMRI.

    Returns
    -------
    1 for a perfect picture. For a reference of zeros: 1 if the picture is zero too, else 0.

    References
    ----------
    Wang et al., doi:10.1109/TIP.2003.819861.
    """
    truth, picture = _volumes(reference, image)
    span = _range_of(truth, data_range)
    border = SSIM_WINDOW // 2
    inner = (slice(border, -border), slice(border, -border))
    return float(np.mean([_ssim_map(x0, x, span)[inner].mean() for x0, x in zip(truth, picture, strict=True)]))


def center_crop(image: NDArray, shape: tuple[int, int]) -> NDArray:
    """Return a view of the centre of the last two axes, which starts at ``(n - k) // 2``, fastMRI's rule.

    Parameters
    ----------
    image
        ``(..., y, x)``, of any type.
    shape
        ``(y, x)`` to keep.

    Raises
    ------
    ShapeError
        If the shape is larger than the picture.
    """
    if image.ndim < 2 or not (0 < shape[0] <= image.shape[-2] and 0 < shape[1] <= image.shape[-1]):
        raise ShapeError(f"Expected a crop no larger than the picture {image.shape}, got {tuple(shape)}.")
    top, left = ((n - k) // 2 for n, k in zip(image.shape[-2:], shape, strict=True))
    return image[..., top : top + shape[0], left : left + shape[1]]


def body_mask(reference: ArrayLike) -> NDArray[np.bool_]:
    """Return where the body is: the one definition of "in-body" for all methods.

    Each slice by itself: its magnitude is smoothed (Gaussian of 1 % of the picture's size, 1 pixel or more) and
    compressed by a square root, so that bright fat next to a surface coil does not take the threshold for itself;
    Otsu's threshold; parts smaller than a tenth of the largest part dropped; closing with a disc of 3 % of the
    picture's size; holes filled.
    A slice of noise alone still gives a mask, if a meaningless one; a slice of one value gives an empty one.

    Parameters
    ----------
    reference
        The truth, ``(slice, y, x)`` or ``(y, x)``, magnitude in any units.

    Returns
    -------
    Same shape as the reference.

    References
    ----------
    Otsu, doi:10.1109/TSMC.1979.4310076.
    """
    volume = _volume(reference)
    return np.stack([_body_of_slice(np.abs(plane)) for plane in volume]).reshape(np.shape(reference))


def in_body(
    reference: ArrayLike, image: ArrayLike, mask: NDArray[np.bool_] | None = None, data_range: float | None = None
) -> dict[str, float]:
    """Return NMSE, PSNR and SSIM over the body alone; air, which any method gets right or wrong for free, is left out.

    NMSE and PSNR are over all body pixels of the volume. SSIM is the mean of the SSIM map inside the body, slice by
    slice, then the mean over the slices that hold body; windows reach outside the body, and past the border they see
    the picture mirrored.

    Parameters
    ----------
    reference, image
        As in `ssim`.
    mask
        True inside the body, shape of the reference; None: `body_mask` of the reference.
    data_range
        None: the maximum of the reference volume, inside the body or not, as in `psnr` and `ssim`.

    Returns
    -------
    Keys ``nmse``, ``psnr``, ``ssim``; all NaN where the mask is empty.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    truth, picture = _volumes(reference, image)
    if mask is None:
        mask = body_mask(truth)
    body = np.asarray(mask, dtype=np.bool_)
    body = body[None] if body.ndim == 2 else body
    if body.shape != truth.shape:
        raise ShapeError(f"Expected a body mask shaped like the reference {truth.shape}, got {body.shape}.")
    if not body.any():
        return dict.fromkeys(("nmse", "psnr", "ssim"), math.nan)
    span = _range_of(truth, data_range)
    error = (truth - picture)[body]
    slices = [i for i in range(len(truth)) if body[i].any()]
    similarity = [_ssim_map(truth[i], picture[i], span)[body[i]].mean() for i in slices]
    return {
        "nmse": _ratio(np.sum(error**2), np.sum(truth[body] ** 2)),
        "psnr": _decibels(span, float(np.mean(error**2))),
        "ssim": float(np.mean(similarity)),
    }


def _body_of_slice(plane: NDArray[np.float64]) -> NDArray[np.bool_]:
    size = math.sqrt(plane.shape[0] * plane.shape[1])
    smooth = np.sqrt(ndimage.gaussian_filter(plane, max(1.0, 0.01 * size)))
    if not smooth.max() > smooth.min():
        return np.zeros(plane.shape, dtype=np.bool_)
    above = smooth > threshold_otsu(smooth)
    parts, n_parts = ndimage.label(above)
    areas = np.bincount(parts.ravel(), minlength=n_parts + 1)
    areas[0] = 0
    kept = (areas >= 0.1 * areas.max())[parts] & above
    radius = max(1, round(0.03 * size))
    # The padding keeps the border from eating the body, and joins all that lies outside of it.
    closed = ~_dilated(~_dilated(np.pad(kept, radius + 1), radius), radius, outside=True)
    outside, _ = ndimage.label(~closed)
    return (outside != outside[0, 0])[radius + 1 : -radius - 1, radius + 1 : -radius - 1]


def _dilated(mask: NDArray[np.bool_], radius: int, outside: bool = False) -> NDArray[np.bool_]:
    """Every pixel within ``radius`` of a true one; beyond the border all is ``outside``. Chord by chord of the disc."""
    rows, columns = mask.shape
    framed = np.pad(mask, radius, constant_values=outside)
    counts = np.pad(np.cumsum(framed, axis=1, dtype=np.int32), ((0, 0), (1, 0)))
    found = np.zeros(mask.shape, dtype=np.bool_)
    for height in range(radius + 1):
        half = math.isqrt(radius**2 - height**2)
        chord = counts[:, radius + half + 1 :][:, :columns] != counts[:, radius - half :][:, :columns]
        found |= chord[radius - height :][:rows]
        found |= chord[radius + height :][:rows]
    return found


def _ssim_map(truth: NDArray[np.float64], picture: NDArray[np.float64], span: float) -> NDArray[np.float64]:
    """Return the SSIM of every pixel, Wang et al. (2004), equation 13."""
    if min(truth.shape) < SSIM_WINDOW:
        raise ShapeError(
            f"Expected slices of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels for SSIM, got {truth.shape}."
        )
    if span == 0:
        return (truth == picture).astype(np.float64)
    # In units of the range, so that nothing under- or overflows whatever the scanner's units are.
    a, b = truth / span, picture / span
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    variances = unbiased * (_window_mean(a * a + b * b) - squares)  # the sum of both
    cov = unbiased * (_window_mean(a * b) - product)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    return (2 * product + c1) * (2 * cov + c2) / ((squares + c1) * (variances + c2))


def _window_mean(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    return ndimage.uniform_filter(plane, SSIM_WINDOW, mode="reflect")


def _volume(array: ArrayLike) -> NDArray[np.float64]:
    if np.iscomplexobj(array):
        raise ShapeError("Expected a real picture for metrics, got a complex one: take its magnitude first.")
    volume = np.asarray(array, dtype=np.float64)
    volume = volume[None] if volume.ndim == 2 else volume
    if volume.ndim != 3 or 0 in volume.shape:
        raise ShapeError(f"Expected a picture (y, x) or a volume (slice, y, x), got {np.shape(array)}.")
    return volume


def _volumes(reference: ArrayLike, image: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if np.shape(reference) != np.shape(image):
        raise ShapeError(
            f"Expected a picture shaped like its reference {np.shape(reference)}, got {np.shape(image)}.",
            "Crop the larger one with `center_crop`.",
        )
    return _volume(reference), _volume(image)


def _range_of(truth: NDArray[np.float64], data_range: float | None) -> float:
    return float(truth.max()) if data_range is None else float(data_range)


def _ratio(error: np.floating, energy: np.floating) -> float:
    if energy == 0:
        return 0.0 if error == 0 else math.inf
    return float(error / energy)


def _decibels(span: float, mean_square: float) -> float:
    if mean_square == 0:
        return math.inf
    if span == 0:
        return -math.inf
    return 10 * math.log10(span / mean_square * span)
