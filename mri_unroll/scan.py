"""What the scanner measured: k-space, where it was sampled, and where it lies in the patient.

Data only: a `Scan` knows shapes and units. It never builds an operator, opens a file or calls torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, ShapeError, UnsupportedScan

TRAJECTORY_SLACK = 0.01  # cycles per field of view: rounding, by which a trajectory may leave the encoded matrix


@dataclass(frozen=True, slots=True)
class Geometry:
    """Size and place of the picture that a scan is meant to give.

    Axes follow the k-space array: ``y`` is the readout direction, ``x`` the phase encoding, ``z`` or slice the third.
    In a field of view the third length is the thickness of one slice or partition. Slices of a 3-D picture are its
    partitions.
    """

    recon_shape: tuple[int, int]  # (y, x) pixels of the picture, after oversampling and zero padding are removed
    field_of_view: tuple[float, float, float] | None = None  # (y, x, slice) metres of the *picture*; None: unknown
    encoded_field_of_view: tuple[float, float, float] | None = None  # the same, of what k-space covers
    orientation: NDArray[np.float64] | None = (
        None  # (3, 3), rows are the y, x and slice directions in LPS; None: unknown
    )
    position: NDArray[np.float64] | None = None  # (slice, 3) centre of each slice in metres, LPS; None: unknown
    n_partitions: int = 1  # z pixels of a 3-D picture, after slice oversampling is removed; 1 for 2-D
    encoded_shape: tuple[int, ...] | None = None  # (y, x) or (z, y, x) pixels that a trajectory covers; Cartesian: None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a scan came from, without anything that names a person."""

    format: str  # "fastmri", "npy", ...
    digest: str  # "sha256:..." of the file's bytes; empty where it was not asked for
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
    """Multi-coil k-space in the file's own units; on a grid, zero frequency lies at index ``n // 2``.

    In a grid ``ky`` is the readout, ``kx`` the phase encoding and ``kz`` the partition encoding; where the mask shows
    that whole lines lie along ``kx`` in place of ``ky``, reconstruction exchanges the two and gives the picture as it
    lay. A ``trajectory`` makes the scan non-Cartesian: then there is no mask. It holds where each sample lies, in
    cycles per *encoded* field of view, thus within half of `Geometry.encoded_shape` of zero; its last axis is ordered
    as the picture's, ``(y, x)`` or ``(z, y, x)``.

    Raises
    ------
    ShapeError
        If the arrays do not fit together.
    CorruptScan
        If k-space or trajectory hold NaN or infinity, nothing was measured, or samples lie beyond the encoded matrix.
    UnsupportedScan
        If k-space has another number of axes.
    """

    kspace: NDArray[np.complex64]  # (slice, coil, ky, kx); 3-D: (1, coil, kz, ky, kx); non-Cartesian: (slice, coil, n)
    mask: NDArray[np.bool_] | None  # (ky, kx), (slice, ky, kx) or (kz, ky, kx): True where measured
    geometry: Geometry
    source: Source
    noise_cov: NDArray[np.complex64] | None = None  # (coil, coil), per k-space sample; None: unknown
    reference: NDArray[np.float32] | None = None  # (slice, y, x): the file's own fully sampled magnitude
    trajectory: NDArray[np.float32] | None = None  # (n, ndim) or (slice, n, ndim); None: Cartesian
    patient: PatientTags | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kspace.ndim not in ((3,) if self.trajectory is not None else (4, 5)):
            raise UnsupportedScan(
                f"Expected k-space (slice, coil, ky, kx), (1, coil, kz, ky, kx) or (slice, coil, sample) with a "
                f"trajectory, got {self.kspace.ndim} dimensions {self.kspace.shape}.",
                "Sort the readouts into one of these.",
            )
        if 0 in self.kspace.shape:
            raise CorruptScan(f"K-space is empty: its shape is {self.kspace.shape}.", "Check how the file was written.")
        if self.trajectory is None:
            self._check_mask()
        else:
            self._check_trajectory(self.trajectory)
        n_pictures = self.geometry.n_partitions if self.ndim == 3 else self.n_slices
        if self.reference is not None and self.reference.shape[0] != n_pictures:
            raise ShapeError(
                f"Expected a reference with {n_pictures} slices like k-space, got {self.reference.shape[0]}."
            )
        for index in range(self.n_slices):  # slice by slice: no boolean copy of the volume
            if not np.isfinite(self.kspace[index]).all():
                raise CorruptScan(
                    f"K-space of slice {self.source.slices[0] + index} holds NaN or infinite values.",
                    "Export the raw data again; no picture is made from guesses.",
                )

    def _check_mask(self) -> None:
        if self.ndim == 3 and self.n_slices != 1:
            raise ShapeError(f"Expected one volume (1, coil, kz, ky, kx), got k-space {self.kspace.shape}.")
        grid = self.kspace.shape[2:]
        shapes = (grid,) if self.ndim == 3 else (grid, (self.n_slices, *grid))
        if self.mask is None or self.mask.shape not in shapes:
            raise ShapeError(
                f"Expected a mask {' or '.join(map(str, shapes))} for k-space {self.kspace.shape}, "
                f"got {None if self.mask is None else self.mask.shape}."
            )
        if not self.mask.any():
            raise CorruptScan("The mask says that no k-space sample was measured.", "Check the file's `mask`.")

    def _check_trajectory(self, trajectory: NDArray[np.float32]) -> None:
        n_slices, _, n_samples = self.kspace.shape
        ndim = trajectory.shape[-1]
        if (
            self.mask is not None
            or ndim not in (2, 3)
            or trajectory.shape[:-1] not in ((n_samples,), (n_slices, n_samples))
        ):
            raise ShapeError(
                f"Expected a trajectory (sample, 2 or 3), or one a slice, and no mask for k-space {self.kspace.shape}, "
                f"got {trajectory.shape} and {'no' if self.mask is None else 'a'} mask."
            )
        encoded = self.geometry.encoded_shape
        if encoded is None or len(encoded) != ndim:
            raise ShapeError(f"Expected an encoded shape of {ndim} sizes for a {ndim}-D trajectory, got {encoded}.")
        furthest = np.abs(trajectory).reshape(-1, ndim).max(axis=0)
        if not (furthest <= np.array(encoded) / 2 + TRAJECTORY_SLACK).all():  # NaN compares as False
            raise CorruptScan(
                f"The trajectory reaches {furthest.tolist()} cycles per field of view, the encoded matrix {encoded} "
                "only half its size.",
                "Check the unit of the trajectory.",
            )

    @property
    def is_cartesian(self) -> bool:
        """Whether the samples lie on a grid."""
        return self.trajectory is None

    @property
    def ndim(self) -> int:
        """Axes that are Fourier encoded: 2 or 3."""
        return self.kspace.ndim - 2 if self.trajectory is None else int(self.trajectory.shape[-1])

    @property
    def n_slices(self) -> int:
        """Slices held; 1 for a 3-D scan, whose picture has `Geometry.n_partitions`."""
        return int(self.kspace.shape[0])

    @property
    def n_coils(self) -> int:
        """Receive coils."""
        return int(self.kspace.shape[1])

    @property
    def matrix(self) -> tuple[int, int]:
        """Size of the k-space grid along readout and phase encoding, ``(ky, kx)``, or what a trajectory covers."""
        encoded = self.geometry.encoded_shape
        grid = self.kspace.shape if self.trajectory is None or encoded is None else encoded
        return int(grid[-2]), int(grid[-1])
