"""Functions that numba compiles when they are first called, once per machine; their memory, and their threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.errors import ShapeError

# numba keeps what it compiled, but looks for changes in the file of the function called only, not in those of what that
# calls. The sources of all go into each name, so that nothing outlives what it was made from.
_ROOM = Path(__file__).parent
_SOURCES = ("compiled", "lanes", "lane_arithmetic", "tile_fft", "fused_kernels", "espirit_kernels")
_DIGEST = hashlib.sha256(b"".join((_ROOM / f"{name}.py").read_bytes() for name in _SOURCES)).hexdigest()[:12]

_CACHE_LINE = 16  # numbers of single precision
_TEAM_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _find_parallel() -> Any:
    """What starts a parallel region in the OpenMP library that torch brought, by GNU's convention, if that has it."""
    try:
        return ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None


def _forget_parallel() -> None:
    """OpenMP's threads do not survive a fork, and a region in the child would wait for them for ever."""
    global _parallel
    if _has_team:
        _parallel = None


_parallel = _find_parallel()
_has_team = False  # whether threads were started
os.register_at_fork(after_in_child=_forget_parallel)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep the result on disk; other threads run beside it."""
    if function.__module__.rpartition(".")[2] not in _SOURCES:
        raise ValueError(f"Expected a function of one of {_SOURCES}, got one of {function.__module__}.")
    function.__qualname__ = f"{function.__qualname__}_{_DIGEST}"
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


def numbers(tensor: torch.Tensor) -> NDArray[np.float32]:
    """The memory of a contiguous complex tensor in single precision, flat, as compiled functions take it."""
    if tensor.dtype != torch.complex64:  # what they would read as single precision all the same
        raise ShapeError(f"Expected a complex64 tensor, got {tensor.dtype}.")
    array: NDArray[np.float32] = torch.view_as_real(tensor).view(-1).numpy()
    return array


def aligned(n: int) -> NDArray[np.float32]:
    """Room for ``n`` numbers that begins with a cache line."""
    room = np.empty(n + _CACHE_LINE, np.float32)
    start = -(room.ctypes.data // room.itemsize) % _CACHE_LINE
    return room[start : start + n]


def in_threads(function: Callable[[Any], None], tasks: Iterable[Any], n_threads: int) -> None:
    """Call a function, which calls compiled ones, with every task, in the threads that torch's own operations use.

    Those wait for their next work at full speed for some milliseconds, so that threads beside them find no processor.
    """
    global _has_team
    todo = iter(list(tasks))
    failed: list[BaseException] = []

    def work(_: object = None) -> None:
        try:
            for task in todo:  # threads take turns at one iterator
                function(task)
        except BaseException as error:
            failed.append(error)

    if n_threads == 1 or _parallel is None:
        work()
    else:
        _has_team = True
        _parallel(_TEAM_FUNCTION(work), None, n_threads, 0)
    if failed:
        raise failed[0]
