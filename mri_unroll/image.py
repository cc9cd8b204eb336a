"""What is given back: pictures, what was found while making them, and how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ShapeError
from mri_unroll.scan import Geometry, PatientTags


@dataclass(frozen=True, slots=True)
class Evidence:
    """Numbers of one part of a scan, from which its error is predicted; `mri_unroll.trust.evidence` makes them."""

    features: dict[str, float]
    energy: float  # squared norm of the part's picture, in the scan's units
    unfamiliarity: float = 0.0  # log-odds that it shows no body that is known, `mri_unroll.trust.familiarity`


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
    evidence: tuple[Evidence, ...] = ()  # one a part that was solved and could be judged


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
        If ``pixels`` is not ``(slice, y, x)``, or the error map differs from it in shape.
    """

    pixels: NDArray[np.float32]  # (slice, y, x)
    geometry: Geometry
    diagnostics: Diagnostics
    provenance: Provenance
    patient: PatientTags | None = field(default=None, repr=False)
    predicted_error: NDArray[np.float32] | None = None  # (slice, y, x), what errors stay below; None: not predicted

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3:
            raise ShapeError(f"Expected pixels (slice, y, x), got {self.pixels.shape}.")
        if self.predicted_error is not None and self.predicted_error.shape != self.pixels.shape:
            raise ShapeError(f"Expected an error map {self.pixels.shape}, got {self.predicted_error.shape}.")


def join(images: list[Image]) -> Image:
    """One volume of consecutive slices that the same method made in parts.

    It has positions if all parts have, and lie the same way.
    """
    geometry = images[0].geometry
    positions = [image.geometry.position for image in images if image.geometry.position is not None]
    if len(positions) < len(images) or not all(_same_axes(image.geometry, geometry) for image in images):
        position = None
    else:
        position = np.concatenate(positions)
    parts = [image.diagnostics for image in images]
    diagnostics = Diagnostics(
        data_residual=tuple(value for part in parts for value in part.data_residual),
        status=tuple(value for part in parts for value in part.status),
        n_iterations=tuple(value for part in parts for value in part.n_iterations),
        seconds=tuple(value for part in parts for value in part.seconds),
        warnings=tuple(dict.fromkeys(value for part in parts for value in part.warnings)),
        evidence=tuple(value for part in parts for value in part.evidence),
    )
    errors = [image.predicted_error for image in images if image.predicted_error is not None]
    scale = tuple(value for image in images for value in image.provenance.scale)
    return replace(
        images[0],
        pixels=np.concatenate([image.pixels for image in images]),
        geometry=replace(geometry, position=position),
        diagnostics=diagnostics,
        provenance=replace(images[0].provenance, scale=scale),
        predicted_error=np.concatenate(errors) if len(errors) == len(images) else None,
    )


def _same_axes(one: Geometry, other: Geometry) -> bool:
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return bool(np.allclose(one.orientation, other.orientation, atol=1e-6))


def cropped(image: Image, rows: slice, columns: slice) -> Image:
    """A part of every picture, where it lies in the patient.

    Raises
    ------
    ShapeError
        If nothing is left, or a slice has a step.
    """
    geometry, (_, height, width) = image.geometry, image.pixels.shape
    (top, bottom, row_step), (left, right, column_step) = rows.indices(height), columns.indices(width)
    if row_step != 1 or column_step != 1 or bottom <= top or right <= left:
        raise ShapeError(f"Expected rows and columns within {height} x {width}, got {rows} and {columns}.")
    pixels = np.ascontiguousarray(image.pixels[:, top:bottom, left:right])
    size = pixels.shape[1:]
    # The origin of a picture is its pixel n // 2.
    moved = (top + size[0] // 2 - height // 2, left + size[1] // 2 - width // 2)
    fov = geometry.field_of_view
    changed = replace(
        geometry,
        recon_shape=(size[0], size[1]),
        field_of_view=None if fov is None else (fov[0] * size[0] / height, fov[1] * size[1] / width, fov[2]),
        position=_shifted(image, moved),
    )
    errors = (
        None
        if image.predicted_error is None
        else np.ascontiguousarray(image.predicted_error[:, top:bottom, left:right])
    )
    return replace(image, pixels=pixels, geometry=changed, predicted_error=errors)


def flipped(image: Image, axis: int) -> Image:
    """The same with the slices (axis 0), y (1) or x (2) counted from the other end; nothing moves in the patient."""
    geometry, n = image.geometry, image.pixels.shape[axis]
    position, axes = geometry.position, geometry.orientation
    if axis == 0:
        position = None if position is None else position[::-1].copy()
    else:
        beside = n - 1 - 2 * (n // 2)  # pixel n // 2 counted from the other end is another where n is even
        position = _shifted(image, (beside, 0) if axis == 1 else (0, beside))
    if axes is not None:
        axes = axes.copy()
        axes[(axis + 2) % 3] *= -1  # rows of the orientation are y, x, slice
    pixels = np.ascontiguousarray(np.flip(image.pixels, axis))
    errors = None if image.predicted_error is None else np.ascontiguousarray(np.flip(image.predicted_error, axis))
    changed = replace(geometry, orientation=axes, position=position)
    return replace(image, pixels=pixels, geometry=changed, predicted_error=errors)


def transposed(image: Image) -> Image:
    """The same with y and x exchanged; twice is the same again."""
    geometry = image.geometry
    fov, axes = geometry.field_of_view, geometry.orientation
    changed = replace(
        geometry,
        recon_shape=(geometry.recon_shape[1], geometry.recon_shape[0]),
        field_of_view=None if fov is None else (fov[1], fov[0], fov[2]),
        orientation=None if axes is None else axes[[1, 0, 2]],
    )
    pixels = np.ascontiguousarray(image.pixels.transpose(0, 2, 1))
    errors = image.predicted_error
    errors = None if errors is None else np.ascontiguousarray(errors.transpose(0, 2, 1))
    return replace(image, pixels=pixels, geometry=changed, predicted_error=errors)


def _shifted(image: Image, pixels: tuple[int, int]) -> NDArray[np.float64] | None:
    """Positions moved by so many pixels along y and x; None where they or the size of a pixel are unknown."""
    geometry = image.geometry
    fov, axes, position = geometry.field_of_view, geometry.orientation, geometry.position
    if fov is None or axes is None or position is None:
        return None
    step = [fov[axis] / image.pixels.shape[1 + axis] * pixels[axis] for axis in (0, 1)]
    return position + step[0] * axes[0] + step[1] * axes[1]
