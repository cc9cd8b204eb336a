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
            raise InputError(f"The ledger {self._path.name} cannot be read: {error.strerror}.", "Check it.") from error
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
