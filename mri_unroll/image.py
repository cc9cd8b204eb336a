"""What is given back: pictures, what was found while making them, and how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ShapeError
from mri_unroll.scan import Geometry, PatientTags


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What was found, one entry a slice (one in all for a volume solved as one), and warnings as sentences."""

    data_residual: tuple[
        float, ...
    ]  # ||M F S x - y|| / ||y|| over the measured samples; NaN: nothing measured, or magnitudes only
    status: tuple[str, ...]  # a sentence of advice, as the solver gave it
    n_iterations: tuple[int, ...]
    seconds: tuple[float, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a picture was made, enough to make it again."""

    method: str
    version: str
    device: str  # "cpu" or "cuda:0 (name)"
    fft_engine: str  # which FFT ran: "sigpy/numpy", "sigpy/cupy", "torch"
    parameters: dict[str, Any] = field(default_factory=dict)  # as they ran, defaults resolved
    input_digest: str | None = None  # "sha256:..." of the file that was read
    weights_digest: str | None = None  # "sha256:..." of the weights file; None for classical methods
    scale: tuple[float, ...] = ()  # as in Diagnostics: k-space was divided by this, the picture multiplied by it


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Magnitude pictures in the units of the scan they came from.

    Raises
    ------
    ShapeError
        If ``pixels`` is not ``(slice, y, x)``.
    """

    pixels: NDArray[np.float32]  # (slice, y, x)
    geometry: Geometry
    diagnostics: Diagnostics
    provenance: Provenance
    patient: PatientTags | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3:
            raise ShapeError(f"Expected pixels (slice, y, x), got {self.pixels.shape}.")


def join(images: list[Image]) -> Image:
    """One volume of consecutive slices that the same method made in parts."""
    parts = [image.diagnostics for image in images]
    diagnostics = Diagnostics(
        data_residual=tuple(value for part in parts for value in part.data_residual),
        status=tuple(value for part in parts for value in part.status),
        n_iterations=tuple(value for part in parts for value in part.n_iterations),
        seconds=tuple(value for part in parts for value in part.seconds),
        warnings=tuple(dict.fromkeys(value for part in parts for value in part.warnings)),
    )
    scale = tuple(value for image in images for value in image.provenance.scale)
    return replace(
        images[0],
        pixels=np.concatenate([image.pixels for image in images]),
        diagnostics=diagnostics,
        provenance=replace(images[0].provenance, scale=scale),
    )
