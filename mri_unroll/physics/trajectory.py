r"""Non-Cartesian trajectories and the weights that make up for their uneven density.

Positions are in cycles per field of view, ``(sample, ndim)``, the last axis ordered like the axes of the picture,
``([z,] y, x)``, and lie in ``[-n/2, n/2)``. Spokes and arms reach the same resolution along every axis, so that they
are stretched where the picture has more pixels. Samples of a spoke or an arm follow one another in time.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError, ShapeError

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
# Multidimensional golden means: the real root of x^3 + x = 1 and of its companion (Chan et al. 2009).
GOLDEN_MEANS = (0.4655712318767680, 0.6823278038280193)
TINY_ORDER = 7  # the seventh tiny golden angle, 23.6 degrees

Angle = Literal["golden", "uniform", "tiny"]


def radial(n_spokes: int, n_samples: int, shape: tuple[int, int], *, angle: Angle = "golden") -> NDArray[np.float64]:
    r"""Spokes through the centre, each from one side of k-space to the other.

    Parameters
    ----------
    n_spokes
        Number of spokes; about ``pi / 2 * n`` fill k-space.
    n_samples
        Samples of a spoke; the one at ``n_samples // 2`` is the centre. ``2 * n`` oversamples twice, as scanners do.
    shape
        Pixels of the picture, ``(y, x)``.
    angle
        Between successive spokes: ``golden`` (111.2 degrees), ``tiny`` (23.6 degrees: as even over time, less eddy
        currents), or ``uniform`` (180 degrees divided by the number of spokes).

    Returns
    -------
    ``(n_spokes * n_samples, 2)``.

    Raises
    ------
    ConfigError
        If a number is below 1 or the angle unknown.

    References
    ----------
    Winkelmann et al., IEEE Trans. Med. Imaging 26, 68 (2007), doi:10.1109/TMI.2006.885337; Wundrak et al.,
    IEEE Trans. Med. Imaging 34, 1262 (2015), doi:10.1109/TMI.2014.2382572.
    """
    _check_counts(n_spokes=n_spokes, n_samples=n_samples)
    steps = {
        "golden": math.pi / GOLDEN_RATIO,
        "tiny": math.pi / (GOLDEN_RATIO + TINY_ORDER - 1),
        "uniform": math.pi / n_spokes,
    }
    if angle not in steps:
        raise ConfigError(f"Expected an angle {', '.join(steps)}, got {angle!r}.")
    angles = steps[angle] * np.arange(n_spokes)
    return _spokes(np.stack([np.sin(angles), np.cos(angles)], axis=-1), n_samples, shape)


def spiral(
    n_arms: int, n_samples: int, shape: tuple[int, int], *, n_turns: float | None = None, density_power: float = 1.0
) -> NDArray[np.float64]:
    r"""Spiral arms from the centre outwards, evenly rotated.

    .. math:: k(t) = \tfrac n2 \tau^\alpha e^{2\pi i (m \tau + a / A)}, \qquad \tau = t^{1/(\alpha+1)},

    the amplitude-limited design: about the same distance between successive samples throughout.

    Parameters
    ----------
    n_arms
        Number of arms :math:`A`.
    n_samples
        Samples of an arm, the first at the centre.
    shape
        Pixels of the picture, ``(y, x)``.
    n_turns
        Turns :math:`m` of an arm; by default as many as fill k-space, ``max(shape) / 2 / n_arms``.
    density_power
        :math:`\alpha`; 1: turns are equally far apart; more: denser in the centre.

    Returns
    -------
    ``(n_arms * n_samples, 2)``.

    Raises
    ------
    ConfigError
        If a number is out of range.

    References
    ----------
    Kim, Adalsteinsson and Spielman, Magn. Reson. Med. 50, 214 (2003), doi:10.1002/mrm.10493.
    """
    _check_counts(n_arms=n_arms, n_samples=n_samples)
    turns = max(shape) / 2 / n_arms if n_turns is None else n_turns
    if turns <= 0 or density_power <= 0:
        raise ConfigError(f"Expected turns and density_power above 0, got {turns:g} and {density_power:g}.")
    tau = (np.arange(n_samples) / n_samples) ** (1 / (density_power + 1))
    angles = 2 * math.pi * (turns * tau + np.arange(n_arms)[:, None] / n_arms)
    unit = np.stack([np.sin(angles), np.cos(angles)], axis=-1) * (tau**density_power / 2)[:, None]
    return (unit * np.array(shape)).reshape(-1, 2)


def koosh_ball(n_spokes: int, n_samples: int, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Spokes through the centre of a ball, their directions even over the hemisphere after any number of them.

    Parameters
    ----------
    n_spokes, n_samples
        As for `radial`; about ``pi / 2 * n**2`` spokes fill k-space.
    shape
        Pixels of the picture, ``(z, y, x)``.

    Returns
    -------
    ``(n_spokes * n_samples, 3)``.

    Raises
    ------
    ConfigError
        If a number is below 1.

    References
    ----------
    Chan et al., Magn. Reson. Med. 61, 354 (2009), doi:10.1002/mrm.21837.
    """
    _check_counts(n_spokes=n_spokes, n_samples=n_samples)
    height, turn = (np.arange(n_spokes)[:, None] * np.array(GOLDEN_MEANS) % 1.0).T
    across = np.sqrt(1 - height**2)
    angles = 2 * math.pi * turn
    return _spokes(np.stack([height, across * np.sin(angles), across * np.cos(angles)], axis=-1), n_samples, shape)


def stack_of_stars(
    n_spokes: int, n_samples: int, shape: tuple[int, int, int], *, angle: Angle = "golden"
) -> NDArray[np.float64]:
    """`radial` in the plane, Cartesian along z: every spoke is measured for all partitions before the next.

    Parameters
    ----------
    n_spokes, n_samples, angle
        As for `radial`, per partition.
    shape
        Pixels of the picture, ``(z, y, x)``; there are z partitions.

    Returns
    -------
    ``(n_spokes * z * n_samples, 3)``.
    """
    plane = radial(n_spokes, n_samples, shape[1:], angle=angle).reshape(n_spokes, 1, n_samples, 2)
    stack = np.empty((n_spokes, shape[0], n_samples, 3))
    stack[..., 0] = (np.arange(shape[0]) - shape[0] // 2)[:, None]
    stack[..., 1:] = plane
    return stack.reshape(-1, 3)


def density_compensation(
    coordinates: NDArray[np.floating],
    image_shape: tuple[int, ...],
    *,
    method: Literal["iterative", "ramp"] = "iterative",
    n_iterations: int = 10,
) -> NDArray[np.float64]:
    r"""Weights that make up for the uneven density of a trajectory, in cells of the Cartesian grid.

    A fully sampled Cartesian grid gets weights 1, a sample that stands alone too, samples that crowd a cell share it.
    With them :math:`A^H` of the measurements is a picture in the right units, and the norm of `NufftOperator` with unit
    maps is 1 for the grid and up to about 1.35 for other trajectories.

    Parameters
    ----------
    coordinates
        ``(sample, ndim)``, cycles per field of view, any trajectory in 2-D or 3-D.
    image_shape
        Pixels of the picture, ``([z,] y, x)``.
    method
        ``iterative``: Pipe and Menon's :math:`w \leftarrow w / (\Psi w)` with the kernel
        :math:`\Psi_{st} = |\langle a_s, a_t \rangle|^2` of the rows :math:`a_s` of ``N``, the narrowest that knows the
        field of view (Johnson and Pipe). At its fixed point :math:`a_s^H (N^H W N) a_s = 1`: no sampled wave is
        amplified. An iteration is a pair of transforms of twice the size.
        ``ramp``: volume of the shell that belongs to a sample's radius, shared among the samples of that radius, at
        most 1; at once, and exact for radial, spiral and koosh-ball trajectories; for stacks of them (whole-numbered z)
        plane by plane.
    n_iterations
        Of the iterative method; after 10, :math:`\Psi w` is 1 within 1 % for nearly all samples.

    Returns
    -------
    ``(sample,)``.

    Raises
    ------
    ShapeError, UnsupportedScan
        As for `NufftOperator`.
    ConfigError
        If there is no such method, or the number of iterations is below 1.

    References
    ----------
    Pipe and Menon, Magn. Reson. Med. 41, 179 (1999),
    doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V; Johnson and Pipe, Magn. Reson. Med. 61, 439
    (2009), doi:10.1002/mrm.21840.
    """
    import torch  # heavy: whoever only wants a trajectory does not wait for it

    from mri_unroll.physics.nufft import check_coordinates

    check_coordinates(torch.as_tensor(coordinates), image_shape)
    _check_counts(n_iterations=n_iterations)
    if method == "ramp":
        return _ramp(np.asarray(coordinates, np.float64), image_shape)
    if method != "iterative":
        raise ConfigError(f"Expected a method iterative or ramp, got {method!r}.")
    return _pipe_menon(np.asarray(coordinates, np.float64), image_shape, n_iterations)


def _pipe_menon(
    coordinates: NDArray[np.float64], image_shape: tuple[int, ...], n_iterations: int
) -> NDArray[np.float64]:
    import torch

    from mri_unroll.physics.nufft_engine import SINGLE_PRECISION_FROM, make_engine

    # |<a_s, a_t>|^2 is the transform of a triangle over twice the field of view, the autocorrelation of the picture's.
    doubled = tuple(2 * n for n in image_shape)
    nufft = make_engine(torch.as_tensor(2 * coordinates), doubled, SINGLE_PRECISION_FROM)
    triangle = torch.ones(())
    for n in image_shape:
        triangle = triangle.unsqueeze(-1) * (n - (torch.arange(2 * n) - n).abs()) / n**2
    weights = torch.ones(len(coordinates))
    for _ in range(n_iterations):
        density = nufft.forward(triangle * nufft.adjoint(weights.to(torch.complex64))).real
        weights = weights / torch.maximum(density, weights)  # a sample's own share is its weight: rounding apart, less
    return weights.double().numpy()


def _ramp(coordinates: NDArray[np.float64], image_shape: tuple[int, ...]) -> NDArray[np.float64]:
    n_planes = 1
    if len(image_shape) == 3 and np.allclose(coordinates[:, 0], np.round(coordinates[:, 0]), atol=1e-3):
        n_planes = len(np.unique(np.round(coordinates[:, 0])))
        coordinates, image_shape = coordinates[:, 1:], image_shape[1:]
    ndim = len(image_shape)
    radius = np.linalg.norm(coordinates / np.array(image_shape), axis=-1)
    # Radii that differ by rounding are one.
    radii, which, counts = np.unique(np.round(radius, 6), return_inverse=True, return_counts=True)
    if len(radii) < 2:
        raise ShapeError("Expected samples at two radii or more, got one.", 'Use method="iterative".')
    between = (radii[1:] + radii[:-1]) / 2
    edges = np.array([0.0, *between, 2 * radii[-1] - between[-1]])
    unit_ball = math.pi if ndim == 2 else 4 / 3 * math.pi
    volumes = unit_ball * np.diff(edges**ndim) * math.prod(image_shape)
    # A spoke of an even number of samples has its outermost on one side only: that shell is half empty.
    counts[-1] = max(counts[-1], counts[-2])
    return np.minimum(volumes * n_planes / counts, 1.0)[which]


def _spokes(directions: NDArray[np.float64], n_samples: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    radius = (np.arange(n_samples) - n_samples // 2) / n_samples
    return (directions[:, None, :] * radius[:, None] * np.array(shape)).reshape(-1, len(shape))


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"Expected {name} of 1 or more, got {count}.")
