"""What can be said about a reconstruction: agreement with the measurements, with a reference, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll import metrics
from mri_unroll.image import Image
from mri_unroll.trust.verdict import Verdict

# What a sidecar says where no verdict was asked for.
NO_VERDICT: dict[str, Any] = {
    "verdict": None,
    "advice": ["No verdict was asked for: nothing is known about the error of this picture."],
    "predicted": None,
    "checks": {},
}


@dataclass(frozen=True, slots=True, eq=False)
class QualityReport:
    """Numbers that belong to one reconstructed volume."""

    data_residual: tuple[float, ...]  # per slice, see image.Diagnostics
    metrics: (
        dict[str, float] | None
    )  # nmse, psnr, ssim over the volume, fastMRI's definitions; None without a reference
    in_body: dict[str, float] | None  # the same inside the body
    reference: str | None  # which reference the metrics are against, as a sentence
    warnings: tuple[str, ...]
    verdict: Verdict | None = None  # None: not asked for


def assess(
    image: Image,
    reference: NDArray[np.float32] | None = None,
    reference_name: str | None = None,
    warnings: tuple[str, ...] = (),
    verdict: Verdict | None = None,
) -> QualityReport:
    """Gather what is known about a picture.

    Parameters
    ----------
    image
        The reconstruction.
    reference
        Fully sampled magnitude ``(slice, y, x)`` in the same units; None if there is none.
    reference_name
        Where the reference comes from.
    warnings
        Sentences from reading, to stand before those of the reconstruction.
    verdict
        Where one was asked for.
    """
    volume = body = None
    found = list(warnings) + list(image.diagnostics.warnings)
    if not np.isfinite(image.pixels).all():
        found.append("The picture holds values that are not finite; do not use it.")
    if reference is not None:
        volume = {name: getattr(metrics, name)(reference, image.pixels) for name in ("nmse", "psnr", "ssim")}
        body = metrics.in_body(reference, image.pixels)
    return QualityReport(
        data_residual=image.diagnostics.data_residual,
        metrics=volume,
        in_body=body,
        reference=reference_name,
        warnings=tuple(dict.fromkeys(found)),
        verdict=verdict,
    )
