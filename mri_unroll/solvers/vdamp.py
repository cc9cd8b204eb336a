r"""Variable-density approximate message passing: pictures from random Fourier samples, their error foretold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mri_unroll.solvers.aliasing import Aliasing
from mri_unroll.solvers.solution import CONVERGED, STOPPED_SHORT, Solution
from mri_unroll.solvers.sure import BandsDenoiser, denoise_band, denoise_bands
from mri_unroll.solvers.wavelet import WaveletBands

DIVERGED = (
    "Diverged: the believed error rose; the picture is the last before, not a solution. "
    "Use l1-wavelet, which cannot diverge, or a trained network."
)
UNBELIEVED = (
    "The noise that undersampling made is not what message passing takes it for, so that its error is not foretold; "
    "compare with l1-wavelet or a trained network."
)
GAUSSIAN = 3.0  # kurtosis of Gaussian noise
MAX_KURTOSIS = 3.5  # median over bands
MAX_GAP = 1.2  # dB between believed and seen variance

_RISE = 1.5  # of the believed variance over its least, above which a run has diverged
_PATIENCE = 2  # iterations without progress after which a run ends

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class VdampIterate:
    """What one iteration knows."""

    noisy: list[Tensor]  # coefficients by band: the truth in Gaussian noise
    noise_vars: list[Tensor]  # the believed variance of that noise, of each coefficient: coloured state evolution
    estimate: Tensor  # (y, x), denoised
    errors: list[float]  # by band, squared error of the estimate by SURE, summed over coefficients; mean over shifts
    image: Tensor  # (y, x), the estimate brought to agree with the measurements

    @property
    def believed(self) -> float:
        """Believed squared error of the noisy picture."""
        return float(sum(variance.sum() for variance in self.noise_vars))


@dataclass(frozen=True, slots=True, eq=False)
class VdampSolution(Solution):
    """``residuals`` are the believed errors of the noisy picture, root mean square, in units of the picture."""

    predicted_nmse: float  # of the estimate, against a picture without noise; NaN if not to be believed
    band_errors: tuple[float, ...]  # by band, coarsest first, over the energy of the picture; NaN alike
    kurtosis: float  # of the first noise, median over bands
    gap: float  # dB by which the belief about the first noise exceeds what was seen


def vdamp_iterates(
    forward: Map,
    adjoint: Map,
    kspace: Tensor,
    mask: Tensor,
    probability: Tensor,
    sens_maps: Tensor,
    noise_var: float,
    bands: WaveletBands,
    *,
    denoiser: BandsDenoiser | None = None,
    n_shifts: int = 1,
    seed: int = 0,
    onsager: bool = True,
) -> Iterator[VdampIterate]:
    r"""Yield for :math:`k = 1, 2, \dots`, without end, what `vdamp` knows.

    .. math:: z = y - A\tilde r, \quad r = \Psi(\tilde r + A^H P^{-1} z), \quad g = D(r; \tau), \quad
              \tilde r = \Psi^H c\,(g - \alpha r), \quad \hat x = \Psi^H g + A^H(y - A\Psi^H g) .

    Parameters are those of `vdamp`; ``onsager=False`` hands on ``g`` itself, to see what the correction is for.
    """
    weight = torch.where(mask, 1 / probability.clamp_min(torch.finfo(probability.dtype).tiny), 0)
    aliasing = Aliasing(mask, probability, sens_maps, noise_var, bands)
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    message = torch.zeros_like(sens_maps[0])
    while True:
        residual = kspace - forward(message)
        picture = message + adjoint(weight * residual)
        variances = aliasing.variances(residual)
        # Nothing is known exactly: a floor far below single precision keeps divisions sound.
        floor = max(1e-14 * float(picture.abs().square().mean()), torch.finfo(weight.dtype).tiny)
        shifts = [(0, 0)] + [(int(y), int(x)) for y, x in random.integers(bands.period, size=(n_shifts - 1, 2))]
        passes = [_denoise(picture, variances, bands, shift, floor, onsager, denoiser, generator) for shift in shifts]
        estimate = torch.stack([one.estimate for one in passes]).mean(0)
        message = torch.stack([one.message for one in passes]).mean(0)
        errors = [sum(values) / n_shifts for values in zip(*(one.errors for one in passes), strict=True)]
        image = estimate + adjoint(kspace - forward(estimate))
        yield VdampIterate(passes[0].noisy, passes[0].noise_vars, estimate, errors, image)


class _Pass(NamedTuple):
    """One picture denoised with the wavelets in one position."""

    estimate: Tensor  # (y, x)
    message: Tensor  # (y, x)
    errors: list[float]  # by band
    noisy: list[Tensor]  # coefficients by band
    noise_vars: list[Tensor]


def _denoise(
    picture: Tensor,
    variances: list[Tensor],
    bands: WaveletBands,
    shift: tuple[int, int],
    floor: float,
    onsager: bool,
    denoiser: BandsDenoiser | None,
    generator: torch.Generator,
) -> _Pass:
    noisy = bands.analyse(picture.roll(shift, (0, 1)))
    noise_vars = [
        bands.spread(variance.roll(shift, (0, 1)), band).clamp_min(floor) for band, variance in enumerate(variances)
    ]
    if denoiser is None:
        denoised = [denoise_band(r, v, onsager=onsager) for r, v in zip(noisy, noise_vars, strict=True)]
    else:
        denoised = denoise_bands(denoiser, noisy, noise_vars, generator, onsager=onsager)
    back = (-shift[0], -shift[1])
    return _Pass(
        bands.synthesise([one.estimate for one in denoised]).roll(back, (0, 1)),
        bands.synthesise([one.message for one in denoised]).roll(back, (0, 1)),
        [one.error for one in denoised],
        noisy,
        noise_vars,
    )


def vdamp(
    forward: Map,
    adjoint: Map,
    kspace: Tensor,
    mask: Tensor,
    probability: Tensor,
    sens_maps: Tensor,
    noise_var: float,
    bands: WaveletBands,
    *,
    denoiser: BandsDenoiser | None = None,
    n_shifts: int = 1,
    n_iterations: int = 20,
    tolerance: float = 0.01,
    seed: int = 0,
) -> VdampSolution:
    r"""A picture from k-space sampled at random in two directions, by message passing; nothing to tune.

    Dividing by the probabilities makes undersampling look like coloured Gaussian noise of a variance that the residual
    tells, wavelet band by wavelet band; thresholds that are best for that noise follow from it. It holds for samples
    drawn independently of each other. Poisson-disc samples are not: with several coils they make less noise than is
    believed. Masks of lines make it diverge.

    Parameters
    ----------
    forward, adjoint
        ``A = M F S``, ``(y, x)`` to ``(coil, ky, kx)``, and its adjoint; F unitary.
    kspace
        ``(coil, ky, kx)``, 0 where not measured; zero frequency at ``n // 2``.
    mask, probability
        ``(ky, kx)``: True where measured, and with which probability, above 0 at every sample and 1 where all are.
    sens_maps
        ``(coil, y, x)``; their squared moduli sum to 1 in the body. Ones for a single coil.
    noise_var
        Mean squared modulus of a sample's noise, white over samples and coils; 0 or more.
    bands
        Wavelets of the picture's shape.
    denoiser
        Such as a trained network; None: soft thresholds, set by SURE.
    n_shifts
        1: the paper's fixed wavelets. More: the mean over that many positions of the wavelets, one of them fixed and
        the others drawn anew (with ``seed``) in each iteration. What is handed on keeps its independent error.
    n_iterations, tolerance
        Stop after this many, or when in two iterations the believed error has not fallen by this fraction; it also
        stops when the error rises. The picture is that of the least believed error.

    Returns
    -------
    VdampSolution
        ``value`` is ``(y, x)``. Whether the belief held is seen from the noise of the first iterate, with the picture
        in place of the truth: it should have the believed variance, and the kurtosis of Gaussian noise.

    Notes
    -----
    Millard, Hess, Mailhe and Tanner, IEEE Open J. Signal Process. 1, 146 (2020), doi:10.1109/OJSP.2020.3025228,
    arXiv:2003.02701; several coils: Millard, Chiew, Tanner, Hess and Mailhe, arXiv:2203.04180. Departs from the latter
    in how variances are approximated (`Aliasing`), from both in the factor of `denoise_band` and in shifting wavelets.
    """
    iterates = vdamp_iterates(
        *(forward, adjoint, kspace, mask, probability, sens_maps, noise_var, bands),
        denoiser=denoiser,
        n_shifts=n_shifts,
        seed=seed,
    )
    first = best = next(iterates)
    believed, status, progress = [first.believed], STOPPED_SHORT, 0
    while len(believed) < n_iterations:
        iterate = next(iterates)
        least = min(believed)
        believed.append(iterate.believed)
        if not math.isfinite(believed[-1]) or believed[-1] > _RISE * least:
            status = DIVERGED
            break
        if believed[-1] < (1 - tolerance) * believed[progress]:
            progress = len(believed) - 1
        if believed[-1] < least:
            best = iterate
        if len(believed) - 1 - progress >= _PATIENCE:
            status = CONVERGED
            break
    kurtosis, gap = _seen(first, bands.analyse(best.image), noise_var * (2 * mask.numel() - float(mask.sum())))
    energy = float(best.estimate.abs().square().sum()) + max(sum(best.errors), 0.0)
    held = status != DIVERGED and kurtosis <= MAX_KURTOSIS and abs(gap) <= MAX_GAP and energy > 0
    if not held and status != DIVERGED:
        status = UNBELIEVED
    return VdampSolution(
        value=best.image,
        status=status,
        n_iterations=len(believed),
        residuals=tuple(math.sqrt(value / best.image.numel()) for value in believed),
        predicted_nmse=max(sum(best.errors), 0.0) / energy if held else math.nan,
        band_errors=tuple(error / energy if held else math.nan for error in best.errors),
        kurtosis=kurtosis,
        gap=gap,
    )


def _seen(iterate: VdampIterate, truth: list[Tensor], shared: float) -> tuple[float, float]:
    r"""Median kurtosis of an iterate's noise over bands, and by how many dB its believed variance is too large.

    The picture in place of the truth has the measurements' noise itself, so that a part of the believed noise cannot be
    seen: of :math:`\sigma^2/p` per sample :math:`\sigma^2(2-p)`, which is ``shared`` over all of k-space.
    """
    noises = [(r - x).abs().square() for r, x in zip(iterate.noisy, truth, strict=True)]
    scaled = [noise / variance for noise, variance in zip(noises, iterate.noise_vars, strict=True)]
    tiny = torch.finfo(noises[0].dtype).tiny
    # Of complex Gaussian noise the fourth moment is twice the squared second: 3 for each of its two parts.
    moments = torch.stack([0.5 * GAUSSIAN * s.square().mean() / s.mean().square().clamp_min(tiny) for s in scaled])
    expected, seen = iterate.believed - shared, float(sum(noise.sum() for noise in noises))
    gap = 10 * math.log10(expected / seen) if min(expected, seen) > 0 else math.inf
    return float(moments.median()), gap
