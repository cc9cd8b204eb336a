"""What an object says of how it was made: identifiers that a retry gives again, source pictures, equipment."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from mri_unroll import __version__
from mri_unroll.io.dicom.series import Frame
from mri_unroll.io.sidecar import finite

Kind = Literal["restored", "simulated", "reconstructed"]

TOOL = "MRI_UNROLL"
RESEARCH = "[RESEARCH]"
_ROOT = uuid.uuid5(uuid.NAMESPACE_URL, "urn:mri_unroll:dicom")
_LONGEST = 64  # characters of LO
_DESCRIPTION = 1024  # characters of ST


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """What was done, in the words that go into the objects."""

    kind: Kind
    title: str  # into SeriesDescription, after "[RESEARCH]"
    description: str  # a sentence or two
    parameters: dict[str, Any] = field(default_factory=dict)  # all that makes the pixels: goes into the identifiers
    weights_digest: str | None = None

    @property
    def series_description(self) -> str:
        """At most 64 characters, what it is first."""
        said = f"{RESEARCH} SIMULATED {self.title}" if self.kind == "simulated" else f"{RESEARCH} {self.title}"
        return said[:_LONGEST].rstrip()

    @property
    def text(self) -> str:
        """DerivationDescription: what was done, by which program and which weights."""
        weights = f", weights {self.weights_digest[:19]}" if self.weights_digest else ""
        head = "SIMULATED undersampling of a magnitude image. " if self.kind == "simulated" else ""
        return f"{head}{self.description} mri_unroll {__version__}{weights}. RESEARCH USE ONLY."[:_DESCRIPTION]

    @property
    def fingerprint(self) -> str:
        """All that distinguishes the pixels from others of the same source."""
        told = {"kind": self.kind, "version": __version__, "weights": self.weights_digest, "set": self.parameters}
        return json.dumps(finite(told), sort_keys=True, default=str)


def identifier(*parts: str) -> str:
    """A UID that the same parts give again (PS3.5 B.2, RFC 9562 version 5)."""
    return f"2.25.{uuid.uuid5(_ROOT, chr(31).join(parts)).int}"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def refer_to_sources(dataset: Dataset, frames: Sequence[Frame]) -> None:
    """SourceImageSequence: the pictures that this one was made from (PS3.3 C.7.6.1.1.4)."""
    items = []
    for frame in frames:
        item = Dataset()
        item.ReferencedSOPClassUID = str(frame.header.SOPClassUID)
        item.ReferencedSOPInstanceUID = str(frame.header.SOPInstanceUID)
        if frame.number is not None:
            item.ReferencedFrameNumber = frame.number
        purpose = code("121322", "DCM", "Source image for image processing operation")
        item.PurposeOfReferenceCodeSequence = Items([purpose])
        items.append(item)
    dataset.SourceImageSequence = Items(items)


def add_equipment(dataset: Dataset, derivation: Derivation, made: datetime) -> None:
    """Append this program to ContributingEquipmentSequence; the scanner stays the equipment of the series."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Items([code("109102", "DCM", "Processing Equipment")])
    item.Manufacturer = "mri_unroll"
    item.ManufacturerModelName = "mri_unroll"
    versions = [__version__]
    if derivation.weights_digest:
        versions.append(derivation.weights_digest.removeprefix("sha256:")[:16])
        item.DeviceUID = identifier("device", derivation.weights_digest)  # one for each model, as IHE AIR asks
    item.SoftwareVersions = versions if len(versions) > 1 else versions[0]
    item.ContributionDateTime = made.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = derivation.description[:_LONGEST]
    before = list(dataset.get("ContributingEquipmentSequence", []))
    dataset.ContributingEquipmentSequence = Items([*before, item])
