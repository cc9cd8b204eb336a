r"""Scalar denoisers: from a noisy coefficient to an estimate, with the slope that message passing needs.

A *denoiser* here is any callable ``(noisy, noise_var) -> (estimate, slope)``: coefficients ``(*batch, n)`` seen in
white Gaussian noise of variance ``(*batch, 1)``, to their estimate and the mean over coefficients of its derivative,
``(*batch, 1)``, which is the divergence over ``n``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    r"""Proximal map of :math:`t\|x\|_1`: shrinks the modulus by ``threshold`` and keeps sign or phase."""
    size = x.abs()
    if not x.is_complex():
        return x.sign() * (size - threshold).clamp_min(0)
    return x * ((size - threshold).clamp_min(0) / size.clamp_min(torch.finfo(size.dtype).tiny))


def soft_slope(x: Tensor, threshold: Tensor | float) -> Tensor:
    r"""Mean derivative of `soft_threshold`, ``(*batch, 1)``.

    For real ``x`` the fraction of coefficients that survive. A complex one that does moves with slope 1 along its phase
    and :math:`1-t/|x|` across it: the mean of both.
    """
    size = x.abs()
    alive = (size > threshold).to(size.dtype)
    if x.is_complex():
        alive = alive * (1 - 0.5 * threshold / size.clamp_min(torch.finfo(size.dtype).tiny))
    return alive.mean(-1, keepdim=True)


def support_threshold(x: Tensor, threshold: Tensor | float, n_trusted: int) -> Tensor:
    """`soft_threshold` that leaves the largest entries of each signal unshrunk.

    Parameters
    ----------
    x
        ``(*batch, n)``.
    threshold
        As for `soft_threshold`; trusted entries below it are still set to zero.
    n_trusted
        Entries per signal, the largest moduli, that keep their value; 0 to ``n``.

    Notes
    -----
    Chen, Liu, Wang and Yin, NeurIPS 2018, arXiv:1808.10038.
    """
    shrunk = soft_threshold(x, threshold)
    if n_trusted == 0:
        return shrunk
    size = x.abs()
    smallest_trusted = size.topk(n_trusted, dim=-1).values[..., -1:]
    return torch.where((size >= smallest_trusted) & (size > threshold), x, shrunk)


def bernoulli_gauss(
    noisy: Tensor, noise_var: Tensor, sparsity: Tensor | float, variance: Tensor | float
) -> tuple[Tensor, Tensor]:
    r"""Posterior mean of a Bernoulli-Gaussian coefficient in Gaussian noise, and its derivative.

    .. math:: \hat x = \beta\pi r, \qquad \beta = \frac{\sigma_x^2}{\sigma_x^2+\tau^2}, \qquad
              \pi^{-1} = 1 + \tfrac{1-\epsilon}{\epsilon}\sqrt{1+\sigma_x^2/\tau^2}\, e^{-\beta r^2/2\tau^2} .

    Parameters
    ----------
    noisy
        ``r = x + tau * noise``, real, ``(*batch, n)``.
    noise_var
        :math:`\tau^2`, positive, broadcastable to ``noisy``.
    sparsity
        :math:`\epsilon`, the probability that a coefficient is not zero, in (0, 1).
    variance
        :math:`\sigma_x^2` of those that are not, positive.

    Returns
    -------
    tuple
        Estimate and its derivative with respect to ``noisy``, both of the shape of ``noisy``.

    Notes
    -----
    Borgerding, Schniter and Rangan, IEEE Trans. Signal Process. 65, 4293 (2017), doi:10.1109/TSP.2017.2708040.
    """
    sparsity, variance = (torch.as_tensor(v, dtype=noisy.dtype, device=noisy.device) for v in (sparsity, variance))
    gain = variance / (variance + noise_var)
    energy = noisy.square() * gain / noise_var
    # The log odds that the coefficient is not zero; a sigmoid of them neither over- nor underflows.
    log_odds = torch.logit(sparsity) - 0.5 * torch.log1p(variance / noise_var) + 0.5 * energy
    active = torch.sigmoid(log_odds)
    return gain * active * noisy, gain * active * (1 + energy * (1 - active))


@dataclass(frozen=True, slots=True)
class SoftThreshold:
    r"""Soft threshold at :math:`\alpha\tau`, a multiple of the noise level, as a denoiser."""

    alpha: float = 1.1402  # of least worst error when one coefficient in ten is not zero

    def __call__(self, noisy: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate and mean slope."""
        threshold = self.alpha * noise_var.sqrt()
        return soft_threshold(noisy, threshold), soft_slope(noisy, threshold)


@dataclass(frozen=True, slots=True)
class BernoulliGaussMean:
    """Posterior mean under a Bernoulli-Gaussian prior as a denoiser; see `bernoulli_gauss`."""

    sparsity: float
    variance: float = 1.0

    def __call__(self, noisy: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate and mean slope."""
        estimate, slope = bernoulli_gauss(noisy, noise_var, self.sparsity, self.variance)
        return estimate, slope.mean(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class ProbedDenoiser:
    r"""Any denoiser, its slope measured with a random probe, :math:`b^\top(D(r+hb)-D(r))/hn`.

    Parameters
    ----------
    denoise
        ``(noisy, noise_var) -> estimate``, such as a trained network.
    seed
        Of the probe.

    Notes
    -----
    Ramani, Blu and Unser, IEEE Trans. Image Process. 17, 1540 (2008), doi:10.1109/TIP.2008.2001404.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    seed: int = 0

    def __call__(self, noisy: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate and measured mean slope."""
        generator = torch.Generator(device=noisy.device).manual_seed(self.seed)
        probe = torch.randn(noisy.shape, dtype=noisy.dtype, device=noisy.device, generator=generator)
        estimate = self.denoise(noisy, noise_var)
        width = 1e-2 * noise_var.sqrt()
        change = self.denoise(noisy + width * probe, noise_var) - estimate
        return estimate, (probe.conj() * change).real.mean(-1, keepdim=True) / width
