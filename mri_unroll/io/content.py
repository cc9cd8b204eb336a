"""What a file is, told by its bytes and never by its name; and the digest of those bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from mri_unroll.errors import CorruptScan, InputError, UnknownFormat, UnsupportedScan

FORMATS_READ = (
    "fastMRI HDF5 (a `kspace` dataset), ISMRMRD HDF5 (a group with `xml` and `data`), NumPy .npy and NumPy .npz "
    "(an array `kspace`)"
)
MAX_BYTES = 64 * 2**30  # the largest array, once unpacked, that any reader agrees to
BOMB_BYTES = 256 * 2**20  # below this an array may be packed as tightly as it likes: it does no harm
BOMB_RATIO = 1000  # unpacked bytes for each stored byte; raw k-space is noise and hardly packs at all
MAX_COILS = 256
MAX_HEAPS = 10_000

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIGNATURES = {  # first bytes of a file: the container that it is
    _HDF5_SIGNATURE: "hdf5",
    b"\x93NUMPY": "npy",
}
_LOOKED_INTO = 200  # members of a zip, for one that is DICOM
_HEAP_MARK = b"GCOL\x01\x00\x00\x00"


def plain_file(path: str | Path) -> Path:
    """Check that a path is a readable file that holds something.

    A named pipe or a device is refused before it is opened, because opening one can wait for ever.

    Raises
    ------
    InputError
        If the path is missing, a folder, not a plain file, or not readable.
    CorruptScan
        If the file holds no byte.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path.name or path} is a folder, not a file.", "Name one scan file inside it.")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path.name} is not a plain file.", "Copy the scan into a plain file first.")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.", "Check the path.") from None
    except PermissionError:
        raise InputError(f"{path.name} may not be read by this user.", "Change its permissions.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path.name!r} cannot be opened: {reason}.", "Check the path and the disk.") from error
    if status.st_size == 0:
        raise CorruptScan(f"{path.name} is empty: it holds no byte.", "Copy or export the scan again.")
    return path


def recognise(path: Path) -> str:
    """Name the container that the bytes of a file are in: a value of `SIGNATURES`, or ``npz``.

    Raises
    ------
    UnsupportedScan
        If the content is DICOM, NIfTI or HDF5 behind a user block: known, not handled.
    UnknownFormat
        If it is none of the formats known here; the message names its first bytes.
    """
    with path.open("rb") as file:
        head = file.read(1024)
        for signature, container in SIGNATURES.items():
            if head.startswith(signature):
                return container
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and zipfile.is_zipfile(file):
            return "npz"
        if _is_dicom(head):
            raise UnsupportedScan(
                f"{path.name} is DICOM, which holds finished pictures and no k-space.",
                "Give the scanner's raw data; for what can be done with pictures see `recon STUDY --mode`.",
            )
        if _is_nifti(head):
            raise UnsupportedScan(
                f"{path.name} is NIfTI, whose reading is not implemented yet.",
                "NIfTI holds finished pictures; give the scanner's raw k-space, converted to the fastMRI layout.",
            )
        offset = 512
        while (
            head and offset < path.stat().st_size
        ):  # HDF5 allows a foreign block of 512, 1024, 2048 ... bytes in front
            file.seek(offset)
            if file.read(8) == _HDF5_SIGNATURE:
                raise UnsupportedScan(
                    f"{path.name} is HDF5 behind a user block of {offset} bytes, which is not read.",
                    "Take the block off with `h5unjam`, or write the file again without one.",
                )
            offset *= 2
    first = head[:8].hex(" ")
    raise UnknownFormat(
        f"{path.name} is in no known format: its first bytes are {first}.", f"Formats read: {FORMATS_READ}."
    )


def dicom_and_others(path: Path) -> tuple[str | None, str | None]:
    """Names of the first DICOM file and of the first file of raw k-space at a path; only beginnings are read.

    A folder is searched in the order of names until both are found. A zip counts as DICOM if one of its files is.
    """
    if not path.is_dir():
        return (path.name if _begins_as_dicom(path) else None), None
    dicom = others = None
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(root) / name
            if not file.is_file() or (dicom and others):
                continue
            if _begins_as_dicom(file):
                dicom = dicom or name
            elif file.suffix.lower() in (".h5", ".hdf5", ".mrd", ".npy", ".npz"):
                others = others or name
    return dicom, others


def _begins_as_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(132)
            if _is_dicom(head) or not head.startswith(b"PK\x03\x04"):
                return _is_dicom(head)
            with zipfile.ZipFile(file) as archive:
                inside = [info for info in archive.infolist() if not info.is_dir() and not info.flag_bits & 1]
                if any(info.filename.endswith(".npy") for info in inside):
                    return False
                return any(_is_dicom(_beginning(archive, info)) for info in inside[:_LOOKED_INTO])
    except (OSError, ValueError, zipfile.BadZipFile):
        return False  # what it is instead, reading will say


def _beginning(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(132)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return b""  # one broken member says nothing of the others


def _is_dicom(head: bytes) -> bool:
    """By the mark behind the preamble or, of old files without one, by a first element that only DICOM begins with.

    That is one of group 2 or 8 with a low number, as data sets begin (PS3.10 7.1, PS3.6), with a value representation
    or with a short, even length.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", head[:4])
        if group in (0x0002, 0x0008) and element <= 0x0018:
            (length,) = struct.unpack("<I", head[4:8])
            if head[4:6] in (b"UL", b"UI", b"CS", b"OB", b"DA", b"TM", b"SH", b"LO") or (
                order == "<" and length <= 64 and length % 2 == 0
            ):
                return True
    return False


def _is_nifti(head: bytes) -> bool:
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 400)
        except zlib.error:
            return False
    if len(head) < 348:
        return False
    sizes = {struct.unpack(order, head[:4])[0] for order in ("<i", ">i")}
    return (348 in sizes and head[344:347] in (b"n+1", b"ni1")) or (540 in sizes and head[4:7] in (b"n+2", b"ni2"))


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes as ``"sha256:..."``."""
    return _digest(*_identity(path))


def places_of_heaps(path: Path) -> tuple[int, ...]:
    """Where in a file the mark of an HDF5 global heap stands."""
    return _places_of_heaps(*_identity(path))


def _identity(path: Path) -> tuple[str, int, int]:
    """What tells a new content from an old one: path, size and the time it was changed."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)  # a volume that is streamed slice by slice asks often
def _digest(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, hashlib.sha256).hexdigest()}"


@lru_cache(maxsize=256)
def _places_of_heaps(path: str, size: int, changed: int) -> tuple[int, ...]:
    """Read a file once, in pieces small enough to stay in the processor's cache."""
    places: list[int] = []
    kept = len(_HEAP_MARK) - 1  # a mark may lie across two pieces
    piece = bytearray(2**18 + kept)
    start = -kept  # place in the file of the first byte of the piece
    with open(path, "rb", buffering=0) as file:
        while (read := file.readinto(memoryview(piece)[kept:])) and len(places) <= MAX_HEAPS:
            end = kept + read
            found = piece.find(_HEAP_MARK, 0, end)
            while found >= 0 and len(places) <= MAX_HEAPS:
                places.append(start + found)
                found = piece.find(_HEAP_MARK, found + 1, end)
            piece[:kept] = piece[read:end]
            start += read
    return tuple(places)


def slice_range(slices: slice | None, n_slices: int, name: str) -> tuple[int, int]:
    """Turn a Python slice into ``first, last`` (last excluded); ends beyond the file are cut as Python cuts them.

    Raises
    ------
    InputError
        If nothing is left, or the step is not 1.
    """
    if slices is None:
        return 0, n_slices
    try:
        first, last, step = slices.indices(n_slices)
    except (TypeError, ValueError):
        raise InputError(f"{slices} is no range of slices.", "Give whole numbers, as in `--slices 0:4`.") from None
    if step != 1:
        raise InputError(f"Slices can be read one after the other only, not with step {step}.", "Leave the step out.")
    if first >= last:
        raise InputError(
            f"{name} has slices 0 to {n_slices - 1}; {slices.start}:{slices.stop} holds none of them.",
            "Give a range inside, as in `--slices 0:1`.",
        )
    return first, last


def check_size(name: str, what: str, n_bytes: int, stored: int) -> None:
    """Refuse an array that is too large, or packed so tightly that it can only be meant to fill the memory.

    Raises
    ------
    UnsupportedScan
        If ``n_bytes`` is more than `MAX_BYTES`, or large and more than `BOMB_RATIO` times ``stored``.
    """
    if n_bytes > MAX_BYTES:
        raise UnsupportedScan(
            f"{name}: {what} declares {n_bytes:.3g} bytes, more than the limit of {MAX_BYTES:.3g}.",
            "Split the scan into smaller files.",
        )
    if n_bytes > BOMB_BYTES and n_bytes > BOMB_RATIO * stored:
        raise UnsupportedScan(
            f"{name}: {what} declares {n_bytes:.3g} bytes but stores {stored}, which no measured data does.",
            "Export the raw data again.",
        )
