"""Foreign linear maps inside torch's autograd, and arrays shared without a copy.

A linear map needs no special derivative: its backward is its adjoint, whose backward is the map again, and its forward
derivative is the map itself. One function with the pair ``(forward, adjoint)`` serves every order of derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from mri_unroll.errors import ShapeError

LinearMap = Callable[[Tensor], Tensor]


class _LinearFunction(torch.autograd.Function):
    """``forward(x)`` whose vector-Jacobian product is ``adjoint(gradient)``."""

    @staticmethod
    def forward(x: Tensor, forward: LinearMap, adjoint: LinearMap) -> Tensor:
        return forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.pair = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        forward, adjoint = ctx.pair
        return _LinearFunction.apply(grad_outputs[0], adjoint, forward), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        forward, adjoint = ctx.pair
        return _LinearFunction.apply(tangents[0], forward, adjoint)


def apply_linear(x: Tensor, forward: LinearMap, adjoint: LinearMap) -> Tensor:
    """Apply a linear map that autograd cannot see into.

    Parameters
    ----------
    x
        Complex tensor of any shape that ``forward`` accepts.
    forward, adjoint
        The map and its adjoint; each gets and returns a tensor of the dtype and device of ``x``.

    Raises
    ------
    ShapeError
        If ``x`` is real: a real tensor would silently drop the imaginary part of its gradient.
    """
    if not x.is_complex():
        raise ShapeError(f"Expected a complex tensor, got {x.dtype}.", "Convert with torch.complex(x, zeros).")
    if not is_tracked(x):  # a tenth of a millisecond less
        return forward(x)
    return _LinearFunction.apply(x, forward, adjoint)


def is_tracked(*tensors: Tensor) -> bool:
    """Whether autograd, backward or forward mode, follows any of these tensors."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def to_array(x: Tensor) -> Any:
    """View a tensor as a NumPy (CPU) or CuPy (CUDA) array that shares its memory.

    Lazy conjugation and negation bits, which no array library knows, are resolved first (a copy only if one is set).
    """
    x = x.detach().resolve_conj().resolve_neg()
    if x.device.type == "cpu":
        return x.numpy()
    import cupy  # optional extra; fourier.py asks for this path only where CuPy is installed

    return cupy.from_dlpack(x)


def to_tensor(array: Any) -> Tensor:
    """View a NumPy or CuPy array as a tensor that shares its memory."""
    if isinstance(array, np.ndarray):
        return torch.from_numpy(_writable(array))
    return torch.from_dlpack(array)


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """Copy only what torch cannot view: read-only arrays and negative strides."""
    if array.flags.writeable and all(stride >= 0 for stride in array.strides):
        return array
    return array.copy()
