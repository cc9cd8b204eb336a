"""Which reader and which writer a file needs. Readers are found by content and imported by path when they are used."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from mri_unroll.errors import InputError
from mri_unroll.image import Image
from mri_unroll.io.content import digest, plain_file, recognise
from mri_unroll.scan import Scan

_READERS = {  # each module has read(path, slices, layout, with_digest) and describe(path, layout)
    "fastmri": "mri_unroll.io.fastmri",
    "ismrmrd": "mri_unroll.io.mrd",
    "npy": "mri_unroll.io.array",
    "npz": "mri_unroll.io.array",
}
_HDF5 = "mri_unroll.io.hdf5"
_WRITERS = "mri_unroll.io.volume"
SUFFIXES = {".h5": "h5", ".hdf5": "h5", ".npy": "npy", ".nii": "nifti", ".nii.gz": "nifti"}


def read_scan(
    path: str | Path, slices: slice | None = None, layout: str | None = None, with_digest: bool = True
) -> Scan:
    """Read what a scanner measured.

    Parameters
    ----------
    path
        A fastMRI or ISMRMRD HDF5 file, or NumPy ``.npy`` / ``.npz``; told by its content, not by its name.
    slices
        Which slices, as a Python slice of step 1; None: all. Only these are loaded, so a volume can be streamed.
    layout
        Names of the axes of a NumPy file, such as ``"slice,coil,ky,kx"``; which of several scans in an ISMRMRD file,
        such as ``"repetition=1"``; None for fastMRI.
    with_digest
        Compute the digest of the file, for which all of it is read; else ``source.digest`` is empty.

    Returns
    -------
        K-space complex64 in the file's units, ``(slice, coil, ky, kx)``, 3-D ``(1, coil, kz, ky, kx)``, or with a
        trajectory ``(slice, coil, sample)``; on a grid exactly zero where nothing was measured.

    Raises
    ------
    InputError
        If the path or an option is wrong; `UnknownFormat`, `CorruptScan` or `UnsupportedScan` if the content is.
    DeviceError
        If it does not fit in memory.
    """
    path = plain_file(path)
    scan: Scan = _reader(path).read(path, slices, layout, with_digest)
    return scan


def describe(path: str | Path, layout: str | None = None) -> dict[str, Any]:
    """Say what a scan file holds and lacks, without loading its k-space (at most one slice is looked at).

    Parameters
    ----------
    path, layout
        As for `read_scan`.

    Returns
    -------
        Values fit for JSON, the same keys for every format, nothing that names a person: ``file, file_bytes, digest,
        format, dtype, n_slices, n_coils, matrix, recon_shape, sampling, effective_acceleration, n_acs_lines,
        padding_columns, readout_oversampling, field_of_view_mm, encoded_field_of_view_mm, orientation, contrast,
        reference, reference_shape, missing, warnings``.

    Raises
    ------
    InputError
        As `read_scan`.
    """
    path = plain_file(path)
    found: dict[str, Any] = _reader(path).describe(path, layout)
    return {"file": path.name, "file_bytes": path.stat().st_size, "digest": digest(path), **found}


def write_image(image: Image, path: str | Path, format: str | None = None, overwrite: bool = False) -> None:
    """Write a volume as HDF5, NumPy or NIfTI; the file appears whole or not at all.

    Parameters
    ----------
    image
        What was reconstructed.
    path
        Where to; its folder must exist.
    format
        ``"h5"``, ``"npy"``, ``"nifti"``; None or ``"auto"``: by the suffix of ``path``.
    overwrite
        Replace a file that is there; else that is an error.

    Raises
    ------
    InputError
        If the format is unknown, contradicts the suffix, or the file exists or cannot be written.
    DeviceError
        If the disk is full.
    """
    path = Path(path)
    chosen = volume_format(path)
    if format not in (None, "auto"):
        if format not in SUFFIXES.values():
            raise InputError(f"There is no volume format {format!r}.", "Choose h5, nifti or npy.")
        if chosen != format:
            endings = " or ".join(suffix for suffix, name in SUFFIXES.items() if name == format)
            raise InputError(
                f"{path.name} was asked for as {format}, its name says otherwise.", f"End it in {endings}."
            )
    if chosen is None:
        raise InputError(
            f"{path.name} does not say in which format to write.", f"End it in one of {', '.join(SUFFIXES)}."
        )
    writers: dict[str, Any] = importlib.import_module(_WRITERS).WRITERS
    writers[chosen](image, path, overwrite)


def volume_format(path: str | Path) -> str | None:
    """The volume format that a file name's suffix asks for; None where it names none."""
    name = Path(path).name.lower()
    for suffix, format in SUFFIXES.items():
        if name.endswith(suffix) and name != suffix:
            return format
    return None


def _reader(path: Path) -> ModuleType:
    kind = recognise(path)
    if kind == "hdf5":
        kind = importlib.import_module(_HDF5).kind_of(path)
    return importlib.import_module(_READERS[kind])
