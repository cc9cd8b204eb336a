"""One slice of a volume as the attributes of a classic MR picture: where it lies, and its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from mri_unroll.errors import UnsupportedScan
from mri_unroll.image import Image

_LARGEST = 65535
_FINE = 255.0  # a brightest value below this leaves too few steps for pixels without a scale
_ROOM = 32767.0  # brightest stored value where a scale is written
_SLACK = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the slices of a volume lie, in millimetres, LPS."""

    corner: NDArray[np.float64]  # (slice, 3) centre of the first pixel
    row: NDArray[np.float64]  # (3,) direction in which columns are counted
    column: NDArray[np.float64]  # (3,) direction in which rows are counted
    spacing: tuple[float, float]  # from row to row, from column to column
    step: float | None  # from slice to slice along the normal; None: a single slice
    thickness: float

    @property
    def normal(self) -> NDArray[np.float64]:
        """``row x column``."""
        return np.cross(self.row, self.column)


def placement(image: Image, thickness: float | None = None) -> Placement:
    r"""Where a picture says that it lies.

    .. math:: p_k = c_k - \lfloor n_x/2 \rfloor d_x e_x - \lfloor n_y/2 \rfloor d_y e_y

    with the centre :math:`c_k` at pixel ``n // 2``, where the Fourier transform puts the origin.

    Parameters
    ----------
    image
        With orientation, position and field of view.
    thickness
        Of a slice in millimetres; None: as far as the next one, or as the field of view says.

    Raises
    ------
    UnsupportedScan
        If one of these is unknown, or they are no right-angled axes.
    """
    geometry, (count, height, width) = image.geometry, image.pixels.shape
    fov, axes, centre = geometry.field_of_view, geometry.orientation, geometry.position
    if fov is None or axes is None or centre is None or centre.shape != (count, 3):
        raise UnsupportedScan(
            "The picture does not say where it lies in the patient, so it cannot be written as DICOM.",
            "Name a study of the same scan with --like, or accept made-up places with --allow-synthetic-geometry.",
        )
    y, x = axes[:2]
    if not (
        np.isfinite(axes).all()
        and np.isfinite(centre).all()
        and np.abs(axes @ axes.T - np.eye(3)).max() < _SLACK
        and all(length > 0 for length in fov[:2])
    ):
        raise UnsupportedScan(
            "The directions of the picture are no right-angled axes of unit length, so it cannot be placed.",
            "Correct the raw data's header, or use --like.",
        )
    spacing = (1000 * fov[0] / height, 1000 * fov[1] / width)
    corner = 1000 * centre - spacing[1] * (width // 2) * x - spacing[0] * (height // 2) * y
    step = None
    if count > 1:
        along = corner @ np.cross(x, y)
        step = abs(float(along[-1] - along[0])) / (count - 1)
    return Placement(corner, x, y, spacing, step, thickness or step or 1000 * fov[2])


def put_place(dataset: Dataset, place: Placement, index: int) -> None:
    """The image plane module of one slice (PS3.3 C.7.6.2)."""
    dataset.ImagePositionPatient = [_decimal(value) for value in place.corner[index]]
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*place.row, *place.column)]
    dataset.PixelSpacing = [_decimal(value) for value in place.spacing]
    dataset.SliceThickness = _decimal(place.thickness)
    dataset.SliceLocation = _decimal(float(place.corner[index] @ place.normal))
    if place.step is not None:
        dataset.SpacingBetweenSlices = _decimal(place.step)
    elif "SpacingBetweenSlices" in dataset:
        del dataset.SpacingBetweenSlices


def _decimal(value: float) -> DSfloat:
    """At most 16 characters, which is what DS allows."""
    return DSfloat(0.0 if abs(value) < 1e-12 else float(value), auto_format=True)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A volume as whole numbers, with one scale for all of it."""

    values: NDArray[np.uint16]  # (slice, y, x)
    slope: float  # value in the picture's units = slope * stored value
    window: tuple[float, float]  # centre and width, in the picture's units
    warnings: tuple[str, ...]


def stored(pixels: NDArray[np.float32]) -> Stored:
    """Whole numbers of a magnitude volume.

    Values keep their units without a scale where they fill 8 to 16 bits, as the pictures of most scanners do; else one
    scale for the series is written, never one a slice. What is not finite or negative becomes zero, and is counted.
    """
    warnings = []
    finite = np.isfinite(pixels)
    if not finite.all():
        warnings.append(f"{int((~finite).sum())} pixels are not finite; they were written as zero.")
        pixels = np.where(finite, pixels, 0)
    negative = int((pixels < 0).sum())
    if negative:
        warnings.append(f"{negative} pixels are negative; they were written as zero.")
        pixels = np.maximum(pixels, 0)
    largest = float(pixels.max(initial=0))
    slope = 1.0 if largest == 0 or _FINE <= largest <= _LARGEST else float(f"{largest / _ROOM:.6g}")
    low, high = (float(value) for value in np.percentile(pixels, (1, 99.5)))
    width = max(high - low, slope)
    values = np.rint(pixels / slope).clip(0, _LARGEST).astype(np.uint16)
    return Stored(values, slope, (low + width / 2, width), tuple(warnings))


def put_pixels(dataset: Dataset, volume: Stored, index: int) -> None:
    """The image pixel and VOI modules of one slice (PS3.3 C.7.6.3, C.11.2)."""
    values = volume.values[index]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    if volume.slope != 1:
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = _decimal(volume.slope), "0", "US"
    dataset.VOILUTFunction = (
        "LINEAR" if volume.window[1] >= 1 else "LINEAR_EXACT"
    )  # the first needs a width of 1 or more
    dataset.WindowCenter, dataset.WindowWidth = (_decimal(value) for value in volume.window)
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
