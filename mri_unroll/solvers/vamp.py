r"""Vector approximate message passing: AMP for any singular values, not only those of an i.i.d. matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from mri_unroll.solvers.shrinkage import Denoiser
from mri_unroll.solvers.solution import FIXED_COUNT, Solution

# Slopes are kept off 0 and 1, where the error of one half could no longer be told from that of the other.
_SLOPES = (1e-6, 1 - 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class LinearHalf:
    r"""Linear estimation from the measurements and a guess, its answer made independent of the guess's error.

    Parameters
    ----------
    left, values, right
        :math:`A = U\,\mathrm{diag}(s)\,V^H`: ``(m, k)``, ``(k,)``, ``(n, k)``.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> LinearHalf:
        """From ``A``, ``(m, n)``."""
        left, values, right_adjoint = torch.linalg.svd(matrix, full_matrices=False)
        return cls(left, values, right_adjoint.mH)

    def __call__(
        self, measurements: Tensor, guess: Tensor, guess_var: Tensor, noise_var: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        r"""The extrinsic estimate and its error variance.

        The posterior mean :math:`\hat x` given ``y`` and :math:`x \sim N(r, \tau^2)` has slope
        :math:`\alpha = \langle\partial\hat x/\partial r\rangle`; what is given back is
        :math:`(\hat x - \alpha r)/(1-\alpha)`, with error variance :math:`\alpha\tau^2/(1-\alpha)`.

        Parameters
        ----------
        measurements
            ``(*batch, m)``.
        guess, guess_var
            :math:`r`, ``(*batch, n)``, and :math:`\tau^2`, ``(*batch, 1)``.
        noise_var
            Of the measurements.
        """
        inverse = self.values / (self.values.square() + noise_var / guess_var)  # (*batch, k)
        gain = inverse * self.values  # how much of each component the measurements decide, 0 to 1
        change = (inverse * (measurements @ self.left.conj()) - gain * (guess @ self.right.conj())) @ self.right.mT
        decided = (gain.sum(-1, keepdim=True) / guess.shape[-1]).clamp(*_SLOPES)  # 1 - alpha
        return guess + change / decided, guess_var * (1 - decided) / decided


def vamp_iterates(
    linear: LinearHalf,
    measurements: Tensor,
    denoisers: Iterable[Denoiser],
    *,
    noise_var: Tensor | float,
    signal_var: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the estimates ``(*batch, n)`` and the noise levels ``(*batch, 1)`` that they came from.

    Parameters are those of `vamp`, with the matrix decomposed by `LinearHalf.of` and one denoiser an iteration.
    """
    guess = measurements.new_zeros(*measurements.shape[:-1], linear.right.shape[0])
    guess_var = guess.real.new_full((*guess.shape[:-1], 1), signal_var)
    for denoiser in denoisers:
        noisy, level = linear(measurements, guess, guess_var, noise_var)
        estimate, slope = denoiser(noisy, level)
        yield estimate, level
        slope = slope.clamp(*_SLOPES)
        guess = (estimate - slope * noisy) / (1 - slope)
        guess_var = level * slope / (1 - slope)


def vamp(
    matrix: Tensor,
    measurements: Tensor,
    denoiser: Denoiser,
    *,
    noise_var: float,
    signal_var: float,
    n_iterations: int = 20,
) -> Solution:
    r"""Recover ``x`` from :math:`y = Ax + w` by linear estimation and denoising in turn.

    Each half hands on only what the other did not already know (its *extrinsic* estimate), so that both keep seeing the
    truth in white Gaussian noise. This holds for :math:`A = U\,\mathrm{diag}(s)\,V^H` with random ``V`` and any ``s``,
    ill-conditioned ones too, where `amp` diverges. The price is one singular value decomposition.

    Parameters
    ----------
    matrix
        ``A``, ``(m, n)``, real or complex.
    measurements
        ``y``, ``(*batch, m)``.
    denoiser
        ``(noisy, noise_var) -> (estimate, slope)``, see `mri_unroll.solvers.shrinkage`.
    noise_var
        Variance of each measurement's noise, positive.
    signal_var
        Mean square of a coefficient: what is known before the first iteration.
    n_iterations
        Iterations, each a linear estimate and a denoising.

    Returns
    -------
    Solution
        ``value`` is ``(*batch, n)``; ``residuals`` are the noise levels, standard deviations, largest over the batch.

    Notes
    -----
    Rangan, Schniter and Fletcher, IEEE Trans. Inf. Theory 65, 6664 (2019), doi:10.1109/TIT.2019.2916359, algorithm 2.
    """
    linear = LinearHalf.of(matrix)
    denoisers = repeat(denoiser, n_iterations)
    levels: list[float] = []
    estimate = measurements.new_zeros(*measurements.shape[:-1], matrix.shape[-1])
    for estimate, level in vamp_iterates(  # noqa: B007, the last estimate is the answer
        linear, measurements, denoisers, noise_var=noise_var, signal_var=signal_var
    ):
        levels.append(float(level.detach().max().sqrt()))
    return Solution(estimate, FIXED_COUNT, n_iterations, tuple(levels))
