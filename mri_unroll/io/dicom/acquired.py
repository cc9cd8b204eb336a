"""DICOM of a picture reconstructed from raw k-space: whose it is and where it lies is known, or said not to be."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from skimage.transform import resize

from mri_unroll.errors import UnsupportedScan
from mri_unroll.image import Image
from mri_unroll.io.dicom.files import quietly
from mri_unroll.io.dicom.inherited import complete, copied
from mri_unroll.io.dicom.plane import placement, put_pixels, put_place, stored
from mri_unroll.io.dicom.provenance import TOOL, Derivation, identifier
from mri_unroll.io.dicom.series import Series
from mri_unroll.io.dicom.study import read_pixels
from mri_unroll.io.dicom.writer import Written, describe, now, write_all

SYNTHETIC = "SYNTHETIC GEOMETRY: position and orientation were made up, the raw data does not say them."
_SIZE = 0.01  # relative, by which fields of view and slice distances may differ
_ALIKE = 0.7  # correlation with the reference study below which it shows something else
_CLEARLY = 0.5  # share of what the next best orientation leaves unexplained, above which the best is not clearly better
_LEAST = 0.002  # difference of the two correlations below which they are the same
_COMPARED = 64  # pixels of a side, for the comparison of orientations


def write_acquired(
    image: Image,
    folder: Path,
    derivation: Derivation,
    *,
    like: Series | None = None,
    parameters: Mapping[str, Any] | None = None,
    allow_synthetic_geometry: bool = False,
    overwrite: bool = False,
    made: datetime | None = None,
    change: Callable[[Dataset], None] | None = None,
) -> Written:
    """Write a reconstructed volume as a new series.

    Pixel values come from the original data, so ImageType begins with ORIGINAL (PS3.3 C.7.6.1.1.2); the second value is
    SECONDARY, because this is not the scanner's own reconstruction.

    Parameters
    ----------
    image
        The reconstruction; its identity is in ``image.patient``, if the raw data held one.
    folder
        Gets ``0001.dcm`` and so on.
    derivation
        What was done.
    like
        A series of the same scan: patient, study, frame of reference, and, where the raw data does not say it, where
        slices lie. It is compared with the picture, never trusted.
    parameters
        DICOM keywords and values of how the scan was made; with ``like`` that study's own stand.
    allow_synthetic_geometry
        Write made-up places, axial and centred, where nothing says them; the objects say so.
    overwrite, made, change
        As for `write_derived`.

    Raises
    ------
    UnsupportedScan
        If nothing says where the picture lies, or ``like`` is of another scan.
    InputError, DeviceError
        If a file exists or cannot be written.
    """
    said: list[str] = []
    if like is not None:
        image = placed_like(image, like)
    elif image.geometry.orientation is None or image.geometry.position is None:
        if not allow_synthetic_geometry:
            placement(image)  # says what is missing
        image, said = _made_up(image), [SYNTHETIC]
    made = made or now()
    place = placement(image)
    volume = stored(image.pixels)
    digest = image.provenance.input_digest or ""
    with quietly():
        base, told = _identity(image, like, digest, parameters or {})
        said += told
        study = str(base.StudyInstanceUID)
        series = identifier("acquired", study, digest, derivation.fingerprint)
        datasets = []
        for index in range(len(image.pixels)):
            dataset = copy.deepcopy(base)  # elements that two objects share would change in both
            dataset.ImageType = ["ORIGINAL", "SECONDARY", "OTHER", TOOL]
            describe(dataset, derivation, made)
            if SYNTHETIC in said:
                dataset.ImageComments = f"{SYNTHETIC} {dataset.ImageComments}"
                dataset.DerivationDescription = f"{SYNTHETIC} {dataset.DerivationDescription}"[:1024]
            put_place(dataset, place, index)
            put_pixels(dataset, volume, index)
            dataset.InstanceNumber = index + 1
            dataset.SeriesInstanceUID = series
            dataset.SOPInstanceUID = identifier("instance", series, str(index))
            if change is not None:
                change(dataset)
            datasets.append(dataset)
    return Written(write_all(datasets, folder, overwrite), volume.slope, (*said, *volume.warnings))


def _identity(
    image: Image, like: Series | None, digest: str, parameters: Mapping[str, Any]
) -> tuple[Dataset, list[str]]:
    """Patient, study, frame of reference and acquisition; and what is to be said of them."""
    if like is not None:
        base = copied(like.frames[0], keep_private=False)
        for keyword in ("SliceLocation", "AcquisitionNumber", "ContentDate", "ContentTime"):
            if keyword in base:
                del base[keyword]
        base.SeriesNumber = 9000 + (like.number or 0)
        return base, []
    base = Dataset()
    base.SpecificCharacterSet = "ISO_IR 192"
    patient, said = image.patient, []
    if patient is not None and patient.patient_id:
        base.PatientID, base.PatientName = _text(patient.patient_id), _text(patient.name)
        base.PatientBirthDate, base.PatientSex = _date(patient.birth_date), _sex(patient.sex)
    else:
        name = f"ANON-{identifier('patient', digest)[-10:]}"
        base.PatientID, base.PatientName = name, name
        said.append(f"The raw data names no patient: the objects are of {name}, in a study of their own.")
    base.StudyInstanceUID = identifier("study", digest, base.PatientID)
    base.SeriesNumber = 9000
    base.BodyPartExamined = None
    for keyword, value in parameters.items():
        setattr(base, keyword, value)
    complete(base)
    base.Manufacturer = base.Manufacturer or "unknown"
    base.PatientPosition = base.PatientPosition or "HFS"
    return base, said


def _text(value: str) -> str:
    """What a text of at most 64 characters may hold (PS3.5 6.2, LO and PN)."""
    return "".join(letter for letter in value if letter.isprintable() and letter != "\\").strip()[:64]


def _date(value: str) -> str:
    """A date as DICOM writes it, of one as XML does; empty if it is none."""
    try:
        return date.fromisoformat(value.strip()[:10]).strftime("%Y%m%d")
    except ValueError:
        return ""


def _sex(value: str) -> str:
    letter = value.strip().upper()[:1]
    return letter if letter in ("M", "F", "O") else ""


def _made_up(image: Image) -> Image:
    geometry, count = image.geometry, len(image.pixels)
    fov = geometry.field_of_view or tuple(0.001 * n for n in (*image.pixels.shape[1:], 5))
    step = fov[2] or 0.005
    position = np.zeros((count, 3))
    position[:, 2] = step * (np.arange(count) - count // 2)
    axes = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # rows to the back, columns to the left
    changed = dataclasses.replace(geometry, field_of_view=(fov[0], fov[1], step), orientation=axes, position=position)
    return dataclasses.replace(image, geometry=changed)


def placed_like(image: Image, like: Series) -> Image:
    """A picture at the place of a reference series of the same scan, turned as that is.

    Number of slices and field of view must agree to a hundredth. Which way round the raw data lies is found by
    comparing pictures, in all sixteen ways that axes can be exchanged and reversed; where two fit about as well, as
    of a round bottle, it is refused.

    Raises
    ------
    UnsupportedScan
        If they do not agree.
    """
    reference = read_pixels(like)
    count = len(reference.pixels)
    if len(image.pixels) != count:
        raise UnsupportedScan(
            f"The reference series has {count} slices, the picture {len(image.pixels)}.", "Name the same scan's series."
        )
    wanted, fov = reference.geometry.field_of_view, image.geometry.field_of_view
    assert wanted is not None
    small = _small(reference.pixels)
    scores: dict[tuple[bool, bool, bool, bool], float] = {}
    choice = (False, True)
    for way in itertools.product(choice, choice, choice, choice):
        turned = _turned(image.pixels, way)
        have = None if fov is None else ((fov[1], fov[0]) if way[0] else (fov[0], fov[1]))
        if have is not None and any(abs(a - b) > _SIZE * b for a, b in zip(have, wanted[:2], strict=True)):
            continue
        scores[way] = float(np.corrcoef(_small(turned).ravel(), small.ravel())[0, 1])
    if not scores:
        asked, came = (" x ".join(f"{1000 * side:.1f}" for side in view[:2]) for view in (wanted, fov or ()))
        raise UnsupportedScan(
            f"The reference series covers {asked} mm, the picture {came} mm.",
            "Name the same scan's series.",
        )
    ranked = sorted(scores.items(), key=lambda item: item[1], reverse=True)
    if ranked[0][1] < _ALIKE:
        raise UnsupportedScan(
            f"The reference series does not show what the picture shows (correlation {ranked[0][1]:.2f} at best).",
            "Name the same scan's series.",
        )
    # A head is nearly its own mirror image (correlations of 0.98 are met), so that what counts is how much better one
    # explains the other, not by how much the correlations differ.
    best, following = (ranked[0][1], ranked[1][1]) if len(ranked) > 1 else (ranked[0][1], 0.0)
    if 1 - best > _CLEARLY * (1 - following) or best - following < _LEAST:
        raise UnsupportedScan(
            "The picture fits the reference series in two orientations about equally well, so its own cannot be told.",
            "Use raw data that says its orientation.",
        )
    pixels = np.ascontiguousarray(_turned(image.pixels, ranked[0][0]))
    geometry = dataclasses.replace(
        reference.geometry, recon_shape=(pixels.shape[1], pixels.shape[2])
    )  # the field of view stays, and with it the place of pixel n // 2
    return dataclasses.replace(image, pixels=pixels, geometry=geometry)


def _turned(pixels: NDArray[np.float32], way: tuple[bool, bool, bool, bool]) -> NDArray[np.float32]:
    exchange, *reverse = way
    turned = pixels.transpose(0, 2, 1) if exchange else pixels
    for axis, wanted in enumerate(reverse):
        turned = np.flip(turned, axis) if wanted else turned
    return turned


def _small(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """A few slices at a size at which small shifts do not matter."""
    chosen = pixels[np.unique(np.linspace(0, len(pixels) - 1, min(len(pixels), 9)).round().astype(int))]
    shape = (len(chosen), _COMPARED, _COMPARED)
    reduced: NDArray[np.float64] = resize(chosen.astype(np.float64), shape, order=1, anti_aliasing=True)
    return reduced
