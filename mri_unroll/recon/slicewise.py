"""The frame every method runs in: part by part from k-space to a magnitude volume in the scan's units."""

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
from mri_unroll.errors import DeviceError, UnsupportedScan
from mri_unroll.image import Diagnostics, Evidence, Image, Provenance
from mri_unroll.nets.refinement import RefinedSolution
from mri_unroll.physics.fourier import engine_name
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.nufft_engine import default_engine
from mri_unroll.recon.calibrate import MAX_COILS, Problem
from mri_unroll.recon.parts import Part, Parts, take_apart
from mri_unroll.scan import Scan
from mri_unroll.solvers.solution import Solution

Progress = Callable[[int, int], None]  # parts done, parts in all
Solve = Callable[[Problem], Solution]
Magnitude = Callable[[Problem, Tensor, LinearOperator], Tensor]
# Judges a solved problem by its solution and the operator used: evidence, and the error to expect of each pixel,
# (y, x) in units of the problem's scale; None where it cannot.
Witness = Callable[[Problem, Solution, LinearOperator], tuple[Evidence, Tensor | None] | None]

EMPTY = "Empty slice: no signal was measured, the picture is zero."


def plain_magnitude(problem: Problem, image: Tensor, op: LinearOperator) -> Tensor:
    """What is shown of a complex picture, unless a method knows better."""
    return image.abs()


def quiet(done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True, eq=False)
class SlicewiseReconstructor:
    """A method that solves each part of a scan on its own.

    Parameters
    ----------
    name
        As the user calls it.
    solve
        Solves one calibrated problem; its picture is in units of the problem's scale.
    device
        Where it runs.
    parameters
        As they run, for `Provenance`.
    weights_digest
        Of a learned method.
    planar
        It works on planes only.
    max_coils
        More are compressed to as many virtual coils.
    magnitude
        From a solved problem, its complex picture and the operator with the maps that were used, to what is shown.
    witness
        Sees every solved problem, for the verdict; None: no verdict is wanted.
    """

    name: str
    solve: Solve
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weights_digest: str | None = None
    planar: bool = False
    max_coils: int = MAX_COILS
    magnitude: Magnitude = plain_magnitude
    witness: Witness | None = None

    def reconstruct(self, scan: Scan, *, progress: Progress = quiet) -> Image:
        """Reconstruct a scan.

        Raises
        ------
        DeviceError
            If the device runs out of memory.
        UnsupportedScan
            If it is a volume that cannot be taken apart into planes, and the method needs planes.
        """
        parts = take_apart(scan)
        if self.planar and len(parts.shape) != 2:
            raise UnsupportedScan(
                f"The method {self.name!r} works on planes, but this 3-D acquisition couples all three directions.",
                "Choose cg-sense, l1-wavelet or tv.",
            )

        def reconstruct_part(part: Part) -> PartResult:
            problem = part.calibrated(self.max_coils)
            solution = self.solve(problem)
            op = solution.op if isinstance(solution, RefinedSolution) else problem.op
            seen = None if self.witness is None else self.witness(problem, solution, op)
            evidence, error = seen or (None, None)
            return PartResult(
                picture=self.magnitude(problem, solution.value, op)[0] * problem.scale,
                status=solution.status,
                n_iterations=solution.n_iterations,
                data_residual=problem.data_residual(solution.value, op),
                scale=problem.scale,
                warnings=problem.warnings,
                evidence=evidence,
                predicted_error=None if error is None else error * problem.scale,
            )

        return run_parts(
            self.name, reconstruct_part, scan, parts, self.device, self.parameters, self.weights_digest, progress
        )


@dataclass(frozen=True, slots=True, eq=False)
class PartResult:
    """One part, before cropping."""

    picture: Tensor  # ([z,] y, x) magnitude in the scan's units
    status: str
    n_iterations: int
    data_residual: float
    scale: float
    warnings: tuple[str, ...]
    evidence: Evidence | None = None
    predicted_error: Tensor | None = None  # like the picture


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is kept of a part besides its picture."""

    status: str
    n_iterations: int
    data_residual: float
    energy: float  # squared norm of k-space
    scale: float
    seconds: float


def run_parts(
    name: str,
    reconstruct_part: Callable[[Part], PartResult],
    scan: Scan,
    parts: Parts,
    device: torch.device,
    parameters: Mapping[str, Any],
    weights_digest: str | None,
    progress: Progress,
) -> Image:
    """Prepare each part, run it, crop it, and gather volume, diagnostics and provenance."""
    pictures: list[NDArray[np.float32]] = []
    errors: list[NDArray[np.float32] | None] = []
    evidence: list[Evidence] = []
    entries: list[_Entry] = []
    started = time.perf_counter()
    warnings = dict.fromkeys(parts.warnings)
    for index in range(parts.count):
        part = parts.take(index)
        try:
            with torch.inference_mode():
                result = _run(reconstruct_part, part.to(device))
        except torch.OutOfMemoryError as failure:
            raise DeviceError(
                f"{device} ran out of memory on a part of {tuple(part.kspace.shape)}.", "Use --device cpu."
            ) from failure
        pictures.append(parts.cropped(part.upright(result.picture)))
        error = result.predicted_error
        errors.append(None if error is None else parts.cropped(part.upright(error)))
        evidence += [result.evidence] if result.evidence else []
        warnings |= dict.fromkeys(result.warnings)
        energy = float(torch.linalg.vector_norm(torch.view_as_real(part.kspace), dtype=torch.float64)) ** 2
        seconds, started = time.perf_counter() - started, time.perf_counter()
        entries.append(_Entry(result.status, result.n_iterations, result.data_residual, energy, result.scale, seconds))
        progress(index + 1, parts.count)
    if parts.axis != 0:
        entries = [_merged(entries)]
    return Image(
        pixels=parts.assembled(pictures),
        geometry=scan.geometry,
        diagnostics=Diagnostics(
            data_residual=tuple(entry.data_residual for entry in entries),
            status=tuple(entry.status for entry in entries),
            n_iterations=tuple(entry.n_iterations for entry in entries),
            seconds=tuple(entry.seconds for entry in entries),
            warnings=tuple(warnings),
            evidence=tuple(evidence),
        ),
        provenance=Provenance(
            method=name,
            version=__version__,
            device=str(device),
            fft_engine=engine_name(device) if scan.is_cartesian else f"{engine_name(device)}, {default_engine(device)}",
            parameters=dict(parameters),
            input_digest=scan.source.digest or None,
            weights_digest=weights_digest,
            scale=tuple(entry.scale for entry in entries),
        ),
        patient=scan.patient,
        predicted_error=_assembled(parts, errors, pictures),
    )


def _assembled(
    parts: Parts, errors: list[NDArray[np.float32] | None], pictures: list[NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    """The error map of the volume; where nothing was measured nothing is known. None if no part has one."""
    if all(error is None for error in errors):
        return None
    unknown = (np.full_like(picture, np.nan) for picture in pictures)
    return parts.assembled([gap if error is None else error for error, gap in zip(errors, unknown, strict=True)])


def _run(reconstruct_part: Callable[[Part], PartResult], part: Part) -> PartResult:
    if part.is_empty:
        return PartResult(torch.zeros(part.picture_shape), EMPTY, 0, math.nan, 1.0, ())
    return reconstruct_part(part)


def _merged(entries: list[_Entry]) -> _Entry:
    """One entry for planes that cut across the slices of a volume."""
    measured = [entry for entry in entries if math.isfinite(entry.data_residual)]
    if not measured:
        return entries[0]
    energy = sum(entry.energy for entry in measured)
    error = sum(entry.data_residual**2 * entry.energy for entry in measured)
    counts = {
        status: sum(entry.status == status for entry in measured) for status in sorted({e.status for e in measured})
    }
    status = " ".join(s if len(counts) == 1 else f"{n} of {len(measured)} planes: {s}" for s, n in counts.items())
    return _Entry(
        status=status,
        n_iterations=max(entry.n_iterations for entry in measured),
        data_residual=math.sqrt(error / energy),
        energy=energy,
        scale=measured[0].scale,
        seconds=sum(entry.seconds for entry in entries),
    )
