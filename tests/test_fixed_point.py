"""Fixed points: every method against a direct solve, per-sample stopping, safeguards, certificates."""

from __future__ import annotations

import math

import pytest
import torch
from support.operators import random_complex

from mri_unroll.errors import ConfigError, ConvergenceError, ShapeError
from mri_unroll.solvers import FixedPoint, fixed_point
from mri_unroll.solvers.solution import CONVERGED, FIXED_COUNT, STOPPED_SHORT

METHODS = ("picard", "anderson", "broyden")


def contraction(n: int, factor: float, dtype: torch.dtype = torch.complex128, seed: int = 0):
    """``f(z) = M z + b`` with ``||M|| = factor``, and its fixed point."""
    matrix = random_complex((n, n), dtype, seed)
    matrix = factor * matrix / torch.linalg.matrix_norm(matrix, 2)
    offset = random_complex((n, 1), dtype, seed + 1)
    return (lambda z: matrix @ z + offset), torch.linalg.solve(torch.eye(n, dtype=dtype) - matrix, offset)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32, torch.complex64])
def test_every_method_finds_the_fixed_point_of_a_linear_contraction(method: str, dtype: torch.dtype) -> None:
    step, exact = contraction(13, 0.9, dtype)
    accuracy = 1e-12 if exact.dtype in (torch.float64, torch.complex128) else 1e-5
    found = fixed_point(step, torch.zeros_like(exact), method=method, tolerance=accuracy, n_iterations=400)
    assert isinstance(found, FixedPoint)
    assert found.status == CONVERGED
    assert found.value.dtype == dtype
    assert torch.linalg.norm(found.value - exact) < 20 * accuracy * torch.linalg.norm(exact)


@pytest.mark.parametrize("method", ["anderson", "broyden"])
def test_acceleration_needs_far_fewer_steps_than_the_plain_iteration(method: str) -> None:
    # eigenvalues from -0.97 to 0.97: the plain iteration gains 3 % a step
    values = torch.linspace(-0.97, 0.97, 40, dtype=torch.float64)[:, None]

    def step(z: torch.Tensor) -> torch.Tensor:
        return values * z + 0.1 * torch.tanh(z.flip(0)) * (1 - values.abs()) + 1

    start = torch.zeros(40, 1, dtype=torch.float64)
    counts = [fixed_point(step, start, method=m, tolerance=1e-8, n_iterations=2000).n_iterations for m in METHODS]
    assert counts[METHODS.index(method)] < 0.4 * counts[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_certificate_is_what_the_value_shows(method: str) -> None:
    step, _ = contraction(9, 0.8)
    found = fixed_point(step, torch.ones(9, 1, dtype=torch.complex128), method=method, tolerance=1e-3)
    image = step(found.value)
    torch.testing.assert_close(found.image, image)
    expected = torch.linalg.norm(image - found.value) / torch.linalg.norm(image)
    torch.testing.assert_close(found.residual, expected)
    assert float(found.residual) <= 1e-3
    assert found.residuals[-1] == pytest.approx(float(expected))
    assert found.n_iterations == len(found.residuals) == int(found.counts)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [(3,), (2, 2)])
def test_each_sample_ends_where_it_would_end_alone(method: str, batch: tuple[int, ...]) -> None:
    """Samples of very different difficulty, one of them solved from the start."""
    n = math.prod(batch)
    factors = torch.linspace(0.1, 0.95, n, dtype=torch.float64).view(*batch, 1, 1)
    matrix = random_complex((*batch, 5, 5), torch.complex128, 0)
    matrix = factors * matrix / torch.linalg.matrix_norm(matrix, 2)[..., None, None]
    offset = random_complex((*batch, 5, 2), torch.complex128, 1)
    start = random_complex((*batch, 5, 2), torch.complex128, 2)
    first = (0,) * len(batch)
    start[first] = torch.linalg.solve(torch.eye(5) - matrix[first], offset[first])
    n_calls = 0

    def step(z: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return matrix @ z + offset

    settings = {"method": method, "tolerance": 1e-7, "n_iterations": 300}
    together = fixed_point(step, start, **settings)
    assert n_calls == together.n_iterations == int(together.counts.max())
    assert int(together.counts[first]) == 1
    assert len(set(together.counts.flatten().tolist())) >= 3
    for index in torch.cartesian_prod(*[torch.arange(k) for k in batch]).view(n, -1).tolist():
        place = tuple(index)
        alone = fixed_point(lambda z, p=place: matrix[p] @ z + offset[p], start[place], **settings)
        assert int(together.counts[place]) == alone.n_iterations
        torch.testing.assert_close(together.value[place], alone.value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(together.residual[place], alone.residual, rtol=1e-5, atol=1e-15)


def test_a_sample_that_has_arrived_stands_still() -> None:
    seen = []

    def step(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.clone())
        return torch.tensor([0.0, 0.9], dtype=z.dtype).view(2, 1, 1) * z + 1

    fixed_point(step, torch.zeros(2, 1, 1, dtype=torch.float64), method="picard", tolerance=1e-6, n_iterations=200)
    assert len(seen) > 50
    assert all(torch.equal(z[0], seen[1][0]) for z in seen[1:])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_given_back_is_the_best_that_was_seen(method: str) -> None:
    """A map that leads away: the start is as good as it gets, and the status says that it is not good."""
    found = fixed_point(
        lambda z: 3 * z + 0.1 * z.square(), torch.ones(1, 4, 1, dtype=torch.float64), method=method, n_iterations=7
    )
    assert found.status == STOPPED_SHORT
    assert found.n_iterations == 7
    assert float(found.residual) == pytest.approx(min(found.residuals))
    again = fixed_point(lambda z: 3 * z + 0.1 * z.square(), found.value, method=method, n_iterations=1)
    torch.testing.assert_close(again.residual, found.residual)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_overflows_leaves_the_others_alone(method: str) -> None:
    def step(z: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 * z[0] + 1, z[1].exp().exp()])

    start = torch.tensor([0.0, 3.0]).view(2, 1, 1)
    found = fixed_point(step, start, method=method, tolerance=1e-5, n_iterations=40)
    assert found.status == STOPPED_SHORT
    assert float(found.residual[0]) <= 1e-5
    assert float(found.value[0]) == pytest.approx(2.0, abs=1e-4)
    assert bool(torch.isfinite(found.value).all())


@pytest.mark.parametrize("method", METHODS)
def test_a_map_that_is_not_finite_is_not_converged(method: str) -> None:
    found = fixed_point(lambda z: z * math.nan, torch.ones(2, 3, 1), method=method, n_iterations=5)
    assert found.status == STOPPED_SHORT
    assert not bool(torch.isfinite(found.residual).any())


@pytest.mark.parametrize("method", METHODS)
def test_acceleration_that_leads_astray_comes_back(method: str) -> None:
    """Extrapolation from the steep foot of the curve goes the wrong way, to where the map is not defined."""

    def step(z: torch.Tensor) -> torch.Tensor:
        return torch.where(z < 0, math.nan, 10 * torch.tanh(z / 5) + 0.05)

    start = torch.full((1, 1, 1), 0.1, dtype=torch.float64)
    found = fixed_point(step, start, method=method, tolerance=1e-6, n_iterations=60)
    assert found.status == CONVERGED
    assert float(found.value) == pytest.approx(9.6, abs=0.3)


def test_zero_tolerance_runs_all_iterations() -> None:
    step, _ = contraction(6, 0.5)
    found = fixed_point(step, torch.zeros(6, 1, dtype=torch.complex128), method="picard", tolerance=0, n_iterations=9)
    assert (found.status, found.n_iterations) == (FIXED_COUNT, 9)
    z = torch.zeros(6, 1, dtype=torch.complex128)
    for _ in range(9):
        z = step(z)
    torch.testing.assert_close(found.image, z)


def test_a_fixed_point_of_zero_is_reached_at_once() -> None:
    found = fixed_point(lambda z: 0.5 * z, torch.zeros(2, 3, 4, dtype=torch.complex64))
    assert (found.status, found.n_iterations) == (CONVERGED, 1)


def test_three_axes_can_make_up_one_unknown() -> None:
    scale = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)
    found = fixed_point(lambda z: scale * z + 1, torch.zeros(2, 3, 2, 2), ndim=3, n_iterations=100)
    assert found.counts.shape == (2,)
    torch.testing.assert_close(found.value, (1 / (1 - scale)).expand(2, 3, 2, 2), rtol=1e-3, atol=0)


def test_damping_tames_an_oscillation() -> None:
    settings = {"method": "picard", "tolerance": 1e-6, "n_iterations": 100}
    start = torch.zeros(1, 1, dtype=torch.float64)
    assert fixed_point(lambda z: 1 - 1.2 * z, start, **settings).status == STOPPED_SHORT
    tamed = fixed_point(lambda z: 1 - 1.2 * z, start, **settings, damping=0.5)
    assert float(tamed.value) == pytest.approx(1 / 2.2, abs=1e-6)


def test_strict_says_how_far_it_came() -> None:
    step, exact = contraction(8, 0.99)
    with pytest.raises(ConvergenceError, match=r"after 3 iterations the relative residual is") as caught:
        fixed_point(step, torch.zeros_like(exact), tolerance=1e-9, n_iterations=3, strict=True)
    assert caught.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "newton"},
        {"n_iterations": 0},
        {"tolerance": -1.0},
        {"tolerance": math.nan},
        {"damping": 0.0},
        {"damping": 1.5},
        {"memory": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        fixed_point(lambda z: z, torch.zeros(2, 2), **settings)


def test_a_step_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\), got \(2, 2\)"):
        fixed_point(lambda z: z[:, :2], torch.zeros(2, 3))
