"""The ISMRMRD header of raw data: sizes, limits and contrast, from XML that a stranger may have written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.parsers import expat

from mri_unroll.errors import CorruptScan
from mri_unroll.scan import PatientTags

MAX_HEADER_BYTES = 16 * 2**20
_MAX_DEPTH = 32
_AGAIN = "Repair the XML header in a copy of the file."
_ENCODING = "encoding/encodingLimits"
_NOTES = {  # never names, dates, identifiers or free text such as the protocol's name
    "field_strength_T": "acquisitionSystemInformation/systemFieldStrength_T",
    "vendor": "acquisitionSystemInformation/systemVendor",
    "H1resonanceFrequency_Hz": "experimentalConditions/H1resonanceFrequency_Hz",
    "TR_ms": "sequenceParameters/TR",
    "TE_ms": "sequenceParameters/TE",
    "TI_ms": "sequenceParameters/TI",
    "flip_angle_deg": "sequenceParameters/flipAngle_deg",
    "sequence_type": "sequenceParameters/sequence_type",
    "echo_spacing_ms": "sequenceParameters/echo_spacing",
    "patient_position": "measurementInformation/patientPosition",
}
_PATIENT = {
    "patient_id": "subjectInformation/patientID",
    "name": "subjectInformation/patientName",
    "birth_date": "subjectInformation/patientBirthdate",
    "sex": "subjectInformation/patientGender",
}


@dataclass(frozen=True)
class AcquisitionHeader:
    """What of an ISMRMRD header is used. ISMRMRD's x is the readout and its y the phase encoding."""

    encoded_matrix: tuple[int, int, int] | None  # (readout, phase, slice)
    recon_matrix: tuple[int, int, int] | None
    encoded_fov: tuple[float, float, float] | None  # (readout, phase, slice) metres
    recon_fov: tuple[float, float, float] | None
    phase_limits: tuple[int, int] | None  # (centre, last) phase encoding step
    partition_centre: int | None  # of the second phase encoding
    last_slice: int | None
    trajectory: str  # "cartesian", "radial", ... in small letters
    noise_bandwidth: float | None  # effective bandwidth of a noise readout over its nominal one
    notes: dict[str, str]
    patient: PatientTags
    warnings: tuple[str, ...]

    def measured_columns(self, width: int) -> tuple[int, int]:
        """First and last (excluded) column that was not filled with zeros, ``(left, right)``.

        ``left = width // 2 - centre`` puts the centre step on zero frequency, and ``right = left + last + 1``. fastMRI
        takes the encoded matrix size for ``width``; where the array is as wide as that, both agree.
        """
        if self.phase_limits is None:
            return 0, width
        centre, last = self.phase_limits
        left = width // 2 - centre
        return max(left, 0), min(left + last + 1, width)


def parse_header(text: bytes, title: str) -> AcquisitionHeader:
    """Read an ISMRMRD header.

    Parameters
    ----------
    text
        The XML document.
    title
        Name of the file, for messages.

    Raises
    ------
    CorruptScan
        If it is not XML, declares a document type or entities, or holds numbers that are none.
    """
    values, n_encodings = _parse_xml(text, title)
    warnings = []
    if n_encodings > 1:
        warnings.append(f"The header describes {n_encodings} encodings; the first one is used.")
    trajectory = printable(values.get("encoding/trajectory", "") or "cartesian").lower()
    if trajectory == "epi":
        warnings.append("The header calls the scan EPI: its samples are taken as already sorted and corrected.")
    sizes: dict[str, tuple[int, int, int] | None] = {}
    fovs: dict[str, tuple[float, float, float] | None] = {}
    for space in ("encodedSpace", "reconSpace"):
        size = [_number(values, f"encoding/{space}/matrixSize/{axis}", title) for axis in "xyz"]
        fov = [_number(values, f"encoding/{space}/fieldOfView_mm/{axis}", title) for axis in "xyz"]
        sizes[space] = None
        fovs[space] = None
        if size[0] is not None and size[1] is not None:
            whole = [int(number) if number is not None else 1 for number in size]
            if min(whole) < 1 or any(number not in (None, count) for number, count in zip(size, whole, strict=True)):
                raise CorruptScan(
                    f"{title}: the header's {space} matrix is {size}, not positive whole numbers.", _AGAIN
                )
            sizes[space] = (whole[0], whole[1], whole[2])
        if all(number is not None and number > 0 for number in fov):
            x, y, z = (float(number or 0) / 1000 for number in fov)
            n_partitions = (sizes[space] or (1, 1, 1))[2]
            fovs[space] = (x, y, z / n_partitions)
        else:
            warnings.append(f"The header gives no usable field of view for {space}.")
    return AcquisitionHeader(
        encoded_matrix=sizes["encodedSpace"],
        recon_matrix=sizes["reconSpace"],
        encoded_fov=fovs["encodedSpace"],
        recon_fov=fovs["reconSpace"],
        phase_limits=_phase_limits(values, title, warnings),
        partition_centre=_step(values, "kspace_encoding_step_2/center", title),
        last_slice=_step(values, "slice/maximum", title),
        trajectory=trajectory,
        noise_bandwidth=_number(values, "acquisitionSystemInformation/relativeReceiverNoiseBandwidth", title),
        notes={key: printable(values[place]) for key, place in _NOTES.items() if values.get(place)},
        patient=PatientTags(**{key: values.get(place, "") for key, place in _PATIENT.items()}),
        warnings=tuple(warnings),
    )


def _phase_limits(values: dict[str, str], title: str, warnings: list[str]) -> tuple[int, int] | None:
    centre, last = (
        _number(values, f"{_ENCODING}/kspace_encoding_step_1/{end}", title) for end in ("center", "maximum")
    )
    if centre is None or last is None:
        return None
    if not 0 <= centre <= last or last == 0:  # some converters leave zeros here
        warnings.append(f"The header's phase encoding limits (centre {centre:g}, maximum {last:g}) are ignored.")
        return None
    return int(centre), int(last)


def _step(values: dict[str, str], place: str, title: str) -> int | None:
    number = _number(values, f"{_ENCODING}/{place}", title)
    return None if number is None or number < 0 else int(number)


def _number(values: dict[str, str], place: str, title: str) -> float | None:
    text = values.get(place, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e6:
        raise CorruptScan(f"{title}: the header's {place} is {printable(text)!r}, which is no usable number.", _AGAIN)
    return number


def printable(text: str) -> str:
    """Cut a stranger's text to 64 letters, none of which moves the cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:64]


def _parse_xml(text: bytes, title: str) -> tuple[dict[str, str], int]:
    """Leaf texts by path below the root, without namespaces; of repeated elements, the first."""
    if len(text) > MAX_HEADER_BYTES:
        raise CorruptScan(f"{title}: its header has {len(text)} bytes, more than {MAX_HEADER_BYTES}.", _AGAIN)
    values: dict[str, str] = {}
    path: list[str] = []
    letters: list[str] = []
    n_encodings = 0

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal n_encodings
        path.append(name.rpartition(" ")[2])
        letters.clear()
        if len(path) > _MAX_DEPTH:
            raise CorruptScan(f"{title}: its header is nested deeper than {_MAX_DEPTH} levels.", _AGAIN)
        if path[1:] == ["encoding"]:
            n_encodings += 1

    def end(_: str) -> None:
        place = "/".join(path[1:])
        if not (n_encodings > 1 and place.startswith("encoding/")):
            values.setdefault(place, "".join(letters).strip())
        letters.clear()
        path.pop()

    def refuse(*_: object) -> None:
        raise CorruptScan(f"{title}: its header declares a document type, which no ISMRMRD header does.", _AGAIN)

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = letters.append
    parser.StartDoctypeDeclHandler = refuse  # entities, internal or external, can only be declared in there
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text.rstrip(b"\x00"), True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: an unknown encoding
        raise CorruptScan(f"{title}: its ISMRMRD header is not XML ({error}).", _AGAIN) from error
    return values, n_encodings
