"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_AIR_WEIGHT = 0.15  # air counts little: no one reads it, and it holds nothing but noise


def weighted_nrmse(image: Tensor, reference: Tensor, body: Tensor) -> Tensor:
    """Root mean squared error over the reference's root mean square, air counting less than tissue.

    Parameters
    ----------
    image, reference
        ``(batch, y, x)``, both complex or both real.
    body
        True in tissue, ``(batch, y, x)``.
    """
    weight = torch.where(body, 1.0, _AIR_WEIGHT)
    error = torch.linalg.vector_norm(weight * (image - reference), dim=(-2, -1))
    return (error / torch.linalg.vector_norm(weight * reference, dim=(-2, -1)).clamp_min(1e-12)).mean()


def ssim_loss(image: Tensor, reference: Tensor, body: Tensor) -> Tensor:
    """One minus structural similarity in the body, 7 x 7 uniform window, data range of each reference.

    Parameters
    ----------
    image, reference
        Magnitudes, ``(batch, y, x)``, at least 7 x 7.
    body
        True in tissue, ``(batch, y, x)``.

    Notes
    -----
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861; constants as in fastMRI.
    """
    size = 7
    unbias = size**2 / (size**2 - 1)

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x[:, None], size, stride=1)[:, 0]

    data_range = reference.amax(dim=(-2, -1), keepdim=True)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_i, mean_r = mean(image), mean(reference)
    var_i = unbias * (mean(image * image) - mean_i**2)
    var_r = unbias * (mean(reference * reference) - mean_r**2)
    covariance = unbias * (mean(image * reference) - mean_i * mean_r)
    similarity = ((2 * mean_i * mean_r + c1) * (2 * covariance + c2)) / (
        (mean_i**2 + mean_r**2 + c1) * (var_i + var_r + c2)
    )
    inside = body[:, 3:-3, 3:-3]
    return 1 - (similarity * inside).sum() / inside.sum().clamp_min(1)


def weighted_l1(image: Tensor, reference: Tensor, body: Tensor) -> Tensor:
    """Mean absolute error over the reference's mean absolute value, air counting less than tissue.

    Parameters
    ----------
    image, reference, body
        As for `weighted_nrmse`.
    """
    weight = torch.where(body, 1.0, _AIR_WEIGHT)
    error = (weight * (image - reference).abs()).sum(dim=(-2, -1))
    return (error / (weight * reference.abs()).sum(dim=(-2, -1)).clamp_min(1e-12)).mean()


def kspace_loss(predicted: Tensor, measured: Tensor) -> Tensor:
    r"""Error of k-space samples, :math:`\|u-v\|_2/\|u\|_2 + \|u-v\|_1/\|u\|_1`, with `u` what was measured.

    Parameters
    ----------
    predicted, measured
        Complex ``(batch, coil, ky, kx)``, zero where no samples are to be compared.

    Notes
    -----
    Yaman et al., Magn. Reson. Med. 84, 3172 (2020), doi:10.1002/mrm.28378, equation 10.
    """
    axes = (-3, -2, -1)
    size = (predicted - measured).abs()
    wanted = measured.abs()
    euclidean = torch.linalg.vector_norm(size, dim=axes) / torch.linalg.vector_norm(wanted, dim=axes).clamp_min(1e-12)
    return (euclidean + size.sum(axes) / wanted.sum(axes).clamp_min(1e-12)).mean()


def picture_weights(weights: tuple[float, ...], n_pictures: int) -> list[float]:
    """The weight of each picture ``x_1 ... x_K``: the last ones have the given weights, earlier ones the first."""
    return [weights[max(index - n_pictures, -len(weights))] for index in range(n_pictures)]


def unrolled_loss(
    iterates: list[Tensor],
    coil_combined: Tensor,
    rss: Tensor,
    body: Tensor,
    weights: tuple[float, ...] = (0.1, 0.3, 0.5),
) -> Tensor:
    """Deeply supervised error of all iterates, and magnitude and structure of the last.

    Errors are relative to the error of the start: an easy scan, where the start is good already, then pulls on the
    weights as hard as a difficult one, as it does on a mean in decibels.

    Parameters
    ----------
    iterates
        ``x_0 ... x_K``, complex ``(batch, y, x)``.
    coil_combined
        Truth seen through the estimated maps, complex ``(batch, y, x)``.
    rss
        Root sum of squares of the true coil images, real ``(batch, y, x)``: what a picture is scored against.
    body
        True in tissue.
    weights
        Of the complex pictures, see `picture_weights`.
    """
    loss = torch.zeros((), device=rss.device)
    for weight, image in zip(picture_weights(weights, len(iterates) - 1), iterates[1:], strict=True):
        loss = loss + weight * weighted_nrmse(image, coil_combined, body)
    magnitude = iterates[-1].abs()
    loss = loss + 0.5 * weighted_nrmse(magnitude, rss, body)
    start_error = weighted_nrmse(iterates[0].abs(), rss, body).detach()
    return loss / (start_error + 0.02) + 0.3 * ssim_loss(magnitude, rss, body)
