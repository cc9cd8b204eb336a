"""From an object to its pictures, classic or multi-frame, each with a header as classic MR has it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan
from mri_unroll.io.content import MAX_BYTES
from mri_unroll.io.dicom.files import Place, quietly
from mri_unroll.io.dicom.series import Frame

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")  # the second: converted from classic
MAX_FRAMES = 20_000
_VECTOR_SLACK = 1e-3
_UID = re.compile(r"[0-9.]{1,64}")
# Other modalities that a message may name (PS3.3 C.7.3.1.1.1). In a broken file a person's name may stand there.
_MODALITIES = frozenset(
    {
        *("CR", "CT", "DOC", "DX", "ECG", "ES", "GM", "IO", "IVUS", "KO", "MG", "NM"),
        *("OCT", "OP", "OPT", "OT", "PR", "PT", "PX", "REG", "RF", "RG", "RTDOSE", "RTIMAGE"),
        *("RTPLAN", "RTRECORD", "RTSTRUCT", "SC", "SEG", "SM", "SMR", "SR", "US", "VL", "XA", "XC"),
    }
)

# Attributes that functional groups of Enhanced MR hold, under the names that classic MR gives them (PS3.3 C.7.6.16,
# C.8.13.5); what has the same name in both is taken over as it is.
_RENAMED = {
    "EffectiveEchoTime": "EchoTime",
    "FrameType": "ImageType",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameReferenceDateTime": "",
    "DimensionIndexValues": "",
}
_LEFT_OUT = {"FrameVOILUTSequence", "RealWorldValueMappingSequence", "ReferencedImageSequence"}
_OF_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData", "NumberOfFrames")


def frames_of(dataset: Dataset, place: Place) -> list[Frame]:
    """The pictures of one object.

    Raises
    ------
    UnsupportedScan
        If it is no MR picture, or says nothing of where it lies.
    CorruptScan
        If its header contradicts itself.
    """
    with quietly():
        try:
            return _frames_of(dataset, place)
        except InputError:
            raise
        except RecursionError as error:
            raise CorruptScan(f"{place.name}: its header is nested too deeply.", "Export it again.") from error
        except Exception as error:  # pydicom converts a value when it is asked for, and raises what it will
            raise CorruptScan(
                f"{place.name}: its header cannot be read ({type(error).__name__}).", "Export it again."
            ) from error


def _frames_of(dataset: Dataset, place: Place) -> list[Frame]:
    sop_class, modality = str(dataset.get("SOPClassUID", "")), str(dataset.get("Modality", "") or "none")
    if modality != "MR":
        named = f"modality {modality}" if modality in _MODALITIES else "no known modality"
        raise UnsupportedScan(f"{place.name} is of {named}, not MR.", "Give an MR series.")
    samples = _number(dataset, "SamplesPerPixel", place, 1)
    if samples != 1 or str(dataset.get("PhotometricInterpretation", "MONOCHROME2")) not in (
        "MONOCHROME1",
        "MONOCHROME2",
    ):
        raise UnsupportedScan(f"{place.name} is a picture in colour.", "Give the series that the scanner made.")
    if sop_class in ENHANCED_MR:
        return list(_multi_frame(dataset, place))
    if sop_class != MR:
        known = sop_class if _UID.fullmatch(sop_class) else "unknown"
        raise UnsupportedScan(f"{place.name} is no MR image object (SOP class {known}).", "Give an MR series.")
    if _number(dataset, "NumberOfFrames", place, 1) != 1:
        raise UnsupportedScan(
            f"{place.name} holds several frames in a class that allows for one.", "Export it as an enhanced object."
        )
    header = Dataset()
    header.update({element.tag: element for element in dataset if element.tag.group != 0x7FE0})
    return [_frame(header, dataset, place, None)]


def _multi_frame(dataset: Dataset, place: Place) -> Iterator[Frame]:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    count = _number(dataset, "NumberOfFrames", place, 1)
    if not groups or len(groups) != count or not 1 <= count <= MAX_FRAMES:
        raise CorruptScan(
            f"{place.name} says that it holds {count} frames and describes {len(groups or [])}.", "Export it again."
        )
    shared = dataset.get("SharedFunctionalGroupsSequence")
    base = Dataset()
    base.update({e.tag: e for e in dataset if e.keyword not in _OF_FRAMES and e.tag.group != 0x7FE0})
    if shared:
        _merge(base, shared[0])
    for number, group in enumerate(groups, start=1):
        header = Dataset()
        header.update(base)
        _merge(header, group)
        yield _frame(header, dataset, place, number)


def _merge(header: Dataset, group: Dataset) -> None:
    """What functional groups say, at the top level."""
    for macro in group:
        if macro.VR != "SQ" or macro.keyword in _LEFT_OUT or macro.tag.is_private:
            continue
        for item in macro.value[:1]:
            for element in item:
                keyword = _RENAMED.get(element.keyword, element.keyword)
                if not keyword or element.tag.is_private:
                    continue
                if keyword == element.keyword:
                    header[element.tag] = element
                else:
                    setattr(header, keyword, _as_classic(keyword, element.value))
        if macro.keyword == "MRDiffusionSequence" and macro.value:
            for item in macro.value[0].get("DiffusionGradientDirectionSequence", [])[:1]:
                header.DiffusionGradientOrientation = item.DiffusionGradientOrientation


def _as_classic(keyword: str, value: Any) -> Any:
    """A value in the representation that classic MR has for it: doubles become decimal strings."""
    return DSfloat(float(value), auto_format=True) if keyword == "EchoTime" else value


def _frame(header: Dataset, dataset: Dataset, place: Place, number: int | None) -> Frame:
    shape = (_number(dataset, "Rows", place), _number(dataset, "Columns", place))
    if min(shape) < 1 or 4 * shape[0] * shape[1] > MAX_BYTES:
        raise CorruptScan(f"{place.name} says that it has {shape[0]} x {shape[1]} pixels.", "Export it again.")
    orientation = numbers(header, "ImageOrientationPatient", 6, place)
    row, column = orientation[:3], orientation[3:]
    if (
        abs(np.linalg.norm(row) - 1) > _VECTOR_SLACK
        or abs(np.linalg.norm(column) - 1) > _VECTOR_SLACK
        or abs(float(row @ column)) > _VECTOR_SLACK
    ):
        raise CorruptScan(f"{place.name}: its axes are no two unit vectors at a right angle.", "Export it again.")
    spacing = numbers(header, "PixelSpacing", 2, place)
    if not (spacing > 0).all() or spacing.max() > 1000:
        raise CorruptScan(f"{place.name}: its pixels measure {spacing[0]:g} x {spacing[1]:g} mm.", "Export it again.")
    thickness = header.get("SliceThickness")
    return Frame(
        header=header,
        path=str(place.path),
        member=place.member,
        number=number,
        shape=shape,
        position=numbers(header, "ImagePositionPatient", 3, place),
        row=row / np.linalg.norm(row),
        column=column / np.linalg.norm(column),
        spacing=(float(spacing[0]), float(spacing[1])),
        thickness=_positive(thickness),
    )


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < 1000 else None


def numbers(header: Dataset, keyword: str, count: int, place: Place) -> NDArray[np.float64]:
    """So many finite numbers of an attribute.

    Raises
    ------
    UnsupportedScan
        If the attribute is not there or empty.
    CorruptScan
        If it holds something else.
    """
    value = header.get(keyword)
    if value is None or value == "" or (isinstance(value, Sequence) and len(value) == 0):
        raise UnsupportedScan(f"{place.name} does not say its {_spoken(keyword)}.", "It cannot be placed in a volume.")
    try:
        found = np.array([float(item) for item in value], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CorruptScan(f"{place.name}: its {_spoken(keyword)} holds no numbers.", "Export it again.") from error
    if found.shape != (count,) or not np.isfinite(found).all():
        raise CorruptScan(f"{place.name}: its {_spoken(keyword)} is not {count} finite numbers.", "Export it again.")
    return found


def _number(dataset: Dataset, keyword: str, place: Place, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise CorruptScan(f"{place.name} does not say its {_spoken(keyword)}.", "Export it again.")
        return default
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise CorruptScan(f"{place.name}: its {_spoken(keyword)} is no number.", "Export it again.") from error
    if not (math.isfinite(number) and number == int(number)):
        raise CorruptScan(f"{place.name}: its {_spoken(keyword)} is no whole number.", "Export it again.")
    return int(number)


def _spoken(keyword: str) -> str:
    return {
        "ImageOrientationPatient": "orientation",
        "ImagePositionPatient": "position",
        "PixelSpacing": "pixel spacing",
        "NumberOfFrames": "number of frames",
        "SamplesPerPixel": "number of samples per pixel",
    }.get(keyword, keyword.lower())
