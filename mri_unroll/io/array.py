"""Plain NumPy k-space: ``.npy``, or ``.npz`` with ``kspace`` and, if there, ``mask`` and ``reference``.

Such a file says nothing about its axes, so they must be named, as in ``slice,coil,ky,kx`` or ``coil,kz,ky,kx``; ky is
the readout, and zero frequency lies at index ``n // 2`` of every k axis. Without a ``mask``, what is exactly zero in
all coils of a slice was not measured. A ``.npy`` file is mapped and streams slice by slice; an ``.npz`` archive is
unpacked whole at each reading. An archive with a ``trajectory`` (or ``coordinates``) is not Cartesian, see
`mri_unroll.io.array_trajectory`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, DeviceError, InputError, UnsupportedScan
from mri_unroll.io.array_store import stored_arrays
from mri_unroll.io.array_trajectory import ArrayTrajectory, arrange
from mri_unroll.io.content import digest, slice_range
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

AXES = ("slice", "coil", "kz", "ky", "kx")
_EXAMPLES = {2: "ky,kx", 3: "coil,ky,kx", 4: "slice,coil,ky,kx", 5: "slice,coil,kz,ky,kx"}
_UNKNOWN: dict[str, Any] = {
    "readout_oversampling": None,
    "field_of_view_mm": None,
    "encoded_field_of_view_mm": None,
    "orientation": "unknown",
}
_WARNING = "The file carries neither field of view nor slice positions: sizes are in pixels."


def read(path: Path, slices: slice | None = None, layout: str | None = None, with_digest: bool = True) -> Scan:
    """Read NumPy k-space, or some of its slices.

    Parameters
    ----------
    path
        A ``.npy`` or ``.npz`` file.
    slices
        Which slices, as a Python slice of step 1; None: all.
    layout
        Names of the axes in the order of the file: ``slice``, ``coil``, ``kz`` (partition encoding), ``ky`` (readout),
        ``kx`` (phase encoding). None for a file with a trajectory.
    with_digest
        Compute the digest of the file; else that of the source is empty.

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
    arrays = stored_arrays(path)
    if "trajectory" in arrays:
        return _read_trajectory(arrange(arrays, layout, path.name), slices, path, with_digest)
    stored = _arranged(arrays["kspace"], layout, path.name)
    first, last = slice_range(slices, stored.shape[0], path.name)
    matrix = stored.shape[2:]
    try:
        kspace = np.empty((last - first, *stored.shape[1:]), np.complex64)
    except MemoryError as error:
        raise DeviceError(f"{path.name} does not fit in memory.", "Read fewer slices at a time (--slices).") from error
    for index in range(first, last):
        kspace[index - first] = load_slice(stored[index], index, path.name)
    if "mask" in arrays:
        mask = stated_mask(np.asarray(arrays["mask"]), matrix, stored.shape[0], path.name)
        mask = mask if mask.ndim == len(matrix) else mask[first:last]
    else:
        mask = inferred_mask(kspace)
    empty = clear_unmeasured(kspace, mask, first, int(stored.shape[0]), path.name)
    reference = _reference(arrays, stored.shape, path.name)
    picture = matrix if reference is None else reference.shape
    return Scan(
        kspace=kspace,
        mask=mask,
        geometry=Geometry((int(picture[-2]), int(picture[-1])), n_partitions=matrix[0] if len(matrix) == 3 else 1),
        source=Source(
            format="npz" if "archive" in arrays else "npy",
            digest=digest(path) if with_digest else "",
            n_slices=int(stored.shape[0]),
            slices=(first, last),
            notes={"layout": layout or ""},
            warnings=(_WARNING, *empty),
        ),
        reference=reference if reference is None or len(matrix) == 3 else reference[first:last],
    )


def _read_trajectory(found: ArrayTrajectory, slices: slice | None, path: Path, with_digest: bool) -> Scan:
    n_slices = int(found.kspace.shape[0])
    first, last = slice_range(slices, n_slices, path.name)
    kspace = np.stack([load_slice(found.kspace[index], index, path.name) for index in range(first, last)])
    shared = found.trajectory.ndim == 2
    return Scan(
        kspace=kspace,
        mask=None,
        trajectory=found.trajectory if shared else found.trajectory[first:last],
        geometry=found.geometry,
        source=Source(
            format="npz",
            digest=digest(path) if with_digest else "",
            n_slices=n_slices,
            slices=(first, last),
            warnings=(_WARNING,),
        ),
    )


def describe(path: Path, layout: str | None = None) -> dict[str, Any]:
    """What a NumPy file holds; of k-space the middle slice is looked at, and only where no mask tells the sampling.

    Raises
    ------
    InputError, CorruptScan, UnsupportedScan
        As `read`.
    """
    arrays = stored_arrays(path)
    missing = ["field of view", "contrast", "noise covariance", "slice positions and orientation"]
    if "trajectory" in arrays:
        found = arrange(arrays, layout, path.name)
        geometry, samples = found.geometry, found.kspace
        return {
            "format": "npz",
            "dtype": str(samples.dtype),
            "n_slices": int(samples.shape[0]),
            "n_coils": int(samples.shape[1]),
            "matrix": list(geometry.encoded_shape or ()),
            "recon_shape": list(geometry.encoded_shape or ()),
            "sampling": "non-Cartesian",
            "effective_acceleration": None,
            "n_acs_lines": 0,
            "padding_columns": [0, 0],
            **_UNKNOWN,
            "contrast": {},
            "reference": None,
            "reference_shape": None,
            "missing": [*missing, "reference"],
            "warnings": [_WARNING],
        }
    stored = _arranged(arrays["kspace"], layout, path.name)
    matrix = stored.shape[2:]
    if "mask" in arrays:
        mask = stated_mask(np.asarray(arrays["mask"]), matrix, stored.shape[0], path.name)
    else:
        middle = stored.shape[0] // 2
        mask = inferred_mask(load_slice(stored[middle], middle, path.name)[None])
    reference = _reference(arrays, stored.shape, path.name)
    missing += [] if "mask" in arrays else ["mask (sampling is told from exact zeros)"]
    missing += [] if reference is not None else ["reference"]
    shown: NDArray[np.bool_] = mask if mask.ndim == len(matrix) else mask[0]
    picture = matrix if reference is None else (*matrix[:-2], *reference.shape[1:])
    return {
        "format": "npz" if "archive" in arrays else "npy",
        "dtype": str(stored.dtype),
        "n_slices": int(stored.shape[0]),
        "n_coils": int(stored.shape[1]),
        "matrix": list(matrix),
        "recon_shape": list(picture),
        **describe_sampling(shown if len(matrix) == 2 else np.asarray(shown.any(axis=-2)), None, None),
        **_UNKNOWN,
        "contrast": {"layout": layout or ""},
        "reference": None if reference is None else "reference",
        "reference_shape": None if reference is None else list(reference.shape),
        "missing": missing,
        "warnings": [_WARNING],
    }


def _arranged(stored: NDArray[Any], layout: str | None, title: str) -> NDArray[Any]:
    """A view (slice, coil, ky, kx), or (1, coil, kz, ky, kx), of the stored array."""
    if stored.ndim not in _EXAMPLES:
        raise UnsupportedScan(
            f"{title}: its k-space has shape {stored.shape}; expected 2 to 5 axes out of {', '.join(AXES)}.",
            "Sort the data onto a grid, or save an .npz with `kspace`, `trajectory` and `image_shape`.",
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
    if "kz" in names and "slice" in names and stored.shape[names.index("slice")] != 1:
        raise UnsupportedScan(
            f"{title} holds {stored.shape[names.index('slice')]} volumes (slice and kz); expected one.",
            "Save each volume in a file of its own.",
        )
    shown = stored.transpose([names.index(name) for name in AXES if name in names])
    if "coil" not in names:
        shown = np.expand_dims(shown, -4 if "kz" in names else -3)
    if "slice" not in names:
        shown = np.expand_dims(shown, 0)
    check_coils(shown.shape[1], stored.shape, title)
    return shown


def _reference(arrays: dict[str, Any], shape: tuple[int, ...], title: str) -> NDArray[np.float32] | None:
    stored = arrays.get("reference")
    if stored is None:
        return None
    n_pictures = shape[0] if len(shape) == 4 else shape[2]
    stored = stored[None] if stored.ndim == 2 else stored
    fits = stored.ndim == 3 and stored.shape[0] == n_pictures and 0 not in stored.shape
    if not fits or stored.shape[1] > shape[-2] or stored.shape[2] > shape[-1] or stored.dtype.kind != "f":
        raise CorruptScan(
            f"{title}: `reference` is {stored.dtype} of shape {stored.shape}; expected {n_pictures} real pictures "
            f"of at most {shape[-2]} x {shape[-1]}.",
            "Store the magnitude of the fully sampled picture, or leave it out.",
        )
    if not np.isfinite(stored).all():
        raise CorruptScan(f"{title}: `reference` holds NaN or infinite values.", "Export the file again.")
    return np.ascontiguousarray(stored, dtype=np.float32)
