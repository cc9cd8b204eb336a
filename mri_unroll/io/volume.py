"""Writers of reconstructed volumes: fastMRI-style HDF5, NumPy, NIfTI."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri_unroll.image import Image
from mri_unroll.io.atomic import atomic_path

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def write_h5(image: Image, path: Path, overwrite: bool = False) -> None:
    """Write dataset ``reconstruction``, float32 ``(slice, y, x)``, as fastMRI's evaluation reads it.

    Where it was predicted, ``predicted_error`` beside it, of the same shape and in the same units, says what the error
    of a pixel stays below.

    Attributes of the file: ``method``, ``version``, and where known ``weights_digest`` and ``input_digest``.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    import h5py

    with atomic_path(path, overwrite) as part, h5py.File(part, "w") as file:
        file.create_dataset("reconstruction", data=_pixels(image), compression="gzip", shuffle=True)
        if image.predicted_error is not None:
            errors = np.ascontiguousarray(image.predicted_error, dtype=np.float32)
            file.create_dataset("predicted_error", data=errors, compression="gzip", shuffle=True)
        for name, value in _origin(image).items():
            file.attrs[name] = value


def write_npy(image: Image, path: Path, overwrite: bool = False) -> None:
    """Write the pixels alone, float32 ``(slice, y, x)``.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    with atomic_path(path, overwrite) as part, part.open("wb") as file:
        np.save(file, _pixels(image), allow_pickle=False)


def write_nifti(image: Image, path: Path, overwrite: bool = False) -> None:
    """Write NIfTI-1 with axes (x, y, slice), packed when the name ends in ``.gz``.

    With orientation and position known, the affine is theirs: NIfTI counts millimetres to the right, front and head
    (RAS), the scan metres to the left, back and head (LPS). Otherwise the codes of both transforms are 0 ("unknown")
    and only the voxel size is written, as far as the field of view is known.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    import nibabel

    affine = ras_affine(image)
    volume = nibabel.Nifti1Image(_pixels(image).transpose(2, 1, 0), affine)
    header = volume.header
    header["descrip"] = f"mri_unroll {image.provenance.version} {image.provenance.method}".encode("ascii", "replace")[
        :79
    ]
    fov = image.geometry.field_of_view
    if fov is not None:
        header.set_xyzt_units("mm")
    if affine is not None:
        volume.set_sform(affine, 1)
        volume.set_qform(affine, 1)
    elif fov is not None:
        _, height, width = image.pixels.shape
        header.set_zooms((1000 * fov[1] / width, 1000 * fov[0] / height, 1000 * fov[2]))
    content = volume.to_bytes()
    with atomic_path(path, overwrite) as part:
        # no time of day inside, so that the same picture gives the same bytes
        part.write_bytes(gzip.compress(content, 6, mtime=0) if path.name.lower().endswith(".gz") else content)


def ras_affine(image: Image) -> NDArray[np.float64] | None:
    r"""Voxel indices (x, y, slice) to RAS millimetres, None where the scan does not say or slices are spaced unevenly.

    :math:`r = 1000\,\mathrm{diag}(-1,-1,1)\,(c_0 + (i - \lfloor n_x/2 \rfloor)\,p_x e_x
    + (j - \lfloor n_y/2 \rfloor)\,p_y e_y + k\,s)` with the centre :math:`c_0` of the first slice at pixel ``n // 2``,
    where the Fourier transform puts it.
    """
    geometry = image.geometry
    n_slices, height, width = image.pixels.shape
    if geometry.orientation is None or geometry.position is None or geometry.field_of_view is None:
        return None
    if geometry.position.shape != (n_slices, 3):
        return None
    step = geometry.orientation[2] * geometry.field_of_view[2]
    if n_slices > 1:
        steps = np.diff(geometry.position, axis=0)
        step = steps.mean(axis=0)
        if np.abs(steps - step).max() > 1e-3 * np.linalg.norm(step):
            return None
    along_y = geometry.orientation[0] * geometry.field_of_view[0] / height
    along_x = geometry.orientation[1] * geometry.field_of_view[1] / width
    origin = geometry.position[0] - along_x * (width // 2) - along_y * (height // 2)
    affine = np.eye(4)
    affine[:3] = 1000 * _LPS_TO_RAS @ np.stack([along_x, along_y, step, origin], axis=1)
    return affine


def _pixels(image: Image) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.pixels, dtype=np.float32)


def _origin(image: Image) -> dict[str, str]:
    provenance = image.provenance
    known = {
        "method": provenance.method,
        "version": provenance.version,
        "weights_digest": provenance.weights_digest,
        "input_digest": provenance.input_digest,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


WRITERS: dict[str, Callable[[Image, Path, bool], None]] = {"h5": write_h5, "npy": write_npy, "nifti": write_nifti}
