"""Which k-space samples are kept: the fastMRI line masks, Poisson-disc masks, and what can be read off a mask.

Every mask is boolean, True where measured, with zero frequency at index ``n // 2``. Lines run along the readout ``ky``;
``kx`` is the phase encoding, the last axis, as in a fastMRI file.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.physics.poisson import Seed, poisson_mask

# Share of the kept samples that lies in the centre: fastMRI takes 0.08 of all lines at R = 4, 0.04 at R = 8.
DEFAULT_CENTER_BUDGET = 0.32

# What a line mask is made from: (random numbers, width, centre lines, acceleration) -> (columns, centre lines to fill)
Lines = tuple[NDArray[np.bool_], int]
LineRule = Callable[[RandomState, int, int, float], Lines]


def fastmri_mask(
    kind: str,
    width: int,
    center_fraction: float,
    acceleration: float,
    file_name: str | None = None,
    seed: int | None = None,
) -> NDArray[np.bool_]:
    """Return the phase-encoding lines that fastMRI's challenge code keeps, bit for bit.

    The effective acceleration is the nominal one only for the two ``_fraction`` kinds and, on average, for ``random``:
    `effective_acceleration` measures it. The 2020 brain challenge called ``equispaced_fraction`` "equispaced".

    Parameters
    ----------
    kind
        ``random``, ``equispaced``, ``equispaced_fraction``, ``magic`` or ``magic_fraction``.
    width
        Number of columns (phase-encoding lines), 1 or more.
    center_fraction
        Share of the columns that is always kept, around ``width // 2``; 0 to 1.
    acceleration
        Nominal acceleration, 1 or more; ``equispaced`` and ``magic`` round it to a whole number.
    file_name
        Name of the HDF5 file with its suffix, without folders: fastMRI's evaluation seeds with its characters.
    seed
        A number instead of a file name. Exactly one of the two is given.

    Returns
    -------
    Lines kept, ``(width,)``.

    Raises
    ------
    ConfigError
        If the kind is unknown, a number is out of range, or the centre alone already uses up the lines that the
        acceleration allows (fastMRI divides by zero there, fastMRI issue 344).

    References
    ----------
    Zbontar et al., arXiv:1811.08839, section 4; Defazio, arXiv:1912.01101 (``magic``: offset lines that make use of
    conjugate symmetry).
    """
    rule = LINE_RULES.get(kind)
    if rule is None:
        raise _unknown_kind(kind, tuple(LINE_RULES))
    if width < 1:
        raise ConfigError(f"Expected a mask width of 1 or more, got {width}.")
    _check_numbers(acceleration, center_fraction)
    # RandomState, not Generator: its stream is frozen by NumPy's compatibility promise, and fastMRI draws from it.
    random = RandomState(_one_seed(file_name, seed))
    random.randint(1)  # fastMRI draws which (center_fraction, acceleration) pair to use, also when there is only one
    n_center = round(width * center_fraction)
    if n_center >= width:
        return np.ones(width, dtype=np.bool_)
    lines, n_center = rule(random, width, n_center, acceleration)
    start = (width - n_center + 1) // 2
    lines[start : start + n_center] = True
    return lines


def _random_lines(random: RandomState, width: int, n_center: int, acceleration: float) -> Lines:
    probability = (width / acceleration - n_center) / (width - n_center)  # below 0: nothing but the centre
    return random.uniform(size=width) < probability, n_center


def _equispaced_lines(random: RandomState, width: int, n_center: int, acceleration: float) -> Lines:
    step = round(acceleration)
    lines = np.zeros(width, dtype=np.bool_)
    lines[random.randint(0, step) :: step] = True
    return lines, n_center


def _equispaced_fraction_lines(random: RandomState, width: int, n_center: int, acceleration: float) -> Lines:
    if n_center * acceleration >= width:
        raise _center_too_large(width, n_center, acceleration)
    # Outside the centre lines lie this far apart, so that with the centre width / acceleration lines are kept.
    spacing = acceleration * (n_center - width) / (n_center * acceleration - width)
    offset = random.randint(0, round(spacing))
    lines = np.zeros(width, dtype=np.bool_)
    lines[np.around(np.arange(offset, width - 1, spacing)).astype(np.intp)] = True
    return lines, n_center


def _magic_lines(random: RandomState, width: int, n_center: int, acceleration: float) -> Lines:
    step = round(acceleration)
    offset = random.randint(0, step)
    # The two halves are shifted against each other, so that conjugate symmetry maps kept lines onto skipped ones.
    first_positive, first_negative = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    positive = np.zeros((width + 1) // 2, dtype=np.bool_)
    negative = np.zeros(width - len(positive), dtype=np.bool_)
    positive[first_positive::step] = True
    negative[first_negative::step] = True
    return np.fft.fftshift(np.concatenate([positive, negative[::-1]])), n_center


def _magic_fraction_lines(random: RandomState, width: int, n_center: int, acceleration: float) -> Lines:
    n_lines = round(width / acceleration)
    n_center = max(1, min(n_center, n_lines))
    if n_lines <= n_center:
        raise _center_too_large(width, n_center, acceleration)
    return _magic_lines(random, width, n_center, round(width / (n_lines - n_center)))


LINE_RULES: dict[str, LineRule] = {
    "random": _random_lines,
    "equispaced": _equispaced_lines,
    "equispaced_fraction": _equispaced_fraction_lines,
    "magic": _magic_lines,
    "magic_fraction": _magic_fraction_lines,
}
MASK_KINDS = (*LINE_RULES, "poisson")


def make_mask(
    kind: str,
    shape: tuple[int, int],
    acceleration: float,
    center_fraction: float | None = None,
    *,
    seed: int | None = None,
    file_name: str | None = None,
    measured: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Return the mask that undersamples a fully sampled scan after the fact, of any kind.

    Parameters
    ----------
    kind
        One of `MASK_KINDS`: those of `fastmri_mask`, whose lines run the whole readout, or ``poisson``.
    shape
        ``(ky, kx)`` of the k-space grid.
    acceleration
        Nominal acceleration, 1 or more; 1 keeps all that was measured.
    center_fraction
        Share of the grid that is fully sampled at the centre: of the lines, or for ``poisson`` of the samples (a block
        with the grid's proportions). None: ``0.32 / acceleration``, fastMRI's choice.
    seed, file_name
        Exactly one of the two, as in `fastmri_mask`.
    measured
        ``(kx,)``, ``(ky, kx)`` or ``(slice, ky, kx)``, True where the scan holds data. The pattern is laid out over the
        whole grid, as fastMRI does, and then what was not measured (zero-padded columns) is taken away.

    Returns
    -------
    ``(ky, kx)``, or ``measured``'s shape where that has slices; True where kept.

    Raises
    ------
    ConfigError
        As `fastmri_mask` and `poisson_mask`; and for ``random`` too if the centre alone uses up the lines allowed.
    ShapeError
        If ``measured`` does not fit the grid.
    """
    if kind not in MASK_KINDS:
        raise _unknown_kind(kind, MASK_KINDS)
    fraction = DEFAULT_CENTER_BUDGET / max(acceleration, 1.0) if center_fraction is None else center_fraction
    _check_numbers(acceleration, fraction)
    seeds = _one_seed(file_name, seed)
    rows, columns = shape
    if acceleration == 1:
        mask = np.ones(shape, dtype=np.bool_)
    elif kind == "poisson":
        side = math.sqrt(fraction)
        mask = poisson_mask(shape, acceleration, (round(rows * side), round(columns * side)), seeds)
    else:
        n_center = round(columns * fraction)
        if kind == "random" and n_center * acceleration >= columns:
            raise _center_too_large(columns, n_center, acceleration)
        lines = fastmri_mask(kind, columns, fraction, acceleration, file_name, seed)
        mask = np.broadcast_to(lines, shape).copy()
    if measured is None:
        return mask
    if measured.ndim > 3 or measured.shape[-1] != columns or (measured.ndim > 1 and measured.shape[-2] != rows):
        raise ShapeError(f"Expected `measured` to fit the k-space grid {shape}, got {measured.shape}.")
    return mask & measured.astype(np.bool_)


def detect_acs(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the largest fully sampled rectangle around the centre of k-space, as slices ``(ky, kx)``.

    Largest means: the longest shorter side, then the most samples. (By samples alone, a two-dimensional random mask
    would give a long sliver that no coil calibration can use.) A side of ``k`` samples starts at ``n // 2 - k // 2``,
    on odd and even sizes; lines that touch the block on one side only do not count. Line masks give the whole readout
    times the central lines. Padding at the edges and unmeasured corners only bound the rectangle.

    Parameters
    ----------
    mask
        ``(ky, kx)``, or ``(slice, ky, kx)``, of which the samples common to all slices count.

    Returns
    -------
    Slices of the rectangle; both empty where the centre itself was not measured.
    """
    plane = mask.all(axis=0) if mask.ndim == 3 else mask
    if plane.ndim != 2:
        raise ShapeError(f"Expected a mask (ky, kx) or (slice, ky, kx), got {mask.shape}.")
    rows, columns = plane.shape
    # sides[i]: the widest centred run of row i. A block of height k is as wide as the narrowest of its rows.
    distance = np.arange(columns) - columns // 2
    needed = np.where(distance < 0, -2 * distance, 2 * distance + 1)  # a run of k holds the columns with needed <= k
    sides = np.where(plane, columns + 1, needed).min(axis=1) - 1
    sides = np.minimum(np.maximum(sides, 0), columns)
    widths = [int(sides[_centered(rows, height)].min()) for height in range(1, rows + 1)]
    rectangles = [(height, width) for height, width in enumerate(widths, start=1) if width > 0]
    best = max(rectangles, key=lambda box: (min(box), box[0] * box[1]), default=(0, 0))
    return _centered(rows, best[0]), _centered(columns, best[1])


def effective_acceleration(mask: NDArray[np.bool_], measured: NDArray[np.bool_] | None = None) -> float:
    """Return how many grid points there are per kept sample; with ``measured``, how many measured ones.

    Both may be any of ``(kx,)``, ``(ky, kx)`` and ``(slice, ky, kx)``. Infinite for an empty mask.
    """
    if measured is not None:
        mask, measured = np.broadcast_arrays(mask, measured)
    kept = int(mask.sum())
    total = mask.size if measured is None else int(measured.sum())
    return total / kept if kept else math.inf


def varies_along(mask: NDArray[np.bool_], axis: int = -2) -> bool:
    """Tell whether a mask changes along an axis; with the default, whether it depends on the readout ``ky``.

    False means that the mask is made of whole lines, and that the Fourier transform along the readout cancels in the
    normal operator. A mask given as lines only, ``(kx,)``, does not vary along the readout.
    """
    if mask.ndim < -axis:
        return False
    return bool((mask != mask.take([0], axis=axis)).any())


def _centered(size: int, length: int) -> slice:
    start = size // 2 - length // 2
    return slice(start, start + length)


def _one_seed(file_name: str | None, seed: int | None) -> Seed:
    if file_name is not None and seed is None:
        return tuple(map(ord, file_name))
    if seed is not None and file_name is None:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"Expected a mask seed from 0 to 4294967295, got {seed}.")
        return seed
    raise ConfigError("Expected exactly one of `file_name` and `seed` to choose the mask.", "Give one of the two.")


def _check_numbers(acceleration: float, center_fraction: float) -> None:
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ConfigError(f"Expected an acceleration of 1 or more, got {acceleration}.")
    if not 0 <= center_fraction <= 1:
        raise ConfigError(f"Expected a center fraction from 0 to 1, got {center_fraction}.")


def _center_too_large(width: int, n_center: int, acceleration: float) -> ConfigError:
    return ConfigError(
        f"The {n_center} central lines alone are all that acceleration {acceleration:g} of {width} lines allows"
        f" ({width / acceleration:.1f}).",
        "Choose a smaller center fraction or a smaller acceleration.",
    )


def _unknown_kind(kind: str, known: tuple[str, ...]) -> ConfigError:
    near = difflib.get_close_matches(kind, known, n=1, cutoff=0.0)
    return ConfigError(f"Unknown mask kind {kind!r}; known are {', '.join(known)}.", f"Did you mean {near[0]!r}?")
