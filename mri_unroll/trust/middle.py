"""Whether zero frequency lies in the middle of k-space, and the body in that of the picture.

Files that keep the order of an FFT, or the alternating signs of one, give pictures that are wrong as a whole and agree
with their measurements all the same.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mri_unroll.physics.coils import low_resolution_images
from mri_unroll.recon.calibrate import dense_sides, middle
from mri_unroll.trust.checks import Check

# Distance of the strongest samples from the middle over the length of the axis. Phase across the body and echoes that
# come early or late move them by some hundredths; an FFT that was not shifted, by a half.
ORIGIN_LIMIT, ORIGIN_HARD_LIMIT = 0.1, 0.25
# Logarithm of what lies at both edges of the picture over what lies in its middle. Two knees have nothing in the middle
# and nothing at the edges; a tight field of view has something in both, and an array on the skin sees the edges better.
WRAPPED_LIMIT = math.log(12.0)

_AXES = ("kz", "ky", "kx")
_LEAST = 8  # calibration lines below which there is no picture of low resolution


class MiddleChecks:
    """Gathers over slices, and then judges."""

    def __init__(self) -> None:
        self._power: list[NDArray[np.float64]] = []  # by axis of k-space, summed over everything else
        self._counts: list[NDArray[np.float64]] = []  # of samples that it is the sum of
        self._bodies: list[NDArray[np.float64]] = []  # by axis of the picture, energy

    def see(self, kspace: Tensor, mask: Tensor, power: Tensor) -> None:
        """Look at one slice or volume: ``(coil, [kz,] ky, kx)``, where it was measured, and its squares over coils."""
        self._power = _added(self._power, _profiles(power))
        self._counts = _added(self._counts, _profiles(mask.to(torch.float64)))
        sides = dense_sides(mask)
        if min(sides) >= _LEAST:
            block = kspace[:, *middle(tuple(mask.shape), sides)]
            small = low_resolution_images(block, tuple(block.shape[1:])).abs().square().sum(0)
            self._bodies = _added(self._bodies, _profiles(_same_size(small)))

    def judged(self) -> list[Check]:
        """The checks that there was something to make them from; the second only where the first found nothing."""
        if not self._power:
            return []
        names = _AXES[-len(self._power) :]
        moved = [off_middle(power, count) for power, count in zip(self._power, self._counts, strict=True)]
        worst = int(np.argmax(np.abs(moved)))
        n = len(self._power[worst])
        says = (
            f"K-space is strongest {abs(moved[worst]) * n:.0f} of {n} samples away from where zero frequency belongs, "
            f"index {n // 2} along {names[worst]} (from the order of an FFT `numpy.fft.fftshift` gets it there)."
        )
        found = [Check("origin", abs(moved[worst]), ORIGIN_LIMIT, ORIGIN_HARD_LIMIT, says)]
        if self._bodies and found[0].verdict == "go":
            scores = [edges_over_middle(body) for body in self._bodies]
            axis = names[int(np.argmax(scores))]
            says = (
                "The body lies at the edges of the picture and not in its middle, as if every other sample along "
                f"{axis} lacked a change of sign."
            )
            found.append(Check("wrapped", max(scores), WRAPPED_LIMIT, math.inf, says))
        return found


def off_middle(power: NDArray[np.float64], count: NDArray[np.float64]) -> float:
    """How far the strongest part of k-space lies behind ``n // 2``, over the length ``n``; 0 where there is no signal.

    Parameters
    ----------
    power, count
        Along one axis: summed squares of the samples that were measured, and how many they were.
    """
    n = len(power)
    window = np.ones(2 * (n // 32) + 1)  # wide enough for a few lines of an undersampled scan
    sums, counts = (np.convolve(x, window, mode="same") for x in (power, count))
    mean = np.divide(sums, counts, out=np.zeros(n), where=counts > 0)
    return float(np.argmax(mean) - n // 2) / n if mean.any() else 0.0


def edges_over_middle(energy: NDArray[np.float64]) -> float:
    """Logarithm of the mean energy of the outer eighth of a profile over that of the eighth in its middle."""
    n = len(energy)
    outer, inner = max(1, n // 16), slice(n // 2 - n // 16, n // 2 + n // 16 + 1)
    edges = np.concatenate([energy[:outer], energy[-outer:]])
    floor = 1e-6 * energy.mean() + np.finfo(np.float64).tiny
    return math.log((edges.mean() + floor) / (energy[inner].mean() + floor))


def _profiles(values: Tensor) -> list[NDArray[np.float64]]:
    axes = range(values.ndim)
    return [values.sum([other for other in axes if other != axis], dtype=torch.float64).numpy() for axis in axes]


def _same_size(picture: Tensor, side: int = 32) -> Tensor:
    """Of one size, whatever was densely sampled: slices may differ in that."""
    size = [side] * picture.ndim
    mode = "trilinear" if picture.ndim == 3 else "bilinear"
    return functional.interpolate(picture[None, None], size=size, mode=mode, align_corners=False)[0, 0]


def _added(one: list[NDArray[np.float64]], other: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    return [a + b for a, b in zip(one, other, strict=True)] if one else other
