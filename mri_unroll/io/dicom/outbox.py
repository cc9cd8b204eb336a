"""What is to be sent, and the ledger of what a peer has acknowledged, so that a second call sends only the rest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from mri_unroll.errors import CorruptScan, InputError

DUPLICATE = 0x0111  # the peer has it already
NO_RESOURCES = range(0xA700, 0xA800)
_MEANINGS = (
    (0xA700, 0xA7FF, "the peer is out of resources"),
    (0xA900, 0xA9FF, "the data set does not match its SOP class"),
    (0xB000, 0xB000, "the peer changed attributes"),
    (0xB006, 0xB006, "the peer left attributes out"),
    (0xB007, 0xB007, "the data set does not match its SOP class, the peer says"),
    (0xB000, 0xBFFF, "the peer warns"),
    (0xC000, 0xCFFF, "the peer cannot understand it"),
    (0x0122, 0x0122, "the peer does not support its SOP class"),
    (0x0124, 0x0124, "the peer does not allow it"),
    (0x0110, 0x0110, "the peer failed to process it"),
)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One DICOM file to send."""

    path: Path
    sop_class: str
    instance: str = field(repr=False)  # SOP Instance UID: counts as identity, so never shown
    syntax: str  # transfer syntax
    size: int  # bytes
    digest: str  # SHA-256 of UID and file: another content under the same UID is another parcel


def gather(files: Sequence[Path]) -> tuple[Parcel, ...]:
    """Look at the headers of files that are to be sent; an instance named twice is sent once.

    Raises
    ------
    InputError
        If one is missing or is not a whole DICOM file.
    """
    found: dict[str, Parcel] = {}
    for path in map(Path, files):
        try:
            content = path.read_bytes()
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
            instance, sop_class = str(header.SOPInstanceUID), str(header.SOPClassUID)
            syntax = str(header.file_meta.TransferSyntaxUID)
        except OSError as error:
            raise InputError(f"{path.name} cannot be read: {error.strerror}.", "Check the path.") from error
        except Exception as error:  # pydicom raises many types on damaged files
            raise CorruptScan(f"{path.name} is not a whole DICOM file.", "Write the series again.") from error
        hashed = hashlib.sha256(instance.encode() + b"\0" + content).hexdigest()
        found.setdefault(instance, Parcel(path, sop_class, instance, syntax, len(content), hashed))
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said of one parcel."""

    is_stored: bool
    said: str = ""  # why it was refused, or with which warning it was stored; never anything out of the object

    @classmethod
    def of_status(cls, status: int) -> Answer:
        """The answer that a status of C-STORE, or a reason of STOW-RS, means (PS3.4 B.2.3, PS3.18 10.5.3)."""
        meaning = next(
            (text for low, high, text in _MEANINGS if low <= status <= high), "the peer gave no known reason"
        )
        is_stored = status in (0, DUPLICATE) or 0xB000 <= status <= 0xBFFF
        return cls(is_stored, "" if status in (0, DUPLICATE) else f"{meaning} ({status:04X})")


class Ledger:
    """JSON lines, one for each parcel that a peer has acknowledged. It holds hashes alone: no UID, no name.

    Each line is flushed to the disk before the next parcel goes. A kill can leave half a line at the end, which is
    passed over: that parcel is sent once more, and the peer keeps one.

    Parameters
    ----------
    path
        The file; made when the first parcel is acknowledged. Its folder must exist.
    peer
        Address of the peer without secrets; hashed, so that one file serves several peers.
    """

    def __init__(self, path: Path, peer: str) -> None:
        self._path = Path(path)
        self._peer = peer
        self._keys: set[str] = set()
        self._torn = False
        try:
            text = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise InputError(
                f"The ledger {self._path.name} cannot be read: {error.strerror}.", "Check the file and its permissions."
            ) from error
        self._torn = bool(text) and not text.endswith(b"\n")
        for line in text.splitlines():
            try:
                self._keys.add(str(json.loads(line)["acknowledged"]))
            except (ValueError, KeyError, TypeError):
                continue  # half a line of a killed sender

    def holds(self, parcel: Parcel) -> bool:
        """Whether the peer has acknowledged it."""
        return self._key(parcel) in self._keys

    def add(self, parcel: Parcel) -> None:
        """Keep that the peer has acknowledged it."""
        key = self._key(parcel)
        line = ("\n" if self._torn else "") + json.dumps({"acknowledged": key}) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"The ledger {self._path.name} cannot be written: {error.strerror}.", "Check the folder and the disk."
            ) from error
        self._torn = False
        self._keys.add(key)

    def _key(self, parcel: Parcel) -> str:
        return hashlib.sha256(f"{self._peer}\0{parcel.digest}".encode()).hexdigest()
