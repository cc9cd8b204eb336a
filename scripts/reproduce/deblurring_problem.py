"""Deblurring: test pictures, point spread functions, noise, and the small network that undoes them.

Pictures are real, in [0, 1]; they are blurred with a reflective boundary and get white Gaussian noise. The operator of
the simulation is that of the reconstruction: what is compared are algorithms, not models of a camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.physics import BlurOperator

WEIGHTS = Path(__file__).parent / "weights" / "deblurring.safetensors"
PSF_SIZE = 15
# Bundled with scikit-image: no download.
TEST_PHOTOS = ("camera", "coins", "moon", "brick")
TRAINING_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "grass", "gravel", "page", "text")


@dataclass(frozen=True)
class Problem:
    """Blurred and noisy pictures with their truth."""

    op: BlurOperator
    truth: Tensor  # (batch, y, x) complex, imaginary part 0
    blurred: Tensor  # the same shape
    strength: Tensor  # (batch, 2), what the network is told, see `strength_features`


def acquire(truth: Tensor, psf: Tensor, noise_level: Tensor, generator: torch.Generator) -> Problem:
    """Blur real pictures ``(batch, y, x)`` by one PSF or one each, and add noise of ``noise_level``, ``(batch,)``."""
    op = BlurOperator(psf, tuple(truth.shape[-2:]))
    noise = noise_level[:, None, None] * torch.randn(truth.shape, generator=generator)
    picture = torch.complex(truth, torch.zeros_like(truth))
    return Problem(op, picture, op.forward(picture).real + noise + 0j, strength_features(psf, noise_level))


def strength_features(psf: Tensor, noise_level: Tensor) -> Tensor:
    """Noise and extent of the blur as numbers of order one, ``(batch, 2)``: 0 for 1 % noise and 16 pixels of area."""
    area = -torch.log2(psf.square().sum((-2, -1))) - 4
    return torch.stack([torch.log10(noise_level) + 2, area.expand(noise_level.shape)], dim=-1)


def gaussian(width_y: float, width_x: float, angle: float) -> NDArray[np.float64]:
    """PSF of a Gaussian with standard deviations in pixels, turned by ``angle``."""
    y, x = _grid()
    along, across = y * math.cos(angle) + x * math.sin(angle), -y * math.sin(angle) + x * math.cos(angle)
    return _unit_sum(np.exp(-0.5 * ((along / width_y) ** 2 + (across / width_x) ** 2)))


def motion(length: float, angle: float) -> NDArray[np.float64]:
    """PSF of a straight motion over ``length`` pixels."""
    y, x = _grid()
    along, across = y * math.cos(angle) + x * math.sin(angle), -y * math.sin(angle) + x * math.cos(angle)
    distance = np.hypot(np.maximum(np.abs(along) - length / 2, 0), across)
    return _unit_sum(np.exp(-0.5 * (distance / 0.6) ** 2))


def disc(radius: float) -> NDArray[np.float64]:
    """PSF of a lens out of focus, a disc with a soft rim of one pixel."""
    return _unit_sum(np.clip(radius + 0.5 - np.hypot(*_grid()), 0, 1))


def random_psf(rng: np.random.Generator) -> NDArray[np.float64]:
    """One of the three kinds, of random size and direction."""
    kind, angle = rng.integers(3), rng.uniform(0, np.pi)
    if kind == 0:
        return gaussian(rng.uniform(0.8, 2.2), rng.uniform(0.8, 2.2), angle)
    return motion(rng.uniform(3, 10), angle) if kind == 1 else disc(rng.uniform(1.2, 3.5))


def photo(name: str) -> NDArray[np.float32]:
    """A grey picture in [0, 1] that comes with scikit-image, at half its resolution to be free of its own blur."""
    image = np.asarray(getattr(skimage.data, name)(), dtype=np.float32) / 255
    if image.ndim == 3:
        image = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    return image.reshape(image.shape[0] // 2, 2, -1, 2).mean((1, 3))


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:PSF_SIZE, :PSF_SIZE] - PSF_SIZE // 2 + 0.0
    return y, x


def _unit_sum(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    return psf / psf.sum()
