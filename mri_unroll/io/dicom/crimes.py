"""What was done to pictures before they came: reasons why an experiment on them flatters (Shimron et al., PNAS 2022).

The header is asked first. The spectrum is a hint, never a proof: sharp edges and air spread over all frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mri_unroll.image import Image
from mri_unroll.io.dicom.files import quietly
from mri_unroll.io.dicom.grouping import image_type
from mri_unroll.io.dicom.series import Frame, Series

_SAME = 0.98  # acquired over stored size, below which a picture was interpolated
_DERIVED = ("MPR", "MIP", "MNIP", "PROJECTION IMAGE", "ADC", "FA", "TRACEW", "PERFUSION", "SUBTRACTION", "REFORMATTED")
_FILTERS = {
    "NORM": "its brightness was evened out",
    "DIS2D": "it was corrected for distortion, by resampling",
    "DIS3D": "it was corrected for distortion, by resampling",
    "FIL": "it was filtered",
    "FM": "it was filtered",
    "SN": "its brightness was evened out",
    "FSL": "it was filtered",
}
_BRIGHTNESS = ("NORM", "SN")  # a smooth factor, which changes no detail: said, but nothing is refused for it
_PARTIAL = {"PFF": "along the readout", "PFP": "along phase encoding"}
_EMPTY = 0.02  # share of the typical amplitude, below which a frequency counts as empty


@dataclass(frozen=True, slots=True)
class Crime:
    """One thing that was done."""

    name: str
    sentence: str
    forbids: bool  # simulated undersampling is refused for it, unless the user insists


def data_crimes(series: Series, image: Image) -> tuple[Crime, ...]:
    """What header and spectrum say was done to a series.

    Parameters
    ----------
    series
        With its headers.
    image
        Its pictures.
    """
    frame = series.frames[0]
    found: list[Crime] = []
    with quietly():
        kind = image_type(frame)
        acquired = acquired_shape(frame)
        if (kind and kind[0] == "DERIVED") or any(word in kind[2:] for word in _DERIVED):
            words = ", ".join(kind[2:4]) or "not said how"
            found.append(Crime("derived", f"The pictures were derived from others ({words}).", True))
        if str(frame.header.get("LossyImageCompression", "")) == "01":
            found.append(Crime("lossy", "The pictures were compressed with loss at some time.", True))
        if acquired is not None and acquired != frame.shape:
            found.append(
                Crime(
                    "interpolated",
                    f"{acquired[0]} x {acquired[1]} samples were acquired and {frame.shape[0]} x {frame.shape[1]} "
                    "pixels stored: k-space was filled with zeros, or the picture interpolated.",
                    True,
                )
            )
        for word, sentence in _FILTERS.items():
            if word in kind[2:]:
                found.append(Crime("filtered", f"ImageType {word}: {sentence}.", word not in _BRIGHTNESS))
        options = frame.header.get("ScanOptions") or ()
        for word in [options] if isinstance(options, str) else options:
            if str(word).strip() in _PARTIAL:
                where = _PARTIAL[str(word).strip()]
                found.append(Crime("partial Fourier", f"K-space was acquired in part {where}.", False))
    support = spectral_support(image)
    if min(support) < 0.9 and not any(crime.name == "interpolated" for crime in found):
        found.append(
            Crime(
                "spectrum",
                f"The outer part of k-space looks empty (filled to about {support[0]:.2f} x {support[1]:.2f}): the "
                "pictures may have been interpolated, although the header does not say so.",
                False,
            )
        )
    return tuple(found)


def acquired_shape(frame: Frame) -> tuple[int, int] | None:
    """Samples (rows, columns) that were acquired over the field of view shown; None where the header does not say.

    AcquisitionMatrix counts phase encodings over the encoded field of view, which may be a part of the one shown.
    Sizes that are not clearly below the stored ones count as equal to them.
    """
    with quietly():
        try:
            matrix = [int(value) for value in frame.header.get("AcquisitionMatrix") or ()]
            share = float(frame.header.get("PercentPhaseFieldOfView") or 100) / 100
        except (TypeError, ValueError):
            return None
    if len(matrix) != 4 or not 0.1 <= share <= 1:
        return None
    frequency_rows, frequency_columns, phase_rows, phase_columns = matrix
    rows = frequency_rows or round(phase_rows / share)
    columns = frequency_columns or round(phase_columns / share)
    if min(rows, columns) < 8:
        return None
    kept = [n if m >= _SAME * n else m for m, n in zip((rows, columns), frame.shape, strict=True)]
    return kept[0], kept[1]


def spectral_support(image: Image) -> tuple[float, float]:
    """Share of the frequencies along y and x that hold something, of the middle slice; about 1 where all do."""
    picture = image.pixels[len(image.pixels) // 2].astype(np.float64)
    taper = np.outer(*(np.hanning(n + 2)[1:-1] for n in picture.shape))  # edges of the picture are no edges of the body
    amplitude = np.abs(np.fft.fftshift(np.fft.fft2(picture * taper)))
    shares = []
    for axis in (0, 1):
        profile = np.median(amplitude, axis=1 - axis)
        n = len(profile)
        typical = float(np.median(profile[n // 4 : n - n // 4]))
        filled = np.flatnonzero(profile > _EMPTY * typical)
        reach = max(int(np.abs(filled - n // 2).max()) if filled.size else 0, 1)
        shares.append(min(1.0, (2 * reach + 1) / n))
    return shares[0], shares[1]
