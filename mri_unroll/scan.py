"""What the scanner measured: k-space, where it was sampled, and where it lies in the patient.

Data only: a `Scan` knows shapes and units. It never builds an operator, opens a file or calls torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, ShapeError, UnsupportedScan


@dataclass(frozen=True, slots=True)
class Geometry:
    """Size and place of the picture that a scan is meant to give.

    Axes follow the k-space array: ``y`` is the readout of a fastMRI file, ``x`` its phase encoding.
    """

    recon_shape: tuple[int, int]  # (y, x) pixels of the picture, after oversampling and zero padding are removed
    field_of_view: tuple[float, float, float] | None = None  # (y, x, slice) metres of the *picture*; None: unknown
    encoded_field_of_view: tuple[float, float, float] | None = None  # the same, of the k-space array
    orientation: NDArray[np.float64] | None = (
        None  # (3, 3), rows are the y, x and slice directions in LPS; None: unknown
    )
    position: NDArray[np.float64] | None = None  # (slice, 3) centre of each slice in metres, LPS; None: unknown


@dataclass(frozen=True, slots=True)
class Source:
    """Where a scan came from, without anything that names a person."""

    format: str  # "fastmri", "npy", ...
    digest: str  # "sha256:..." of the file's bytes
    n_slices: int  # slices in the file, of which a Scan may hold some
    slices: tuple[int, int]  # [first, last) slices held
    notes: dict[str, str] = field(default_factory=dict)  # contrast, field strength, ... as the header gives them
    warnings: tuple[str, ...] = ()  # what the reader could not know or had to leave out, as sentences


@dataclass(frozen=True, slots=True)
class PatientTags:
    """Identity of the person scanned. Kept apart and out of `repr` so that no log prints it."""

    patient_id: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """Cartesian multi-coil k-space with zero frequency at index ``n // 2``, in the file's own units.

    Raises
    ------
    ShapeError
        If the arrays do not fit together.
    CorruptScan
        If k-space holds NaN or infinity, or nothing was measured.
    UnsupportedScan
        If the scan is not two-dimensional Cartesian.
    """

    kspace: NDArray[np.complex64]  # (slice, coil, ky, kx)
    mask: NDArray[np.bool_]  # (ky, kx) or (slice, ky, kx), True where measured
    geometry: Geometry
    source: Source
    noise_cov: NDArray[np.complex64] | None = None  # (coil, coil), per k-space sample; None: unknown
    reference: NDArray[np.float32] | None = None  # (slice, y, x): the file's own fully sampled magnitude
    patient: PatientTags | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kspace.ndim != 4:
            raise UnsupportedScan(
                f"Expected k-space (slice, coil, ky, kx), got {self.kspace.ndim} dimensions {self.kspace.shape}.",
                "3-D and non-Cartesian scans are not implemented yet.",
            )
        if 0 in self.kspace.shape:
            raise CorruptScan(f"K-space is empty: its shape is {self.kspace.shape}.", "Check how the file was written.")
        if self.mask.shape not in (self.kspace.shape[-2:], (self.n_slices, *self.kspace.shape[-2:])):
            raise ShapeError(
                f"Expected a mask (ky, kx) or (slice, ky, kx) for k-space {self.kspace.shape}, got {self.mask.shape}."
            )
        if not self.mask.any():
            raise CorruptScan("The mask says that no k-space sample was measured.", "Check the file's `mask`.")
        if self.reference is not None and self.reference.shape[0] != self.n_slices:
            raise ShapeError(
                f"Expected a reference with {self.n_slices} slices like k-space, got {self.reference.shape[0]}."
            )
        for index in range(self.n_slices):  # slice by slice: no boolean copy of the volume
            if not np.isfinite(self.kspace[index].view(np.float32)).all():
                raise CorruptScan(
                    f"K-space of slice {self.source.slices[0] + index} holds NaN or infinite values.",
                    "Export the raw data again; no picture is made from guesses.",
                )

    @property
    def n_slices(self) -> int:
        """Slices held."""
        return int(self.kspace.shape[0])

    @property
    def n_coils(self) -> int:
        """Receive coils."""
        return int(self.kspace.shape[1])

    @property
    def matrix(self) -> tuple[int, int]:
        """Size of the k-space grid, ``(ky, kx)``."""
        return int(self.kspace.shape[-2]), int(self.kspace.shape[-1])
