"""Variable-density Poisson-disc masks, fast enough to draw one per training example on a CPU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError

EDGE_SLOPE = 2.0  # spacing at the middle of an edge of k-space is 1 + this, times the spacing at the centre
Seed = int | tuple[int, ...]


def poisson_mask(
    shape: tuple[int, int], acceleration: float, calibration: int | tuple[int, int], seed: Seed
) -> NDArray[np.bool_]:
    r"""Return a variable-density Poisson-disc mask: random samples that keep their distance, denser at the centre.

    Grid points are visited in random order; one is kept unless a kept point lies closer than that point's spacing
    :math:`r_0 (1 + 2 \rho)`, where :math:`\rho` is the distance from the centre, 1 at the middle of an edge. The scale
    :math:`r_0` is found by bisection; the last samples kept are dropped until the count is the asked-for one.

    Parameters
    ----------
    shape
        ``(ky, kx)``.
    acceleration
        Grid points per kept sample, 1 or more; met to one sample (the corners of k-space count).
    calibration
        Sides of the fully sampled central block, one number or ``(ky, kx)``; 0 for none.
    seed
        Same seed, same mask, on any machine.

    Returns
    -------
    ``(ky, kx)``, True where measured.

    Raises
    ------
    ConfigError
        If a number is out of range, or the block alone holds more samples than the acceleration allows.

    References
    ----------
    Bridson, doi:10.1145/1278780.1278807 (Poisson-disc sampling); Lustig et al., doi:10.1002/mrm.21391 (why density
    falls off). Departs from Bridson: candidates are the grid points themselves, in one random order for all scales.
    """
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise ConfigError(f"Expected a mask shape of 1 or more along each axis, got {shape}.")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ConfigError(f"Expected an acceleration of 1 or more, got {acceleration}.")
    sides = (calibration, calibration) if isinstance(calibration, int) else calibration
    if min(sides) < 0:
        raise ConfigError(f"Expected a calibration block of 0 or more samples a side, got {calibration}.")
    height, width = min(sides[0], rows), min(sides[1], columns)
    top, left = rows // 2 - height // 2, columns // 2 - width // 2
    mask = np.zeros(shape, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    n_allowed = round(rows * columns / acceleration)
    n_missing = n_allowed - int(mask.sum())
    if n_missing < 0:
        raise ConfigError(
            f"The calibration block of {int(mask.sum())} samples is more than the {n_allowed} that"
            f" acceleration {acceleration:g} of {rows} x {columns} allows.",
            "Make the block or the acceleration smaller.",
        )
    order = np.random.RandomState(seed).permutation(rows * columns)
    order = order[~mask.ravel()[order]]
    rho_y = (np.arange(rows) - rows // 2) / (rows / 2)
    rho_x = (np.arange(columns) - columns // 2) / (columns / 2)
    relative = (1 + EDGE_SLOPE * np.hypot(rho_y[:, None], rho_x[None, :])).ravel()

    # Counts fall with the scale. Keep the largest scale that still gives enough samples; scale 0 keeps every point.
    kept, lower, upper = order, 0.0, 2.0 * math.sqrt(acceleration)
    for _ in range(12):
        middle = (lower + upper) / 2
        trial = _keep_distance(order, middle * relative, shape)
        if len(trial) >= n_missing:
            kept, lower = trial, middle
            if len(kept) <= 1.005 * n_missing:
                break
        else:
            upper = middle
    mask.ravel()[kept[:n_missing]] = True
    return mask


def _keep_distance(order: NDArray[np.intp], radius: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.intp]:
    """Keep, in this order, the points that lie no closer than its radius to any point kept before."""
    rows, columns = shape
    # Squared distances on a grid are whole numbers: d < r exactly when d**2 < ceil(r**2), so few distinct discs exist.
    squared = np.ceil(radius**2).astype(np.int64)
    margin = math.isqrt(int(squared.max(initial=1))) + 1  # no disc reaches past the margin: no test for borders below
    stride = columns + 2 * margin
    discs: dict[int, list[tuple[int, bytes]]] = {}
    for bound in np.unique(squared).tolist():
        reach = math.isqrt(max(bound - 1, 0))
        halves = [(dy, math.isqrt(bound - 1 - dy * dy)) for dy in range(-reach, reach + 1)] if bound > 0 else [(0, 0)]
        discs[bound] = [(dy * stride - half, b"\1" * (2 * half + 1)) for dy, half in halves]
    taken = bytearray(stride * (rows + 2 * margin))
    places = ((order // columns + margin) * stride + order % columns + margin).tolist()
    kept: list[int] = []
    for index, (place, bound) in enumerate(zip(places, squared[order].tolist(), strict=True)):
        if not taken[place]:
            kept.append(index)
            for start, ones in discs[bound]:
                taken[place + start : place + start + len(ones)] = ones
    return order[kept]
