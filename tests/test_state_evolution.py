"""State evolution: closed forms against quadrature, quadrature against sampling, predictions against runs."""

from __future__ import annotations

from itertools import repeat

import pytest
import torch

from mri_unroll.solvers import state_evolution
from mri_unroll.solvers.amp import amp_iterates
from mri_unroll.solvers.shrinkage import BernoulliGaussMean, SoftThreshold
from mri_unroll.solvers.state_evolution import (
    Instance,
    ScaleMixture,
    phase_transition,
    tuned_thresholds,
)

PRIOR = ScaleMixture.bernoulli_gauss(0.1)
NOISE_VAR = 0.2e-4
LEVELS = torch.tensor([1e-3, 0.1, 2.0], dtype=torch.float64)


def hidden(denoiser):
    """The same denoiser without its name, so that no closed form is used."""
    return lambda noisy, noise_var: denoiser(noisy, noise_var)


def drawn(n_signals: int, n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n_signals, n, generator=generator) < 0.1
    return active * torch.randn(n_signals, n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("prior", [PRIOR, ScaleMixture((0.5, 0.3, 0.2), (0.0, 0.4, 3.0))])
@pytest.mark.parametrize("told", [None, 1.7 * LEVELS])
def test_closed_form_and_quadrature_agree(prior: ScaleMixture, told) -> None:
    denoiser = SoftThreshold(1.3)
    for exact, numerical in zip(
        prior.risk(denoiser, LEVELS, told), prior.risk(hidden(denoiser), LEVELS, told), strict=True
    ):
        torch.testing.assert_close(numerical, exact, rtol=1e-4, atol=1e-9)


def test_instance_closed_form_and_quadrature_agree() -> None:
    instance = Instance(drawn(2, 300))
    level, told = torch.tensor([[0.1, 0.5], [0.2, 0.3]], dtype=torch.float64)
    for exact, numerical in zip(
        instance.risk(SoftThreshold(1.3), level, told),
        instance.risk(hidden(SoftThreshold(1.3)), level, told),
        strict=True,
    ):
        torch.testing.assert_close(numerical, exact, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("denoiser", [SoftThreshold(1.2), BernoulliGaussMean(0.1)])
def test_risk_is_the_mean_over_many_draws(denoiser) -> None:
    signals = drawn(1, 1_000_000)
    noise = torch.randn(signals.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for noise_var in LEVELS:
        estimate, slope = denoiser(signals + noise_var.sqrt() * noise, noise_var[None])
        error, mean_slope = PRIOR.risk(denoiser, noise_var)
        torch.testing.assert_close(error, (estimate - signals).square().mean(), rtol=0.02, atol=0)
        torch.testing.assert_close(mean_slope, slope.mean(), rtol=0.02, atol=0)


def test_matched_denoiser_has_the_least_risk() -> None:
    best = PRIOR.risk(BernoulliGaussMean(0.1), LEVELS)[0]
    for other in (SoftThreshold(0.8), SoftThreshold(1.4), BernoulliGaussMean(0.05), BernoulliGaussMean(0.1, 2.0)):
        assert bool((PRIOR.risk(other, LEVELS)[0] > best).all())
    # and then slope and error are one: E (x - x^)^2 = tau^2 E D'
    torch.testing.assert_close(PRIOR.risk(BernoulliGaussMean(0.1), LEVELS)[1] * LEVELS, best, rtol=1e-6, atol=0)


def test_the_recursion_with_known_values() -> None:
    solution = state_evolution(PRIOR, SoftThreshold(), undersampling=0.5, noise_var=NOISE_VAR, n_iterations=8)
    decibels = (10 * (solution.value / PRIOR.power).log10()).tolist()
    # From an implementation written apart from this one.
    for found, expected in zip(decibels, [-3.46, -6.38, -8.98, -11.38, -13.62, -15.76], strict=False):
        assert abs(found - expected) < 0.015
    assert solution.n_iterations == len(solution.residuals) == 8
    assert solution.residuals[0] == pytest.approx((NOISE_VAR + 0.1 / 0.5) ** 0.5)


def test_tuned_thresholds_beat_every_constant_one() -> None:
    of = {"undersampling": 0.5, "noise_var": NOISE_VAR, "n_iterations": 8}
    tuned = state_evolution(PRIOR, tuned_thresholds(PRIOR, **of), **of).value
    for alpha in (0.9, 1.14, 1.3, 1.5):
        assert bool((tuned <= state_evolution(PRIOR, SoftThreshold(alpha), **of).value + 1e-9).all())


@pytest.mark.parametrize("denoiser", [SoftThreshold(), BernoulliGaussMean(0.1)])
def test_it_predicts_a_run_and_the_instance_better_than_the_ensemble(denoiser) -> None:
    n, m, n_signals = 2000, 1000, 12
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(m, n, dtype=torch.float64, generator=generator) / m**0.5
    signals = drawn(n_signals, n, seed=1)
    noise = NOISE_VAR**0.5 * torch.randn(n_signals, m, dtype=torch.float64, generator=generator)
    data = signals @ matrix.mT + noise
    iterates = amp_iterates(lambda x: x @ matrix.mT, lambda y: y @ matrix, data, repeat(denoiser, 6))
    measured = torch.stack([(x - signals).square().mean(-1) for x, _ in iterates])
    of = {"undersampling": 0.5, "n_iterations": 6}
    ensemble = state_evolution(PRIOR, denoiser, noise_var=NOISE_VAR, **of).value[:, None]
    instance = state_evolution(Instance(signals), denoiser, noise_var=noise.square().mean(-1), **of).value
    ratio = (10 * (measured / instance).log10()).abs().mean()
    assert float((10 * (measured.mean(-1) / ensemble[:, 0]).log10()).abs().max()) < 2.0
    assert float(ratio) < float((10 * (measured / ensemble).log10()).abs().mean())


@pytest.mark.parametrize(("undersampling", "sparsity"), [(0.1, 0.1894), (0.25, 0.2674), (0.5, 0.3857), (0.75, 0.5337)])
def test_phase_transition_of_donoho_maleki_and_montanari(undersampling: float, sparsity: float) -> None:
    found = phase_transition(undersampling)
    assert found.sparsity == pytest.approx(sparsity, abs=5e-5)
    # State evolution itself, without noise, must vanish just below the transition and stay just above it.
    for factor, vanishes in ((0.95, True), (1.05, False)):
        epsilon = factor * found.sparsity * undersampling
        prior = ScaleMixture.bernoulli_gauss(epsilon, 1e8)  # least favourable: coefficients far above any threshold
        last = state_evolution(
            prior, SoftThreshold(found.alpha), undersampling=undersampling, noise_var=0.0, n_iterations=800
        ).value[-1]
        assert bool(last / prior.power < 1e-7) == vanishes
