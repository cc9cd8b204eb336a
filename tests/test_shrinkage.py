"""Denoisers against quadrature, finite differences and closed forms."""

from __future__ import annotations

import pytest
import torch
from support.operators import random_complex

from mri_unroll.solvers.shrinkage import (
    BernoulliGaussMean,
    ProbedDenoiser,
    SoftThreshold,
    bernoulli_gauss,
    soft_slope,
    soft_threshold,
    support_threshold,
)

R = torch.linspace(-3, 3, 61, dtype=torch.float64)


def test_soft_threshold_is_the_proximal_map_of_the_modulus() -> None:
    x = torch.cat([random_complex((50,), torch.complex128, 0), torch.zeros(1, dtype=torch.complex128)])
    z = soft_threshold(x, 0.7)
    value = 0.5 * (z - x).abs().square() + 0.7 * z.abs()
    for seed in range(20):
        other = z + 0.1 * random_complex((51,), torch.complex128, seed)
        assert bool((0.5 * (other - x).abs().square() + 0.7 * other.abs() >= value).all())
    real = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_threshold(real, 0.4), soft_threshold(real + 0j, 0.4).real)


def test_support_threshold_trusts_the_largest() -> None:
    x = torch.tensor([[3.0, -2.0, 0.5, 1.5], [0.2, 0.1, -0.3, 0.0]])
    assert support_threshold(x, 1.0, 2).tolist() == [[3.0, -2.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(support_threshold(x, 1.0, 0), soft_threshold(x, 1.0))


def test_bernoulli_gauss_is_the_posterior_mean() -> None:
    noise_var, sparsity, variance = torch.tensor(0.3, dtype=torch.float64), 0.2, 2.0
    x = torch.linspace(-12, 12, 8001, dtype=torch.float64)
    likelihood = torch.exp(-0.5 * (R[:, None] - x).square() / noise_var)
    slab = torch.exp(-0.5 * x.square() / variance) / (2 * torch.pi * variance) ** 0.5 * (x[1] - x[0])
    spike = (1 - sparsity) * torch.exp(-0.5 * R.square() / noise_var)
    mean = sparsity * (likelihood * slab * x).sum(-1) / (sparsity * (likelihood * slab).sum(-1) + spike)
    estimate, slope = bernoulli_gauss(R, noise_var, sparsity, variance)
    torch.testing.assert_close(estimate, mean)
    by_autograd = torch.func.vmap(torch.func.grad(lambda r: bernoulli_gauss(r, noise_var, sparsity, variance)[0]))(R)
    torch.testing.assert_close(slope, by_autograd)


def test_bernoulli_gauss_survives_extreme_noise_levels() -> None:
    for noise_var in (1e-14, 1e14):
        estimate, slope = bernoulli_gauss(R.float(), torch.tensor(noise_var), 0.1, 1.0)
        assert bool(torch.isfinite(estimate).all())
        assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("denoiser", [SoftThreshold(1.3), BernoulliGaussMean(0.1, 2.0)])
def test_slopes_agree_with_a_random_probe(denoiser) -> None:
    noisy = torch.randn(3, 20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise_var = torch.tensor([[0.1], [0.2], [0.5]], dtype=torch.float64)
    estimate, slope = denoiser(noisy, noise_var)
    probed = ProbedDenoiser(lambda r, v: denoiser(r, v)[0], seed=1)(noisy, noise_var)
    torch.testing.assert_close(probed[0], estimate)
    assert slope.shape == (3, 1)
    torch.testing.assert_close(probed[1], slope, rtol=0.1, atol=0)


def test_complex_slope_is_half_the_trace_of_the_real_jacobian() -> None:
    x = random_complex((9,), torch.complex128, 0)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: torch.view_as_real(soft_threshold(torch.view_as_complex(v), 0.4)), torch.view_as_real(x)
    )
    trace = sum(float(jacobian[i, j, i, j]) for i in range(9) for j in range(2))
    torch.testing.assert_close(float(soft_slope(x, 0.4)), trace / 18)
