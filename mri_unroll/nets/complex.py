"""The fence between complex pictures and real convolutions.

Everything inside the fence (the body of a prior) sees real channels; everything outside it, operators, conjugate
gradients, losses and metrics, stays complex in single precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_PRECISION: ContextVar[torch.dtype | None] = ContextVar("prior_precision", default=None)


@contextmanager
def prior_precision(dtype: torch.dtype | None) -> Iterator[None]:
    """Compute what is inside the fence in ``dtype``, such as `torch.bfloat16`; None: as its weights are.

    Nothing outside the fence changes: bfloat16 has eight bits of mantissa, too few for conjugate gradients.
    """
    token = _PRECISION.set(dtype)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def inside_fence(device: torch.device) -> torch.autocast:
    """The context in which a prior's body runs, as `prior_precision` says."""
    dtype = _PRECISION.get()
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def to_channels(image: Tensor) -> Tensor:
    """``(batch, channel, y, x)`` complex to ``(batch, 2 * channel, y, x)``: real part before imaginary."""
    return torch.view_as_real(image).movedim(-1, 2).flatten(1, 2)


def from_channels(channels: Tensor) -> Tensor:
    """Inverse of `to_channels`."""
    pairs = channels.unflatten(1, (-1, 2)).movedim(2, -1)
    return torch.view_as_complex(pairs.contiguous())
