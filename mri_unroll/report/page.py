"""From the figures and numbers of a report to its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mri_unroll.metrics import CONVENTION
from mri_unroll.quality import NO_VERDICT
from mri_unroll.report import figures
from mri_unroll.report.content import ReportContent
from mri_unroll.report.pictures import PERCENTILE, colour_bar, hues
from mri_unroll.report.template import environment, write_page
from mri_unroll.report.wording import described, span

TEMPLATE = "report.html.j2"


def write_report(content: ReportContent, path: Path, overwrite: bool = False) -> None:
    """Write the report of one reconstruction; the file appears whole or not at all.

    Parameters
    ----------
    content
        What to show.
    path
        The ``.html`` file to make; its folder must exist.
    overwrite
        Replace a file that is there; else that is an error.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    write_page(environment().get_template(TEMPLATE).render(_values(content)), path, overwrite)


def _values(content: ReportContent) -> dict[str, Any]:
    """Everything that the template names."""
    image, quality = content.image, content.quality
    found = image.diagnostics
    residual = quality.data_residual
    per_slice = zip(residual, found.n_iterations, found.seconds, found.status, strict=False)
    return {
        "title": content.title,
        "shape": image.pixels.shape,
        "made": image.provenance,
        "quality": quality,
        "summary": content.summary,
        "trust": quality.verdict.summary() if quality.verdict else NO_VERDICT,
        "warnings": list(dict.fromkeys((*quality.warnings, *content.found.get("warnings", ())))),
        "seconds": content.summary.get("seconds", sum(found.seconds)),
        "shown_slice": content.first_slice + content.shown,
        "residual": residual[content.shown if len(residual) > 1 else 0] if residual else None,
        "residuals": span(100 * value for value in residual),
        "percentile": PERCENTILE,
        "convention": CONVENTION,
        "volume": content.volume,
        "whole": len(residual) == 1,
        "has_reference": content.reference is not None,
        "panels": figures.panels(content),
        "stack": figures.stack(content),
        "sampling": figures.sampling(content),
        "n_coils": 0 if content.sens_maps is None else len(content.sens_maps),
        "coils": figures.coils(content),
        "phase_bar": colour_bar(hues()),
        "chart": figures.residuals(residual, content.shown),
        "rows": [(content.first_slice + index, *row) for index, row in enumerate(per_slice)],
        "header": described({k: v for k, v in content.found.items() if k not in ("file", "digest", "warnings")}),
        "parameters": described(image.provenance.parameters, plain_names=False),
        "scale": span(image.provenance.scale),
    }
