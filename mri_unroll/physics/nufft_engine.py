r"""Engines of the non-uniform Fourier transform (NUFFT), all with one face and one scaling.

.. math:: y_s = \sum_j x_j \exp\Bigl(-2\pi i \sum_a k_{sa} \frac{j_a - \lfloor n_a/2 \rfloor}{n_a}\Bigr)

without a factor in front; `NufftOperator` folds :math:`1/\sqrt{\prod n_a}` into its coil maps. By default, of those
that are installed: finufft, then sigpy/numpy on the CPU; cufinufft, then sigpy/cupy on CUDA.

References
----------
Barnett, Magland and af Klinteberg (finufft), SIAM J. Sci. Comput. 41, C479 (2019), doi:10.1137/18M120885X;
Shih et al. (cufinufft), arXiv:2102.08463; Beatty et al. (the kernel of sigpy), IEEE Trans. Med. Imaging 24, 799 (2005),
doi:10.1109/TMI.2005.848376.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import sigpy
import torch
from torch import Tensor

from mri_unroll.errors import ConfigError, DeviceError
from mri_unroll.physics.bridge import to_array, to_tensor

# From this tolerance on, positions rounded to single precision do no harm.
SINGLE_PRECISION_FROM = 1e-4
# sigpy, grid of twice the size: kernel width and measured relative error. Its Bessel function allows no better.
SIGPY_ERRORS = {4: 9e-4, 5: 9e-5, 6: 9e-6, 7: 1.6e-6, 8: 3e-7}


class NufftEngine(ABC):
    """The bare transform and its adjoint for fixed positions.

    Parameters
    ----------
    coordinates
        float64, ``(sample, ndim)``, cycles per field of view, on the device of the data.
    image_shape
        ``([z,] y, x)``.
    tolerance
        Relative error asked for; what comes is at most three times that.
    """

    name: ClassVar[str]
    device_type: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]  # what installs the module

    def __init__(self, coordinates: Tensor, image_shape: tuple[int, ...], tolerance: float) -> None:
        self.coordinates = coordinates
        self.image_shape = image_shape
        self.tolerance = tolerance
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()  # a plan has one workspace

    def __reduce__(self) -> Any:  # plans and the lock stay behind; a copy makes its own
        return type(self), (self.coordinates, self.image_shape, self.tolerance)

    @classmethod
    @functools.cache
    def installed(cls) -> bool:
        """Whether the module can be imported."""
        try:
            importlib.import_module(cls.module)
        except ImportError:
            return False
        return True

    def forward(self, stack: Tensor) -> Tensor:
        """Pictures ``(*lead, [z,] y, x)`` to samples ``(*lead, sample)``."""
        return self._apply(stack, self.image_shape, (len(self.coordinates),), forward=True)

    def adjoint(self, stack: Tensor) -> Tensor:
        """Samples ``(*lead, sample)`` to pictures ``(*lead, [z,] y, x)``."""
        return self._apply(stack, (len(self.coordinates),), self.image_shape, forward=False)

    def _apply(self, stack: Tensor, source: tuple[int, ...], target: tuple[int, ...], forward: bool) -> Tensor:
        stack = stack.detach().resolve_conj().resolve_neg().contiguous()
        result = stack.new_empty((*stack.shape[: stack.ndim - len(source)], *target))
        self._transform(stack.reshape(-1, *source), result.view(-1, *target), forward)
        return result

    @abstractmethod
    def _transform(self, rows: Tensor, out: Tensor, forward: bool) -> None:
        """Transform contiguous ``rows`` into ``out``."""

    def _radians(self, dtype: torch.dtype) -> list[Tensor]:
        """Positions in radians per pixel, one contiguous tensor per axis."""
        axes = zip(self.image_shape, self.coordinates.unbind(-1), strict=True)
        return [(2 * math.pi / n * k).to(dtype.to_real()).contiguous() for n, k in axes]

    def _plan_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if self.tolerance >= SINGLE_PRECISION_FROM else torch.complex128


class FinufftEngine(NufftEngine):
    """finufft; as many transforms at a time as torch has threads, one thread each: two runs then agree to the last bit.

    Tighter than 1e-4 it computes in double precision also for complex64: in single precision finufft rounds positions
    on its grid, an error that grows with the picture (2e-5 at 320 pixels). In 2-D that costs nothing.
    """

    name = "finufft"
    device_type = "cpu"
    module = "finufft"
    extra = "nufft"

    def _transform(self, rows: Tensor, out: Tensor, forward: bool) -> None:
        at_once = max(n for n in range(1, torch.get_num_threads() + 1) if len(rows) % n == 0)
        dtype = self._plan_dtype(rows.dtype)
        with self._lock:
            plan = self._plan(dtype, at_once)
            execute = plan.execute if forward else plan.execute_adjoint
            # Reused: new memory costs page faults at every transform.
            precise = rows.new_empty(rows[:at_once].shape, dtype=dtype), out.new_empty(out[:at_once].shape, dtype=dtype)
            for source, target in zip(rows.split(at_once), out.split(at_once), strict=True):
                if source.dtype == dtype:
                    execute(source.numpy(), out=target.numpy())
                else:
                    execute(precise[0].copy_(source).numpy(), out=precise[1].numpy())
                    target.copy_(precise[1])

    def _plan(self, dtype: torch.dtype, at_once: int) -> Any:
        key = (dtype, at_once)
        if key not in self._plans:
            import finufft

            threads = {"nthreads": at_once, "spread_thread": 2}  # 2: in parallel over transforms
            plan = finufft.Plan(2, self.image_shape, at_once, self.tolerance, -1, _name(dtype), **threads)
            plan.setpts(*(axis.numpy() for axis in self._radians(dtype)))
            self._plans[key] = plan
        return self._plans[key]


class CufinufftEngine(NufftEngine):
    """cufinufft on torch's current stream; precision as `FinufftEngine`."""

    name = "cufinufft"
    device_type = "cuda"
    module = "cufinufft"
    extra = "nufft-gpu"

    @classmethod
    @functools.cache
    def installed(cls) -> bool:
        """Whether the module can be imported; its wheel is made for CUDA 12 and does not look for the libraries."""
        spec = importlib.util.find_spec("nvidia")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for library in ("cuda_runtime/lib/libcudart.so.12", "cufft/lib/libcufft.so.11"):
                if (Path(folder) / library).exists():
                    ctypes.CDLL(str(Path(folder) / library), mode=ctypes.RTLD_GLOBAL)
        return super().installed()

    def _transform(self, rows: Tensor, out: Tensor, forward: bool) -> None:
        dtype = self._plan_dtype(rows.dtype)
        with torch.cuda.device(rows.device), self._lock:
            plan = self._plan(dtype, len(rows), forward)
            out.copy_(plan.execute(rows.to(dtype)).view(out.shape))

    def _plan(self, dtype: torch.dtype, n_rows: int, forward: bool) -> Any:
        stream = torch.cuda.current_stream().cuda_stream
        key = (dtype, n_rows, forward, stream)
        if key not in self._plans:
            import cufinufft

            plan = cufinufft.Plan(
                2 if forward else 1,
                self.image_shape,
                n_rows,
                self.tolerance,
                -1 if forward else 1,
                _name(dtype),
                gpu_device_id=torch.cuda.current_device(),
                gpu_stream=stream,
            )
            plan.setpts(*self._radians(dtype))
            self._plans[key] = plan
        return self._plans[key]


class SigpyEngine(NufftEngine):
    """sigpy's gridding, one picture at a time, on a grid of twice the size, positions in double precision."""

    name = "sigpy/numpy"
    device_type = "cpu"
    module = "sigpy"
    extra = ""

    def __init__(self, coordinates: Tensor, image_shape: tuple[int, ...], tolerance: float) -> None:
        super().__init__(coordinates, image_shape, tolerance)
        widths = [width for width, error in SIGPY_ERRORS.items() if error <= 3 * tolerance]
        if not widths:
            raise ConfigError(
                f"The NUFFT engine {self.name} errs by up to {min(SIGPY_ERRORS.values()):.0e} at its best; "
                f"the tolerance is {tolerance:.0e}.",
                "Ask for less, or install another with `pip install 'mri-unroll[nufft]'`.",
            )
        self._kernel = {"oversamp": 2, "width": widths[0]}

    def _transform(self, rows: Tensor, out: Tensor, forward: bool) -> None:
        scale = math.sqrt(math.prod(self.image_shape))  # sigpy's transforms are unitary
        with self._on_device(rows.device):
            coordinates = to_array(self.coordinates)
            for source, target in zip(rows, out, strict=True):
                if forward:
                    one = sigpy.nufft(to_array(source), coordinates, **self._kernel)
                else:
                    one = sigpy.nufft_adjoint(to_array(source), coordinates, self.image_shape, **self._kernel)
                torch.mul(to_tensor(one), scale, out=target)

    def _on_device(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class SigpyCudaEngine(SigpyEngine):
    """`SigpyEngine` through CuPy."""

    name = "sigpy/cupy"
    device_type = "cuda"
    module = "cupy"
    extra = "gpu"

    @contextlib.contextmanager
    def _on_device(self, device: torch.device) -> Iterator[None]:
        import cupy

        # CuPy's device and stream are thread-local, and autograd runs backward in a thread of its own.
        stream = torch.cuda.current_stream(device).cuda_stream
        with cupy.cuda.Device(device.index or 0), cupy.cuda.ExternalStream(stream):
            yield


ENGINES: dict[str, type[NufftEngine]] = {
    engine.name: engine for engine in (FinufftEngine, SigpyEngine, CufinufftEngine, SigpyCudaEngine)
}


def default_engine(device: torch.device | str = "cpu") -> str:
    """Name of the engine that runs on ``device`` where none is asked for.

    Raises
    ------
    DeviceError
        If none serves the device.
    """
    kind = torch.device(device).type
    for engine in ENGINES.values():
        if engine.device_type == kind and engine.installed():
            return engine.name
    raise DeviceError(
        f"No installed NUFFT engine serves the device {kind}.",
        "Install one with `pip install 'mri-unroll[nufft-gpu]'` or `'mri-unroll[gpu]'`, or move the data to the CPU.",
    )


def make_engine(
    coordinates: Tensor, image_shape: tuple[int, ...], tolerance: float, name: str | None = None
) -> NufftEngine:
    """Engine for one trajectory, on the device of the coordinates.

    Parameters
    ----------
    coordinates, image_shape, tolerance
        As for `NufftEngine`.
    name
        Of the engine; by default `default_engine`.

    Raises
    ------
    ConfigError
        If there is no engine of that name, or it cannot reach the tolerance.
    DeviceError
        If the engine is not installed, or runs elsewhere.
    """
    name = name or default_engine(coordinates.device)
    engine = ENGINES.get(name)
    if engine is None:
        raise ConfigError(f"Expected a NUFFT engine {', '.join(ENGINES)}, got {name!r}.")
    if engine.device_type != coordinates.device.type:
        places = f"runs on {engine.device_type}, the data is on {coordinates.device.type}"
        raise DeviceError(f"The NUFFT engine {name} {places}.", "Move the data there.")
    if not engine.installed():
        install = f"Install it with `pip install 'mri-unroll[{engine.extra}]'`."
        raise DeviceError(f"The NUFFT engine {name} is not installed.", install)
    return engine(coordinates, image_shape, tolerance)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
