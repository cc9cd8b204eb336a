"""Derived series: classic MR objects, one a slice, that say what they are and where they come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from mri_unroll import __version__
from mri_unroll.errors import InputError
from mri_unroll.image import Image
from mri_unroll.io.atomic import atomic_path
from mri_unroll.io.dicom.files import quietly
from mri_unroll.io.dicom.inherited import copied
from mri_unroll.io.dicom.plane import placement, put_pixels, put_place, stored
from mri_unroll.io.dicom.provenance import TOOL, Derivation, add_equipment, identifier, refer_to_sources
from mri_unroll.io.dicom.series import Frame, Series

__all__ = ["Derivation", "Written", "write_derived"]

_NUMBER_OFFSET = 9000
_LARGEST_IS = 2**31 - 1
_IMPLEMENTATION = UID(identifier("implementation"))


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A series on disk."""

    files: tuple[Path, ...]  # in the order of slices
    slope: float  # value in the picture's units = slope * stored value
    warnings: tuple[str, ...]


def write_derived(
    image: Image,
    source: Series,
    folder: Path,
    derivation: Derivation,
    *,
    keep_private: bool = False,
    overwrite: bool = False,
    made: datetime | None = None,
    change: Callable[[Dataset], None] | None = None,
) -> Written:
    """Write a volume as a new series of the study that it was made from.

    Study, patient and frame of reference stay the source's; geometry is the picture's own, so that crops, zooms and
    flips are right. Identifiers follow from the source's, the parameters and the weights: a retry gives the same, so
    that an archive keeps one copy; other parameters make another series.

    Parameters
    ----------
    image
        With geometry, in the source's units.
    source
        The series that it was made from.
    folder
        Gets ``0001.dcm`` and so on; made if missing.
    derivation
        What was done.
    keep_private
        Keep the vendor's private elements, which may hold names.
    overwrite
        Replace files that are there.
    made
        When; None: `SOURCE_DATE_EPOCH` if set, else now.
    change
        Called with each object before it is written, such as a `Deidentifier`.

    Raises
    ------
    UnsupportedScan
        If the picture has no place.
    InputError, DeviceError
        If a file exists or cannot be written.
    """
    made = made or now()
    place = placement(image, source.frames[0].thickness)
    series_uid = identifier("series", _series_uid(source), source.name, derivation.fingerprint)
    datasets = []
    volume = stored(image.pixels)
    with quietly():
        nearest = _nearest(source.frames, place.corner)
        for index, frame in enumerate(nearest):
            dataset = copied(frame, keep_private)
            dataset.SeriesNumber = min(_LARGEST_IS, _NUMBER_OFFSET + (source.number or 0))
            dataset.ImageType = _image_type(frame)
            describe(dataset, derivation, made)
            refer_to_sources(dataset, [frame])
            put_place(dataset, place, index)
            put_pixels(dataset, volume, index)
            dataset.InstanceNumber = index + 1
            dataset.SeriesInstanceUID = series_uid
            dataset.SOPInstanceUID = identifier("instance", series_uid, str(frame.header.SOPInstanceUID), str(index))
            if str(frame.header.get("LossyImageCompression", "")) == "01":  # once lossy, always lossy
                dataset.LossyImageCompression = "01"
            if change is not None:
                change(dataset)
            datasets.append(dataset)
    return Written(write_all(datasets, folder, overwrite), volume.slope, volume.warnings)


def now() -> datetime:
    """The time to write into files; ``SOURCE_DATE_EPOCH`` (reproducible-builds.org) fixes it."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed is not None:
        try:
            return datetime.fromtimestamp(int(fixed), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise InputError(f"SOURCE_DATE_EPOCH is {fixed!r}, which is no time in seconds.", "Unset it.") from error
    return datetime.now().astimezone()


def describe(dataset: Dataset, derivation: Derivation, made: datetime) -> None:
    """Series, description and equipment."""
    dataset.SeriesDescription = derivation.series_description
    dataset.DerivationDescription = derivation.text
    dataset.ImageComments = "RESEARCH USE ONLY. NOT FOR DIAGNOSIS."
    if str(dataset.get("BurnedInAnnotation", "NO")) != "YES":
        dataset.BurnedInAnnotation = "NO"
    date, time = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
    for name in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{name}Date", date)
        setattr(dataset, f"{name}Time", time)
    add_equipment(dataset, derivation, made)


def _image_type(frame: Frame) -> list[str]:
    """Processed pictures are derived and secondary; the third value is the source's."""
    value = frame.header.get("ImageType")
    parts = [value] if isinstance(value, str) else [str(part) for part in value or []]
    return ["DERIVED", "SECONDARY", parts[2] if len(parts) > 2 and parts[2].strip() else "OTHER", TOOL]


def _series_uid(source: Series) -> str:
    return str(source.frames[0].header.get("SeriesInstanceUID", ""))


def _nearest(frames: Sequence[Frame], corners: NDArray[np.float64]) -> list[Frame]:
    """For each slice the source picture that lies nearest along the source's normal."""
    normal = np.cross(frames[0].row, frames[0].column)
    places = np.array([frame.position @ normal for frame in frames])
    return [frames[int(np.abs(places - corner @ normal).argmin())] for corner in corners]


def write_all(datasets: Sequence[Dataset], folder: Path, overwrite: bool) -> tuple[Path, ...]:
    """Write objects as ``0001.dcm`` and so on, each whole or not at all, and none over a file that is there."""
    paths = [folder / f"{index:04d}.dcm" for index in range(1, len(datasets) + 1)]
    if not overwrite:
        for path in paths:
            if path.exists():
                raise InputError(
                    f"{path} exists already.", "Use --overwrite to replace it, or write to another folder."
                )
    elif (longer := folder / f"{len(datasets) + 1:04d}.dcm").exists():
        raise InputError(
            f"{folder} holds {longer.name}, which a series of {len(datasets)} slices would leave beside its own.",
            "Empty the folder, or write to another one.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be made: {error.strerror}.", "Choose another output.") from error
    with quietly():
        for dataset, path in zip(datasets, paths, strict=True):
            dataset.file_meta = _meta(dataset)
            with atomic_path(path, overwrite) as part, part.open("wb") as file:
                dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return tuple(paths)


def _meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = f"{TOOL}_{__version__}"[:16]
    return meta
