"""K-space that a magnitude picture might have come from: an experiment, never a measurement.

A magnitude holds neither coils nor phase nor the noise of k-space. What is put in their place is synthetic, and stated.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.image import Image
from mri_unroll.physics.fourier import centred_fft
from mri_unroll.physics.phantom import phantom_maps
from mri_unroll.scan import Scan, Source

STATED = (
    "Coils are {n_coils} synthetic loops around the picture, phase is a smooth random polynomial of about one turn, "
    "noise is what the magnitude holds; all of it from seed {seed}."
)


def simulated_scan(image: Image, n_coils: int, seed: int) -> Scan:
    """Fully sampled multi-coil k-space of a magnitude volume, with synthetic coils and phase.

    Parameters
    ----------
    image
        Magnitudes ``(slice, y, x)``; the last axis becomes phase encoding.
    n_coils
        1 or more.
    seed
        Of the phase.

    Returns
    -------
        In the units of the picture: its root sum of squares is the picture.
    """
    count, height, width = image.pixels.shape
    maps = phantom_maps((height, width), n_coils) if n_coils > 1 else np.ones((1, height, width))
    maps = maps / np.linalg.norm(maps, axis=0)
    complex_maps = maps * np.exp(1j * _phase((height, width), seed))
    kspace = np.empty((count, n_coils, height, width), np.complex64)
    for index, picture in enumerate(image.pixels):
        coils = torch.from_numpy((picture * complex_maps).astype(np.complex64))
        kspace[index] = centred_fft(coils, (-2, -1)).numpy()
    return Scan(
        kspace=kspace,
        mask=np.ones((height, width), dtype=bool),
        geometry=image.geometry,
        source=Source("simulated", image.provenance.input_digest or "", count, (0, count)),
    )


def _phase(shape: tuple[int, int], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    phase: NDArray[np.float64] = sum(
        (rng.normal(0, 1.0) * y**i * x**j for i in range(3) for j in range(3 - i)), np.zeros(shape)
    )
    return phase
