"""Opening an HDF5 file that a stranger may have written.

HDF5 can point at other files (external links, external storage, virtual datasets), run filters from shared libraries
and declare arrays of any size in a kilobyte. Every object is therefore looked at, link by link, before data is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mri_unroll.errors import CorruptScan, DeviceError, MriUnrollError, UnknownFormat, UnsupportedScan
from mri_unroll.io.content import FORMATS_READ, check_size

MAX_OBJECTS = 10_000
MAX_NDIM = 8
MAX_CHUNK_BYTES = 64 * 2**20  # a chunk is unpacked whole, so an extendable array of a few bytes may ask for gigabytes
MAX_ATTRIBUTE_BYTES = 65_536

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_NUMBERS = [
    getattr(h5py.h5t, f"{name}{bits}{order}")
    for name, widths in {"IEEE_F": (16, 32, 64), "STD_I": (8, 16, 32, 64), "STD_U": (8, 16, 32, 64)}.items()
    for bits in widths
    for order in ("LE", "BE")
]
_COMPLEX = getattr(h5py.h5t, "COMPLEX", None)  # since HDF5 2.0
_AGAIN = "Export the data again as plain HDF5 with every dataset inside the file."


@contextmanager
def open_checked(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading after every object in it was found harmless.

    The search path for filter plugins (``HDF5_PLUGIN_PATH`` and its default) is emptied for this process.

    Raises
    ------
    UnsupportedScan
        If the file holds links, outside storage, unknown filters, or sizes beyond the limits.
    CorruptScan
        If HDF5 itself cannot read it, here or later inside the ``with`` block.
    DeviceError
        If it does not fit in memory.
    """
    while h5py.h5pl.size() > 0:
        h5py.h5pl.remove(0)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            _walk(file, path.name)
            yield file
    except MriUnrollError:
        raise
    except MemoryError as error:
        raise DeviceError(f"{path.name} does not fit in memory.", "Read fewer slices at a time (--slices).") from error
    except Exception as error:  # h5py raises ten kinds for a damaged file; the first line of HDF5's story is enough
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CorruptScan(
            f"{path.name} is damaged or cut short: HDF5 cannot read it ({reason}).", "Copy or export the file again."
        ) from error


def kind_of(path: Path) -> str:
    """Tell ``fastmri`` from ``ismrmrd``, which are both HDF5.

    Raises
    ------
    UnknownFormat
        If the file holds neither; the message names what it holds.
    """
    with open_checked(path) as file:
        names = list(file)
        if "kspace" in names:
            return "fastmri"
        if raw_data_groups(file):
            return "ismrmrd"
    held = ", ".join(repr(name)[:40] for name in names[:8]) or "nothing"
    raise UnknownFormat(
        f"{path.name} is HDF5 without a `kspace` dataset; it holds {held}.", f"Formats read: {FORMATS_READ}."
    )


def raw_data_groups(file: h5py.File) -> list[str]:
    """Names of the groups that hold ISMRMRD raw data, ``xml`` and ``data`` side by side; ``"/"`` is the file itself."""
    groups = {"/": file, **{name: found for name, found in file.items() if isinstance(found, h5py.Group)}}
    return [name for name, group in groups.items() if "xml" in group and "data" in group]


def attribute(file: h5py.File, name: str) -> object:
    """Value of a small attribute of the file, None where it is absent, large or not a plain value.

    For text of any length HDF5 clears as much memory as the stored length claims, up to 4 GiB, and h5py cannot see
    that length beforehand. Only a process with a memory limit holds that off.
    """
    if name not in file.attrs:
        return None
    low = file.attrs.get_id(name)
    if low.shape is None or math.prod(low.shape) != 1 or low.get_storage_size() > MAX_ATTRIBUTE_BYTES:
        return None
    if low.get_type().get_class() == h5py.h5t.COMPOUND or not _is_plain(low.get_type()):
        return None
    value = file.attrs[name]
    value = value.item() if hasattr(value, "item") else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def dataset(file: h5py.File, name: str, title: str) -> h5py.Dataset | None:
    """A dataset in the root of the file, complete and of a type that is safe to read; None where it is absent.

    Raises
    ------
    CorruptScan
        If the name stands for something else than an array, or for one that was declared and not wholly written.
    UnsupportedScan
        If its numbers are in no usual format.
    """
    if name not in file:
        return None
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise CorruptScan(f"{title}: `{name}` is not an array.", "Check how the file was written.")
    if not _is_plain(found.id.get_type()):
        raise UnsupportedScan(f"{title}: the values of `{name}` are stored in an unusual number format.", _AGAIN)
    if found.size:
        _check_written(found, name, title)
    return found


def text(file: h5py.File, name: str, max_bytes: int, title: str) -> bytes | None:
    """A dataset that holds one text, None where it is absent.

    Raises
    ------
    CorruptScan
        If it holds something else, or a text longer than ``max_bytes``.
    """
    found = dataset(file, name, title)
    if found is None:
        return None
    one = found.size == 1 and h5py.check_string_dtype(found.dtype) is not None
    if one and found.dtype.kind == "O":
        # HDF5 clears as much memory as the stored length asks for, up to 4 GiB, before it looks for the text
        place = found.id.get_offset()
        with open(file.filename, "rb") as raw:
            raw.seek(place or 0)
            one = place is not None and int.from_bytes(raw.read(4), "little") <= max_bytes
    if not one or found.dtype.itemsize > max_bytes:
        raise CorruptScan(
            f"{title}: `{name}` is not one piece of text of at most {max_bytes} bytes.",
            f"Delete `{name}` from a copy of the file.",
        )
    value = found[(0,) * found.ndim]
    return value.encode() if isinstance(value, str) else bytes(value)


def _is_plain(kind: h5py.h5t.TypeID) -> bool:
    """Tell whether values are text, usual integers, IEEE floats, or complex pairs of these.

    HDF5 converts any made-up float, and while doing so writes beyond its buffers for some: in 2.0.0, one byte changed
    in the exponent bias of a complex type can crash the process.
    """
    family = kind.get_class()
    if family in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        return any(kind.equal(usual) for usual in _NUMBERS)
    if family in (h5py.h5t.ENUM, _COMPLEX):  # h5py's booleans; complex numbers by their own type
        return _is_plain(kind.get_super())
    if family == h5py.h5t.COMPOUND and kind.get_nmembers() == 2:
        real, imag = kind.get_member_type(0), kind.get_member_type(1)
        packed = kind.get_member_offset(0) == 0 and kind.get_member_offset(1) == real.get_size()
        return packed and kind.get_size() == 2 * real.get_size() and real.equal(imag) and _is_plain(real)
    return bool(family == h5py.h5t.STRING)


def _is_ragged_record(dtype: np.dtype[Any]) -> bool:
    """Tell whether a record holds rows of numbers of any length, as ISMRMRD does; HDF5 is never asked to read those."""
    parts = [dtype[name] for name in dtype.names or ()]
    return bool(parts) and all(
        not part.hasobject or getattr(h5py.check_vlen_dtype(part), "kind", "") in ("f", "u", "c", "V") for part in parts
    )


def _check_written(found: h5py.Dataset, name: str, title: str) -> None:
    declared, there = 1, int(found.id.get_storage_size() > 0)
    if found.chunks is not None:
        declared = math.prod(-(-size // chunk) for size, chunk in zip(found.shape, found.chunks, strict=True))
        there = found.id.get_num_chunks()
    if there < declared:  # HDF5 would hand out zeros in their place
        raise CorruptScan(
            f"{title}: `{name}` was never completely written, {there} of {declared} parts are there.",
            "Copy or export the file again.",
        )


def _walk(file: h5py.File, title: str) -> None:
    seen: set[int] = set()
    n_links = 0
    groups = [(file.id, "/")]
    while groups:
        group, place = groups.pop()
        n_links += len(group)
        if n_links > MAX_OBJECTS:
            raise UnsupportedScan(f"{title} holds more than {MAX_OBJECTS} objects.", _AGAIN)
        for raw in group:
            where = f"{place}{raw.decode('utf-8', 'replace')}"[:80]
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:  # asked of the link, which is not followed
                raise UnsupportedScan(f"{title}: {where!r} is a link to somewhere else, which is not followed.", _AGAIN)
            found = h5py.h5o.open(group, raw)
            address = h5py.h5o.get_info(found).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.h5g.GroupID):
                groups.append((found, f"{where}/"))
            elif isinstance(found, h5py.h5d.DatasetID):
                _check_dataset(found, repr(where), title)


def _check_dataset(found: h5py.h5d.DatasetID, place: str, title: str) -> None:
    what = f"{title}: {place}"
    properties = found.get_create_plist()
    layout = properties.get_layout()
    if layout == h5py.h5d.VIRTUAL:  # before the shape: asking for it may open the files it is pieced together from
        raise UnsupportedScan(f"{what} is a virtual dataset, pieced together from other files.", _AGAIN)
    if properties.get_external_count() > 0:
        raise UnsupportedScan(f"{what} keeps its data in another file.", _AGAIN)
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if not filters <= _FILTERS:
        unknown = ", ".join(str(code) for code in sorted(filters - _FILTERS))
        raise UnsupportedScan(f"{what} needs HDF5 filter {unknown}.", "Repack with `h5repack -f GZIP=4`.")
    if found.rank > MAX_NDIM:
        raise UnsupportedScan(f"{what} has {found.rank} dimensions, more than {MAX_NDIM}.", _AGAIN)
    dtype = found.dtype
    if dtype.hasobject and h5py.check_string_dtype(dtype) is None and not _is_ragged_record(dtype):
        raise UnsupportedScan(f"{what} holds objects or references instead of numbers.", _AGAIN)
    n_bytes = 0 if found.shape is None else math.prod(found.shape) * dtype.itemsize
    if layout == h5py.h5d.CHUNKED:
        chunk_bytes = math.prod(properties.get_chunk()) * dtype.itemsize
        if chunk_bytes > max(MAX_CHUNK_BYTES, n_bytes):
            raise UnsupportedScan(f"{what} is stored in chunks of {chunk_bytes:.3g} bytes, larger than itself.", _AGAIN)
    stored = min(found.get_storage_size(), h5py.h5i.get_file_id(found).get_filesize())  # the former is but a claim
    check_size(title, place, n_bytes, stored)
