"""What came out of a reconstruction, in a few lines for a person at a terminal."""

from __future__ import annotations

import math
from typing import Any

from mri_unroll.terminal import NO_VERDICT, RESEARCH, tell


def tell_summary(summary: dict[str, Any]) -> None:
    """Say in a few lines on stderr what came out of a reconstruction."""
    slices, height, width = summary["shape"]
    tell(
        f"{summary['input']}: {slices} slice{'s' if slices != 1 else ''} of {height} x {width}, {summary['method']} on "
        f"{summary['device']}, {summary['seconds']:.1f} s"
    )
    residuals = [value for value in summary["data_residual"] if value is not None and math.isfinite(value)]
    if residuals:
        tell(f"data residual {sum(residuals) / len(residuals):.3g} (mean over slices), {max(residuals):.3g} (largest)")
    for place, name in (("whole picture", "metrics"), ("inside the body", "metrics_in_body")):
        if summary.get(name):
            scores = summary[name]
            tell(f"{place}: NMSE {scores['nmse']:.4g}, PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.4f}")
    if summary.get("metrics_reference"):
        tell(f"scored against {summary['metrics_reference']}")
    for warning in summary["warnings"]:
        tell(f"warning: {warning}")
    if summary["verdict"] is None:
        tell(f"{NO_VERDICT}; {RESEARCH}")
        return
    tell(f"verdict: {summary['verdict']}")
    for sentence in summary["advice"]:
        tell(f"  {sentence}")
    tell(RESEARCH)
