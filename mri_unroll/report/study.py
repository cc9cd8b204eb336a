"""The report on one series of a study: what it was, what became of it, and how far to believe that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ShapeError
from mri_unroll.image import Image
from mri_unroll.quality import QualityReport
from mri_unroll.report.figures import ERROR_COLOURS, FACTORS, Panel
from mri_unroll.report.pictures import PERCENTILE, colour_bar, colours, embed, shade, white_level
from mri_unroll.report.template import environment, write_page
from mri_unroll.report.wording import described, number

TEMPLATE = "study.html.j2"
_MAX_ROWS = 3  # slices shown, from a quarter to three quarters of the series


@dataclass(frozen=True, slots=True, eq=False)
class StudyReport:
    """What the report shows.

    Raises
    ------
    ShapeError
        If the volumes do not have one shape.
    """

    title: str
    eyebrow: str
    image: Image  # what was made
    panels: tuple[tuple[str, str, NDArray[np.float32]], ...]  # name, note, volume (slice, y, x); all in one window
    difference: tuple[str, str, NDArray[np.float32]]  # name, note, and from what the image differs
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    scores: QualityReport | None

    def __post_init__(self) -> None:
        for name, _, volume in (*self.panels, self.difference):
            if volume.shape != self.image.pixels.shape:
                raise ShapeError(f"Expected {name!r} of shape {self.image.pixels.shape}, got {volume.shape}.")


def write_study_report(content: StudyReport, path: Path, overwrite: bool = False) -> None:
    """Write the page; the file appears whole or not at all.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    write_page(environment().get_template(TEMPLATE).render(_values(content)), path, overwrite)


def _values(content: StudyReport) -> dict[str, Any]:
    image = content.image
    found = image.diagnostics
    count = len(image.pixels)
    shown = sorted({count // 4, count // 2, (3 * count) // 4})[-_MAX_ROWS:]
    return {
        "title": content.title,
        "eyebrow": content.eyebrow,
        "shape": image.pixels.shape,
        "facts": content.facts,
        "notes": content.notes,
        "warnings": list(dict.fromkeys(content.warnings)),
        "rows": [(index, _panels(content, index)) for index in shown],
        "percentile": PERCENTILE,
        "scores": content.scores,
        "made": image.provenance,
        "parameters": described(image.provenance.parameters, plain_names=False),
        "slices": list(zip(range(count), found.data_residual, found.seconds, found.status, strict=False)),
    }


def _panels(content: StudyReport, index: int) -> list[Panel]:
    """The pictures of one slice in one window, and what separates the last from another."""
    ratio = _pixel_ratio(content.image)
    white = white_level(content.panels[0][2][index])
    grey = colour_bar(colours("gray"))
    shown = [
        Panel(
            name,
            note,
            embed(shade(volume[index], white), f"{name}, slice {index}", pixel_ratio=ratio),
            grey,
            number(white),
        )
        for name, note, volume in content.panels
    ]
    name, note, other = content.difference
    gap = np.abs(content.image.pixels[index].astype(np.float64) - other[index])
    largest = white_level(gap, fallback=0.0)
    factor = max((factor for factor in FACTORS if factor * largest <= white), default=1) if largest else 1
    palette = colours(ERROR_COLOURS)
    picture = embed(shade(gap, white / factor), f"{name}, slice {index}", pixel_ratio=ratio, palette=palette)
    return [*shown, Panel(name, f"{note} x {factor}", picture, colour_bar(palette), number(white / factor))]


def _pixel_ratio(image: Image) -> float:
    fov, (_, height, width) = image.geometry.field_of_view, image.pixels.shape
    if fov is None or not (fov[0] > 0 and fov[1] > 0):
        return 1.0
    return (fov[1] / width) / (fov[0] / height)
