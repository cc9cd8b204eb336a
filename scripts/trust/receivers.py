"""What a receiver does to signal and noise alike, besides adding noise that is white: bands, tapers, uneven lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.fft import fft, fftshift, ifft, ifftshift
from numpy.random import Generator
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Receiver:
    """A chain that signal and noise go through alike, and interference that comes and goes."""

    band: NDArray[np.float64]  # gain along the readout of the picture, (y,): of the coil, of the digital filter
    taper: NDArray[np.float64]  # weight of samples, (ky, kx)
    gains: NDArray[np.float64]  # of the noise of each line, (kx,)

    def signal(self, kspace: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """What becomes of k-space ``(coil, ky, kx)``."""
        hybrid = fftshift(ifft(ifftshift(kspace, axes=-2), axis=-2), axes=-2) * self.band[:, None]
        received: NDArray[np.complex128] = fftshift(fft(ifftshift(hybrid, axes=-2), axis=-2), axes=-2) * self.taper
        return received

    def noise(self, samples: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """What becomes of noise ``(coil, ky, kx)``."""
        return self.signal(samples * self.gains)


def receiver(shape: tuple[int, int], rng: Generator) -> Receiver:
    """Any receiver of a matrix ``(ky, kx)``, readout first; even in most respects."""
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    return Receiver(
        band=_band(y, rng) if rng.random() < 0.35 else np.ones(shape[0]),
        taper=_taper(y, x, rng) if rng.random() < 0.12 else np.ones(shape),
        gains=rng.lognormal(0, rng.uniform(0.02, 0.3), shape[1]) if rng.random() < 0.25 else np.ones(shape[1]),
    )


def _band(y: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Gain along the readout's field of view, -1..1: a tuned coil's resonance, or the flank of a decimation filter."""
    if rng.random() < 0.4:  # of a coil of high quality, as at low field; at times not tuned to the middle
        offset, half_width = rng.normal(0, 0.15), rng.uniform(0.8, 2.5)
        return 1 / np.sqrt(1 + ((y - offset) / half_width) ** 2)
    edge, order = rng.uniform(0.85, 1.05), rng.integers(4, 20)
    return 1 / np.sqrt(1 + np.abs(y / edge) ** (2 * order))  # Butterworth


def _taper(y: NDArray[np.float64], x: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Weights of k-space, as scanners apply them against ringing: Fermi's, radial, or a raised cosine of each axis."""
    if rng.random() < 0.5:
        radius, width = rng.uniform(0.75, 1.05), rng.uniform(0.03, 0.12)
        return 1 / (1 + np.exp((np.hypot(y[:, None], x) - radius) / width))
    least, flat = rng.uniform(0.1, 0.7), rng.uniform(0, 0.8)
    steep = [np.clip((np.abs(k) - flat) / (1 - flat), 0, 1) for k in (y, x)]
    along = [least + (1 - least) * np.cos(np.pi / 2 * k) ** 2 for k in steep]
    return along[0][:, None] * along[1]
