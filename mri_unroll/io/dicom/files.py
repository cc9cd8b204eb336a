"""Where DICOM objects lie: a folder, a zip, a DICOMDIR or one file; and the safe way to open one."""

from __future__ import annotations

import io
import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pydicom
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mri_unroll.errors import CorruptScan, InputError, UnknownFormat, UnsupportedScan
from mri_unroll.io.content import BOMB_BYTES, BOMB_RATIO, plain_file

MAX_FILES = 100_000
MAX_OBJECT_BYTES = 2 * 2**30  # of one file; a multi-frame object may be large
_MAX_DEFLATED = 2**30
_DICOMDIR = "DICOMDIR"
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one object lies."""

    path: Path
    member: str | None = None  # name inside a zip

    @property
    def name(self) -> str:
        """For messages: the last part of the name."""
        return PurePosixPath(self.member).name if self.member is not None else self.path.name

    def content(self) -> bytes:
        """The bytes of the object.

        Raises
        ------
        InputError, CorruptScan, UnsupportedScan
            If it cannot be read, or is too large.
        """
        if self.member is None:
            path = plain_file(self.path)
            if path.stat().st_size > MAX_OBJECT_BYTES:
                raise UnsupportedScan(f"{self.name} is larger than {MAX_OBJECT_BYTES / 2**30:g} GiB.", "Split it.")
            return path.read_bytes()
        with _zip(self.path) as archive:
            info = archive.getinfo(self.member)
            _check_member(info)
            try:
                with archive.open(info) as file:
                    content = file.read(info.file_size + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
                raise CorruptScan(
                    f"{self.name} in {self.path.name} cannot be unpacked: {error}.", "Pack it again."
                ) from error
        if len(content) > info.file_size:
            raise UnsupportedScan(f"{self.name} in {self.path.name} is larger than the zip says.", "Pack it again.")
        return content


def places(path: Path) -> Iterator[Place]:
    """Every file that may hold an object, in the order of names; what is none is told when it is opened.

    Raises
    ------
    InputError
        If the path cannot be read, or holds more than `MAX_FILES`.
    """
    if path.is_dir():
        yield from _in_folder(path)
        return
    path = plain_file(path)
    if zipfile.is_zipfile(path):
        with _zip(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > MAX_FILES:
            raise UnsupportedScan(f"{path.name} holds {len(infos)} files, more than {MAX_FILES}.", "Split it.")
        yield from (Place(path, info.filename) for info in sorted(infos, key=lambda info: info.filename))
        return
    yield Place(path)


def _in_folder(folder: Path) -> Iterator[Place]:
    count = 0
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            try:
                is_plain = stat.S_ISREG(path.stat().st_mode)  # a pipe would wait for ever
            except OSError:
                continue  # a broken link
            if not is_plain or name.upper() == _DICOMDIR:
                continue
            count += 1
            if count > MAX_FILES:
                raise UnsupportedScan(f"{folder.name} holds more than {MAX_FILES} files.", "Name a smaller folder.")
            yield Place(path)


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, UnicodeDecodeError, ValueError) as error:
        raise CorruptScan(f"{path.name} is no sound zip: {error}.", "Pack it again.") from error


def _check_member(info: zipfile.ZipInfo) -> None:
    """Refuse what unpacks to more than any study needs; nothing is ever written to disk under a member's name."""
    if info.flag_bits & 1:
        raise UnsupportedScan(f"{PurePosixPath(info.filename).name} in the zip is encrypted.", "Unpack it first.")
    if info.file_size > MAX_OBJECT_BYTES or (
        info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * max(info.compress_size, 1)
    ):
        raise UnsupportedScan(
            f"{PurePosixPath(info.filename).name} in the zip unpacks to {info.file_size} bytes, no picture needs it.",
            "Check where the zip comes from.",
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Let pydicom read what vendors write: values outside the rules are looked at by us, where they are used."""
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def read_object(place: Place, *, pixels: bool) -> FileDataset:
    """Read one object, or its header alone.

    Raises
    ------
    UnknownFormat
        If it is no DICOM.
    CorruptScan
        If it is broken.
    UnsupportedScan
        If it is a list of files, or too large.
    """
    content = place.content()
    return parse(content, place.name, pixels=pixels)


def parse(content: bytes, name: str, *, pixels: bool) -> FileDataset:
    """The object in some bytes; ``name`` is for messages. Raises as `read_object`."""
    with quietly():
        try:
            has_preamble = content[128:132] == b"DICM"
            _check_deflated(content, name)
            dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels, force=not has_preamble)
            if "TransferSyntaxUID" not in dataset.file_meta:  # without a preamble; pydicom told by the bytes
                implicit, little = dataset.original_encoding
                explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
            # pydicom converts values when they are asked for: broken ones show here.
            sop_class = str(dataset.get("SOPClassUID", ""))
            modality = dataset.get("Modality")
            dataset.get("SOPInstanceUID")
        except InputError:
            raise
        except (InvalidDicomError, EOFError) as error:
            raise UnknownFormat(f"{name} is no DICOM file.", "Export it again.") from error
        except Exception as error:  # pydicom raises whatever a broken file makes it
            raise CorruptScan(f"{name} is broken DICOM ({type(error).__name__}).", "Export it again.") from error
    if not has_preamble and not (sop_class.startswith("1.2.840.10008.5.1.4.1.1.") and modality):
        raise UnknownFormat(f"{name} is no DICOM file.", "Export it again.")
    if sop_class == _DIRECTORY_CLASS or "DirectoryRecordSequence" in dataset:
        raise UnsupportedScan(f"{name} is a list of files (DICOMDIR).", "Name the folder that it lies in.")
    return dataset


def _check_deflated(content: bytes, name: str) -> None:
    """Unpack a deflated data set within a limit before pydicom does without one."""
    if content[128:132] != b"DICM":
        return
    file = io.BytesIO(content)
    read_preamble(file, False)
    meta = pydicom.filereader._read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    limit = min(_MAX_DEFLATED, max(BOMB_BYTES, BOMB_RATIO * len(content)))
    unpacking.decompress(content[file.tell() :], limit)
    if unpacking.unconsumed_tail:
        raise UnsupportedScan(f"{name} unpacks to more than {limit} bytes.", "Check where it comes from.")


def listed_in(directory: Path) -> Iterator[Place]:
    """The files that a DICOMDIR names, inside its folder; those that are not there included.

    Raises
    ------
    CorruptScan
        If it cannot be read.
    """
    with quietly():
        try:
            dataset: Dataset = pydicom.dcmread(directory)
            records = list(dataset.get("DirectoryRecordSequence", []))
            names = [record.get("ReferencedFileID") for record in records]
        except Exception as error:  # as in `parse`
            raise CorruptScan(
                f"{directory.name} cannot be read ({type(error).__name__}).", "Name the folder that it lies in."
            ) from error
    for name in names:
        if name is None:
            continue
        parts = [name] if isinstance(name, str) else [str(part) for part in name]
        if any(part in ("..", ".", "") or "/" in part or "\\" in part for part in parts):
            raise CorruptScan(f"{directory.name} names a file outside its folder.", "Check where it comes from.")
        yield Place(directory.parent.joinpath(*parts))


def is_directory_file(path: Path) -> bool:
    """Whether a file is a DICOMDIR, by its name; others are told by their content when they are read."""
    return path.name.upper() == _DICOMDIR and path.is_file()
