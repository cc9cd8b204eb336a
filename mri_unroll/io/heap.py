"""HDF5 keeps text of any length in "global heaps". This checks them, because HDF5 itself does not.

A heap is a list of objects one after the other, each with its size. In HDF5 2.0.0 a wrong size there makes reading any
text of the file run for ever. The layout is that of the HDF5 file format specification, "Disk Format: Level 1E - Global
Heap": ``GCOL``, version, 3 zeros, size of the heap (8 bytes), then objects of index (2), references (2), 4 zeros, size
(8), content padded to 8 bytes; index 0 is the free rest, and its size counts its own 16 bytes.
"""

from __future__ import annotations

from pathlib import Path

from mri_unroll.errors import CorruptScan, UnsupportedScan
from mri_unroll.io.content import MAX_HEAPS, places_of_heaps

_HEAD = 16  # bytes, of a heap and of each object
_MAX_BYTES = 64 * 2**20
_AGAIN = "Copy or export the file again."


def check_heaps(path: Path) -> None:
    """Walk through every global heap of a file.

    Raises
    ------
    CorruptScan
        If the objects of one do not fill it exactly.
    UnsupportedScan
        If the file counts in other than 8 bytes, or holds very many heaps.
    """
    places = places_of_heaps(path)
    if len(places) > MAX_HEAPS:
        raise UnsupportedScan(f"{path.name} keeps text in more than {MAX_HEAPS} places.", "Leave the text out.")
    check_addresses(path)
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            size = int.from_bytes(file.read(_HEAD)[8:], "little")
            if size <= _MAX_BYTES and not _is_filled(file.read(max(size - _HEAD, 0)), size - _HEAD):
                size = _MAX_BYTES + 1
            if size > _MAX_BYTES:
                raise CorruptScan(f"{path.name} is damaged: its store of text at byte {place} is broken.", _AGAIN)


def check_addresses(path: Path) -> None:
    """Check that an HDF5 file counts in 8 bytes, as every writer does by default.

    Raises
    ------
    UnsupportedScan
        If it does not.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if (start[13:15] if start[8] < 2 else start[9:11]) != b"\x08\x08":
        raise UnsupportedScan(f"{path.name} is HDF5 with addresses of unusual size.", "Write it again with h5py.")


def _is_filled(heap: bytes, size: int) -> bool:
    if len(heap) != size:
        return False
    place = 0
    while place + _HEAD <= size:  # a rest too short for an object is free without saying so
        index = int.from_bytes(heap[place : place + 2], "little")
        length = int.from_bytes(heap[place + 8 : place + _HEAD], "little")
        if index == 0:
            return length == size - place
        place += _HEAD + -(-length // 8) * 8
    return place <= size
