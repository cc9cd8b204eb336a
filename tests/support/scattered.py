"""Scans whose samples are drawn one by one, at random in two directions: what message passing is for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.scan import Scan
from support.simulation import make_scan


def density(shape: tuple[int, int], acceleration: float) -> NDArray[np.float64]:
    """Probabilities that fall with the distance from a fully sampled centre and have the mean asked for."""
    along = [(np.arange(n) - n // 2) / (n / 2) for n in shape]
    distance = np.hypot(along[0][:, None], along[1][None])
    lower, upper = 0.0, 20.0
    for _ in range(50):
        power = (lower + upper) / 2
        values = np.where(distance < 0.12, 1.0, 0.03 + 0.97 * np.clip(1 - distance / 1.5, 0, 1) ** power)
        lower, upper = (power, upper) if values.mean() > 1 / acceleration else (lower, power)
    return values


def bernoulli(shape: tuple[int, int], acceleration: float, seed: int) -> NDArray[np.bool_]:
    random = np.random.default_rng(seed)
    return np.asarray(random.random(shape) < density(shape, acceleration))


def phantom_scan(mask: NDArray[np.bool_], n_coils: int, n_slices: int = 1) -> tuple[Scan, NDArray[np.float32]]:
    """The analytic head under a mask, and what full sampling would have shown without noise."""
    kspace = phantom_kspace(mask.shape, n_coils, n_slices=n_slices, noise=0.01, seed=0)
    clean = phantom_kspace(mask.shape, n_coils, n_slices=n_slices)
    truth = np.linalg.norm(centred_ifft(torch.from_numpy(clean)).numpy(), axis=1).astype(np.float32)
    return make_scan(np.where(mask, kspace, 0), mask.shape, mask=mask), truth
