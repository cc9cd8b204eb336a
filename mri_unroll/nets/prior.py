"""Priors: what a picture should look like, as maps from a picture to a picture."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.errors import ConfigError
from mri_unroll.nets.complex import from_channels, inside_fence, to_channels

_SLOPE = 0.1  # of the leaky rectifiers


class Prior(Protocol):
    """A proximal map, given or learned."""

    def __call__(self, image: Tensor, strength: Tensor) -> Tensor:
        """Complex ``(batch, channel, y, x)``, picture first and evidence after it, to a picture ``(batch, y, x)``."""
        ...


class _DoubleConvolution(nn.Sequential):
    """Two 3 x 3 convolutions with leaky rectifiers. No normalisation: brightness must pass through unchanged."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Conv2d(n_out, n_out, 3, padding=1),
            nn.LeakyReLU(_SLOPE, inplace=True),
        )


class FoldedPrior(nn.Module, ABC):
    r"""A residual network on space-to-depth channels: :math:`z = x + U(x, e, s)`.

    The picture is folded (``pixel_unshuffle``), so that the finest level already works at a part of its size with wide
    layers: folded by two, a layer costs on a CPU a quarter of the same width at full size. There is no normalisation
    over the picture.

    Parameters
    ----------
    n_evidence
        Complex channels that come after the picture, such as the gradient of the data term.
    n_strength
        Numbers per picture that condition the prior: noise level, sampling density.
    fold
        Pixels along each axis that become channels; 1: the picture at its full size.

    Attributes
    ----------
    n_features
        Channels at each point where features can be modulated, in order.
    multiple
        Sides are padded to multiples of this, by repeating the edge; the padding is cut off again.

    Notes
    -----
    The space-to-depth front follows FFDNet, Zhang et al., IEEE Trans. Image Process. 27, 4608 (2018),
    doi:10.1109/TIP.2018.2839891.
    """

    n_features: tuple[int, ...]
    multiple: int

    def __init__(self, n_evidence: int, n_strength: int, fold: int) -> None:
        super().__init__()
        self.fold = fold
        self.multiple = fold
        self.n_strength = n_strength
        self.n_in = 2 * fold**2 * (1 + n_evidence) + n_strength
        self.n_out = 2 * fold**2

    def _initialise(self, last: nn.Conv2d) -> None:
        # Without normalisation layers only variance-keeping weights let the features of a deep path arrive at its end.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
                nn.init.zeros_(module.bias if module.bias is not None else module.weight)
        # A step starts as nearly pure data consistency: training decides how far the prior moves from it.
        nn.init.normal_(last.weight, std=1e-3)
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU, twice as fast with bfloat16

    def forward(
        self, image: Tensor, strength: Tensor, modulation: Sequence[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Denoise.

        Parameters
        ----------
        image
            Complex ``(batch, 1 + n_evidence, y, x)`` of any size; scaled so that bright tissue is near 1.
        strength
            ``(batch, n_strength)``.
        modulation
            For each of `n_features` a scale ``a`` and a shift ``b``, ``(n,)``: features become ``(1 + a) h + b``.

        Returns
        -------
        Tensor
            Complex ``(batch, y, x)``.
        """
        height, width = image.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        channels = functional.pad(to_channels(image), pad, mode="replicate")
        level = functional.pixel_unshuffle(channels, self.fold)
        level = torch.cat([level, strength[:, :, None, None].expand(-1, -1, *level.shape[-2:])], dim=1)
        with inside_fence(level.device):
            change = self._change(level.contiguous(memory_format=torch.channels_last), _modulators(modulation))
        change = functional.pixel_shuffle(change.to(channels.dtype), self.fold)[..., :height, :width]
        return image[:, 0] + from_channels(change)[:, 0]

    @abstractmethod
    def _change(self, level: Tensor, modulators: Iterator[_Modulator]) -> Tensor:
        """What the residual branch adds, folded, from the folded input."""


class _Modulator:
    """Scale and shift of features, or nothing."""

    def __init__(self, scale: Tensor | None = None, shift: Tensor | None = None) -> None:
        self.scale = scale
        self.shift = shift

    def __call__(self, features: Tensor) -> Tensor:
        if self.scale is None or self.shift is None:
            return features
        scale, shift = (x[:, None, None].to(features.dtype) for x in (self.scale, self.shift))
        return torch.addcmul(features + shift, features, scale)


def _modulators(modulation: Sequence[tuple[Tensor, Tensor]] | None) -> Iterator[_Modulator]:
    if modulation is None:
        return itertools.repeat(_Modulator())
    return iter([_Modulator(scale, shift) for scale, shift in modulation])


class UNetPrior(FoldedPrior):
    """Residual U-Net.

    Parameters
    ----------
    n_evidence, n_strength, fold
        See `FoldedPrior`.
    widths
        Channels per level, finest first.

    Notes
    -----
    Ronneberger et al., MICCAI 2015, doi:10.1007/978-3-319-24574-4_28.
    """

    def __init__(self, n_evidence: int, n_strength: int, widths: tuple[int, ...], fold: int = 2) -> None:
        super().__init__(n_evidence, n_strength, fold)
        self.multiple = fold * 2 ** (len(widths) - 1)
        self.n_features = (*widths, *reversed(widths[:-1]))
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        n_in = self.n_in
        for width in widths:
            self.down.append(_DoubleConvolution(n_in, width))
            n_in = width
        for coarse, fine in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            self.up.append(_DoubleConvolution(coarse + fine, fine))
        self.last = nn.Conv2d(widths[0], self.n_out, 3, padding=1)
        self._initialise(self.last)

    def _change(self, level: Tensor, modulators: Iterator[_Modulator]) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            if skips:
                level = functional.avg_pool2d(level, 2)
            level = next(modulators)(block(level))
            skips.append(level)
        skips.pop()
        for block in self.up:
            level = functional.interpolate(level, scale_factor=2, mode="nearest")
            level = next(modulators)(block(torch.cat([level, skips.pop()], dim=1)))
        return self.last(level)


class ResNetPrior(FoldedPrior):
    r"""Residual blocks at one resolution: :math:`h \leftarrow h + C_2\,\sigma(C_1 h)`.

    Parameters
    ----------
    n_evidence, n_strength, fold
        See `FoldedPrior`.
    widths
        Channels of each block; all alike.

    Notes
    -----
    He et al., CVPR 2016, doi:10.1109/CVPR.2016.90; without normalisation: Lim et al. (EDSR), CVPR Workshops 2017,
    doi:10.1109/CVPRW.2017.151. Unlike there, what keeps a deep sum of blocks at the size of one is no fixed factor but
    the start: of ``n`` blocks each begins with a second convolution smaller by :math:`\sqrt n`.
    """

    def __init__(self, n_evidence: int, n_strength: int, widths: tuple[int, ...], fold: int = 2) -> None:
        super().__init__(n_evidence, n_strength, fold)
        if len(set(widths)) != 1:
            raise ConfigError(f"Expected residual blocks of one width, got {widths}.", "Repeat one number.")
        width = widths[0]
        self.n_features = widths
        self.first = nn.Conv2d(self.n_in, width, 3, padding=1)
        blocks = [
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(_SLOPE, inplace=True),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in widths
        ]
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(width, self.n_out, 3, padding=1)
        self._initialise(self.last)
        with torch.no_grad():
            for block in blocks:
                block.get_parameter("2.weight").mul_(len(widths) ** -0.5)

    def _change(self, level: Tensor, modulators: Iterator[_Modulator]) -> Tensor:
        level = self.first(level)
        for block in self.blocks:
            level = next(modulators)(level + block(level))
        return self.last(level)


class DnCNNPrior(FoldedPrior):
    """A plain chain of convolutions and rectifiers that predicts what to take away.

    Parameters
    ----------
    n_evidence, n_strength, fold
        See `FoldedPrior`.
    widths
        Channels of each hidden layer.

    Notes
    -----
    Zhang et al., IEEE Trans. Image Process. 26, 3142 (2017), doi:10.1109/TIP.2017.2662206; without its batch
    normalisation, which would make brightness depend on the rest of the picture.
    """

    def __init__(self, n_evidence: int, n_strength: int, widths: tuple[int, ...], fold: int = 2) -> None:
        super().__init__(n_evidence, n_strength, fold)
        self.n_features = widths
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.LeakyReLU(_SLOPE, inplace=True))
            for n_in, n_out in itertools.pairwise((self.n_in, *widths))
        )
        self.last = nn.Conv2d(widths[-1], self.n_out, 3, padding=1)
        self._initialise(self.last)

    def _change(self, level: Tensor, modulators: Iterator[_Modulator]) -> Tensor:
        for layer in self.layers:
            level = next(modulators)(layer(level))
        return self.last(level)


class SharedPrior(nn.Module):
    r"""A prior that several steps share, as one of them sees it: its features scaled and shifted by what is the step's.

    .. math:: h_i \leftarrow (1 + a_{ki}) h_i + b_{ki}

    With all ``a`` and ``b`` zero, as they begin, the steps share the prior and nothing tells them apart.

    Parameters
    ----------
    shared
        The prior; pass one module to several of these.

    Notes
    -----
    Feature-wise modulation: Perez et al. (FiLM), AAAI 2018, doi:10.1609/aaai.v32i1.11671. There a network predicts
    scales and shifts from a condition; here they are parameters of the step, two numbers a channel.
    """

    def __init__(self, shared: FoldedPrior) -> None:
        super().__init__()
        self.shared = shared
        self.scale = nn.Parameter(torch.zeros(sum(shared.n_features)))
        self.shift = nn.Parameter(torch.zeros(sum(shared.n_features)))

    def forward(self, image: Tensor, strength: Tensor) -> Tensor:
        """As the prior inside."""
        sizes = list(self.shared.n_features)
        return self.shared(image, strength, list(zip(self.scale.split(sizes), self.shift.split(sizes), strict=True)))


def n_conditions(network: nn.Module) -> int:
    """Numbers that the priors of a network are conditioned on; a ValueError if it has none."""
    first, *_ = (module.n_strength for module in network.modules() if isinstance(module, FoldedPrior))
    return first
