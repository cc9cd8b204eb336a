"""Non-Cartesian readouts of ISMRMRD data: samples one after the other, and where each lies in k-space.

The specification gives a trajectory no unit, and files differ. The unit is told by how far the trajectory reaches,
since it is made to fill the encoded matrix of ``n`` pixels: to ``1/2`` in cycles per pixel, to ``n/2`` in cycles per
field of view. Where neither fits, radians and reciprocal metres are tried, with a warning; else the user must say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan
from mri_unroll.io.mrd_acquisitions import Acquisitions
from mri_unroll.io.mrd_geometry import EncodedSpace
from mri_unroll.io.mrd_selection import Selection
from mri_unroll.scan import TRAJECTORY_SLACK

UNITS = ("cycles/pixel", "cycles/fov", "radians/pixel", "1/m", "rad/m")
_FILLED = 0.525  # times the matrix: as far as a trajectory may reach, with some tolerance
_FLAT = 1e-3  # times the reach within the plane: what a third coordinate may be by rounding
_MAX_ASKED = 1000  # readouts, for unit and dimension
_USUAL, _RARE = 0.2, 0.4  # times the matrix: as far as it must reach in a usual unit, and in another one


def read_samples(
    found: Acquisitions,
    selection: Selection,
    space: EncodedSpace,
    is_3d: bool,
    slices: NDArray[np.int64],
    unit: str | None,
    partition_centre: int | None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], list[str]]:
    """Samples and trajectory of some slices.

    Parameters
    ----------
    found, selection
        All readouts, and which of them make the scan.
    space
        What k-space covers.
    is_3d
        Whether the third coordinate counts; in a stack of trajectories it is the partition encoding step.
    slices
        Numbers of the slice counter to be read.
    unit
        One of `UNITS`; None: told from the trajectory of the whole scan.
    partition_centre
        The partition encoding step at zero frequency; None: the middle.

    Returns
    -------
        K-space ``(slice, coil, sample)``, trajectory ``(sample, ndim)`` or ``(slice, sample, ndim)`` in cycles per
        encoded field of view with its last axis ordered as the picture's, and warnings.

    Raises
    ------
    CorruptScan, UnsupportedScan, InputError
        Each with the one thing that is wrong.
    """
    readouts = np.sort(np.concatenate([selection.imaging, selection.calibration]))
    scale, warnings = _scale(found, readouts, space, unit)
    numbers = found.index("slice")[readouts]
    centre = None
    if is_3d and not _leaves_plane(found, readouts):
        centre = space.matrix[2] // 2 if partition_centre is None else partition_centre
    samples, coordinates = [], []
    for number in slices:
        here = readouts[numbers == number]
        samples.append(np.concatenate([found.samples(int(one)) for one in here], axis=1))
        points = [_coordinates(found, int(one), is_3d, scale, centre) for one in here]
        coordinates.append(np.concatenate(points).astype(np.float32))
    lengths = {points.shape[0] for points in coordinates}
    if len(lengths) > 1:
        raise UnsupportedScan(
            f"{found.title}: its slices hold from {min(lengths)} to {max(lengths)} samples; expected as many in each.",
            "Read them one by one (`--slices 0:1`).",
        )
    trajectory = np.stack(coordinates)
    kspace = np.stack(samples)
    if not np.isfinite(trajectory).all():
        raise CorruptScan(f"{found.title}: its trajectory holds NaN or infinite values.", "Export the raw data again.")
    half = np.array(space.matrix[2:] * is_3d + space.matrix[:2]) / 2 + TRAJECTORY_SLACK / 2
    inside = (np.abs(trajectory) <= half).all(axis=(0, 2))
    if not inside.any():
        raise CorruptScan(f"{found.title}: its trajectory lies beyond the encoded matrix.", "Check its unit and size.")
    if not inside.all():
        warnings.append(f"{1 - inside.mean():.1%} of the samples lie beyond the encoded matrix and are left out.")
        trajectory, kspace = trajectory[:, inside], kspace[:, :, inside]
    if (trajectory == trajectory[0]).all():
        trajectory = trajectory[0]
    return np.ascontiguousarray(kspace), np.ascontiguousarray(trajectory), warnings


def is_volume(found: Acquisitions, selection: Selection, n_partitions: int) -> bool:
    """Whether a non-Cartesian scan is 3-D: trajectories leave the plane, or there are partition encoding steps.

    Raises
    ------
    UnsupportedScan
        If they leave the plane, and the encoded matrix has one partition.
    """
    leaving = _leaves_plane(found, selection.imaging)
    if leaving and n_partitions == 1:
        raise UnsupportedScan(
            f"{found.title}: its trajectory is 3-D, but its header gives an encoded matrix of one partition.",
            "Correct encodedSpace/matrixSize/z in a copy of the file.",
        )
    steps = found.index("kspace_encode_step_2")[selection.imaging]
    return n_partitions > 1 and (leaving or np.unique(steps).size > 1)


def _leaves_plane(found: Acquisitions, readouts: NDArray[np.int64]) -> bool:
    furthest = _furthest(found, readouts[found.head("trajectory_dimensions")[readouts] == 3])
    return bool(furthest[2] > _FLAT * furthest[:2].max())


def _furthest(found: Acquisitions, readouts: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far from zero the trajectories reach along each of the file's axes; of very many readouts, some are asked."""
    furthest = np.zeros(3)
    for one in readouts[:: max(1, readouts.size // _MAX_ASKED)]:
        points = np.abs(found.trajectory(int(one)))
        furthest[: points.shape[1]] = np.maximum(furthest[: points.shape[1]], points.max(axis=0, initial=0))
    return furthest


def _coordinates(
    found: Acquisitions,
    readout: int,
    is_3d: bool,
    scale: NDArray[np.float64],
    centre: int | None,
) -> NDArray[np.float64]:
    """Cycles per encoded field of view, ``(sample, ndim)`` in the order (z, y, x) of the picture.

    In a stack of planes ``centre`` is the partition encoding step at zero frequency.
    """
    stored = found.trajectory(readout).astype(np.float64)
    plane = stored[:, :2] * scale[:2]  # the file's x is the picture's y
    if not is_3d:
        return plane
    if centre is None:
        return np.column_stack([stored[:, 2] * scale[2], plane])
    step = int(found.heads["idx"]["kspace_encode_step_2"][readout])
    return np.column_stack([np.full(len(stored), step - centre, np.float64), plane])


def _scale(
    found: Acquisitions, readouts: NDArray[np.int64], space: EncodedSpace, unit: str | None
) -> tuple[NDArray[np.float64], list[str]]:
    """What turns the file's numbers into cycles per field of view, for each of its axes."""
    dimensions = np.unique(found.head("trajectory_dimensions")[readouts])
    if not set(dimensions.tolist()) <= {2, 3} or (found.trajectory_places["length"][readouts] == 0).any():
        raise UnsupportedScan(
            f"{found.title}: its header describes a non-Cartesian scan, but not all readouts carry a 2-D or 3-D "
            "trajectory.",
            "Store the measured or nominal trajectory with each readout.",
        )
    matrix = np.array(space.matrix, np.float64)
    units = {"cycles/pixel": matrix, "cycles/fov": np.ones(3), "radians/pixel": matrix / (2 * np.pi)}
    if space.fov is not None:
        whole = np.array([space.fov[0], space.fov[1], space.fov[2] * space.matrix[2]])
        units |= {"1/m": whole, "rad/m": whole / (2 * np.pi)}
    if unit is not None:
        if unit not in units:
            raise InputError(
                f"The unit {unit[:20]!r} of the trajectory is not known for this file.",
                f"Choose one, as in `--layout unit={UNITS[0]}`: {', '.join(units)}.",
            )
        return units[unit], []
    furthest = _furthest(found, readouts)
    reach = {name: float((furthest * factor / matrix).max()) for name, factor in units.items()}
    filling = [name for name in units if _RARE <= reach[name] <= _FILLED]
    likely = [name for name in UNITS[:2] if _USUAL <= reach[name] <= _FILLED]
    if likely and (likely[0] in filling or not filling):
        return units[likely[0]], []
    if len(filling) == 1 and not likely:
        return units[filling[0]], [
            f"The trajectory reaches {furthest.max():.4g}; its unit is taken to be {filling[0]}."
        ]
    raise UnsupportedScan(
        f"{found.title}: the trajectory reaches {furthest.max():.4g} with an encoded matrix of {space.matrix[0]} x "
        f"{space.matrix[1]}; its unit cannot be told from that.",
        f"Name it, as in `--layout unit={UNITS[1]}`: {', '.join(units)}.",
    )
