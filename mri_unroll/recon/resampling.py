"""Pictures with more or fewer pixels in the same field of view, by the Fourier transform."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.image import Image
from mri_unroll.physics.fourier import centred_fft, centred_ifft


def resampled(image: Image, shape: tuple[int, int]) -> Image:
    """A magnitude volume at another matrix: k-space is cut, or filled with zeros, to ``shape`` samples.

    Pixel ``n // 2`` stays where it is, so that the geometry does; field of view and brightness stay too. What was
    filled with zeros before is undone exactly; magnitudes of what else is cut are those of the blurred picture.

    Parameters
    ----------
    image
        ``(slice, y, x)``.
    shape
        ``(y, x)``, 1 or more.
    """
    old = (image.pixels.shape[1], image.pixels.shape[2])
    if shape == old:
        return image
    kept = [min(n, m) for n, m in zip(old, shape, strict=True)]
    source, target = (_middle(size, kept) for size in (old, shape))
    gain = (shape[0] * shape[1] / (old[0] * old[1])) ** 0.5
    pictures: list[NDArray[np.float32]] = []
    for picture in image.pixels:
        kspace = torch.zeros(shape, dtype=torch.complex64)
        kspace[target] = centred_fft(torch.from_numpy(picture).to(torch.complex64), (-2, -1))[source]
        pictures.append(gain * centred_ifft(kspace, (-2, -1)).abs().numpy())
    geometry = dataclasses.replace(image.geometry, recon_shape=shape)
    return dataclasses.replace(image, pixels=np.stack(pictures).astype(np.float32), geometry=geometry)


def _middle(shape: tuple[int, int], kept: list[int]) -> tuple[slice, ...]:
    """The frequencies about zero, which lies at ``n // 2``."""
    return tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(shape, kept, strict=True))
