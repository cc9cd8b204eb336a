r"""Unitary Fourier transforms: centred, and in the shift-free form that operators use inside.

With :math:`c = \lfloor n/2 \rfloor` the centred transform is

.. math:: X_k = \frac1{\sqrt n} \sum_j x_j e^{-2\pi i (k-c)(j-c)/n}
              = q_k \; \mathrm{FFT}(p \odot x)_k, \qquad
          p_j = e^{2\pi i c j/n}, \quad q_k = e^{2\pi i c (k-c)/n},

so that both shifts become multiplications by unit-modulus vectors (checkerboards of :math:`\pm1` for even ``n``), which
an operator folds into its coil maps once instead of moving memory at every application.

This is the only file that names ``sigpy.fft``. Engines: ``sigpy/numpy`` on CPU, ``sigpy/cupy`` on CUDA, ``torch`` on
CUDA without CuPy. `engine_name` says which one runs; one test holds all of them together.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator

import sigpy
import torch
from torch import Tensor

from mri_unroll.errors import ConfigError
from mri_unroll.physics.bridge import apply_linear, to_array, to_tensor

_forced_engine: str | None = None


@functools.cache
def _has_cupy() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


def engine_name(device: torch.device | str = "cpu") -> str:
    """Name of the FFT engine that runs on ``device``: ``sigpy/numpy``, ``sigpy/cupy`` or ``torch``."""
    if _forced_engine is not None:
        return _forced_engine
    if torch.device(device).type == "cpu":
        return "sigpy/numpy"
    return "sigpy/cupy" if torch.device(device).type == "cuda" and _has_cupy() else "torch"


@contextlib.contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Run with the ``torch`` engine, or force ``sigpy/numpy`` or ``sigpy/cupy``, within a ``with`` block.

    Training uses ``torch``: many small transforms, where leaving and entering torch costs more than it gives.

    Raises
    ------
    ConfigError
        If there is no such engine.
    """
    if name not in ("sigpy/numpy", "sigpy/cupy", "torch"):
        raise ConfigError(f"Expected an FFT engine sigpy/numpy, sigpy/cupy or torch, got {name!r}.")
    global _forced_engine
    before, _forced_engine = _forced_engine, name
    try:
        yield
    finally:
        _forced_engine = before


def _sigpy_transform(x: Tensor, axes: tuple[int, ...], inverse: bool) -> Tensor:
    transform = sigpy.ifft if inverse else sigpy.fft
    if x.device.type == "cpu":
        return to_tensor(transform(to_array(x), axes=axes, center=False))
    import cupy

    # CuPy's device and stream are thread-local, and autograd runs backward in a thread of its own.
    stream = torch.cuda.current_stream(x.device).cuda_stream
    with cupy.cuda.Device(x.device.index or 0), cupy.cuda.ExternalStream(stream):
        return to_tensor(transform(to_array(x), axes=axes, center=False))


def fft(x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Unitary FFT without shifts (zero frequency and origin at index 0) along ``axes`` of a complex tensor."""
    if engine_name(x.device) == "torch":
        return torch.fft.fftn(x, dim=axes, norm="ortho")
    return apply_linear(
        x, lambda t: _sigpy_transform(t, axes, inverse=False), lambda t: _sigpy_transform(t, axes, inverse=True)
    )


def ifft(x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Inverse, which is also the adjoint, of `fft`."""
    if engine_name(x.device) == "torch":
        return torch.fft.ifftn(x, dim=axes, norm="ortho")
    return apply_linear(
        x, lambda t: _sigpy_transform(t, axes, inverse=True), lambda t: _sigpy_transform(t, axes, inverse=False)
    )


def centring_phases(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.complex64
) -> tuple[Tensor, Tensor]:
    r"""The vectors that turn `fft` into the centred transform over the last ``len(shape)`` axes.

    Returns
    -------
    pre, post
        Unit-modulus tensors of ``shape`` with ``centred_fft(x) = post * fft(pre * x)``.
    """
    pre = torch.ones((1,) * len(shape), dtype=torch.complex128)
    post = pre
    for axis, n in enumerate(shape):
        centre = n // 2
        index = torch.arange(n, dtype=torch.float64)
        view = [1] * len(shape)
        view[axis] = n
        # Reduce modulo n before scaling by 2 pi: exact +-1 for even sizes.
        turns = torch.remainder(centre * index, n) / n
        turns_post = torch.remainder(centre * (index - centre), n) / n
        pre = pre * torch.polar(torch.ones(n, dtype=torch.float64), 2 * math.pi * turns).view(view)
        post = post * torch.polar(torch.ones(n, dtype=torch.float64), 2 * math.pi * turns_post).view(view)
    return pre.to(device=device, dtype=dtype), post.to(device=device, dtype=dtype)


def centred_fft(x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Unitary FFT with the origin and zero frequency at index ``n // 2`` along ``axes``."""
    return torch.fft.fftshift(fft(torch.fft.ifftshift(x, dim=axes), axes), dim=axes)


def centred_ifft(x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Inverse and adjoint of `centred_fft`."""
    return torch.fft.fftshift(ifft(torch.fft.ifftshift(x, dim=axes), axes), dim=axes)
