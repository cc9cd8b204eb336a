"""The fence between complex pictures and real convolutions.

Everything inside the fence (the body of a prior) sees real channels; everything outside it, operators, conjugate
gradients, losses and metrics, stays complex in single precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_channels(image: Tensor) -> Tensor:
    """``(batch, channel, y, x)`` complex to ``(batch, 2 * channel, y, x)``: real part before imaginary."""
    return torch.view_as_real(image).movedim(-1, 2).flatten(1, 2)


def from_channels(channels: Tensor) -> Tensor:
    """Inverse of `to_channels`."""
    pairs = channels.unflatten(1, (-1, 2)).movedim(2, -1)
    return torch.view_as_complex(pairs.contiguous())
