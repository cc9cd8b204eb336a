"""How a picture was acquired, in the words of three worlds: BIDS (SI units), DICOM and the ISMRMRD header.

Only numbers, codes of fixed lists and the vendor: nothing here can name a person. Units and names are those of BIDS 1.9
(Magnetic Resonance Imaging, metadata of the scanner and of the sequence) and DICOM PS3.3 C.8.3.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Number:
    """One positive number under its names."""

    bids: str
    dicom: str
    note: str | None  # key of `Source.notes`; None: raw headers do not say it
    bids_per_dicom: float = 1.0  # value in BIDS for one DICOM unit
    dicom_per_note: float = 1.0


_NUMBERS = (
    _Number("MagneticFieldStrength", "MagneticFieldStrength", "field_strength_T"),
    _Number("ImagingFrequency", "ImagingFrequency", "H1resonanceFrequency_Hz", dicom_per_note=1e-6),  # MHz
    _Number("RepetitionTime", "RepetitionTime", "TR_ms", 1e-3),
    _Number("EchoTime", "EchoTime", "TE_ms", 1e-3),
    _Number("InversionTime", "InversionTime", "TI_ms", 1e-3),
    _Number("FlipAngle", "FlipAngle", "flip_angle_deg"),
    _Number("EchoTrainLength", "EchoTrainLength", None),
    _Number("PixelBandwidth", "PixelBandwidth", None),  # Hz for a pixel
    _Number("NumberOfAverages", "NumberOfAverages", None),
    _Number("SliceThickness", "SliceThickness", None),
    _Number("SpacingBetweenSlices", "SpacingBetweenSlices", None),
)
_CODES = ("MRAcquisitionType", "ScanningSequence", "SequenceVariant", "ScanOptions", "PatientPosition")
_CODE = re.compile(r"[A-Z0-9_]{1,12}")
_VENDORS = (
    *("Siemens", "GE", "Philips", "Canon", "Toshiba", "Hitachi", "Fujifilm", "United Imaging", "UIH", "Bruker"),
    *("Hyperfine", "Esaote", "Fonar", "Agilent", "Varian", "Neusoft", "Mindray", "Alltech", "MR Solutions", "Paramed"),
)


def bids_of_header(header: Mapping[str, Any] | Any) -> dict[str, Any]:
    """The BIDS names of what a DICOM header says; what is missing or no number is left out.

    Parameters
    ----------
    header
        Anything whose ``get`` takes DICOM keywords, such as a pydicom data set.
    """
    found: dict[str, Any] = {"Modality": "MR"}
    if vendor := _vendor(_value(header.get, "Manufacturer")):
        found["Manufacturer"] = vendor
    for one in _NUMBERS:
        if (number := _positive(_value(header.get, one.dicom))) is not None:
            found[one.bids] = float(f"{number * one.bids_per_dicom:.9g}")
    for keyword in _CODES:
        codes = [part.strip() for part in _parts(_value(header.get, keyword))]
        if codes and all(map(_CODE.fullmatch, codes)):
            found[keyword] = codes[0] if len(codes) == 1 else codes
    return found


def bids_of_notes(notes: Mapping[str, str]) -> dict[str, Any]:
    """The same of raw data's header, see `mri_unroll.scan.Source`."""
    return bids_of_header(dicom_of_notes(notes))


def dicom_of_notes(notes: Mapping[str, str]) -> dict[str, Any]:
    """DICOM keywords and values of what raw data's header says."""
    found: dict[str, Any] = {}
    if vendor := _vendor(notes.get("vendor")):
        found["Manufacturer"] = vendor
    for one in _NUMBERS:
        if one.note is not None and (number := _positive(notes.get(one.note))) is not None:
            found[one.dicom] = float(f"{number * one.dicom_per_note:.9g}")
    position = notes.get("patient_position", "").strip().upper()
    if position in ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"):
        found["PatientPosition"] = position
    return found


def _value(get: Callable[[str], Any], keyword: str) -> Any:
    try:
        return get(keyword)
    except Exception:  # pydicom converts a value when it is asked for, and raises what it will on a broken one
        return None


def _parts(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _vendor(text: Any) -> str | None:
    """A known vendor's name; free text is not passed on."""
    words = re.split(r"[^a-z]+", str(text or "").casefold())
    joined = f" {' '.join(words)} "
    return next((name for name in _VENDORS if f" {name.casefold()} " in joined), None)
