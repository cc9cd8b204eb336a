"""Which samples are measured: masks of every family, few or many lines in the centre, corners and ends left out."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mri_unroll.physics.sampling import DEFAULT_CENTER_BUDGET, make_mask

_LINES = ("random", "equispaced", "equispaced_fraction", "magic")
_PLANES = ("poisson", "bernoulli", "lattice")


def any_mask(shape: tuple[int, int], rng: Generator, planar: float) -> NDArray[np.bool_]:
    """A mask ``(ky, kx)``, True where measured; a share ``planar`` varies along both axes."""
    measured = np.ones(shape, dtype=np.bool_)
    if rng.random() < 0.25:  # zero padding or partial Fourier at the ends of phase encoding
        measured[:, : int(rng.uniform(0, 0.12) * shape[1])] = False
        measured[:, shape[1] - int(rng.uniform(0, 0.25) * shape[1]) :] = False
    if rng.random() < 0.08:  # or of the readout: an asymmetric echo
        measured[: int(rng.uniform(0.05, 0.3) * shape[0])] = False
    if rng.random() < 0.03:
        return measured
    if rng.random() < planar:
        if rng.random() < 0.4:  # corners are left out
            y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in shape), indexing="ij")
            measured &= y**2 + x**2 <= 1
        return _plane(shape, rng) & measured
    return _lines(shape, rng) & measured


def _lines(shape: tuple[int, int], rng: Generator) -> NDArray[np.bool_]:
    acceleration = float(np.exp(rng.uniform(np.log(1.3), np.log(12))))
    kind = str(rng.choice(_LINES, p=[0.35, 0.2, 0.35, 0.1]))
    most = max(2, int(0.6 * shape[1] / acceleration))
    if rng.random() < 0.4:
        centre = round(DEFAULT_CENTER_BUDGET / acceleration * shape[1])
    else:
        centre = round(np.exp(rng.uniform(np.log(4), np.log(40))))
    return make_mask(kind, shape, acceleration, min(centre, most) / shape[1], seed=int(rng.integers(2**31)))


def _plane(shape: tuple[int, int], rng: Generator) -> NDArray[np.bool_]:
    acceleration = float(np.exp(rng.uniform(np.log(1.5), np.log(14))))
    budget = DEFAULT_CENTER_BUDGET / acceleration
    share = budget if rng.random() < 0.5 else min(rng.uniform(0.003, 0.06), 0.6 / acceleration)
    kind = rng.choice(_PLANES, p=[0.6, 0.25, 0.15])
    if kind == "poisson":
        return make_mask("poisson", shape, acceleration, share, seed=int(rng.integers(2**31)))
    y, x = (np.arange(n) - n // 2 for n in shape)
    sides = [max(4, round(n * share**0.5)) for n in shape]
    mask = (np.abs(y) <= sides[0] // 2)[:, None] & (np.abs(x) <= sides[1] // 2)
    if kind == "bernoulli":  # each sample by itself, the likelier the nearer the centre
        radius = np.hypot(y[:, None] / (shape[0] / 2), x / (shape[1] / 2))
        density = (1 - np.clip(radius, 0, 0.99)) ** rng.uniform(0, 4)
        low, high = 0.0, 1e4
        for _ in range(40):
            scale = (low + high) / 2
            low, high = (scale, high) if np.minimum(scale * density, 1).mean() < 1 / acceleration else (low, scale)
        return mask | (rng.random(shape) < np.minimum(low * density, 1))
    step_y, step_x = [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)][int(rng.integers(6))]
    shift = int(rng.integers(step_x)) if rng.random() < 0.5 else 0  # CAIPIRINHA
    rows = y[:, None] // step_y
    return mask | ((y[:, None] % step_y == 0) & ((x + shift * rows) % step_x == 0))
