"""Where a finished picture meets the physics of its blur: the image-domain twin of `recon.calibrate`.

The same functions serve restoration and training, so that a network meets the noise estimates it was trained with.
"""

from __future__ import annotations

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from mri_unroll.physics.blur import BlurOperator
from mri_unroll.physics.linop import operator_norm
from mri_unroll.physics.resolution import TruncationOperator
from mri_unroll.recon.calibrate import CalibratedProblem

BlurredProblem = CalibratedProblem[BlurOperator | TruncationOperator]

_WAVELET = "db2"
_NORMAL_MEDIAN = 0.6744897501960817  # of the magnitude of a standard normal number
_TISSUE = 0.1  # of bright; below it magnitudes are air, where they scatter less than the noise does
_ENOUGH = 256  # coefficients that a median needs
_WINDOW = 7  # pixels of a side, over which the power of the source is compared with that of noise
_NOISE_ALONE, _SIGNAL = 1.6, 3.0  # times the power of noise: below the first nothing is there, above the second all is


def estimate_noise(picture: NDArray[np.floating], bright: float) -> float:
    r"""Standard deviation of the noise of a real picture, from its finest diagonal wavelet band.

    Where there is tissue, a magnitude scatters as its real part does; in air less, and air may be set to zero. So the
    median of the magnitudes is taken over tissue, if there is enough of it, and over all that is not zero else. Detail
    finer than two pixels biases it upwards, noise that was smoothed downwards.

    Parameters
    ----------
    picture
        ``(y, x)``.
    bright
        Of tissue, in the same units.

    Notes
    -----
    Donoho and Johnstone, Biometrika 81, 425 (1994), doi:10.1093/biomet/81.3.425; magnitudes: Gudbjartsson and Patz,
    Magn. Reson. Med. 34, 910 (1995), doi:10.1002/mrm.1910340618.
    """
    coarse, (_, _, diagonal) = pywt.dwt2(np.asarray(picture, dtype=np.float64), _WAVELET, mode="symmetric")
    size = np.abs(diagonal)
    tissue = np.abs(coarse) > 2 * _TISSUE * bright  # a flat region is twice as bright there
    if np.count_nonzero(tissue) < _ENOUGH:
        tissue = size > 0
    return float(np.median(size[tissue])) / _NORMAL_MEDIAN if tissue.any() else 0.0


def degraded(picture: Tensor, op: BlurOperator | TruncationOperator) -> Tensor:
    """What was measured of a sharp picture, from the picture that is there, ``(1, y, x)`` complex.

    A blurred picture is the measurement itself. Of one whose k-space was filled with zeros it is the small picture
    before that: only there is noise white.
    """
    return op.forward(picture) if isinstance(op, TruncationOperator) else picture


def pose(
    picture: NDArray[np.floating],
    op: BlurOperator | TruncationOperator,
    *,
    scale: float,
    noise: float | None = None,
    lipschitz: float | None = None,
) -> BlurredProblem:
    """The forward problem of one picture, in units where bright tissue is near 1.

    Parameters
    ----------
    picture
        ``(y, x)``, as it is there.
    op
        What lies before it.
    scale
        What is bright, in the units of the picture: the same for a whole series.
    noise
        Standard deviation in the units of the picture, that of the series; None: estimated from the picture itself.
    lipschitz
        Bound of the squared norm of ``op``; None: it is estimated.
    """
    real = torch.from_numpy(np.ascontiguousarray(picture / scale, dtype=np.float32))[None]
    data = degraded(torch.complex(real, torch.zeros_like(real)), op)
    return CalibratedProblem(
        op=op,
        kspace=data,
        scale=scale,
        noise_level=estimate_noise(data[0].real.numpy(), 1.0) if noise is None else noise / scale,
        sampled_fraction=passed_share(op),
        warnings=(),
        lipschitz=norm_bound(op) if lipschitz is None else lipschitz,
    )


def keep_quiet(problem: BlurredProblem, restored: Tensor) -> Tensor:
    r"""Restore nothing where the source holds no more than its noise: there its local mean is shown.

    A network may make structure of noise that deblurring amplifies. Where the mean square of the source over a window
    is what noise alone gives, :math:`2\sigma^2` of a magnitude, nothing is there to be restored; from three times that
    on the picture is the network's, in between they are mixed.

    Parameters
    ----------
    problem
        What was solved.
    restored
        Its solution, complex ``(1, y, x)``.
    """
    op = problem.op
    source, noise = problem.kspace, problem.noise_level
    if isinstance(op, TruncationOperator):  # filled with zeros, white noise spreads over more pixels
        source, noise = op.adjoint(source), noise * passed_share(op) ** 0.5
    if noise == 0:
        return restored
    size = source.abs()
    edge = (_WINDOW // 2,) * 4
    pictures = pad(torch.stack([size, size.square()], dim=1), edge, mode="replicate")
    mean, power = avg_pool2d(pictures, _WINDOW, stride=1).unbind(1)
    share = ((power / (2 * noise**2) - _NOISE_ALONE) / (_SIGNAL - _NOISE_ALONE)).clamp(0, 1)
    return share * restored + (1 - share) * mean


def passed_share(op: BlurOperator | TruncationOperator) -> float:
    r"""Mean of :math:`|H|^2` over frequencies: what sampling density is to a scan."""
    if isinstance(op, TruncationOperator):
        return float(np.prod(op.kept_shape) / np.prod(op.image_shape))
    return op.mean_power


def norm_bound(op: BlurOperator | TruncationOperator) -> float:
    """A bound of the squared norm: power iterations approach it from below, hence the margin."""
    if isinstance(op, TruncationOperator):
        return 1.0
    return 1.05 * float(operator_norm(op, torch.zeros(1, *op.image_shape, dtype=torch.complex64), 15)[0]) ** 2
