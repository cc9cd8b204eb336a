"""What a fastMRI file says beside its k-space: sizes, mask, header, reference; checked, and cheap to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, UnsupportedScan
from mri_unroll.io.hdf5 import attribute, dataset, text
from mri_unroll.io.header import MAX_HEADER_BYTES, AcquisitionHeader, parse_header, printable
from mri_unroll.io.heap import check_heaps
from mri_unroll.io.measured import check_coils, check_complex, stated_mask
from mri_unroll.scan import Geometry, PatientTags

_NOTES = ("acquisition", "max", "norm", "acceleration", "num_low_frequency")


@dataclass(frozen=True)
class FastmriContents:
    """What is known of a file before its samples are read."""

    shape: tuple[int, int, int, int]  # (slice, coil, ky, kx)
    stored_dtype: str
    mask: NDArray[np.bool_] | None  # as the file states it, without padding
    header: AcquisitionHeader | None
    reference: str | None  # name of the dataset
    reference_shape: tuple[int, ...] | None
    geometry: Geometry
    notes: dict[str, str]
    patient: PatientTags | None
    warnings: tuple[str, ...]

    @property
    def matrix(self) -> tuple[int, int]:
        """Size of the k-space grid, ``(ky, kx)``."""
        return self.shape[2], self.shape[3]

    def inside(self) -> tuple[int, int]:
        """First and last (excluded) column that is not padding."""
        return (0, self.shape[3]) if self.header is None else self.header.measured_columns(self.shape[3])


def read_contents(file: h5py.File, path: Path) -> FastmriContents:
    """Read and check all but k-space and the reference's pixels.

    Parameters
    ----------
    file
        An open file that `mri_unroll.io.hdf5.open_checked` let through.
    path
        The same file.

    Raises
    ------
    CorruptScan, UnsupportedScan
        Each with the one thing that is wrong.
    """
    title = path.name
    check_heaps(path)
    kspace = dataset(file, "kspace", title)
    if kspace is None or kspace.ndim not in (3, 4):
        shape = None if kspace is None else kspace.shape
        parts = kspace is not None and kspace.ndim == 5 and kspace.shape[-1] == 2 and kspace.dtype.kind != "c"
        raise UnsupportedScan(
            f"{title}: `kspace` has shape {shape}; expected (slice, coil, ky, kx) or (slice, ky, kx).",
            "The last axis seems to hold real and imaginary parts: store `kspace[..., 0] + 1j * kspace[..., 1]`."
            if parts
            else "Sort the data into slices; 3-D and non-Cartesian scans in this layout are not implemented.",
        )
    if 0 in kspace.shape:
        raise CorruptScan(
            f"{title}: `kspace` is empty, its shape is {kspace.shape}.", "Check how the file was written."
        )
    check_complex(kspace.dtype, title)
    single = kspace.ndim == 3
    sizes = (kspace.shape[0], 1, *kspace.shape[1:]) if single else kspace.shape
    shape = (int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]))
    check_coils(shape[1], kspace.shape, title)

    stored = dataset(file, "mask", title)
    mask = None
    if stored is not None:
        if stored.ndim not in (1, 2) or stored.size > shape[2] * shape[3]:  # before reading a large wrong one
            raise CorruptScan(
                f"{title}: its mask has shape {stored.shape}; expected ({shape[3]},) or {shape[2:]} for this k-space.",
                "Store one value for each phase encoding column.",
            )
        mask = stated_mask(np.asarray(stored[()]), shape[2:], shape[0], title)

    warnings = ["The file carries no slice positions and no orientation: its geometry is nominal."]
    xml = text(file, "ismrmrd_header", MAX_HEADER_BYTES, title)
    header = None if xml is None else parse_header(xml, title)
    if header is None:
        warnings.append("The file has no `ismrmrd_header`: field of view and zero filled columns are unknown.")
    else:
        if header.trajectory not in ("cartesian", "epi"):
            raise UnsupportedScan(
                f"{title}: its header describes a {header.trajectory!r} trajectory; the fastMRI layout is Cartesian.",
                "Give ISMRMRD raw data with its trajectory, or a NumPy .npz with `kspace` and `trajectory`.",
            )
        warnings.extend(header.warnings)
        size = header.encoded_matrix
        if size is not None and size[:2] != shape[2:]:
            if size[1::-1] == shape[2:]:
                raise CorruptScan(
                    f"{title}: k-space is {shape[2]} x {shape[3]}, its header says {size[0]} x {size[1]}: swapped.",
                    "Store k-space with the readout before the phase encoding.",
                )
            warnings.append(
                f"The header speaks of {size[0]} x {size[1]} samples, the file has {shape[2]} x {shape[3]}."
            )

    reference, reference_shape = _reference(file, shape, single, title, warnings)
    notes = {name: printable(str(value)) for name in _NOTES if (value := attribute(file, name)) is not None}
    return FastmriContents(
        shape=shape,
        stored_dtype=str(kspace.dtype),
        mask=mask,
        header=header,
        reference=reference,
        reference_shape=reference_shape,
        geometry=_geometry(shape[2:], header, reference_shape),
        notes={**notes, **(header.notes if header is not None else {})},
        patient=_patient(file, header),
        warnings=tuple(warnings),
    )


def _reference(
    file: h5py.File, shape: tuple[int, int, int, int], single: bool, title: str, warnings: list[str]
) -> tuple[str | None, tuple[int, ...] | None]:
    # a single-coil knee file holds both: the root sum of squares there is of the coils that were left out
    names = ("reconstruction_esc", "reconstruction_rss") if single else ("reconstruction_rss", "reconstruction_esc")
    for name in names:
        stored = dataset(file, name, title)
        if stored is None:
            continue
        if stored.ndim != 3 or stored.shape[0] != shape[0] or 0 in stored.shape or stored.dtype.kind != "f":
            raise CorruptScan(
                f"{title}: `{name}` is {stored.dtype} of shape {stored.shape}; expected {shape[0]} real pictures.",
                "Delete it from a copy of the file, or export the file again.",
            )
        if stored.shape[1] > shape[2] or stored.shape[2] > shape[3]:
            warnings.append(f"`{name}` {stored.shape[1:]} is larger than k-space {shape[2:]} and is not used.")
            continue
        return name, tuple(int(size) for size in stored.shape)
    return None, None


def _geometry(
    matrix: tuple[int, int], header: AcquisitionHeader | None, reference_shape: tuple[int, ...] | None
) -> Geometry:
    """Crop size by the fastMRI rules; the field of view is that of the crop.

    A pixel is the encoded field of view over the k-space size, whatever is cropped afterwards.
    """
    height, width = matrix
    crop = matrix
    if reference_shape is not None:
        crop = (reference_shape[1], reference_shape[2])
    elif header is not None and header.recon_matrix is not None:
        crop = header.recon_matrix[:2]
        if width < crop[1]:  # the rule named after fastMRI's FLAIR_203: a narrow k-space gives a square of its width
            crop = (width, width)
    crop = (min(crop[0], height), min(crop[1], width))
    encoded = None if header is None else header.encoded_fov
    if header is not None and encoded is not None and header.recon_fov is not None:
        stored_full = header.encoded_matrix is None or header.encoded_matrix[0] == height
        if not stored_full and header.recon_matrix is not None and header.recon_matrix[0] == height:
            encoded = (header.recon_fov[0], encoded[1], encoded[2])  # readout oversampling was removed before storing
    if encoded is None:
        return Geometry(recon_shape=crop)
    picture = (encoded[0] * crop[0] / height, encoded[1] * crop[1] / width, encoded[2])
    return Geometry(recon_shape=crop, field_of_view=picture, encoded_field_of_view=encoded)


def _patient(file: h5py.File, header: AcquisitionHeader | None) -> PatientTags | None:
    tags = PatientTags() if header is None else header.patient
    identity = str(attribute(file, "patient_id") or "")
    if not tags.patient_id and identity.lower() not in ("", "none"):
        tags = PatientTags(identity, tags.name, tags.birth_date, tags.sex)
    return None if tags == PatientTags() else tags
