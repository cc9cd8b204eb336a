"""The ways in which the field scores a volume, each with the statement that has to stand beside its numbers.

The same picture scores 0.37 or 0.21 in SSIM, 31 or 22 dB in PSNR, by the data range and by what the mean is taken
over. A number without its convention is therefore no result. All are computed in float64, with the measures of
`mri_unroll.metrics`; nothing is aligned, scaled, clipped or masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mri_unroll import metrics
from mri_unroll.errors import ConfigError, ShapeError

MEASURES = ("nmse", "psnr", "ssim")
CALGARY_DROPPED = 50  # slices left out at each end of a volume, where it has more than twice as many

Volume = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Convention:
    """A way to score a volume.

    Parameters
    ----------
    name
        As the user calls it.
    title
        In a few words.
    brief
        Data range, window, crop, and what the mean is taken over, in one sentence: printed with every table.
    statement
        The same in full.
    fit
        Crops reference and picture, both ``(slice, y, x)``, to what is compared.
    measure
        NMSE, PSNR and SSIM of what `fit` gave.
    """

    name: str
    title: str
    brief: str
    statement: str
    fit: Callable[[Volume, Volume], tuple[Volume, Volume]]
    measure: Callable[[Volume, Volume], dict[str, float]]


def convention_named(name: str) -> Convention:
    """The convention of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in CONVENTIONS:
        raise ConfigError(f"There is no convention {name!r}.", f"Choose one of {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]


def score_volume(reference: ArrayLike, image: ArrayLike, convention: str = "fastmri") -> dict[str, float]:
    """Score one volume against its reference.

    Parameters
    ----------
    reference
        The truth, ``(slice, y, x)``, magnitude in any units.
    image
        The picture in the same units, as many slices, each as large as the reference's or larger; what is larger is
        cropped about the centre by fastMRI's rule.
    convention
        A name of `CONVENTIONS`.

    Returns
    -------
    Keys ``nmse``, ``psnr`` (dB), ``ssim``; NaN where the convention defines none, as for a volume of empty slices.

    Raises
    ------
    ConfigError
        If there is no such convention.
    ShapeError
        If the volumes do not fit together.
    """
    chosen = convention_named(convention)
    truth, picture = fit_volumes(reference, image, chosen)
    return chosen.measure(truth, picture)


def fit_volumes(reference: ArrayLike, image: ArrayLike, convention: Convention) -> tuple[Volume, Volume]:
    """Reference and picture, cropped as the convention compares them.

    Raises
    ------
    ShapeError
        If one is no volume, they have different numbers of slices, or the picture is smaller than what is compared.
    """
    truth, picture = np.asarray(reference), np.asarray(image)
    for name, volume in (("reference", truth), ("picture", picture)):
        if volume.ndim != 3 or 0 in volume.shape or np.iscomplexobj(volume):
            raise ShapeError(f"Expected a real {name} (slice, y, x), got {volume.dtype} of shape {volume.shape}.")
    if len(truth) != len(picture):
        raise ShapeError(
            f"Expected {len(truth)} slices as in the reference {truth.shape}, got a picture {picture.shape}."
        )
    return convention.fit(truth.astype(np.float64, copy=False), picture.astype(np.float64, copy=False))


def _square(reference: Volume, image: Volume) -> tuple[Volume, Volume]:
    """Both cropped to the width of the reference, as the official evaluator does; it refuses what is less high."""
    height, width = reference.shape[-2:]
    shape = (min(height, width), width)
    return metrics.center_crop(reference, shape), metrics.center_crop(image, shape)


def _as_reference(reference: Volume, image: Volume) -> tuple[Volume, Volume]:
    return reference, metrics.center_crop(image, reference.shape[-2:])


def _whole_volume(reference: Volume, image: Volume) -> dict[str, float]:
    return {name: float(getattr(metrics, name)(reference, image)) for name in MEASURES}


def _calgary(reference: Volume, image: Volume) -> dict[str, float]:
    if len(reference) > 2 * CALGARY_DROPPED:
        reference, image = (volume[CALGARY_DROPPED:-CALGARY_DROPPED] for volume in (reference, image))

    def of_slice(truth: Volume, picture: Volume) -> dict[str, float]:
        truth, picture = truth / truth.max(), picture / truth.max()
        return _plane(truth, picture, max(truth.max(), picture.max()) - min(truth.min(), picture.min()))

    return _mean_over_slices(reference, image, of_slice)


def _slice_by_slice(reference: Volume, image: Volume) -> dict[str, float]:
    return _mean_over_slices(reference, image, lambda truth, picture: _plane(truth, picture, truth.max()))


def _plane(truth: Volume, picture: Volume, data_range: float) -> dict[str, float]:
    return {
        "nmse": metrics.nmse(truth, picture),
        "psnr": metrics.psnr(truth, picture, data_range),
        "ssim": metrics.ssim(truth, picture, data_range),
    }


def _mean_over_slices(
    reference: Volume, image: Volume, of_slice: Callable[[Volume, Volume], dict[str, float]]
) -> dict[str, float]:
    """Mean over the slices whose reference holds anything: of the others the data range is zero."""
    found = [of_slice(truth, picture) for truth, picture in zip(reference, image, strict=True) if truth.max() > 0]
    if not found:
        return dict.fromkeys(MEASURES, math.nan)
    return {name: float(np.mean([scores[name] for scores in found])) for name in MEASURES}


_BRIEF = "SSIM window 7 × 7, uniform; float64"
_WINDOW = "SSIM: uniform window of 7 × 7 pixels, K1 = 0.01, K2 = 0.03, sample covariances, 3 pixels of border left out"
_NOTHING_ELSE = "Computed in float64; no intensity is aligned or clipped, and no mask is applied."
IN_BODY_STATEMENT = (
    "Figures in the body are the same under every convention: NMSE and PSNR are over the pixels of the whole volume"
    " inside the body, as found in the reference (Otsu's threshold on its smoothed square root, closed, holes filled);"
    " SSIM is the mean of its map inside the body, slice by slice; the data range is the maximum of the reference."
)

CONVENTIONS: dict[str, Convention] = {
    found.name: found
    for found in (
        Convention(
            "fastmri",
            "fastMRI, whole volumes",
            f"fastmri: whole volumes, cropped to squares as wide as the reference; data range: maximum of the cropped"
            f" reference volume; {_BRIEF}.",
            "Convention fastmri (the definitions of fastMRI's evaluate.py): reference and picture are cropped about"
            " the centre to squares as wide as the reference (one that is wider than high keeps its rows). NMSE and"
            " PSNR are over the whole volume, SSIM is the mean over its slices; the data range of both is the maximum"
            f" of the cropped reference volume. {_WINDOW}. {_NOTHING_ELSE}",
            _square,
            _whole_volume,
        ),
        Convention(
            "calgary",
            "Calgary-Campinas, slice by slice",
            "calgary: mean over slices, each divided by its reference's maximum, without the first and last"
            f" {CALGARY_DROPPED} of more than {2 * CALGARY_DROPPED}; data range: larger maximum minus smaller minimum"
            f" of reference and picture; cropped to the reference; {_BRIEF}.",
            "Convention calgary (the definitions of the Calgary-Campinas challenge): each slice of both volumes is"
            " divided by the maximum of its own reference, and the data range is the larger of both maxima minus the"
            f" smaller of both minima. The first and last {CALGARY_DROPPED} slices are left out where there are more"
            f" than {2 * CALGARY_DROPPED}, and so are slices whose reference is empty; the scores of a volume are the"
            " means over its slices. Pictures are cropped to their reference. The challenge defines no NMSE: it is"
            f" given per slice like the rest. {_WINDOW}. {_NOTHING_ELSE}",
            _as_reference,
            _calgary,
        ),
        Convention(
            "slice",
            "slice by slice",
            "slice: mean over slices; data range: maximum of that slice's reference; cropped to the reference;"
            f" {_BRIEF}.",
            "Convention slice: NMSE, PSNR and SSIM are taken of each slice by itself, the data range being the maximum"
            " of that slice's reference; the scores of a volume are the means over its slices, without those whose"
            f" reference is empty. Pictures are cropped to their reference. {_WINDOW}. {_NOTHING_ELSE}",
            _as_reference,
            _slice_by_slice,
        ),
    )
}
