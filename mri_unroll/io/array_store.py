"""The arrays inside a NumPy file, by name, taken out so that a hostile file can do no harm."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mri_unroll.errors import CorruptScan, DeviceError, MriUnrollError, UnknownFormat
from mri_unroll.io.content import check_size, recognise

_NAMES = ("kspace", "mask", "reference", "trajectory", "image_shape")  # coordinates is another word for trajectory


def stored_arrays(path: Path) -> dict[str, Any]:
    """The arrays by name; ``archive`` is there for an ``.npz``. Python objects (pickles) are never loaded.

    Raises
    ------
    CorruptScan, UnknownFormat, UnsupportedScan
        Each with the one thing that is wrong.
    DeviceError
        If it does not fit in memory.
    """
    try:
        if recognise(path) == "npz":
            return _unpacked(path)
        return {"kspace": np.lib.format.open_memmap(path, mode="r")}
    except MriUnrollError:
        raise
    except MemoryError as error:
        raise DeviceError(f"{path.name} does not fit in memory.", "Store it as .npy, which streams.") from error
    except Exception as error:  # NumPy, zipfile and zlib raise about ten kinds for a damaged file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CorruptScan(
            f"{path.name} is damaged, cut short, or holds Python objects: NumPy cannot read it ({reason}).",
            "Save complex64 numbers again with numpy.save or numpy.savez.",
        ) from error


def _unpacked(path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {"archive": True}
    with zipfile.ZipFile(path) as archive:
        members = {
            item.filename.removesuffix(".npy"): item for item in archive.infolist() if item.filename[-4:] == ".npy"
        }
        if "coordinates" in members:
            members.setdefault("trajectory", members["coordinates"])
        wanted = list(_NAMES)
        if "kspace" not in members:
            if len(members) != 1:
                held = ", ".join(repr(name)[:40] for name in list(members)[:8]) or "nothing"
                raise UnknownFormat(
                    f"{path.name} is a zip archive without an array `kspace`; it holds {held}.",
                    "Save with numpy.savez(file, kspace=...).",
                )
            wanted = list(members)
        for name in wanted:
            if name not in members:
                continue
            item = members[name]
            check_size(path.name, f"`{name[:40]}`", item.file_size, item.compress_size)
            with archive.open(item) as stream:
                shape, dtype = _declared(stream)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > item.file_size:  # before memory is asked for
                raise CorruptScan(
                    f"{path.name}: `{name[:40]}` declares {dtype.name} of shape {shape}, which it does not hold.",
                    "Save complex64 numbers again with numpy.savez.",
                )
            with archive.open(item) as stream:
                arrays["kspace" if len(wanted) == 1 else name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _declared(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    return shape, dtype
