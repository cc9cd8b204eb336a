"""Trajectories lie where they should, and weights make up for their density."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError, ShapeError, UnsupportedScan
from mri_unroll.physics import NufftOperator, operator_norm
from mri_unroll.physics.trajectory import density_compensation, koosh_ball, radial, spiral, stack_of_stars

Coordinates = NDArray[np.float64]

CASES: dict[str, tuple[Callable[[], Coordinates], tuple[int, ...]]] = {
    "radial golden": (lambda: radial(21, 32, (16, 16)), (16, 16)),
    "radial tiny, stretched": (lambda: radial(25, 33, (16, 13), angle="tiny"), (16, 13)),
    "radial uniform": (lambda: radial(30, 31, (17, 17), angle="uniform"), (17, 17)),
    "spiral": (lambda: spiral(3, 120, (16, 17)), (16, 17)),
    "spiral, dense centre": (lambda: spiral(3, 120, (16, 16), n_turns=4, density_power=2), (16, 16)),
    "koosh ball": (lambda: koosh_ball(60, 14, (7, 8, 7)), (7, 8, 7)),
    "stack of stars": (lambda: stack_of_stars(9, 16, (5, 8, 8)), (5, 8, 8)),
}
cases = pytest.mark.parametrize("case", CASES)


def grid(shape: tuple[int, ...]) -> Coordinates:
    axes = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(shape)).astype(float)


@cases
def test_within_k_space_and_accepted(case: str) -> None:
    make, shape = CASES[case]
    coordinates = make()
    assert coordinates.dtype == np.float64
    assert coordinates.shape[1:] == (len(shape),)
    limits = np.array(shape) / 2
    assert np.all(coordinates >= -limits)
    assert np.all(coordinates < limits)
    assert np.abs(coordinates).max(axis=0) == pytest.approx(limits, rel=0.2)  # all of k-space is used
    NufftOperator(torch.ones(1, *shape, dtype=torch.complex64), coordinates)


@pytest.mark.parametrize(("angle", "degrees"), [("golden", 111.246), ("tiny", 23.628), ("uniform", 12.0)])
def test_radial_angles(angle: str, degrees: float) -> None:
    spokes = radial(15, 8, (10, 10), angle=angle).reshape(15, 8, 2)
    np.testing.assert_array_equal(spokes[:, 4], 0)  # the centre
    np.testing.assert_allclose(spokes[0, :, 0], 0)  # the first spoke lies along x
    np.testing.assert_allclose(spokes[0, :, 1], (np.arange(8) - 4) * 10 / 8)
    ends = spokes[:, -1, 1] + 1j * spokes[:, -1, 0]
    np.testing.assert_allclose(np.angle(ends[1:] / ends[:-1], deg=True) % 360, degrees, atol=1e-3)


def test_spokes_stretch_with_the_picture() -> None:
    spokes = radial(40, 8, (20, 10)) / np.array([20, 10])
    radii = np.linalg.norm(spokes.reshape(40, 8, 2), axis=-1)
    np.testing.assert_allclose(radii, np.abs(np.arange(8) - 4)[None] / 8 * np.ones((40, 1)), atol=1e-12)


def test_spiral_turns_are_one_cell_apart() -> None:
    shape, n_arms = (32, 32), 4
    arms = spiral(n_arms, 4000, shape).reshape(n_arms, 4000, 2)
    crossings = []  # radii at which the arms cross the positive x axis
    for arm in arms:
        upward = (arm[:-1, 0] < 0) & (arm[1:, 0] >= 0) & (arm[1:, 1] > 0)
        crossings += list(np.linalg.norm(arm[1:][upward], axis=-1))
    np.testing.assert_allclose(np.diff(np.sort(crossings)), 1.0, atol=0.02)
    steps = np.linalg.norm(np.diff(arms[0], axis=0), axis=-1)[200:]
    assert steps.max() / steps.min() < 1.1  # constant gradient amplitude


def test_koosh_ball_directions_are_even() -> None:
    ends = koosh_ball(500, 2, (2, 2, 2)).reshape(500, 2, 3)[:, 0]  # at radius 1/2, scaled by 2
    np.testing.assert_allclose(np.linalg.norm(ends, axis=-1), 1)
    second_moment = ends.T @ ends / 500
    np.testing.assert_allclose(second_moment, np.eye(3) / 3, atol=0.01)


def test_stack_of_stars_is_radial_times_partitions() -> None:
    stack = stack_of_stars(4, 6, (5, 8, 8), angle="uniform").reshape(4, 5, 6, 3)
    np.testing.assert_array_equal(stack[..., 0], np.broadcast_to(np.arange(-2, 3)[:, None], (4, 5, 6)))
    for partition in range(5):
        np.testing.assert_array_equal(stack[:, partition, :, 1:].reshape(-1, 2), radial(4, 6, (8, 8), angle="uniform"))


@pytest.mark.parametrize("shape", [(12, 12), (11, 14), (6, 7, 8)])
def test_cartesian_grid_weighs_one(shape: tuple[int, ...]) -> None:
    np.testing.assert_allclose(density_compensation(grid(shape), shape), 1, atol=1e-3)


def test_a_lonely_sample_weighs_one_and_a_crowd_shares() -> None:
    coordinates = np.array([[-5.0, -5.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    np.testing.assert_allclose(density_compensation(coordinates, (16, 16)), [1, 1 / 3, 1 / 3, 1 / 3], atol=1e-3)


@cases
def test_no_sampled_wave_is_amplified(case: str) -> None:
    make, shape = CASES[case]
    coordinates = make()
    waves = np.exp(-2j * np.pi * (coordinates / np.array(shape)) @ grid(shape).T) / math.sqrt(math.prod(shape))
    gram = waves @ waves.conj().T  # of the rows of N, written out
    amplification = (np.abs(gram) ** 2) @ density_compensation(coordinates, shape, n_iterations=30)
    assert np.abs(amplification - 1).mean() < 0.01


@cases
@pytest.mark.parametrize("method", ["iterative", "ramp"])
def test_weights_are_positive_and_the_norm_is_near_one(case: str, method: str) -> None:
    make, shape = CASES[case]
    coordinates = make()
    weights = density_compensation(coordinates, shape, method=method)
    assert weights.shape == (len(coordinates),)
    assert weights.min() > 0
    assert weights.max() <= 1.001
    unit = torch.ones(1, *shape, dtype=torch.complex64)
    assert (
        0.8
        < float(operator_norm(NufftOperator(unit, coordinates, weights), unit[0]))
        < (1.4 if method == "iterative" else 2.0)
    )


@pytest.mark.parametrize("method", ["iterative", "ramp"])
@pytest.mark.parametrize(
    ("coordinates", "shape"),
    [
        (radial(60, 64, (32, 32)), (32, 32)),
        (radial(80, 65, (33, 33), angle="uniform"), (33, 33)),
        (spiral(8, 400, (32, 32)), (32, 32)),
        (koosh_ball(500, 24, (12, 12, 12)), (12, 12, 12)),
        (stack_of_stars(26, 24, (8, 12, 12), angle="uniform"), (8, 12, 12)),
    ],
)
def test_weighted_adjoint_is_the_picture(method: str, coordinates: Coordinates, shape: tuple[int, ...]) -> None:
    # A Gaussian, whose k-space is known: the weighted adjoint must give it back in its own units.
    width = [n / 8 for n in shape]
    where = grid(shape).reshape(*shape, len(shape))
    picture = np.exp(-0.5 * ((where / width) ** 2).sum(-1))
    scale = math.prod(w * math.sqrt(2 * math.pi) for w in width) / math.sqrt(math.prod(shape))
    frequency = 2 * math.pi * coordinates * width / np.array(shape)
    kspace = torch.from_numpy(scale * np.exp(-0.5 * (frequency**2).sum(-1))).to(torch.complex64)[None]
    weights = density_compensation(coordinates, shape, method=method)
    op = NufftOperator(torch.ones(1, *shape, dtype=torch.complex64), coordinates, weights)
    gridded = op.adjoint(kspace * torch.from_numpy(np.sqrt(weights))).numpy()
    assert np.linalg.norm(gridded - picture) < 0.1 * np.linalg.norm(picture)


def test_ramp_is_the_area_between_the_rings() -> None:
    n_spokes, n = 200, 32
    weights = density_compensation(radial(n_spokes, 2 * n, (n, n), angle="uniform"), (n, n), method="ramp")
    weights = weights.reshape(n_spokes, 2 * n)
    radius = np.abs(np.arange(2 * n) - n) / 2  # in cells, half a cell apart
    expected = np.where(radius > 0, math.pi * radius * 0.5 / n_spokes, math.pi * 0.25**2 / n_spokes)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, weights.shape), rtol=1e-6)


def test_refusals() -> None:
    for make in (lambda: radial(0, 8, (8, 8)), lambda: spiral(1, 0, (8, 8)), lambda: koosh_ball(1, 0, (8, 8, 8))):
        with pytest.raises(ConfigError, match="of 1 or more, got 0"):
            make()
    with pytest.raises(ConfigError, match="got 'silver'"):
        radial(3, 8, (8, 8), angle="silver")
    with pytest.raises(ConfigError, match="above 0"):
        spiral(1, 8, (8, 8), n_turns=-1)
    sound = radial(3, 8, (8, 8))
    with pytest.raises(ConfigError, match="got 'voronoi'"):
        density_compensation(sound, (8, 8), method="voronoi")
    with pytest.raises(ConfigError, match="n_iterations"):
        density_compensation(sound, (8, 8), n_iterations=0)
    with pytest.raises(ShapeError, match="real floating-point"):
        density_compensation(sound + 0j, (8, 8))
    with pytest.raises(UnsupportedScan, match="larger picture"):
        density_compensation(sound, (6, 6))
    with pytest.raises(ShapeError, match="two radii"):
        density_compensation(np.ones((4, 2)), (8, 8), method="ramp")
