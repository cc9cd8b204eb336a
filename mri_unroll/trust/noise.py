"""The noise of a scan against that of the noise scan before it, from where there is no signal."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.physics.fourier import centred_ifft

_RINGS = ((0.54, 0.71), (0.45, 0.54), (0.36, 0.45))  # of one coil: distances from the centre over the matrix
_FLAT = (1.45, 2.2)  # power in the second and third ring over that in the first, up to which all three are noise
_WIDE_RINGS = ((0.5, 0.71), (0.4, 0.5), (0.3, 0.4))  # of several coils; the outermost two that were measured count
_WIDE_FLAT = 1.6
_QUIET = 3  # one of so many directions of coil space counts: those that hold least
_LEAST = 24  # samples of each coil in a ring
_MOST = 4096  # samples of a ring that are looked at
_ALIKE = 1.3  # power over that of the quietest rows, up to which other rows are as empty
_WHITE = 1.15  # of rows beside the body: power in the inner lines over that in the outer
_NEGLIGIBLE = 1e-6  # of the loudest direction of coil space: directions with less noise are not independent


def noise_over_announced(kspace: Tensor, mask: Tensor, noise_cov: NDArray[np.complexfloating]) -> float:
    """Noise power over what was announced; 0 where it cannot be told from signal.

    Of several coils, after whitening, noise has the same power in all directions of coil space, and signal little in
    most: the quietest third tells of noise even where signal is louder. If that is the same in two rings of k-space it
    is noise. Of one coil, three rings must be alike, or else rows of the picture must be empty.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``, zero outside the mask.
    mask
        ``(ky, kx)``.
    noise_cov
        ``(coil, coil)``, of the noise scan.
    """
    values, vectors = np.linalg.eigh(noise_cov)
    used = values > _NEGLIGIBLE * values.max(initial=0.0)
    if not used.any():
        return 0.0
    whitening = torch.from_numpy((vectors[:, used] / np.sqrt(values[used])).conj().T.astype(np.complex64))
    whitened = torch.tensordot(whitening.to(kspace.device), kspace, dims=1)
    y, x = ((torch.arange(n, device=mask.device) - n // 2) / n for n in mask.shape)
    distance = torch.hypot(y[:, None], x)
    return _of_one(whitened, mask, distance) if len(whitened) == 1 else _of_several(whitened, mask, distance)


def _of_several(kspace: Tensor, mask: Tensor, distance: Tensor) -> float:
    found: list[float] = []
    for inner, outer in _WIDE_RINGS:
        samples = _measured(kspace, mask & (distance >= inner) & (distance < outer))
        if samples.shape[1] >= max(_LEAST, 4 * len(samples)):
            found.append(_quiet_power(samples) / _quiet_power(_white_noise(samples)))
    return found[0] if len(found) > 1 and found[1] < _WIDE_FLAT * found[0] else 0.0


def _quiet_power(samples: Tensor) -> float:
    """Mean of the lowest eigenvalues of the covariance of ``(coil, sample)``."""
    covariance = samples @ samples.mH / samples.shape[1]
    return float(torch.linalg.eigvalsh(covariance)[: max(1, len(samples) // _QUIET)].clamp_min(0).mean())


def _white_noise(like: Tensor) -> Tensor:
    """Complex noise of unit variance, always the same: few samples make the lowest eigenvalues low."""
    parts = torch.randn(*like.shape, 2, generator=torch.Generator().manual_seed(0)) / math.sqrt(2)
    return torch.view_as_complex(parts).to(like)


def _of_one(kspace: Tensor, mask: Tensor, distance: Tensor) -> float:
    beside, found = _beside_the_body(kspace, mask), []
    for inner, outer in _RINGS:
        power = _measured(kspace, mask & (distance >= inner) & (distance < outer)).abs().square()
        if power.shape[1] < _LEAST:
            return beside
        # The lower quartile of the power of complex noise; a few samples with signal do not move it.
        found.append(float(torch.quantile(power, 0.25)) / math.log(4 / 3))
    flat = all(more < limit * found[0] for more, limit in zip(found[1:], _FLAT, strict=True))
    return min(found[0], beside or math.inf) if flat else beside


def _measured(kspace: Tensor, where: Tensor) -> Tensor:
    """Samples that are not zero, ``(coil, sample)``, at most `_MOST`."""
    samples = kspace[:, where]
    samples = samples[:, (samples != 0).any(0)]
    return samples[:, :: -(-samples.shape[1] // _MOST) or 1]


def _beside_the_body(kspace: Tensor, mask: Tensor) -> float:
    """From the rows of the picture with least power, where whole lines were measured.

    0 where they are not alike, or where their inner lines hold more than the outer: then it is tissue.
    """
    lines = mask.any(0)
    if int(lines.sum()) < 2 or bool((mask[:, lines] != mask[:, lines][:, :1]).any()):
        return 0.0
    measured = mask[:, lines][:, 0].float().mean()  # of a readout that was sampled from one side, part is zero
    power = centred_ifft(kspace[..., lines], (-2,)).abs().square().sum(0) / measured
    rows = power.mean(-1)
    order = rows.argsort()
    few, more = max(2, round(0.04 * len(rows))), max(4, round(0.1 * len(rows)))
    spread = 1 / math.sqrt(int(lines.sum()) * len(kspace))  # of the mean power of a row of noise
    level = float(rows[order[:few]].mean())
    far = (torch.arange(len(lines), device=mask.device) - len(lines) // 2).abs()[lines]
    inner = far <= far.median()
    if bool(inner.all()) or float(rows[order[more - 1]]) > (_ALIKE + 3 * spread) * level:
        return 0.0
    by_line = power[order[:more]].mean(0)
    uneven = 4 / math.sqrt(more * len(kspace) * int(inner.sum()))
    white = float(by_line[inner].mean()) < (_WHITE + uneven) * float(by_line[~inner].mean())
    return float(rows[order[:more]].mean()) if white else 0.0
