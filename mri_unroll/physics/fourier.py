r"""Unitary Fourier transforms: centred, and in the shift-free form that operators use inside.

With :math:`c = \lfloor n/2 \rfloor` the centred transform is

.. math:: X_k = \frac1{\sqrt n} \sum_j x_j e^{-2\pi i (k-c)(j-c)/n}
              = q_k \; \mathrm{FFT}(p \odot x)_k, \qquad
          p_j = e^{2\pi i c j/n}, \quad q_k = e^{2\pi i c (k-c)/n},

so that both shifts become multiplications by unit-modulus vectors (checkerboards of :math:`\pm1` for even ``n``), which
an operator folds into its coil maps once instead of moving memory at every application.

This is the only file that names an FFT library. sigpy's transform is the reference on every device, and on CUDA,
through CuPy, the engine; `torch` stands in where CuPy is missing. On CPU two libraries are faster than it: torch (MKL,
on x86) for lengths whose primes are small, and scipy (pocketfft) for the others. `engine_name` says which engine a
device has, and one test holds all of them together.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import scipy.fft
import sigpy
import torch
from torch import Tensor

from mri_unroll.errors import ConfigError
from mri_unroll.physics.bridge import apply_linear, is_tracked, to_array, to_tensor

ENGINES = ("torch+scipy", "torch", "scipy", "sigpy/numpy", "sigpy/cupy")
# Largest prime that MKL has a kernel for: with 17 and more it falls behind pocketfft (measured, docs/performance.md).
_LARGEST_PRIME = 13
_forced_engine: str | None = None


@functools.cache
def _has_cupy() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


@functools.cache
def has_small_primes(n: int) -> bool:
    """Whether torch's FFT has a kernel for every prime of the length ``n``."""
    for prime in range(2, _LARGEST_PRIME + 1):
        while n % prime == 0 and n > 1:
            n //= prime
    return n == 1


def engine_name(device: torch.device | str = "cpu") -> str:
    """Name of the FFT engine that runs on ``device``; ``torch+scipy``: one or the other, by size."""
    if _forced_engine is not None:
        return _forced_engine
    if torch.device(device).type == "cpu":
        return "torch+scipy"
    return "sigpy/cupy" if torch.device(device).type == "cuda" and _has_cupy() else "torch"


@contextlib.contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Force one engine within a ``with`` block, in this process.

    Raises
    ------
    ConfigError
        If there is no such engine.
    """
    if name not in ENGINES:
        raise ConfigError(f"Expected an FFT engine of {', '.join(ENGINES)}, got {name!r}.")
    global _forced_engine
    before, _forced_engine = _forced_engine, name
    try:
        yield
    finally:
        _forced_engine = before


def _engine_for(x: Tensor, axes: tuple[int, ...]) -> str:
    name = engine_name(x.device)
    if name != "torch+scipy":
        return name
    return "torch" if all(has_small_primes(x.shape[axis]) for axis in axes) else "scipy"


def _foreign(x: Tensor, axes: tuple[int, ...], inverse: bool, engine: str, overwrite: bool = False) -> Tensor:
    """Transform by a library that autograd cannot see into."""
    if engine == "scipy":
        transform: Any = scipy.fft.ifftn if inverse else scipy.fft.fftn
        workers = torch.get_num_threads()
        return to_tensor(transform(to_array(x), axes=axes, norm="ortho", overwrite_x=overwrite, workers=workers))
    transform = sigpy.ifft if inverse else sigpy.fft
    if x.device.type == "cpu":
        return to_tensor(transform(to_array(x), axes=axes, center=False))
    import cupy

    # CuPy's device and stream are thread-local, and autograd runs backward in a thread of its own.
    stream = torch.cuda.current_stream(x.device).cuda_stream
    with cupy.cuda.Device(x.device.index or 0), cupy.cuda.ExternalStream(stream):
        return to_tensor(transform(to_array(x), axes=axes, center=False))


def _transform(x: Tensor, axes: tuple[int, ...], inverse: bool) -> Tensor:
    engine = _engine_for(x, axes)
    if engine == "torch":
        return (torch.fft.ifftn if inverse else torch.fft.fftn)(x, dim=axes, norm="ortho")
    return apply_linear(
        x, lambda t: _foreign(t, axes, inverse, engine), lambda t: _foreign(t, axes, not inverse, engine)
    )


def fft(x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Unitary FFT without shifts (zero frequency and origin at index 0) along ``axes`` of a complex tensor."""
    return _transform(x, axes, inverse=False)


def ifft(x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Inverse, which is also the adjoint, of `fft`."""
    return _transform(x, axes, inverse=True)


def consume(x: Tensor, axes: tuple[int, ...], *, inverse: bool = False) -> Tensor:
    """`fft` or `ifft` of a workspace that may be overwritten; outside autograd.

    Inner loops of operators use this: scipy then works in place, and torch's result is the next workspace.
    """
    if is_tracked(x):
        raise ConfigError("A workspace under autograd would be overwritten.", "Use `fft` or `ifft`.")
    engine = _engine_for(x, axes)
    if engine == "torch":
        return (torch.fft.ifftn if inverse else torch.fft.fftn)(x, dim=axes, norm="ortho")
    return _foreign(x, axes, inverse, engine, overwrite=True)


def filter_(x: Tensor, response: Tensor, axes: tuple[int, ...]) -> Tensor:
    r""":math:`F^H \mathrm{diag}(h) F x` along ``axes``, in the workspace ``x``, outside autograd.

    Parameters
    ----------
    x
        Complex workspace; its content is lost.
    response
        :math:`h`, real, broadcastable to ``x``, zero frequency at index 0.
    axes
        Axes to transform; none leaves a multiplication.
    """
    if not axes:
        return x.mul_(response)
    x = consume(x, axes)  # one name, so that at most two workspaces live at a time
    return consume(x.mul_(response), axes, inverse=True)


def conjugate_filter(like: Tensor, axes: tuple[int, ...], response: Tensor) -> Callable[[Tensor], Tensor]:
    r"""Function for the complex conjugate of `filter_`, by :math:`\overline{F^H u} = F \bar u`.

    Who adds up :math:`\sum_c \overline{S_c} x_c` can add the conjugates, :math:`S_c \overline{x_c}`, and needs no
    conjugate of the maps. The engine is chosen once, here, for loops over small blocks.

    Parameters
    ----------
    like
        Any complex tensor with the device and the lengths along ``axes`` of the workspaces to come. These are
        overwritten, outside autograd.
    axes, response
        As for `filter_`.
    """
    engine = _engine_for(like, axes)
    # Real parts are multiplied by one, imaginary parts by the other, which conjugates at no cost.
    both = torch.stack([response, -response], dim=-1)
    transform: Callable[[Tensor], Tensor]
    if not axes:
        transform = _unchanged
    elif engine == "torch":
        transform = functools.partial(torch.fft.fftn, dim=axes, norm="ortho")
    else:
        transform = functools.partial(_foreign, axes=axes, inverse=False, engine=engine, overwrite=True)

    def apply(x: Tensor) -> Tensor:
        x = transform(x)
        torch.view_as_real(x).mul_(both)
        return transform(x)

    return apply


def _unchanged(x: Tensor) -> Tensor:
    return x


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


def harmonics(n: int, n_lags: int, like: Tensor) -> Tensor:
    """Wave of each lag at each pixel, ``(pixel, lag)``; the origin is pixel ``n // 2``, lag 0 is ``n_lags // 2``."""
    position = (torch.arange(n, dtype=torch.float64) - n // 2) / n
    lag = torch.arange(n_lags, dtype=torch.float64) - n_lags // 2
    angle = 2 * math.pi * position[:, None] * lag
    return torch.polar(torch.ones_like(angle), angle).to(like)


def padded_ifft(block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`centred_ifft` of a small block of k-space, zero-padded to ``shape``, by matrix products that skip the zeros.

    Parameters
    ----------
    block
        Complex ``(*batch, *side)``, zero frequency at ``side // 2``.
    shape
        Of the picture, as many axes as the block has sides.
    """
    for n in shape:  # each product takes the first axis that is left and puts its pixels behind the others
        waves = harmonics(n, block.shape[-len(shape)], block) / math.sqrt(n)
        block = torch.tensordot(block, waves, dims=([-len(shape)], [1]))
    return block
