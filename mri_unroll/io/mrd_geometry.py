"""Size of the picture of an ISMRMRD scan, and where it lies in the patient.

ISMRMRD's x is the readout (our y), its y the phase encoding (our x), its z the partitions. Directions and positions of
the readouts are in patient coordinates (left, posterior, superior: LPS); a position is the centre of the excited volume
in millimetres from the isocentre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan
from mri_unroll.io.header import AcquisitionHeader
from mri_unroll.io.mrd_acquisitions import Acquisitions
from mri_unroll.scan import Geometry

_NOMINAL = "The readouts carry no slice positions and no orientation: the geometry is nominal."
_DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")


@dataclass(frozen=True, eq=False)
class Frame:
    """What the headers of the readouts say of space."""

    orientation: NDArray[np.float64] | None  # (3, 3), rows read, phase and slice direction
    positions: NDArray[np.float64] | None  # (slice, 3) metres, in the order of `slices`
    slices: NDArray[np.int64]  # numbers of the slice counter, in the order of the stack
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EncodedSpace:
    """What k-space covers: ISMRMRD's axes (readout, phase, partition)."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float] | None  # metres, the third of one partition


def encoded_space(header: AcquisitionHeader, n_samples: set[int], title: str) -> tuple[EncodedSpace, list[str]]:
    """The encoded matrix and field of view, corrected where readout oversampling was taken off before storing.

    Parameters
    ----------
    header
        Of the file.
    n_samples
        The lengths of the readouts that lie symmetrically about the centre of k-space; empty: there are others.

    Raises
    ------
    CorruptScan
        If the header does not give the matrix.
    """
    if header.encoded_matrix is None:
        raise CorruptScan(
            f"{title}: its header gives no size of the encoded matrix (encoding/encodedSpace/matrixSize).",
            "Repair the XML header in a copy of the file.",
        )
    matrix, fov = header.encoded_matrix, header.encoded_fov
    if header.recon_matrix is not None and n_samples == {header.recon_matrix[0]} and matrix[0] > header.recon_matrix[0]:
        matrix = (header.recon_matrix[0], *matrix[1:])
        fov = None if fov is None or header.recon_fov is None else (header.recon_fov[0], *fov[1:])
        sentence = (
            f"Readouts have {matrix[0]} samples, the header says {header.encoded_matrix[0]}: readout oversampling was "
            "taken off before."
        )
        return EncodedSpace(matrix, fov), [sentence]
    return EncodedSpace(matrix, fov), []


def frame(found: Acquisitions, readouts: NDArray[np.int64]) -> Frame:
    """Order, orientation and positions of the slices of some readouts.

    Slices keep the order of their counter unless their positions are neither rising nor falling in it; then they are
    sorted along the slice direction.
    """
    numbers = found.index("slice")[readouts]
    slices, first = np.unique(numbers, return_index=True)
    axes = np.stack([found.head(name)[readouts].astype(np.float64) for name in _DIRECTIONS], axis=1)
    places = found.head("position")[readouts].astype(np.float64) / 1000
    orientation = axes[0]
    lengths = np.linalg.norm(orientation, axis=1)
    crossed = np.abs(orientation @ orientation.T - np.eye(3)).max() if np.isfinite(orientation).all() else np.inf
    if not lengths.all() or not np.isfinite(places).all() or crossed > 0.01:
        return Frame(None, None, slices, (_NOMINAL,))
    orientation = orientation / lengths[:, None]
    if np.abs(axes - axes[0]).max() > 0.01:
        sentence = "Readouts lie at angles to each other: no common orientation is given."
        return Frame(None, None, slices, (sentence,))
    positions = places[first]
    if np.abs(places - positions[np.searchsorted(slices, numbers)]).max() > 1e-4:
        sentence = "Positions change within a slice, as with motion correction: none are given."
        return Frame(orientation, None, slices, (sentence,))
    heights = positions @ orientation[2]
    steps = np.diff(heights)
    if not ((steps > 0).all() or (steps < 0).all()) and np.unique(heights).size == heights.size:
        order = np.argsort(heights)
        return Frame(orientation, positions[order], slices[order], ())
    return Frame(orientation, positions, slices, ())


def geometry(
    header: AcquisitionHeader, space: EncodedSpace, place: Frame, is_3d: bool, is_cartesian: bool
) -> tuple[Geometry, list[str]]:
    """The picture in the resolution that was measured: the encoded field of view, cut to the one to be reconstructed.

    Sizes are ``encoded size * reconstructed field of view / encoded field of view``; without fields of view, the
    reconstructed matrix.
    """
    recon, recon_fov, fov = header.recon_matrix, header.recon_fov, space.fov
    sizes = []
    for axis in range(3 if is_3d else 2):
        n_encoded = space.matrix[axis]
        exact = float(n_encoded) if recon is None else float(recon[axis])
        if fov is not None and recon_fov is not None:
            ratio = recon_fov[axis] / fov[axis]
            if axis == 2:  # of partitions the thickness of one is given
                ratio *= (1 if recon is None else recon[2]) / n_encoded
            exact = n_encoded * ratio
        rounded = recon[axis] if recon is not None and abs(recon[axis] - exact) <= 1 else round(exact)
        sizes.append(min(max(rounded, 1), n_encoded))
    warnings = []
    if recon is not None and tuple(sizes) != recon[: len(sizes)]:
        asked, given = (" x ".join(map(str, size)) for size in (recon[: len(sizes)], sizes))
        warnings.append(f"The header asks for {asked} pixels; the picture has {given}, the resolution measured.")
    n_partitions = sizes[2] if is_3d else 1
    encoded = picture = None
    if fov is not None:
        encoded = (fov[0], fov[1], fov[2])
        picture = (fov[0] * sizes[0] / space.matrix[0], fov[1] * sizes[1] / space.matrix[1], fov[2])
    positions = place.positions
    if positions is not None and place.orientation is not None and fov is not None:
        pixel = np.array([fov[0] / space.matrix[0], fov[1] / space.matrix[1], fov[2]])
        # A crop that begins at (n - k) // 2 takes the origin off pixel k // 2 where n is even and k odd.
        cut = [(n - k) // 2 + k // 2 - n // 2 for n, k in zip(space.matrix, sizes, strict=False)]
        positions = positions + (np.array([*cut, 0][:3]) * pixel) @ place.orientation
        if is_3d:
            steps = np.arange(n_partitions) - n_partitions // 2
            positions = positions[0] + steps[:, None] * pixel[2] * place.orientation[2]
    elif is_3d:
        positions = None  # where partitions lie is not known
    shape = space.matrix[2:] * is_3d + space.matrix[:2]
    return Geometry(
        recon_shape=(sizes[0], sizes[1]),
        field_of_view=picture,
        encoded_field_of_view=encoded,
        orientation=place.orientation,
        position=positions,
        n_partitions=n_partitions,
        encoded_shape=None if is_cartesian else shape,
    ), warnings
