r"""Learned approximate message passing for one dense ``A``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.nets.lista import analytic_weights
from mri_unroll.solvers.shrinkage import Denoiser, bernoulli_gauss, soft_slope, soft_threshold
from mri_unroll.solvers.solution import FIXED_COUNT, Solution

Shrinkage = Literal["soft", "bernoulli-gauss"]
Start = Literal["adjoint", "analytic"]
_EDGE = 0.2  # width of the soft edges in noise levels


class LearnedAMP(nn.Module):
    r"""Message passing with learned matrices and shrinkage (LAMP), starting from zero.

    .. math:: v_k = y - Ax_k + \tfrac{n}{m}\langle\eta'_{k-1}\rangle v_{k-1}, \qquad
              x_{k+1} = \eta_k(x_k + B_k v_k, \; s_k^2\|v_k\|^2/m) .

    The last term of the residual is Onsager's: it cancels the echo of earlier estimates, so that what the shrinkage
    sees is the truth in noise of a level it is told. Before training :math:`B_k = A^\top` and ``s_k = 1``: it is AMP.

    The mean slope of a soft threshold is a count and has no gradient. In training mode it gets that of a count with
    soft edges, without which training would not know that thresholds act on later layers through the Onsager term.

    Parameters
    ----------
    matrix
        ``A``, real, ``(m, n)``, columns of norm near 1. It is no part of the state dict.
    n_layers
        Iterations.
    shrinkage
        ``"soft"``: a soft threshold at :math:`\alpha_k` noise levels, times a gain; ``"bernoulli-gauss"``: the
        posterior mean with learned noise scale ``s_k``, sparsity and variance a layer.
    start
        The ``B`` before training: ``"adjoint"`` :math:`A^\top`, or ``"analytic"`` that of ALISTA, `analytic_weights`,
        from which training is much shorter.
    tied
        One ``B`` for all layers, or one a layer.
    learn_matrix
        False keeps ``B`` as it is; with :math:`A^\top` state evolution then predicts the trained network too.
    learn_gain
        False keeps the gains of ``"soft"`` at 1.
    alpha
        Thresholds that ``"soft"`` starts from, in noise levels.
    sparsity, variance
        Prior that ``"bernoulli-gauss"`` starts from.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.

    Notes
    -----
    Borgerding, Schniter and Rangan, IEEE Trans. Signal Process. 65, 4293 (2017), doi:10.1109/TSP.2017.2708040. There
    the posterior mean has no noise scale; a learned ``B`` changes the noise level, so here each layer may correct it.
    """

    matrix: Tensor
    log_gains: Tensor

    def __init__(
        self,
        matrix: Tensor,
        n_layers: int,
        *,
        shrinkage: Shrinkage = "soft",
        start: Start = "adjoint",
        tied: bool = True,
        learn_matrix: bool = True,
        learn_gain: bool = True,
        alpha: float = 1.1402,
        sparsity: float = 0.1,
        variance: float = 1.0,
    ) -> None:
        super().__init__()
        if shrinkage not in get_args(Shrinkage) or start not in get_args(Start):
            raise ConfigError(
                f"Expected shrinkage in {get_args(Shrinkage)} and start in {get_args(Start)}, "
                f"got {shrinkage!r} and {start!r}."
            )
        if n_layers < 1 or alpha <= 0 or variance <= 0 or not 0 < sparsity < 1:
            raise ConfigError(
                "Expected n_layers >= 1, alpha > 0, variance > 0 and 0 < sparsity < 1, "
                f"got {n_layers}, {alpha}, {variance} and {sparsity}."
            )
        self.shrinkage, self.n_layers = shrinkage, n_layers
        self.register_buffer("matrix", matrix, persistent=False)
        adjoint = matrix.mT if start == "adjoint" else analytic_weights(matrix)
        adjoint = adjoint.expand(1 if tied or not learn_matrix else n_layers, -1, -1).clone()
        if learn_matrix:
            self.adjoint = nn.Parameter(adjoint)
        else:
            self.register_buffer("adjoint", adjoint, persistent=False)

        def layers(value: float) -> nn.Parameter:
            return nn.Parameter(matrix.new_full((n_layers,), value))

        if shrinkage == "soft":
            self.log_alphas = layers(math.log(alpha))
            if learn_gain:
                self.log_gains = layers(0.0)
            else:
                self.register_buffer("log_gains", matrix.new_zeros(n_layers), persistent=False)
        else:
            self.log_noise_scales = layers(0.0)
            self.logit_sparsities = layers(math.log(sparsity / (1 - sparsity)))
            self.log_variances = layers(math.log(variance))

    def denoisers(self) -> list[Denoiser]:
        """The shrinkage of each layer, as `amp_iterates` and `state_evolution` take them."""
        return [partial(self._shrink, k) for k in range(self.n_layers)]

    def _shrink(self, k: int, noisy: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate of layer ``k`` and its mean slope, ``(*batch, 1)``."""
        if self.shrinkage == "soft":
            threshold = self.log_alphas[k].exp() * noise_var.sqrt()
            slope = soft_slope(noisy, threshold)
            if self.training:  # a count has no gradient, its expectation has: that of a count with soft edges
                width = _EDGE * noise_var.sqrt()
                soft_count = torch.sigmoid((noisy.abs() - threshold) / width).mean(-1, keepdim=True)
                slope = slope + soft_count - soft_count.detach()
            gain = self.log_gains[k].exp()
            return gain * soft_threshold(noisy, threshold), gain * slope
        noise_var = noise_var * (2 * self.log_noise_scales[k]).exp()
        sparsity, variance = self.logit_sparsities[k].sigmoid(), self.log_variances[k].exp()
        estimate, slope = bernoulli_gauss(noisy, noise_var, sparsity, variance)
        return estimate, slope.mean(-1, keepdim=True)

    def iterates(self, measurements: Tensor, n_layers: int | None = None) -> Iterator[Tensor]:
        """Yield ``x_1, x_2, ...``, each ``(*batch, n)``, of the first ``n_layers`` layers (None for all)."""
        m, n = self.matrix.shape
        if measurements.shape[-1] != m:
            raise ShapeError(f"Expected measurements (*batch, {m}) of the matrix, got {tuple(measurements.shape)}.")
        x = measurements.new_zeros(*measurements.shape[:-1], n)
        residual = torch.zeros_like(measurements)
        slope = measurements.new_zeros(*measurements.shape[:-1], 1)
        for k in range(self.n_layers if n_layers is None else n_layers):
            residual = measurements - x @ self.matrix.mT + n / m * slope * residual
            # A noiseless signal that is found exactly has no residual left; the floor keeps its noise level positive.
            noise_var = residual.square().mean(-1, keepdim=True).clamp_min(torch.finfo(residual.dtype).eps ** 2)
            x, slope = self._shrink(k, x + residual @ self.adjoint[k % len(self.adjoint)].mT, noise_var)
            yield x

    def forward(self, measurements: Tensor) -> Solution:
        """Recover ``x`` from ``y = A x + noise``, ``(*batch, m)``; the value is ``(*batch, n)``."""
        *_, last = self.iterates(measurements)
        return Solution(last, FIXED_COUNT, self.n_layers, ())
