"""The frame every method runs in: slice by slice from k-space to a cropped magnitude picture in the scan's units."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll import __version__
from mri_unroll.errors import DeviceError
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.metrics import center_crop
from mri_unroll.physics.coils import prewhiten
from mri_unroll.physics.fourier import centred_fft, centred_ifft, engine_name
from mri_unroll.physics.sampling import varies_along
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.scan import Scan
from mri_unroll.solvers.solution import Solution

Progress = Callable[[int, int], None]  # slices done, slices in all
Solve = Callable[[CalibratedSlice], Solution]

EMPTY = "Empty slice: no signal was measured, the picture is zero."


def quiet(done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True, eq=False)
class SlicewiseReconstructor:
    """A method that solves each slice on its own.

    Parameters
    ----------
    name
        As the user calls it.
    solve
        Solves one calibrated slice; its picture is in units of the slice's scale.
    device
        Where it runs.
    parameters
        As they run, for `Provenance`.
    weights_digest
        Of a learned method.
    """

    name: str
    solve: Solve
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weights_digest: str | None = None

    def reconstruct(self, scan: Scan, *, progress: Progress = quiet) -> Image:
        """Reconstruct every slice of a scan.

        Raises
        ------
        DeviceError
            If the device runs out of memory.
        """

        def reconstruct_slice(kspace: Tensor, mask: Tensor) -> SliceResult:
            if not bool((kspace * mask != 0).any()):
                return SliceResult(torch.zeros(kspace.shape[-2:]), EMPTY, 0, math.nan, 1.0, ())
            problem = calibrate_slice(kspace, mask)
            solution = self.solve(problem)
            return SliceResult(
                picture=solution.value[0].abs() * problem.scale,
                status=solution.status,
                n_iterations=solution.n_iterations,
                data_residual=data_residual(problem, solution.value),
                scale=problem.scale,
                warnings=problem.warnings,
            )

        return run_slices(
            self.name, reconstruct_slice, scan, self.device, self.parameters, self.weights_digest, progress
        )


@dataclass(frozen=True, slots=True, eq=False)
class SliceResult:
    """One slice, before cropping."""

    picture: Tensor  # (y, x) magnitude in the scan's units
    status: str
    n_iterations: int
    data_residual: float
    scale: float
    warnings: tuple[str, ...]


def run_slices(
    name: str,
    reconstruct_slice: Callable[[Tensor, Tensor], SliceResult],
    scan: Scan,
    device: torch.device,
    parameters: Mapping[str, Any],
    weights_digest: str | None,
    progress: Progress,
) -> Image:
    """Prepare each slice, run it, crop it, and gather pictures, diagnostics and provenance."""
    pictures: list[NDArray[np.float32]] = []
    results: list[SliceResult] = []
    seconds: list[float] = []
    for index in range(scan.n_slices):
        started = time.perf_counter()
        kspace, mask = slice_data(scan, index)
        try:
            with torch.inference_mode():
                result = reconstruct_slice(kspace.to(device), mask.to(device))
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{device} ran out of memory on a slice of {tuple(kspace.shape)}.", "Use --device cpu."
            ) from error
        pictures.append(center_crop(result.picture.cpu().numpy().astype(np.float32), scan.geometry.recon_shape))
        results.append(result)
        seconds.append(time.perf_counter() - started)
        progress(index + 1, scan.n_slices)
    return Image(
        pixels=np.stack(pictures),
        geometry=scan.geometry,
        diagnostics=Diagnostics(
            data_residual=tuple(result.data_residual for result in results),
            status=tuple(result.status for result in results),
            n_iterations=tuple(result.n_iterations for result in results),
            seconds=tuple(seconds),
            warnings=tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
        ),
        provenance=Provenance(
            method=name,
            version=__version__,
            device=str(device),
            fft_engine=engine_name(device),
            parameters=dict(parameters),
            input_digest=scan.source.digest,
            weights_digest=weights_digest,
            scale=tuple(result.scale for result in results),
        ),
        patient=scan.patient,
    )


def slice_data(scan: Scan, index: int) -> tuple[Tensor, Tensor]:
    """K-space ``(coil, ky, kx)`` and mask ``(ky, kx)`` of one slice: whitened, and without readout oversampling.

    Where whole lines were measured, rows of the picture decouple along the readout, and those outside the final field
    of view are cut off by inverse FFT, crop, FFT: exact, and half the work for twofold oversampling.
    """
    kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index], dtype=np.complex64))
    mask_array = scan.mask if scan.mask.ndim == 2 else scan.mask[index]
    mask = torch.from_numpy(np.array(mask_array))
    if scan.noise_cov is not None:
        kspace = prewhiten(kspace, torch.from_numpy(scan.noise_cov))
    n_rows = scan.geometry.recon_shape[0]
    if n_rows < kspace.shape[-2] and not varies_along(mask_array):
        rows = centred_ifft(kspace, (-2,))
        first = (kspace.shape[-2] - n_rows) // 2
        kspace = centred_fft(rows[..., first : first + n_rows, :], (-2,))
        mask = mask[:n_rows]
    return kspace, mask


def data_residual(problem: CalibratedSlice, image: Tensor) -> float:
    """``||M F S x - y|| / ||y||`` over the measured samples."""
    error = problem.op.forward(image) - problem.kspace
    return float(torch.linalg.vector_norm(error) / torch.linalg.vector_norm(problem.kspace))
