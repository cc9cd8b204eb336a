"""fastMRI HDF5: the layout of the public data set, and what people write in its likeness.

========================  =======================================================================================
``kspace``                (slice, coil, ky, kx), or (slice, ky, kx) for one coil; ky is readout, kx phase encoding
``mask``                  (kx,), or (ky, kx): which samples were measured; test sets have it
``ismrmrd_header``        ISMRMRD XML: sizes, fields of view, zero filled columns, contrast; may be missing
``reconstruction_rss``    (slice, y, x) root sum of squares of the full data, or ``reconstruction_esc`` for one coil
========================  =======================================================================================

Columns that the header calls zero filling are not measured. Where there is no ``mask``, what is exactly zero in all
coils of a slice is not measured either (`mri_unroll.io.measured.inferred_mask`). The header says nothing of where the
slices lie, so the geometry is nominal: sizes only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, InputError
from mri_unroll.io.content import digest, slice_range
from mri_unroll.io.fastmri_contents import FastmriContents, read_contents
from mri_unroll.io.hdf5 import open_checked
from mri_unroll.io.measured import clear_unmeasured, describe_sampling, inferred_mask, load_slice
from mri_unroll.scan import Scan, Source


def read(path: Path, slices: slice | None = None, layout: str | None = None, with_digest: bool = True) -> Scan:
    """Read a fastMRI file, or some of its slices; only those are loaded.

    Parameters
    ----------
    path
        An HDF5 file with a ``kspace`` dataset.
    slices
        Which slices, as a Python slice of step 1; None: all.
    layout
        Must be None: the layout is fixed.
    with_digest
        Compute the digest of the file; else that of the source is empty.

    Returns
    -------
        K-space in the file's units, exactly zero where nothing was measured.

    Raises
    ------
    CorruptScan, UnsupportedScan, InputError
        Each with the one thing that is wrong.
    """
    _refuse_layout(path, layout)
    with open_checked(path) as file:
        contents = read_contents(file, path)
        first, last = slice_range(slices, contents.shape[0], path.name)
        kspace = _read_kspace(file["kspace"], contents.shape, first, last, path.name)
        reference = None
        if contents.reference is not None:
            reference = np.asarray(file[contents.reference][first:last], np.float32)
            if not np.isfinite(reference).all():
                raise CorruptScan(
                    f"{path.name}: `{contents.reference}` holds NaN or infinite values.", "Export the file again."
                )
    mask, left_out = _mask(contents, kspace)
    empty = clear_unmeasured(kspace, mask, first, contents.shape[0], path.name)
    return Scan(
        kspace=kspace,
        mask=mask,
        geometry=contents.geometry,
        source=Source(
            format="fastmri",
            digest=digest(path) if with_digest else "",
            n_slices=contents.shape[0],
            slices=(first, last),
            notes=contents.notes,
            warnings=(*contents.warnings, *left_out, *empty),
        ),
        reference=reference,
        patient=contents.patient,
    )


def describe(path: Path, layout: str | None = None) -> dict[str, Any]:
    """What a fastMRI file holds. Of k-space the middle slice is read, and only where no ``mask`` tells the sampling.

    Raises
    ------
    CorruptScan, UnsupportedScan, InputError
        As `read`.
    """
    _refuse_layout(path, layout)
    with open_checked(path) as file:
        contents = read_contents(file, path)
        mask = contents.mask
        if mask is None:
            middle = contents.shape[0] // 2
            mask = inferred_mask(_read_kspace(file["kspace"], contents.shape, middle, middle + 1, path.name))
    left, right = contents.inside()
    mask = mask[0].copy() if mask.ndim == 3 else mask.copy()
    mask[:, :left] = False
    mask[:, right:] = False
    lines = contents.notes.get("num_low_frequency", "")
    header, geometry = contents.header, contents.geometry
    return {
        "format": "fastmri",
        "dtype": contents.stored_dtype,
        "n_slices": contents.shape[0],
        "n_coils": contents.shape[1],
        "matrix": list(contents.matrix),
        "recon_shape": list(geometry.recon_shape),
        **describe_sampling(
            mask,
            (left, contents.shape[3] - right) if header is not None and header.phase_limits else None,
            int(lines) if lines.isdecimal() else None,
        ),
        "readout_oversampling": _oversampling(contents),
        "field_of_view_mm": _millimetres(geometry.field_of_view),
        "encoded_field_of_view_mm": _millimetres(geometry.encoded_field_of_view),
        "orientation": "unknown",
        "contrast": contents.notes,
        "reference": contents.reference,
        "reference_shape": None if contents.reference_shape is None else list(contents.reference_shape),
        "missing": _missing(contents),
        "warnings": list(contents.warnings),
    }


def _refuse_layout(path: Path, layout: str | None) -> None:
    if layout is not None:
        raise InputError(
            f"{path.name} is a fastMRI file, whose axes are fixed; a layout was given.", "Leave --layout out."
        )


def _missing(contents: FastmriContents) -> list[str]:
    header = contents.header
    found = {
        "ismrmrd_header (field of view, zero filling, contrast)": header is not None,
        "field of view": contents.geometry.field_of_view is not None,
        "phase encoding limits (which columns are zero filling)": header is not None
        and header.phase_limits is not None,
        "mask (sampling is told from exact zeros)": contents.mask is not None,
        "reference (reconstruction_rss or reconstruction_esc)": contents.reference is not None,
        "noise covariance": False,
        "slice positions and orientation": False,
    }
    return [name for name, there in found.items() if not there]


def _oversampling(contents: FastmriContents) -> float | None:
    """Encoded over reconstructed field of view along the readout; without these, of the matrix sizes."""
    header = contents.header
    if header is None or header.recon_matrix is None:
        return None
    if header.encoded_fov is not None and header.recon_fov is not None and contents.shape[2] != header.recon_matrix[0]:
        return round(header.encoded_fov[0] / header.recon_fov[0], 4)
    return round(contents.shape[2] / header.recon_matrix[0], 4)


def _millimetres(lengths: tuple[float, float, float] | None) -> list[float] | None:
    return None if lengths is None else [round(1000 * length, 4) for length in lengths]


def _read_kspace(
    stored: h5py.Dataset, shape: tuple[int, int, int, int], first: int, last: int, title: str
) -> NDArray[np.complex64]:
    kspace = np.empty((last - first, *shape[1:]), np.complex64)
    for index in range(first, last):  # one at a time: complex128 on disk is never held for the whole volume
        place = kspace[index - first]
        if stored.dtype == np.complex64 and stored.shape[1:] == place.shape:  # as nearly all files: no copy
            stored.read_direct(place, np.s_[index])
            load_slice(place, index, title)  # refuses what is not finite
        else:
            place[...] = load_slice(stored[index], index, title).reshape(shape[1:])
    return kspace


def _mask(contents: FastmriContents, kspace: NDArray[np.complex64]) -> tuple[NDArray[np.bool_], list[str]]:
    mask = inferred_mask(kspace) if contents.mask is None else contents.mask.copy()
    left, right = contents.inside()
    warnings = []
    if mask[..., :left].any() or mask[..., right:].any():
        if kspace[..., :left].any() or kspace[..., right:].any():
            warnings.append(
                f"The header says that columns {left} to {right - 1} were measured; data outside them is left out."
            )
        mask[..., :left] = False
        mask[..., right:] = False
    return mask, warnings
