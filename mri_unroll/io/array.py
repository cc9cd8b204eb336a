"""Plain NumPy k-space: ``.npy``, or ``.npz`` with ``kspace`` and, if there, ``mask`` and ``reference``.

Such a file says nothing about its axes, so they must be named, as in ``slice,coil,ky,kx``; ky is the readout, and zero
frequency lies at index ``n // 2`` of both. Without a ``mask``, what is exactly zero in all coils of a slice was not
measured. A ``.npy`` file is mapped and streams slice by slice; an ``.npz`` archive is unpacked whole at each reading.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, DeviceError, InputError, MriUnrollError, UnknownFormat, UnsupportedScan
from mri_unroll.io.content import check_size, digest, recognise, slice_range
from mri_unroll.io.measured import (
    check_coils,
    check_complex,
    clear_unmeasured,
    describe_sampling,
    inferred_mask,
    load_slice,
    stated_mask,
)
from mri_unroll.scan import Geometry, Scan, Source

AXES = ("slice", "coil", "ky", "kx")
_EXAMPLES = {2: "ky,kx", 3: "coil,ky,kx", 4: "slice,coil,ky,kx"}
_WARNING = "The file carries neither field of view nor slice positions: sizes are in pixels."


def read(path: Path, slices: slice | None = None, layout: str | None = None) -> Scan:
    """Read NumPy k-space, or some of its slices.

    Parameters
    ----------
    path
        A ``.npy`` or ``.npz`` file.
    slices
        Which slices, as a Python slice of step 1; None: all.
    layout
        Names of the axes in the order of the file: ``slice``, ``coil``, ``ky`` (readout), ``kx`` (phase encoding).

    Returns
    -------
        K-space in the file's units, exactly zero where nothing was measured.

    Raises
    ------
    InputError
        If the layout is missing or does not fit.
    CorruptScan, UnsupportedScan
        Each with the one thing that is wrong.
    """
    arrays = _arrays(path)
    stored = _arranged(arrays["kspace"], layout, path.name)
    first, last = slice_range(slices, stored.shape[0], path.name)
    matrix = (int(stored.shape[2]), int(stored.shape[3]))
    try:
        kspace = np.empty((last - first, *stored.shape[1:]), np.complex64)
    except MemoryError as error:
        raise DeviceError(
            f"{path.name} does not fit in memory.", "Read fewer slices at a time (`--slices`)."
        ) from error
    for index in range(first, last):
        kspace[index - first] = load_slice(stored[index], index, path.name)
    if "mask" in arrays:
        mask = stated_mask(np.asarray(arrays["mask"]), matrix, stored.shape[0], path.name)
        mask = mask if mask.ndim == 2 else mask[first:last]
    else:
        mask = inferred_mask(kspace)
    empty = clear_unmeasured(kspace, mask, first, int(stored.shape[0]), path.name)
    reference = _reference(arrays, stored.shape, path.name)
    recon_shape = matrix if reference is None else (int(reference.shape[1]), int(reference.shape[2]))
    return Scan(
        kspace=kspace,
        mask=mask,
        geometry=Geometry(recon_shape=recon_shape),
        source=Source(
            format="npz" if "archive" in arrays else "npy",
            digest=digest(path),
            n_slices=int(stored.shape[0]),
            slices=(first, last),
            notes={"layout": layout or ""},
            warnings=(_WARNING, *empty),
        ),
        reference=None if reference is None else reference[first:last],
    )


def describe(path: Path, layout: str | None = None) -> dict[str, Any]:
    """What a NumPy file holds; of k-space the middle slice is looked at, and only where no mask tells the sampling.

    Raises
    ------
    InputError, CorruptScan, UnsupportedScan
        As `read`.
    """
    arrays = _arrays(path)
    stored = _arranged(arrays["kspace"], layout, path.name)
    matrix = (int(stored.shape[2]), int(stored.shape[3]))
    if "mask" in arrays:
        mask = stated_mask(np.asarray(arrays["mask"]), matrix, stored.shape[0], path.name)
    else:
        middle = stored.shape[0] // 2
        mask = inferred_mask(load_slice(stored[middle], middle, path.name)[None])
    reference = _reference(arrays, stored.shape, path.name)
    missing = ["field of view", "contrast", "noise covariance", "slice positions and orientation"]
    missing += [] if "mask" in arrays else ["mask (sampling is told from exact zeros)"]
    missing += [] if reference is not None else ["reference"]
    return {
        "format": "npz" if "archive" in arrays else "npy",
        "dtype": str(stored.dtype),
        "n_slices": int(stored.shape[0]),
        "n_coils": int(stored.shape[1]),
        "matrix": list(matrix),
        "recon_shape": list(matrix if reference is None else reference.shape[1:]),
        **describe_sampling(mask if mask.ndim == 2 else mask[0], None, None),
        "readout_oversampling": None,
        "field_of_view_mm": None,
        "encoded_field_of_view_mm": None,
        "orientation": "unknown",
        "contrast": {"layout": layout or ""},
        "reference": None if reference is None else "reference",
        "reference_shape": None if reference is None else list(reference.shape),
        "missing": missing,
        "warnings": [_WARNING],
    }


def _arranged(stored: NDArray[Any], layout: str | None, title: str) -> NDArray[Any]:
    """A view (slice, coil, ky, kx) of the stored array."""
    if stored.ndim not in _EXAMPLES:
        raise UnsupportedScan(
            f"{title}: its k-space has shape {stored.shape}; expected 2, 3 or 4 axes out of {', '.join(AXES)}.",
            "Sort the data into slices; 3-D and non-Cartesian scans are not implemented yet.",
        )
    example = f"Name the axes, as in `--layout {_EXAMPLES[stored.ndim]}` (ky is the readout)."
    if layout is None:
        raise InputError(f"{title} has shape {stored.shape} but does not say which axis is which.", example)
    names = [name.strip() for name in layout.split(",")]
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise InputError(f"Layout {layout[:60]!r} names {unknown[0]!r}, which is none of {', '.join(AXES)}.", example)
    if len(set(names)) != len(names) or not {"ky", "kx"} <= set(names):
        raise InputError(f"Layout {layout[:60]!r} must name ky and kx, and no axis twice.", example)
    if len(names) != stored.ndim:
        raise InputError(f"Layout {layout!r} names {len(names)} axes, {title} has shape {stored.shape}.", example)
    if 0 in stored.shape:
        raise CorruptScan(f"{title}: k-space is empty, its shape is {stored.shape}.", "Check how the file was written.")
    check_complex(stored.dtype, title)
    shown = stored.transpose([names.index(name) for name in AXES if name in names])
    if "coil" not in names:
        shown = np.expand_dims(shown, -3)
    if "slice" not in names:
        shown = np.expand_dims(shown, 0)
    check_coils(shown.shape[1], stored.shape, title)
    return shown


def _reference(arrays: dict[str, Any], shape: tuple[int, ...], title: str) -> NDArray[np.float32] | None:
    stored = arrays.get("reference")
    if stored is None:
        return None
    stored = stored[None] if stored.ndim == 2 else stored
    fits = stored.ndim == 3 and stored.shape[0] == shape[0] and 0 not in stored.shape
    if not fits or stored.shape[1] > shape[2] or stored.shape[2] > shape[3] or stored.dtype.kind != "f":
        raise CorruptScan(
            f"{title}: `reference` is {stored.dtype} of shape {stored.shape}; expected {shape[0]} real pictures "
            f"of at most {shape[2]} x {shape[3]}.",
            "Store the magnitude of the fully sampled picture, or leave it out.",
        )
    if not np.isfinite(stored).all():
        raise CorruptScan(f"{title}: `reference` holds NaN or infinite values.", "Export the file again.")
    return np.ascontiguousarray(stored, dtype=np.float32)


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays by name; ``archive`` is there for an ``.npz``. Python objects (pickles) are never loaded."""
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
        wanted = ["kspace", "mask", "reference"]
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
