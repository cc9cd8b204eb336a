"""Along which axis of a mask lines were read; NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def is_turned(mask: NDArray[np.bool_]) -> bool:
    """Tell whether lines run along the last axis of a mask ``(ky, kx)``, and what was left out lies along the first.

    Networks, noise estimates and checks know lines along ``ky``: other files are turned for them. Lines may be shorter
    than the axis, as of a readout sampled from one side; of points, and where nothing was left out, it is False.
    """
    rows, columns = np.asarray(mask.any(1)), np.asarray(mask.any(0))
    if not mask.any() or (mask != rows[:, None] & columns).any():
        return False
    return not _gaps(columns) and (bool(_gaps(rows)) or bool(columns.all() and not rows.all()))


def readout_axis(mask: NDArray[np.bool_]) -> int | None:
    """The axis of a volume's mask ``(kz, ky, kx)`` along which lines were read, 1 or 2, all alike and without gaps."""
    for axis in (1, 2):
        read = np.asarray(mask.any((0, 3 - axis)))
        if (mask == np.expand_dims(mask.any(axis), axis) & np.expand_dims(read, 2 - axis)).all() and not _gaps(read):
            return axis
    return None


def _gaps(lines: NDArray[np.bool_]) -> int:
    """How many lines are missing between the first and the last."""
    found = np.flatnonzero(lines)
    return int(found[-1] - found[0] + 1 - found.size) if found.size else 0
