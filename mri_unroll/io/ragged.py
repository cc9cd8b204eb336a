"""Values of variable length inside HDF5, taken from the bytes of the file and not through HDF5.

HDF5 keeps such values in "global heaps" (see `mri_unroll.io.heap`) and leaves in their place a length (4 bytes), the
address of a heap (8) and the number of an object in it (4); HDF5 file format specification, "Variable-length datatype".
Its own reader asks for as much memory as a length claims and can run for ever on a damaged heap. Here every length is
held against the file first, and the many small readouts of a scan come out several times faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, UnsupportedScan
from mri_unroll.io.heap import check_addresses

PLACE = np.dtype([("length", "<u4"), ("address", "<u8"), ("object", "<u4")])  # what stands for one value
_HEAD = 16  # bytes, of a heap and of each object
_MAX_OBJECTS = 65_536  # in a heap: they are numbered in 2 bytes
_AGAIN = "Copy or export the file again."


class RaggedFile:
    """The bytes of an HDF5 file that holds values of variable length.

    Parameters
    ----------
    path
        A file that `mri_unroll.io.hdf5.open_checked` let through.

    Raises
    ------
    UnsupportedScan
        If the file counts in other than 8 bytes.
    """

    def __init__(self, path: Path) -> None:
        check_addresses(path)
        self._title = path.name
        self._bytes: NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, "r"))
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self._n_walked = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._bytes.size)

    def records(self, dataset: h5py.Dataset, kind: np.dtype[Any]) -> NDArray[Any]:
        """All records of a one-dimensional dataset as they are stored, their ragged parts as `PLACE`.

        Parameters
        ----------
        dataset
            Without filters; in one piece or in chunks.
        kind
            What a record looks like on disk.

        Raises
        ------
        CorruptScan
            If some of it was never written, or lies outside the file.
        UnsupportedScan
            If it is packed.
        """
        name, low = dataset.name, dataset.id
        n_records = int(dataset.size)
        properties = low.get_create_plist()
        if properties.get_nfilters() or properties.get_layout() == h5py.h5d.COMPACT:
            raise UnsupportedScan(
                f"{self._title}: `{name}` is stored packed, which its ragged parts do not allow to check.",
                "Repack with `h5repack -f NONE`.",
            )
        pieces: list[tuple[int, int, int]] = []  # first record, address, how many
        if properties.get_layout() == h5py.h5d.CHUNKED:
            rows = int(properties.get_chunk()[0])
            low.chunk_iter(lambda chunk: pieces.append((int(chunk.chunk_offset[0]), int(chunk.byte_offset), rows)))
        elif low.get_offset() is not None:
            pieces = [(0, int(low.get_offset()), n_records)]
        n_there = sum(min(rows, n_records - first) for first, _, rows in pieces if 0 <= first < n_records)
        if n_there < n_records or n_records * kind.itemsize > self.size:
            raise CorruptScan(
                f"{self._title}: `{name}` was never completely written, {n_there} of {n_records} readouts are there.",
                _AGAIN,
            )
        records = np.empty(n_records, kind)
        raw = records.view(np.uint8).reshape(n_records, kind.itemsize)
        for first, address, rows in pieces:
            rows = min(rows, n_records - first)
            raw[first : first + rows] = self._cut(address, rows * kind.itemsize).reshape(rows, kind.itemsize)
        return records

    def value(self, place: NDArray[Any] | np.void, itemsize: int) -> NDArray[np.uint8]:
        """The bytes that one `PLACE` stands for.

        Parameters
        ----------
        place
            A record of type `PLACE`.
        itemsize
            Bytes of each of its ``length`` items.

        Raises
        ------
        CorruptScan
            If the heap or the object is not there, or is smaller than the length claims.
        """
        n_bytes = int(place["length"]) * itemsize
        if n_bytes == 0:
            return np.empty(0, np.uint8)
        address = int(place["address"])
        if address not in self._heaps:
            self._heaps[address] = self._walk(address)
        start, size = self._heaps[address].get(int(place["object"]), (0, 0))
        if size < n_bytes:
            raise CorruptScan(f"{self._title} is damaged: {n_bytes} bytes are claimed where {size} are stored.", _AGAIN)
        return self._bytes[start : start + n_bytes]

    def text(self, dataset: h5py.Dataset, max_bytes: int) -> bytes:
        """The one text that a dataset holds, of fixed or variable length.

        Raises
        ------
        CorruptScan
            If it holds something else, or a text longer than ``max_bytes``.
        """
        text_type = h5py.check_string_dtype(dataset.dtype)
        if dataset.size == 1 and text_type is not None:
            size = text_type.length
            if size is not None and size <= max_bytes:
                return bytes(self.records(dataset, np.dtype((np.void, size)))[0])
            if size is None:
                place = self.records(dataset, PLACE)[0]
                if place["length"] <= max_bytes:
                    return bytes(self.value(place, 1))
        raise CorruptScan(
            f"{self._title}: `{dataset.name}` is not one piece of text of at most {max_bytes} bytes.", _AGAIN
        )

    def _cut(self, address: int, size: int) -> NDArray[np.uint8]:
        if not 0 <= address <= self.size - size:
            raise CorruptScan(f"{self._title} is cut short: {size} bytes at {address} lie behind its end.", _AGAIN)
        return self._bytes[address : address + size]

    def _walk(self, heap: int) -> dict[int, tuple[int, int]]:
        """Where the objects of a heap lie, by number: first byte and size."""
        head = bytes(self._cut(heap, _HEAD))
        end = heap + int.from_bytes(head[8:], "little")
        self._n_walked += end - heap
        # no two heaps share a byte, so that together they are smaller than the file
        if head[:5] != b"GCOL\x01" or end > self.size or self._n_walked > self.size:
            raise CorruptScan(f"{self._title} is damaged: there is no store of values at byte {heap}.", _AGAIN)
        objects: dict[int, tuple[int, int]] = {}
        place = heap + _HEAD
        while place + _HEAD <= end and len(objects) < _MAX_OBJECTS:
            entry = bytes(self._bytes[place : place + _HEAD])
            number, size = int.from_bytes(entry[:2], "little"), int.from_bytes(entry[8:], "little")
            place += _HEAD
            if number == 0:  # the free rest
                break
            if size > end - place or number in objects:
                raise CorruptScan(f"{self._title} is damaged: its store of values at byte {heap} is broken.", _AGAIN)
            objects[number] = (place, size)
            place += -(-size // 8) * 8
        return objects
