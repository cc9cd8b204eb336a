"""Undersampling after the fact: what an accelerated acquisition would have kept of a fully sampled one."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import InputError, UnsupportedScan
from mri_unroll.physics.sampling import effective_acceleration, make_mask
from mri_unroll.scan import Scan


def undersample(
    scan: Scan,
    kind: str,
    acceleration: float,
    center_fraction: float,
    seed: int | None = None,
    file_name: str | None = None,
) -> Scan:
    """Keep only the samples that an accelerated acquisition would have measured.

    Of a 3-D scan whole readouts are kept or dropped: the mask lies in the plane ``(kz, kx)`` of both phase encodings,
    in which ``poisson`` is two-dimensional and the other kinds drop all partitions of a ``kx``.

    Parameters
    ----------
    scan
        Cartesian and fully sampled, but for zero padding at the ends of phase encoding.
    kind, acceleration, center_fraction, seed, file_name
        Of the mask, see `physics.sampling.make_mask`; every slice gets the same. Exactly one of the last two is given.

    Raises
    ------
    InputError
        If the scan is undersampled already.
    UnsupportedScan
        If it is not Cartesian.
    """
    if scan.mask is None:
        raise UnsupportedScan(
            "Retrospective undersampling of non-Cartesian scans is not implemented: samples are not sorted into "
            "spokes or arms.",
            "Leave out --accelerate to reconstruct the scan as it is.",
        )
    grid: NDArray[np.bool_] = scan.mask.reshape(-1, *scan.matrix)  # (slice, ky, kx) or (kz, ky, kx)
    volume = scan.ndim == 3
    if not _box(grid, (0, 2) if volume else (2,)).all():
        raise InputError(
            "Expected a fully sampled scan to undersample, "
            f"but this one is {effective_acceleration(scan.mask):.1f}-fold undersampled already.",
            "Leave out --accelerate to reconstruct it as it is.",
        )
    measured: NDArray[np.bool_] = np.asarray(grid.all(axis=1 if volume else 0))
    plane = (measured.shape[0], measured.shape[1])
    mask = make_mask(kind, plane, acceleration, center_fraction, seed=seed, file_name=file_name, measured=measured)
    if volume:
        mask = mask[:, None, :] & scan.mask
    # `where`, not a product: a product with zero keeps the sign bit of what was dropped.
    return dataclasses.replace(scan, kspace=np.where(mask, scan.kspace, np.complex64(0)), mask=mask)


def _box(mask: NDArray[np.bool_], axes: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask without what was left out at both ends of some axes."""
    for axis in axes:
        lines = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        mask = mask.take(range(lines[0], lines[-1] + 1), axis=axis)
    return mask
