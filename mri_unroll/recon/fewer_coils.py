"""A scan with fewer, virtual coils, for when memory is short."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from mri_unroll.physics.coils import compression_matrix
from mri_unroll.scan import Scan


def with_fewer_coils(scan: Scan, n_virtual: int) -> Scan:
    """The same scan in its ``n_virtual`` strongest virtual coils; itself where it has no more.

    The rows that mix coils are orthonormal, so that noise keeps its strength, and its covariance is mixed alike.
    """
    n_coils = scan.kspace.shape[1]
    if n_coils <= n_virtual:
        return scan
    by_coil = torch.from_numpy(np.ascontiguousarray(np.moveaxis(scan.kspace, 1, 0)))
    matrix = compression_matrix(by_coil, n_virtual).numpy()
    mixed = np.moveaxis(np.tensordot(matrix, by_coil.numpy(), axes=1), 0, 1)
    noise = None if scan.noise_cov is None else matrix @ scan.noise_cov @ matrix.conj().T
    return dataclasses.replace(
        scan,
        kspace=np.ascontiguousarray(mixed, np.complex64),
        noise_cov=None if noise is None else noise.astype(np.complex64),
    )
