"""Undersampling after the fact: what an accelerated acquisition would have kept of a fully sampled one."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import InputError
from mri_unroll.physics.sampling import effective_acceleration, make_mask
from mri_unroll.scan import Scan


def undersample(scan: Scan, kind: str, acceleration: float, center_fraction: float, seed: int) -> Scan:
    """Keep only the samples that an accelerated acquisition would have measured.

    Parameters
    ----------
    scan
        Fully sampled, but for zero padding at the ends of phase encoding.
    kind, acceleration, center_fraction, seed
        Of the mask, see `physics.sampling.make_mask`; every slice gets the same.

    Raises
    ------
    InputError
        If the scan is undersampled already.
    """
    columns: NDArray[np.bool_] = np.atleast_1d(scan.mask.reshape(-1, scan.mask.shape[-1]).any(axis=0))
    inside = columns[columns.argmax() : len(columns) - columns[::-1].argmax()]
    if not inside.all() or not scan.mask[..., columns].all():
        raise InputError(
            "Expected a fully sampled scan to undersample, "
            f"but this one is {effective_acceleration(scan.mask):.1f}-fold undersampled already.",
            "Leave out --accelerate to reconstruct it as it is.",
        )
    measured: NDArray[np.bool_] = np.atleast_2d(scan.mask.reshape(-1, *scan.matrix).all(axis=0))
    mask = make_mask(kind, scan.matrix, acceleration, center_fraction, seed=seed, measured=measured)
    # `where`, not a product: a product with zero keeps the sign bit of what was dropped.
    return dataclasses.replace(scan, kspace=np.where(mask, scan.kspace, np.complex64(0)), mask=mask)
