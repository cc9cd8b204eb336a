"""Non-Cartesian k-space in a NumPy archive.

===============================  ==================================================================================
``kspace``                       (slice, coil, sample) or (coil, sample), complex
``trajectory``/``coordinates``   (sample, ndim) or (slice, sample, ndim), ndim 2 or 3, cycles per field of view: from
                                 ``-n/2`` to ``n/2`` for ``n`` pixels; its last axis is ordered as the picture's,
                                 (y, x) or (z, y, x)
``image_shape``                  (y, x) or (z, y, x) pixels of the picture
===============================  ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, InputError
from mri_unroll.io.measured import check_coils, check_complex
from mri_unroll.scan import TRAJECTORY_SLACK, Geometry


@dataclass(frozen=True, eq=False)
class ArrayTrajectory:
    """The arrays, checked."""

    kspace: NDArray[Any]  # (slice, coil, sample)
    trajectory: NDArray[np.float32]  # (sample, ndim) or (slice, sample, ndim)
    geometry: Geometry


def arrange(arrays: dict[str, Any], layout: str | None, title: str) -> ArrayTrajectory:
    """Check that k-space, trajectory and size of the picture fit together.

    Parameters
    ----------
    arrays
        The archive.
    layout
        Must be None: the axes are fixed.

    Raises
    ------
    InputError
        If a layout was given.
    CorruptScan, UnsupportedScan
        Each with the one thing that is wrong.
    """
    if layout is not None:
        raise InputError(f"{title} has a trajectory, its axes are fixed; a layout was given.", "Leave --layout out.")
    kspace, trajectory = arrays["kspace"], arrays["trajectory"]
    check_complex(kspace.dtype, title)
    shown = kspace[None] if kspace.ndim == 2 else kspace
    shapes = () if shown.ndim != 3 else ((shown.shape[2],), (shown.shape[0], shown.shape[2]))
    if trajectory.shape[:-1] not in shapes or trajectory.shape[-1] not in (2, 3) or 0 in shown.shape:
        raise CorruptScan(
            f"{title}: k-space {kspace.shape} and trajectory {trajectory.shape} do not fit; expected (slice, coil, "
            "sample) and (sample, 2 or 3).",
            "Save with numpy.savez(file, kspace=..., trajectory=..., image_shape=...).",
        )
    check_coils(shown.shape[1], kspace.shape, title)
    ndim = int(trajectory.shape[-1])
    size = np.atleast_1d(arrays.get("image_shape", np.zeros(0)))
    if size.shape != (ndim,) or size.dtype.kind not in "iu" or not ((size > 0) & (size < 2**15)).all():
        raise CorruptScan(
            f"{title}: beside a {ndim}-D trajectory, `image_shape` must be {ndim} positive whole numbers.",
            "Save the pixels of the picture as image_shape=(y, x) or (z, y, x).",
        )
    if trajectory.dtype.kind not in "fiu" or not np.isfinite(trajectory).all():
        raise CorruptScan(f"{title}: its trajectory holds other than finite real numbers.", "Export the file again.")
    furthest = np.abs(trajectory).reshape(-1, ndim).max(axis=0)
    if furthest.max() <= 0.5 or (furthest > size / 2 + TRAJECTORY_SLACK).any():
        raise CorruptScan(
            f"{title}: its trajectory reaches {', '.join(f'{value:.4g}' for value in furthest)}; expected cycles per "
            f"field of view, up to half of {tuple(size.tolist())}.",
            "Multiply cycles per pixel by `image_shape`, radians per pixel by `image_shape` / (2 pi).",
        )
    shape = tuple(int(number) for number in size)
    geometry = Geometry((shape[-2], shape[-1]), n_partitions=shape[0] if ndim == 3 else 1, encoded_shape=shape)
    return ArrayTrajectory(shown, np.ascontiguousarray(trajectory, dtype=np.float32), geometry)
