r"""State evolution: the error of message passing, iteration by iteration, predicted before anything is run.

In the limit of large i.i.d. matrices iteration ``k`` of `amp` denoises :math:`x + \tau_k z`, ``z`` white, with

.. math:: \tau_{k+1}^2 = \sigma^2 + \frac{1}{\delta}\,\mathbb{E}\,|D_k(x + \tau_k z) - x|^2, \qquad
          \tau_0^2 = \sigma^2 + \frac{1}{\delta}\,\mathbb{E}\,|x|^2 ,

one number an iteration, from the prior of ``x``, the undersampling :math:`\delta = m/n`, the noise :math:`\sigma^2` and
the denoiser. Expectations are exact for soft thresholds, a fine quadrature for all other denoisers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mri_unroll.solvers.shrinkage import Denoiser, SoftThreshold
from mri_unroll.solvers.solution import FIXED_COUNT, Solution

_NODES = torch.linspace(-10, 10, 4001, dtype=torch.float64)  # of the quadrature, in standard deviations


def _cdf(z: Tensor) -> Tensor:
    return torch.special.ndtr(z)


def _pdf(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


@dataclass(frozen=True, slots=True)
class ScaleMixture:
    """Real coefficients that are i.i.d. draws from a mixture of zero-mean Gaussians.

    Parameters
    ----------
    weights
        Probabilities of the components, summing to 1.
    variances
        Their variances, zero or more.
    """

    weights: tuple[float, ...]
    variances: tuple[float, ...]

    @classmethod
    def bernoulli_gauss(cls, sparsity: float, variance: float = 1.0) -> ScaleMixture:
        """Zero, or with probability ``sparsity`` Gaussian of ``variance``."""
        return cls((1 - sparsity, sparsity), (0.0, variance))

    @property
    def power(self) -> Tensor:
        """Mean square of a coefficient."""
        return torch.tensor(sum(w * v for w, v in zip(self.weights, self.variances, strict=True)), dtype=torch.float64)

    def risk(self, denoiser: Denoiser, noise_var: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Mean squared error and mean slope of a denoiser in noise of variance :math:`\tau^2`.

        ``told`` is the variance that the denoiser believes in, if another. Each is of the shape of ``noise_var``.

        In component ``c`` the noisy coefficient ``r`` has variance :math:`s_c^2 = v_c + \tau^2` and the coefficient,
        given ``r``, mean :math:`\beta_c r`, :math:`\beta_c = v_c/s_c^2`, and variance :math:`\beta_c\tau^2`. The mean
        slope follows from :math:`\mathbb{E}D(r)r = s_c^2\,\mathbb{E}D'(r)` (Stein).
        """
        told = noise_var if told is None else told
        error, slope = torch.zeros_like(noise_var), torch.zeros_like(noise_var)
        for weight, variance in zip(self.weights, self.variances, strict=True):
            spread = variance + noise_var
            gain = variance / spread
            if isinstance(denoiser, SoftThreshold):
                square, mean_slope = _soft_moments(denoiser.alpha * told.sqrt(), spread.sqrt())
            else:
                noisy = spread.sqrt()[..., None] * _NODES
                estimate = denoiser(noisy, told[..., None])[0]
                density = _pdf(_NODES) * (_NODES[1] - _NODES[0])
                square = (density * estimate.square()).sum(-1)
                mean_slope = (density * estimate * noisy).sum(-1) / spread
            error = error + weight * (gain * noise_var + square - 2 * gain * spread * mean_slope + gain**2 * spread)
            slope = slope + weight * mean_slope
        return error, slope


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """These very coefficients instead of a distribution: what remains random is only where the noise falls.

    Parameters
    ----------
    signals
        ``(*batch, n)``, real: one prediction a signal.
    """

    signals: Tensor

    @property
    def power(self) -> Tensor:
        """Mean square of each signal's coefficients, ``batch``."""
        return self.signals.double().square().mean(-1)

    def risk(self, denoiser: Denoiser, noise_var: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean squared error and mean slope of a denoiser, each ``batch``; as `ScaleMixture.risk`."""
        x, level = self.signals.double(), noise_var.sqrt()[..., None]
        believed = level if told is None else told.sqrt()[..., None]
        if isinstance(denoiser, SoftThreshold):
            error, slope = _soft_risk(x / level, denoiser.alpha * believed / level)
            return (error * level.square()).mean(-1), slope.mean(-1)
        error, slope = torch.zeros_like(level[..., 0]), torch.zeros_like(level[..., 0])
        nodes = _NODES[::20]
        for node, density in zip(nodes, _pdf(nodes) * (nodes[1] - nodes[0]), strict=True):
            estimate = denoiser(x + level * node, believed.square())[0]
            error = error + density * (estimate - x).square().mean(-1)
            slope = slope + density * (estimate * node).mean(-1) / level[..., 0]
        return error, slope


def _soft_moments(threshold: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean square and mean slope of the soft threshold of :math:`r \sim N(0, s^2)`."""
    z = threshold / spread
    tail = _cdf(-z)
    return 2 * ((spread.square() + threshold.square()) * tail - threshold * spread * _pdf(z)), 2 * tail


def _soft_risk(mean: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    r"""Squared error and slope of the soft threshold at ``alpha`` of :math:`r \sim N(\mu, 1)`, against :math:`\mu`."""
    below, above = _cdf(alpha - mean), _cdf(-alpha - mean)
    dead = below - above
    edges = (alpha + mean) * _pdf(alpha - mean) + (alpha - mean) * _pdf(alpha + mean)
    return 1 + alpha**2 + (mean.square() - 1 - alpha**2) * dead - edges, 1 - dead


def state_evolution(
    prior: ScaleMixture | Instance,
    denoiser: Denoiser | Sequence[Denoiser],
    *,
    undersampling: float,
    noise_var: float | Tensor,
    n_iterations: int = 30,
) -> Solution:
    r"""Predict the mean squared error of `amp` after each iteration.

    Parameters
    ----------
    prior
        Distribution of a coefficient, or the signals themselves.
    denoiser
        As given to `amp`, or one an iteration, such as the layers of a trained network.
    undersampling
        :math:`\delta = m/n`.
    noise_var
        :math:`\sigma^2`; for an `Instance` better the noise's own mean square, ``batch``.
    n_iterations
        Iterations; not more than there are denoisers.

    Returns
    -------
    Solution
        ``value`` is the mean squared error of a coefficient after 1, 2, ... iterations, float64,
        ``(n_iterations, *batch)``; divided by ``prior.power`` it is the NMSE. ``residuals`` are the noise levels
        :math:`\tau_k` that the denoiser sees, largest over the batch.

    Notes
    -----
    Bayati and Montanari, IEEE Trans. Inf. Theory 57, 764 (2011), doi:10.1109/TIT.2010.2094817.
    """
    denoisers = denoiser[:n_iterations] if isinstance(denoiser, Sequence) else [denoiser] * n_iterations
    error = prior.power
    errors, levels = [], []
    for each in denoisers:
        seen = noise_var + error / undersampling
        error = prior.risk(each, seen)[0]
        errors.append(error)
        levels.append(float(seen.max().sqrt()))
    return Solution(torch.stack(errors), FIXED_COUNT, len(errors), tuple(levels))


def vamp_state_evolution(
    prior: ScaleMixture | Instance,
    denoiser: Denoiser | Sequence[Denoiser],
    *,
    singular_values: Tensor,
    n_unknowns: int,
    noise_var: float,
    n_iterations: int = 20,
) -> Solution:
    r"""Predict the mean squared error of `vamp` after each iteration.

    Noise variance and prior power are taken to be known to `vamp`. The denoiser need not match the prior: true and
    believed error variances of both halves are followed apart.

    Parameters
    ----------
    prior, denoiser, noise_var, n_iterations
        As for `state_evolution`.
    singular_values
        Of ``A``; those beyond the given ones are zero.
    n_unknowns
        ``n``.

    Returns
    -------
    Solution
        As for `state_evolution`.

    Notes
    -----
    Rangan, Schniter and Fletcher, IEEE Trans. Inf. Theory 65, 6664 (2019), doi:10.1109/TIT.2019.2916359, section IV.
    """
    denoisers = denoiser[:n_iterations] if isinstance(denoiser, Sequence) else [denoiser] * n_iterations
    energy = singular_values.double().square()
    believed = true = prior.power
    errors, levels = [], []
    for each in denoisers:
        inverse = 1 / (energy + noise_var / believed[..., None])
        gain = energy * inverse
        decided = gain.sum(-1) / n_unknowns
        # Error of the linear half: what the guess leaves, in and outside the row space, and the measurements' noise.
        kept = ((1 - gain).square().sum(-1) + n_unknowns - len(energy)) / n_unknowns
        after = kept * true + noise_var * (energy * inverse.square()).sum(-1) / n_unknowns
        seen = (after - (1 - decided).square() * true) / decided.square()
        told = believed * (1 - decided) / decided
        error, slope = prior.risk(each, seen, told)
        errors.append(error)
        levels.append(float(seen.max().sqrt()))
        true = (error - slope.square() * seen) / (1 - slope).square()
        believed = told * slope / (1 - slope)
    return Solution(torch.stack(errors), FIXED_COUNT, len(errors), tuple(levels))


def tuned_thresholds(
    prior: ScaleMixture, *, undersampling: float, noise_var: float, n_iterations: int
) -> list[SoftThreshold]:
    """The soft thresholds that state evolution says are best, one an iteration: a trained network without training."""
    alphas = torch.linspace(0.3, 4, 3701, dtype=torch.float64)
    error, chosen = prior.power, []
    for _ in range(n_iterations):
        seen = noise_var + error / undersampling
        errors = prior.risk(SoftThreshold(1.0), seen.expand_as(alphas), told=seen * alphas.square())[0]
        best = int(errors.argmin())
        chosen.append(SoftThreshold(float(alphas[best])))
        error = errors[best]
    return chosen


class PhaseTransition(NamedTuple):
    """Where recovery of sparse signals without noise by soft thresholds ends."""

    sparsity: float  # non-zero coefficients over measurements, the largest that succeeds
    alpha: float  # the threshold, in noise levels, that reaches it


def phase_transition(undersampling: float) -> PhaseTransition:
    r"""The most non-zero coefficients a measurement, :math:`\rho(\delta)`, that `amp` and l1 minimisation recover.

    .. math:: \rho(\delta) = \max_{z>0} \frac{1 - (2/\delta)\left[(1+z^2)\Phi(-z) - z\phi(z)\right]}
              {1 + z^2 - 2\left[(1+z^2)\Phi(-z) - z\phi(z)\right]} .

    Parameters
    ----------
    undersampling
        :math:`\delta = m/n`, in (0, 1).

    Notes
    -----
    Donoho, Maleki and Montanari, PNAS 106, 18914 (2009), doi:10.1073/pnas.0909892106.
    """
    z = torch.linspace(1e-4, 6, 200_001, dtype=torch.float64)
    tail = (1 + z.square()) * _cdf(-z) - z * _pdf(z)
    curve = (1 - 2 / undersampling * tail) / (1 + z.square() - 2 * tail)
    best = int(curve.argmax())
    return PhaseTransition(float(curve[best]), float(z[best]))
