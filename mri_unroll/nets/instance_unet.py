"""The U-Net of the fastMRI baselines, whose weights others trained: instance normalisation after every convolution.

Parameters are called as in the state dicts of the `fastmri` package, so that these can be loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.errors import ShapeError
from mri_unroll.nets.complex import from_channels, to_channels

_SLOPE = 0.2  # of the leaky rectifiers
_MULTIPLE = 16  # to which `NormalisedUNet` fills up a picture, however deep it is
_LEAST = 1e-30  # a standard deviation of zero stands for this: an empty picture stays empty
_EPSILON = 1e-11  # added to the standard deviation of a magnitude picture
_CLAMP = 6.0  # standard deviations, beyond which a normalised picture is cut off


class InstanceUNet(nn.Module):
    """U-Net of 3 x 3 convolutions without bias, instance normalisation, average pooling and transposed convolutions.

    Parameters
    ----------
    n_in, n_out
        Real channels.
    width
        Channels of the finest level; each coarser one has twice as many.
    n_pools
        Levels below the finest.

    Notes
    -----
    Ronneberger et al., MICCAI 2015, doi:10.1007/978-3-319-24574-4_28; this form is the baseline of Zbontar et al.,
    arXiv:1811.08839. Dropout, which only training uses, is left out.
    """

    def __init__(self, n_in: int, n_out: int, width: int, n_pools: int) -> None:
        super().__init__()
        self.n_pools = n_pools
        widths = [width * 2**level for level in range(n_pools + 1)]
        self.down_sample_layers = nn.ModuleList(
            _Convolutions(before, after) for before, after in zip([n_in, *widths], widths[:-1], strict=False)
        )
        self.conv = _Convolutions(widths[-2], widths[-1])
        self.up_transpose_conv = nn.ModuleList(_Doubling(2 * fine, fine) for fine in widths[-2::-1])
        ascent: list[nn.Module] = [_Convolutions(2 * fine, fine) for fine in widths[-2::-1]]
        ascent[-1] = nn.Sequential(ascent[-1], nn.Conv2d(width, n_out, 1))
        self.up_conv = nn.ModuleList(ascent)

    def forward(self, channels: Tensor) -> Tensor:
        """``(batch, n_in, y, x)`` to ``(batch, n_out, y, x)``, real.

        Raises
        ------
        ShapeError
            If the picture is too small to be halved so often.
        """
        coarsest = [side // 2**self.n_pools for side in channels.shape[-2:]]
        if min(coarsest) < 1 or max(coarsest) < 2:
            raise ShapeError(
                f"Expected a picture that can be halved {self.n_pools} times, to more than one pixel, "
                f"got {tuple(channels.shape[-2:])}."
            )
        passed: list[Tensor] = []
        level = channels
        for layer in self.down_sample_layers:
            level = layer(level)
            passed.append(level)
            level = functional.avg_pool2d(level, 2)
        level = self.conv(level)
        for doubling, convolutions in zip(self.up_transpose_conv, self.up_conv, strict=True):
            finer = passed.pop()
            level = doubling(level)
            # Halving an odd side lost a row; its neighbour stands for it.
            missing = (0, finer.shape[-1] - level.shape[-1], 0, finer.shape[-2] - level.shape[-2])
            if any(missing):
                level = functional.pad(level, missing, mode="reflect")
            level = convolutions(torch.cat([level, finer], dim=1))
        return level


class NormalisedUNet(nn.Module):
    """An `InstanceUNet` on complex pictures, brought to mean 0 and deviation 1 before and back afterwards.

    Real and imaginary parts are normalised each by itself, over the whole picture, and the sides filled up with zeros
    to multiples of 16, evenly at both ends. An empty picture stays empty.

    Parameters
    ----------
    width, n_pools
        As for `InstanceUNet`.
    """

    def __init__(self, width: int, n_pools: int) -> None:
        super().__init__()
        self.unet = InstanceUNet(2, 2, width, n_pools)

    def forward(self, image: Tensor) -> Tensor:
        """Complex ``(batch, y, x)`` of any size, to the same."""
        channels = to_channels(image[:, None])
        mean = channels.mean((-2, -1), keepdim=True)
        deviation = channels.std((-2, -1), keepdim=True).clamp_min(_LEAST)
        height, width = channels.shape[-2:]
        more_y, more_x = -height % _MULTIPLE, -width % _MULTIPLE
        top, left = more_y // 2, more_x // 2
        filled = functional.pad((channels - mean) / deviation, (left, more_x - left, top, more_y - top))
        result = self.unet(filled)[..., top : top + height, left : left + width]
        return from_channels(result * deviation + mean)[:, 0]


class MagnitudeUNet(nn.Module):
    """The fastMRI baseline: an `InstanceUNet` on a magnitude picture, normalised by its own mean and deviation.

    What lies beyond 6 deviations from the mean is cut off before the network, as in its training.

    Parameters
    ----------
    width, n_pools
        As for `InstanceUNet`.

    Notes
    -----
    Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, arXiv:1811.08839.
    """

    def __init__(self, width: int, n_pools: int) -> None:
        super().__init__()
        self.unet = InstanceUNet(1, 1, width, n_pools)

    def forward(self, image: Tensor) -> Tensor:
        """Zero-filled magnitude ``(y, x)``, cropped to what is wanted, to a picture of the same size and units."""
        mean, deviation = image.mean(), image.std()
        normalised = ((image - mean) / (deviation + _EPSILON)).clamp(-_CLAMP, _CLAMP)
        return self.unet(normalised[None, None])[0, 0] * deviation + mean


def on_complex(unet: nn.Module, image: Tensor) -> Tensor:
    """A network of two real channels on complex ``(batch, y, x)``, without normalisation."""
    return from_channels(unet(to_channels(image[:, None])))[:, 0]


class _Convolutions(nn.Module):
    """Two convolutions, each normalised and rectified; the empty places are where dropout stood."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.InstanceNorm2d(n_out)),
            *(nn.LeakyReLU(_SLOPE, inplace=True), nn.Identity()),
            *(nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.InstanceNorm2d(n_out)),
            *(nn.LeakyReLU(_SLOPE, inplace=True), nn.Identity()),
        )

    def forward(self, channels: Tensor) -> Tensor:
        return self.layers(channels)


class _Doubling(nn.Module):
    """A transposed convolution that doubles both sides, normalised and rectified."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(n_in, n_out, 2, stride=2, bias=False),
            nn.InstanceNorm2d(n_out),
            nn.LeakyReLU(_SLOPE, inplace=True),
        )

    def forward(self, channels: Tensor) -> Tensor:
        return self.layers(channels)
