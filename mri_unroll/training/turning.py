"""Small random rotations and zooms of complex pictures, by torchvision."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError
from mri_unroll.training.simulate import Turn


def random_turn(rotation: float, zoom: float) -> Turn | None:
    """A function that turns and zooms complex pictures ``(..., y, x)`` at random; None where nothing is to be done.

    Real and imaginary parts are turned as two channels of one picture, by bilinear interpolation; what comes in from
    beyond the edge is zero.

    Parameters
    ----------
    rotation
        Degrees, at most, either way.
    zoom
        At most, either way; 0.1: from 10 % smaller to 10 % larger.

    Raises
    ------
    ConfigError
        If torchvision is not installed.
    """
    if rotation == 0 and zoom == 0:
        return None
    try:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional
    except ImportError as error:
        raise ConfigError(
            "The settings `rotation` and `zoom` need torchvision, which is not installed.",
            "Install it with `pip install 'mri-unroll[train]'`, or leave them at 0.",
        ) from error

    def turn(picture: NDArray, rng: np.random.Generator) -> NDArray:
        angle = float(rng.uniform(-rotation, rotation))
        scale = float(1 + rng.uniform(-zoom, zoom))
        channels = np.stack([picture.real, picture.imag]).reshape(-1, *picture.shape[-2:])
        turned = functional.affine(
            torch.from_numpy(channels),
            angle=angle,
            translate=[0, 0],
            scale=scale,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        ).numpy()
        real, imaginary = turned.reshape(2, *picture.shape)
        return real + 1j * imaginary

    return turn
