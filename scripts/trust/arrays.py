"""Receive coils as scanners have them: around the body, on one side of it, far away, weak, alone."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mri_unroll.training.simulate import coil_maps, complex_normal, smooth_noise

_LEAST = 0.08  # of the field of view: how close to a conductor the field still grows


def coil_array(n_coils: int, shape: tuple[int, int], rng: Generator) -> NDArray[np.complex128]:
    """Sensitivities ``(coil, y, x)`` of an array of any kind."""
    if n_coils == 1:
        return _alone(shape, rng)
    kind = rng.choice(["ring", "sector", "flat", "far", "modes"], p=[0.35, 0.2, 0.25, 0.1, 0.1])
    if kind == "ring":
        maps = coil_maps(n_coils, shape, rng)
    elif kind == "modes":  # combinations, as after compression or in a degenerate birdcage
        maps = np.tensordot(np.linalg.qr(complex_normal((n_coils, n_coils), rng))[0], coil_maps(n_coils, shape, rng), 1)
    else:
        maps = np.array([_loop(*ends, shape) for ends in _places(str(kind), n_coils, rng)])
        maps = maps * np.exp(2j * np.pi * rng.random(n_coils))[:, None, None]
        maps = maps / np.linalg.norm(maps, axis=0) ** rng.uniform(0, 1.0)  # from strong shading to fully corrected
    maps = maps / np.abs(maps).max((1, 2), keepdims=True).clip(1e-6) * np.abs(maps).max()
    gains = rng.lognormal(0, 0.2, n_coils)
    if rng.random() < 0.4:
        gains = 10 ** -rng.uniform(0, rng.uniform(0.3, 1.0), n_coils)  # up to 20 dB between them
    if n_coils > 3 and rng.random() < 0.3:  # a few see little
        few = rng.choice(n_coils, int(rng.integers(1, max(2, n_coils // 3) + 1)), replace=False)
        gains[few] *= 10 ** -rng.uniform(0.7, 1.7, len(few))
    return maps * gains[:, None, None]


def noise_mixing(n_coils: int, rng: Generator) -> NDArray[np.complex128]:
    """What makes the noise of coils from independent noise, ``(coil, coil)``: neighbours couple, some are noisier."""
    distance = np.abs(np.arange(n_coils)[:, None] - np.arange(n_coils))
    distance = np.minimum(distance, n_coils - distance)
    covariance = rng.uniform(0, 0.5) ** distance.astype(float) + 1e-6 * np.eye(n_coils)
    covariance = covariance.astype(np.complex128)
    values, vectors = np.linalg.eigh(covariance)
    mixing = (vectors * np.sqrt(values.clip(0))) @ vectors.conj().T
    mixing = mixing + rng.uniform(0, 0.2) * complex_normal((n_coils, n_coils), rng) / np.sqrt(n_coils)
    return rng.lognormal(0, rng.uniform(0, 0.4), n_coils)[:, None] * mixing


def _alone(shape: tuple[int, int], rng: Generator) -> NDArray[np.complex128]:
    """One coil: around the body and nearly even, or on the surface."""
    if rng.random() < 0.65:
        bias = 1 + rng.uniform(0, 0.5) * smooth_noise(shape, rng.uniform(1, 3), rng)
        return np.clip(bias, 0.25, None)[None].astype(np.complex128)
    (ends,) = _places("flat", 1, rng)
    field = _loop(*ends, shape)
    return (field / np.abs(field) ** rng.uniform(0.2, 1.0))[None]


def _places(kind: str, n_coils: int, rng: Generator) -> list[tuple[complex, complex]]:
    """Where the conductors of each loop pierce the plane; the field of view is 1 wide."""
    if kind == "flat":  # one row of loops, or one before and one behind
        rows = 2 if n_coils > 3 and rng.random() < 0.5 else 1
        turn = np.exp(0.5j * np.pi * rng.integers(4) + 1j * rng.normal(0, 0.15))
        length, found = rng.uniform(0.6, 1.2), []
        for row in range(rows):
            count = n_coils // rows + (n_coils % rows if row == 0 else 0)
            away, pitch = (-1) ** row * rng.uniform(0.45, 0.75), length / count
            for index in range(count):
                x = (index - (count - 1) / 2) * pitch + 0.1 * rng.normal(0, pitch)
                half = rng.uniform(0.4, 0.7) * pitch if count > 1 else rng.uniform(0.1, 0.35)
                found.append((turn * (x - half + 1j * away), turn * (x + half + 1j * away)))
        return found
    arc = 2 * np.pi if kind == "far" else rng.uniform(0.5, 1.3) * np.pi
    radius = rng.uniform(1.2, 2.5) if kind == "far" else rng.uniform(0.55, 0.9)
    start, half = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7) * arc / n_coils
    angles = start + arc * (np.arange(n_coils) + rng.uniform(-0.2, 0.2, n_coils)) / n_coils
    away = radius * rng.uniform(0.9, 1.15, n_coils)
    return [tuple(d * np.exp(1j * (a + side * half)) for side in (-1, 1)) for d, a in zip(away, angles, strict=True)]


def _loop(first: complex, second: complex, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """Field of two opposite line currents, see `mri_unroll.training.simulate.coil_maps`."""
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    position = x + 1j * y

    def away(difference: NDArray[np.complex128]) -> NDArray[np.complex128]:
        size = np.abs(difference)
        return difference * (np.maximum(size, _LEAST) / np.maximum(size, 1e-9))

    return 1 / away(position - first) - 1 / away(position - second)
