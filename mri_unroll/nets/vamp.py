r"""Learned vector approximate message passing for one dense ``A``, ill-conditioned ones included."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.solvers.shrinkage import Denoiser, bernoulli_gauss
from mri_unroll.solvers.solution import FIXED_COUNT, Solution
from mri_unroll.solvers.vamp import LinearHalf, vamp_iterates


class LearnedVAMP(nn.Module):
    r"""`vamp` whose denoisers and noise level are learned (LVAMP), starting from zero.

    A layer is a linear estimate, then the posterior mean under a Bernoulli-Gaussian prior. Learned are the sparsity,
    the variance and a correction of the noise level of each layer, and the noise variance of the measurements. Before
    training it is VAMP with the prior that is given; where that is the true one there is nothing left to learn but what
    a finite ``A`` adds.

    Parameters
    ----------
    matrix
        ``A``, real, ``(m, n)``. It is no part of the state dict.
    n_layers
        Iterations.
    noise_var
        Variance of the measurements' noise to start from.
    sparsity, variance
        Prior to start from.

    Raises
    ------
    ConfigError
        If an option is out of range.

    Notes
    -----
    Borgerding, Schniter and Rangan, IEEE Trans. Signal Process. 65, 4293 (2017), doi:10.1109/TSP.2017.2708040. There
    the matrices of the linear half may be learned too, and training was found to leave them where VAMP has them.
    """

    matrix: Tensor
    left: Tensor
    values: Tensor
    right: Tensor

    def __init__(
        self, matrix: Tensor, n_layers: int, *, noise_var: float, sparsity: float = 0.1, variance: float = 1.0
    ) -> None:
        super().__init__()
        if n_layers < 1 or noise_var <= 0 or variance <= 0 or not 0 < sparsity < 1:
            raise ConfigError(
                "Expected n_layers >= 1, noise_var > 0, variance > 0 and 0 < sparsity < 1, "
                f"got {n_layers}, {noise_var}, {variance} and {sparsity}."
            )
        self.n_layers = n_layers
        linear = LinearHalf.of(matrix)
        buffers = {"matrix": matrix, "left": linear.left, "values": linear.values, "right": linear.right}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self.signal_var = sparsity * variance
        self.log_noise_var = nn.Parameter(matrix.new_full((1,), math.log(noise_var)))
        self.log_noise_scales = nn.Parameter(matrix.new_zeros(n_layers))
        self.logit_sparsities = nn.Parameter(matrix.new_full((n_layers,), math.log(sparsity / (1 - sparsity))))
        self.log_variances = nn.Parameter(matrix.new_full((n_layers,), math.log(variance)))

    def _denoise(self, k: int, noisy: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate of layer ``k`` and its mean slope."""
        noise_var = noise_var * (2 * self.log_noise_scales[k]).exp()
        sparsity, variance = self.logit_sparsities[k].sigmoid(), self.log_variances[k].exp()
        estimate, slope = bernoulli_gauss(noisy, noise_var, sparsity, variance)
        return estimate, slope.mean(-1, keepdim=True)

    def iterates(self, measurements: Tensor, n_layers: int | None = None) -> Iterator[Tensor]:
        """Yield ``x_1, x_2, ...``, each ``(*batch, n)``, of the first ``n_layers`` layers (None for all)."""
        m = self.matrix.shape[0]
        if measurements.shape[-1] != m:
            raise ShapeError(f"Expected measurements (*batch, {m}) of the matrix, got {tuple(measurements.shape)}.")
        linear = LinearHalf(self.left, self.values, self.right)
        layers = range(self.n_layers if n_layers is None else n_layers)
        denoisers: list[Denoiser] = [partial(self._denoise, k) for k in layers]
        noise_var = self.log_noise_var.exp()
        for x, _ in vamp_iterates(linear, measurements, denoisers, noise_var=noise_var, signal_var=self.signal_var):
            yield x

    def forward(self, measurements: Tensor) -> Solution:
        """Recover ``x`` from ``y = A x + noise``, ``(*batch, m)``; the value is ``(*batch, n)``."""
        *_, last = self.iterates(measurements)
        return Solution(last, FIXED_COUNT, self.n_layers, ())
