r"""An analytic head: multi-coil k-space of ellipses, exact, without the FFT of any raster.

Simulating k-space by the FFT of a raster and reconstructing on the same raster hides errors (truncation, half-pixel
shifts, a model that is right by construction). Here k-space is the Fourier transform of the continuous object, known in
closed form; coil maps and object phase are short sums of complex exponentials, each of which only shifts it.

Length 1 is the side of the picture; ``y`` runs down, ``x`` right, the origin is pixel ``n // 2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1, jv

from mri_unroll.errors import ConfigError

COIL_DISTANCE = 0.45  # of the coils' centres from the origin
COIL_FALLOFF = 0.9  # 0: no falloff away from the coil, 1: down to nothing
PHASE_DEPTH, PHASE_OFFSET = 0.5, 0.6  # rad: amplitude of the object's phase, and where on its wave the origin lies
PHASE_ORDER = 2  # terms of the phase series to each side; what is left out changes the magnitude by less than 0.6 %
COIL_ORDER = 2  # highest exponential of a coil map, in half cycles per unit length
SLICE_HEIGHTS = (-0.12, 0.22)  # first and last of several slices, which are spread evenly; a single one is at 0


@dataclass(frozen=True, slots=True)
class Ellipse:
    """A cross-section of constant intensity, which adds to what it covers."""

    center: tuple[float, float]  # (y, x)
    semi_axes: tuple[float, float]  # along the ellipse's own first and second axis
    angle: float  # radians from the y axis towards x, of the first axis
    intensity: float


# One line per ellipsoid: centre (z, y, x), semi-axes (z, first, second), angle in degrees, intensity. Our own drawing.
HEAD: tuple[tuple[float, ...], ...] = (
    (0.0, 0.0, 0.0, 0.60, 0.440, 0.345, 0, 0.90),  # scalp, fat
    (0.0, 0.0, 0.0, 0.58, 0.418, 0.323, 0, -0.78),  # skull
    (0.0, 0.0, 0.0, 0.55, 0.392, 0.298, 0, 0.13),  # cerebrospinal fluid
    (0.0, 0.0, 0.0, 0.53, 0.378, 0.285, 0, 0.27),  # grey matter
    (0.0, -0.010, -0.132, 0.45, 0.320, 0.112, 2, 0.18),  # white matter, left and right
    (0.0, -0.010, 0.132, 0.45, 0.320, 0.112, -2, 0.18),
    (0.0, -0.075, 0.045, 0.22, 0.105, 0.024, 16, -0.42),  # lateral ventricles, front and back horns
    (0.0, -0.075, -0.045, 0.22, 0.105, 0.024, -16, -0.42),
    (0.0, 0.115, 0.070, 0.20, 0.085, 0.021, 28, -0.42),
    (0.0, 0.115, -0.070, 0.20, 0.085, 0.021, -28, -0.42),
    (0.0, 0.020, 0.0, 0.15, 0.050, 0.007, 0, -0.38),  # third ventricle
    (0.0, 0.025, 0.050, 0.25, 0.045, 0.028, -20, -0.13),  # thalami
    (0.0, 0.025, -0.050, 0.25, 0.045, 0.028, 20, -0.13),
    (0.0, -0.030, 0.125, 0.25, 0.070, 0.022, 12, -0.15),  # putamina
    (0.0, -0.030, -0.125, 0.25, 0.070, 0.022, -12, -0.15),
    (0.0, -0.270, 0.0, 0.50, 0.105, 0.004, 0, -0.35),  # falx, a sub-pixel line
    (0.0, 0.290, 0.0, 0.50, 0.080, 0.004, 0, -0.35),
    (0.05, -0.190, 0.160, 0.12, 0.026, 0.018, 30, 0.30),  # a bright lesion, a dark one inside a faint halo
    (-0.05, 0.175, -0.165, 0.15, 0.050, 0.036, -25, 0.10),
    (-0.05, 0.175, -0.165, 0.10, 0.022, 0.014, -25, -0.40),
    (0.0, 0.205, 0.110, 0.40, 0.013, 0.013, 0, 0.30),  # dots that get finer, for resolution
    (0.0, 0.205, 0.143, 0.40, 0.009, 0.009, 0, 0.30),
    (0.0, 0.205, 0.168, 0.40, 0.006, 0.006, 0, 0.30),
    (0.0, 0.205, 0.188, 0.40, 0.004, 0.004, 0, 0.30),
    (0.0, -0.200, -0.150, 0.40, 0.045, 0.003, 35, -0.30),  # vessels: thin dark lines
    (0.0, -0.215, -0.125, 0.40, 0.045, 0.003, 35, -0.30),
    (0.0, -0.230, -0.100, 0.40, 0.045, 0.003, 35, -0.30),
)


def head_slice(z: float = 0.0) -> tuple[Ellipse, ...]:
    """Return the ellipses in which the plane at height ``z`` cuts the head's ellipsoids."""
    ellipses = []
    for z0, y, x, half_height, first, second, degrees, intensity in HEAD:
        size = 1 - ((z - z0) / half_height) ** 2
        if size > 0:
            axes = (first * size**0.5, second * size**0.5)
            ellipses.append(Ellipse((y, x), axes, float(np.deg2rad(degrees)), intensity))
    return tuple(ellipses)


def ellipse_kspace(
    ellipses: tuple[Ellipse, ...], frequency_y: NDArray[np.float64], frequency_x: NDArray[np.float64]
) -> NDArray[np.complex128]:
    r"""Return the continuous Fourier transform of ellipses, at any frequencies.

    For semi-axes :math:`a, b` and frequencies :math:`k_a, k_b` along them, with :math:`q = |(a k_a, b k_b)|`,

    .. math:: \int e^{-2\pi i k \cdot r}\,dr = a b\, \frac{J_1(2\pi q)}{q}\, e^{-2\pi i k \cdot c}.

    Parameters
    ----------
    ellipses
        The object.
    frequency_y, frequency_x
        Cycles per unit length; two arrays that broadcast (a grid as column and row, or a trajectory).

    Returns
    -------
    Integral of the object times the wave, in the broadcast shape.

    References
    ----------
    Van de Walle et al., doi:10.1109/42.563664; Guerquin-Kern et al., doi:10.1109/TMI.2011.2174158.
    """
    total = np.zeros(np.broadcast_shapes(frequency_y.shape, frequency_x.shape), dtype=np.complex128)
    for ellipse in ellipses:
        cos, sin = np.cos(ellipse.angle), np.sin(ellipse.angle)
        first = ellipse.semi_axes[0] * (cos * frequency_y + sin * frequency_x)
        second = ellipse.semi_axes[1] * (cos * frequency_x - sin * frequency_y)
        q = np.maximum(np.hypot(first, second), 1e-12)  # the limit at 0 is pi, and reached to rounding at 1e-12
        size = ellipse.intensity * ellipse.semi_axes[0] * ellipse.semi_axes[1]
        wave_y = np.exp(-2j * np.pi * ellipse.center[0] * frequency_y)
        wave_x = np.exp(-2j * np.pi * ellipse.center[1] * frequency_x)
        total += size * (j1(2 * np.pi * q) / q) * (wave_y * wave_x)
    return total


def phantom_kspace(
    shape: tuple[int, int],
    n_coils: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    n_slices: int = 1,
    oversampling: tuple[int, int] = (1, 1),
) -> NDArray[np.complex64]:
    """Return k-space of the head as coils would measure it: exact, then noise.

    It belongs to the unitary, centred FFT: ``fftshift(ifft2(ifftshift(kspace), norm="ortho"))`` is, up to truncation,
    `phantom_image` times `phantom_maps`.

    Parameters
    ----------
    shape
        ``(ky, kx)``, odd or even; non-square shapes have non-square pixels.
    n_coils
        1 or more; a single coil sees everything equally.
    noise
        Standard deviation of the real and of the imaginary part of each sample; the coil images have the same. Tissue
        is 0.1 to 0.9. The noise covariance over coils is ``2 * noise**2`` times the identity.
    seed
        Of the noise.
    n_slices
        Spread evenly through the middle of the head; 1 gives its central slice.
    oversampling
        Whole numbers ``(y, x)``: the grid covers this many times the picture's side.

    Returns
    -------
    ``(slice, coil, ky, kx)``, zero frequency at ``n // 2``.

    Raises
    ------
    ConfigError
        If a size or count is below 1, or the noise is negative.
    """
    if min(*shape, n_coils, n_slices, *oversampling) < 1 or noise < 0:
        raise ConfigError(
            f"Expected sizes and counts of 1 or more and noise of 0 or more, got shape {shape}, {n_coils} coils,"
            f" {n_slices} slices, oversampling {oversampling}, noise {noise:g}."
        )
    # All shifts are whole multiples of half a cycle per unit length, half an index step on the grid (times the
    # oversampling). So one evaluation on a grid of half steps, somewhat larger, holds every shifted copy.
    reach = COIL_ORDER + PHASE_ORDER
    half_steps = [
        np.arange(-2 * (n // 2) - reach * factor, 2 * (n - 1 - n // 2) + reach * factor + 1)
        for n, factor in zip(shape, oversampling, strict=True)
    ]
    frequency_y, frequency_x = (steps / (2 * f) for steps, f in zip(half_steps, oversampling, strict=True))
    unitary = np.sqrt(shape[0] * shape[1]) / (oversampling[0] * oversampling[1])
    weights = _phased_coils(n_coils)
    kspace = np.zeros((n_slices, n_coils, *shape), dtype=np.complex64)
    for index, z in enumerate(_slice_heights(n_slices)):
        fine = unitary * ellipse_kspace(head_slice(z), frequency_y[:, None], frequency_x[None, :])
        exact = np.zeros((n_coils, *shape), dtype=np.complex128)
        for p, q in zip(*np.nonzero(np.abs(weights).max(axis=0)), strict=True):
            top, left = (2 * reach - p) * oversampling[0], (2 * reach - q) * oversampling[1]
            shifted = fine[top : top + 2 * shape[0] : 2, left : left + 2 * shape[1] : 2]
            exact += weights[:, p, q, None, None] * shifted
        kspace[index] = exact
    if noise > 0:
        random = np.random.RandomState(seed)  # its stream is frozen, so sample data can be made again anywhere
        parts = random.standard_normal((*kspace.shape, 2)) * noise
        kspace += parts.view(np.complex128)[..., 0].astype(np.complex64)
    return kspace


def phantom_image(
    shape: tuple[int, int], *, n_slices: int = 1, oversampling: tuple[int, int] = (1, 1), n_rows: int = 16
) -> NDArray[np.complex128]:
    """Return the head on pixels: its mean intensity over each pixel, times the object's phase at the pixel's centre.

    Parameters
    ----------
    shape, n_slices, oversampling
        As in `phantom_kspace`.
    n_rows
        Lines per pixel along ``y`` on which coverage is computed, exactly along ``x``.

    Returns
    -------
    ``(slice, y, x)``.
    """
    y, x = _pixel_centers(shape, oversampling)
    pixel_y, pixel_x = oversampling[0] / shape[0], oversampling[1] / shape[1]
    fine_y = (y[:, None] + pixel_y * ((np.arange(n_rows) + 0.5) / n_rows - 0.5)).ravel()
    volume = np.zeros((n_slices, *shape))
    for index, z in enumerate(_slice_heights(n_slices)):
        for ellipse in head_slice(z):
            left, right = _chords(ellipse, fine_y)
            covered = np.minimum(right[:, None], x + pixel_x / 2) - np.maximum(left[:, None], x - pixel_x / 2)
            share = np.maximum(covered, 0.0) / pixel_x
            volume[index] += ellipse.intensity * share.reshape(shape[0], n_rows, shape[1]).mean(axis=1)
    order = np.arange(-PHASE_ORDER, PHASE_ORDER + 1)
    wave_y, wave_x = (np.exp(1j * np.pi * np.multiply.outer(order, axis)) for axis in (y, x))
    return volume * np.einsum("p,py,px->yx", _phase_series(), wave_y, wave_x)


def phantom_maps(
    shape: tuple[int, int], n_coils: int, *, oversampling: tuple[int, int] = (1, 1)
) -> NDArray[np.complex128]:
    """Return the coil maps that `phantom_kspace` uses, ``(coil, y, x)``.

    Smooth, complex, strongest near the coil, and not normalised: their sum of squares varies over the head. For a
    normalised model divide them by their root sum of squares, and multiply the image by it.
    """
    y, x = _pixel_centers(shape, oversampling)
    order = np.arange(-COIL_ORDER, COIL_ORDER + 1)
    wave_y, wave_x = (np.exp(1j * np.pi * np.multiply.outer(order, axis)) for axis in (y, x))
    return np.einsum("cpq,py,qx->cyx", _coil_series(n_coils), wave_y, wave_x)


def _coil_series(n_coils: int) -> NDArray[np.complex128]:
    """Return each map's Fourier coefficients, ``(coil, p, q)``, by half cycles from ``-COIL_ORDER`` up."""
    series = np.zeros((n_coils, 2 * COIL_ORDER + 1, 2 * COIL_ORDER + 1), dtype=np.complex128)
    if n_coils == 1:
        series[0, COIL_ORDER, COIL_ORDER] = 1
        return series
    for coil in range(n_coils):
        around = 2 * np.pi * coil / n_coils
        # An imaginary part of the coil's place makes its phase vary over the head, as it does in a real coil.
        profile_y = _coil_profile(COIL_DISTANCE * np.cos(around) + 0.1j * np.sin(2.3 * around + 0.4))
        profile_x = _coil_profile(COIL_DISTANCE * np.sin(around) + 0.1j * np.cos(1.7 * around))
        series[coil] = np.exp(2j * np.pi * 0.618 * coil) * np.multiply.outer(profile_y, profile_x)
    return series


def _coil_profile(place: complex) -> NDArray[np.complex128]:
    """Return the coefficients of ``((1 + f cos(pi (r - place))) / (1 + f))**2``, which is 1 at the coil."""
    wave = 0.5 * COIL_FALLOFF * np.exp(np.array([1j, -1j]) * np.pi * place)
    once = np.array([wave[0], 1, wave[1]]) / (1 + COIL_FALLOFF)
    return np.asarray(np.convolve(once, once), dtype=np.complex128)


def _phase_series() -> NDArray[np.complex128]:
    r"""Return the coefficients of :math:`e^{i A \cos(\theta)} \approx \sum_n i^n J_n(A) e^{i n \theta}` (Jacobi-Anger).

    :math:`\theta = \pi (y + x)` plus an offset, so term ``n`` is ``n`` half cycles along both axes.
    """
    n = np.arange(-PHASE_ORDER, PHASE_ORDER + 1)
    return np.asarray(1j**n * jv(n, PHASE_DEPTH) * np.exp(1j * n * PHASE_OFFSET), dtype=np.complex128)


def _phased_coils(n_coils: int) -> NDArray[np.complex128]:
    """Return the coefficients of maps times phase, for half cycles up to the sum of both orders."""
    coils = _coil_series(n_coils)
    size = coils.shape[-1]
    product = np.zeros((n_coils, size + 2 * PHASE_ORDER, size + 2 * PHASE_ORDER), dtype=np.complex128)
    for n, coefficient in enumerate(_phase_series()):
        product[:, n : n + size, n : n + size] += coefficient * coils
    return product


def _chords(ellipse: Ellipse, y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where horizontal lines enter and leave an ellipse; both the same where they miss it."""
    cos, sin = np.cos(ellipse.angle), np.sin(ellipse.angle)
    inv_a, inv_b = 1 / ellipse.semi_axes[0] ** 2, 1 / ellipse.semi_axes[1] ** 2
    square, cross = sin**2 * inv_a + cos**2 * inv_b, sin * cos * (inv_a - inv_b)
    dy = y - ellipse.center[0]
    inside = np.maximum((cross * dy) ** 2 - square * ((cos**2 * inv_a + sin**2 * inv_b) * dy**2 - 1), 0)
    middle = ellipse.center[1] - cross * dy / square
    return middle - np.sqrt(inside) / square, middle + np.sqrt(inside) / square


def _pixel_centers(
    shape: tuple[int, int], oversampling: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = ((np.arange(n, dtype=np.float64) - n // 2) * (f / n) for n, f in zip(shape, oversampling, strict=True))
    return y, x


def _slice_heights(n_slices: int) -> list[float]:
    return [0.0] if n_slices == 1 else np.linspace(*SLICE_HEIGHTS, n_slices).tolist()
