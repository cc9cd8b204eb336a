"""A blurred magnitude series becomes a sharper one in the same units, and says how well it explains its source."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll import __version__
from mri_unroll.errors import InputError
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.physics.blur import BlurOperator
from mri_unroll.physics.fourier import engine_name
from mri_unroll.physics.resolution import TruncationOperator
from mri_unroll.recon.blurred import BlurredProblem, degraded, estimate_noise, norm_bound, pose
from mri_unroll.recon.calibrate import brightness
from mri_unroll.recon.psf import PsfSpec
from mri_unroll.recon.slicewise import Progress, quiet

Solve = Callable[[BlurredProblem], Tensor]  # complex (1, y, x), in units of the problem's scale

EMPTY = "Empty slice: the source is zero, and so is the picture."
_AIR = 0.1  # of bright; residuals are judged above it, because magnitudes of air do not scatter about zero
_TRUSTED = 2.0  # residual in units of noise above which the point spread function is doubted
_BEYOND = 0.05  # share of the norm of k-space outside the cut, above which it is doubted; magnitudes bend a little


@dataclass(frozen=True, slots=True, eq=False)
class Restorer:
    """A method that undoes a known blur, slice by slice.

    Parameters
    ----------
    name
        As the user calls it.
    psf
        What lies between the sharp picture and the one that is there.
    solve
        The method.
    device
        Where it runs.
    parameters
        As they run, for `Provenance`.
    weights_digest
        Of a learned method.
    """

    name: str
    psf: PsfSpec
    solve: Solve
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weights_digest: str | None = None

    def restore(self, image: Image, *, progress: Progress = quiet) -> Image:
        r"""Restore every slice.

        Scale and noise are estimated once for the whole series, so that its slices stay comparable. The data residual
        of a slice is the root mean square of :math:`Ax - y` over tissue in units of the estimated noise: near 1 where
        the picture explains its source, above it where blur or noise are not as assumed.

        Parameters
        ----------
        image
            Magnitudes ``(slice, y, x)``, any units.
        progress
            Called after each slice.

        Returns
        -------
            The same grid, geometry and units; negative values are set to zero and counted in a warning.

        Raises
        ------
        UnsupportedScan, ConfigError
            See `PsfSpec.kernel`.
        InputError
            If a pixel is not finite.
        """
        if not np.isfinite(image.pixels).all():
            raise InputError("The source holds pixels that are not finite.", "Export the study again.")
        shape = (int(image.pixels.shape[1]), int(image.pixels.shape[2]))
        op = self.psf.operator(shape, spacing_of(image))
        bound = norm_bound(op)
        scale = brightness(torch.from_numpy(np.ascontiguousarray(image.pixels)))
        noise = series_noise(image.pixels, op, scale)
        pictures, residuals, status, seconds = [], [], [], []
        for index, picture in enumerate(image.pixels):
            started = time.perf_counter()
            if not picture.any():
                restored, residual, said = np.zeros(shape, np.float32), math.nan, EMPTY
            else:
                problem = pose(picture, op, scale=scale, noise=noise, lipschitz=bound)
                with torch.inference_mode():
                    value = self.solve(problem)
                    residual = residual_in_noise(problem, value, op)
                restored, said = (value[0].real * scale).numpy().astype(np.float32), _said(residual)
            pictures.append(restored)
            residuals.append(residual)
            status.append(said)
            seconds.append(time.perf_counter() - started)
            progress(index + 1, len(image.pixels))
        pixels = np.stack(pictures)
        warnings = [*image.diagnostics.warnings, *_doubts(residuals, noise), *_cut_doubts(image.pixels, op)]
        negative = float(np.mean(pixels < -noise))
        if negative > 0:
            warnings.append(
                f"{100 * negative:.2g} % of pixels came out below zero by more than the noise: set to zero."
            )
        return replace(
            image,
            pixels=np.maximum(pixels, 0),
            diagnostics=Diagnostics(
                tuple(residuals), tuple(status), (1,) * len(pixels), tuple(seconds), tuple(warnings)
            ),
            provenance=Provenance(
                method=self.name,
                version=__version__,
                device=str(self.device),
                fft_engine=engine_name(self.device),
                parameters=dict(self.parameters) | {"psf": self.psf.text, "noise_level": noise, "axes": "in-plane"},
                input_digest=image.provenance.input_digest,
                weights_digest=self.weights_digest,
                scale=(scale,) * len(pixels),
            ),
        )


def spacing_of(image: Image) -> tuple[float, float] | None:
    """Millimetres from pixel to pixel along y and x; None: unknown."""
    fov = image.geometry.field_of_view
    return fov and (1000 * fov[0] / image.pixels.shape[1], 1000 * fov[1] / image.pixels.shape[2])


def series_noise(pixels: NDArray[np.float32], op: BlurOperator | TruncationOperator, scale: float) -> float:
    """Standard deviation of the noise of a series in its own units: the median over slices that hold something."""
    levels = [estimate_noise(_measured(picture, op, scale), 1.0) for picture in pixels if picture.any()]
    return scale * float(np.median(levels)) if levels else 0.0


def _measured(picture: NDArray[np.float32], op: BlurOperator | TruncationOperator, scale: float) -> NDArray[np.float32]:
    real = torch.from_numpy(picture / np.float32(scale))[None]
    found: NDArray[np.float32] = degraded(torch.complex(real, torch.zeros_like(real)), op)[0].real.numpy()
    return found


def residual_in_noise(problem: BlurredProblem, value: Tensor, op: BlurOperator | TruncationOperator) -> float:
    """Root mean square of ``A x - y`` over tissue in units of the noise; NaN where no noise was found."""
    error = (op.forward(value.to(problem.kspace.dtype)) - problem.kspace).real
    size = problem.kspace.abs()
    tissue = size > _AIR * float(size.max())
    if problem.noise_level == 0 or not tissue.any():
        return math.nan
    return float(error[tissue].square().mean().sqrt()) / problem.noise_level


def _said(residual: float) -> str:
    if math.isnan(residual):
        return "No noise was found in the source; agreement with it is not judged."
    return f"Explains its source to {residual:.2f} times the noise."


def _doubts(residuals: list[float], noise: float) -> list[str]:
    known = [residual for residual in residuals if not math.isnan(residual)]
    if noise == 0:
        return ["No noise was found in the source: it may have been smoothed, or is synthetic."]
    typical = float(np.median(known)) if known else 0.0
    if typical <= _TRUSTED:
        return []
    return [
        f"The result differs from its source by {typical:.1f} times the noise: the blur is probably not as assumed. Do "
        "not trust fine detail."
    ]


def _cut_doubts(pixels: NDArray[np.float32], op: BlurOperator | TruncationOperator) -> list[str]:
    """Whether k-space of a series is as empty outside the cut as zero filling leaves it."""
    if not isinstance(op, TruncationOperator):
        return []
    picture = torch.from_numpy(np.ascontiguousarray(pixels[len(pixels) // 2])).to(torch.complex64)[None]
    size = float(torch.linalg.vector_norm(picture))
    share = float(torch.linalg.vector_norm(picture - op.normal(picture))) / size if size else 0.0
    if share <= _BEYOND:
        return []
    return [
        f"K-space outside the cut holds {100 * share:.1f} % of the picture's norm, zero filling would leave almost "
        "none: what lies there is not used. The factor may be too large."
    ]
