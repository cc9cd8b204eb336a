"""What comes out of a study, and how it is written: pictures, report, preview and sidecar of each series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mri_unroll import __version__
from mri_unroll.config import OutputFormat, StudyConfig
from mri_unroll.errors import InputError
from mri_unroll.image import Image
from mri_unroll.io.dicom.deidentify import deidentifier
from mri_unroll.io.dicom.series import Series
from mri_unroll.io.dicom.study import Study
from mri_unroll.io.dicom.writer import Derivation, write_derived
from mri_unroll.io.parameters import bids_of_header
from mri_unroll.io.preview import write_preview
from mri_unroll.io.registry import write_image
from mri_unroll.io.sidecar import write_sidecar
from mri_unroll.report.study import StudyReport, write_study_report
from mri_unroll.targets import SUFFIX

Events = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """One series that was done."""

    name: str  # of the source
    pictures: Path  # a folder of DICOM files, or a volume file
    files: tuple[Path, ...]  # the DICOM files, or the volume file
    report: Path
    preview: Path
    sidecar: Path
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """All that was done, and all that was not."""

    results: tuple[SeriesResult, ...]
    refused: tuple[tuple[str, str], ...]  # series or file, and the reason


def chosen(study: Study, config: StudyConfig) -> tuple[Series, ...]:
    """The series to work on: the one asked for, or all that can be used.

    Raises
    ------
    InputError
        If the one asked for is not there or cannot be used, or none can.
    """
    if config.series is not None:
        return (study.pick(config.series),)
    if not study.eligible:
        raise study.nothing_eligible()
    return study.eligible


def refused(study: Study) -> tuple[tuple[str, str], ...]:
    """Series and files that were left out, and why."""
    series = [(found.name, found.refusals[0]) for found in study.series if found.refusals]
    return (*series, *study.unreadable)


def targets_of(out: Path, stem: str, format: OutputFormat) -> dict[str, Path]:
    """Where the files of one series go."""
    pictures = out / (stem if format in ("auto", "dicom") else stem + SUFFIX[format])
    rest = {name: out / (stem + suffix) for name, suffix in (("report", ".html"), ("preview", ".png"))}
    return {"pictures": pictures, **rest, "sidecar": out / f"{stem}.json"}


def check_free(targets: dict[str, Path], config: StudyConfig) -> None:
    """See to it before the work that nothing is written over.

    Raises
    ------
    InputError
        If something is there already.
    """
    if config.overwrite:
        return
    for path in targets.values():
        if path.exists():
            raise InputError(f"{path} exists already.", "Use --overwrite to replace it, or write to another place.")


def write_result(
    image: Image,
    source: Series,
    derivation: Derivation,
    report: StudyReport,
    summary: dict[str, Any],
    targets: dict[str, Path],
    config: StudyConfig,
) -> SeriesResult:
    """Write everything of one series; the sidecar comes last and stands for the rest."""
    targets["sidecar"].parent.mkdir(parents=True, exist_ok=True)
    if config.format in ("auto", "dicom"):
        change, said = deidentifier() if config.deidentify else (None, None)
        written = write_derived(
            image,
            source,
            targets["pictures"],
            derivation,
            keep_private=config.keep_private,
            overwrite=config.overwrite,
            change=change,
        )
        files = written.files
        summary["stored_scale"] = written.slope
        summary["warnings"] = [*summary["warnings"], *written.warnings, *([said] if said else [])]
    else:
        write_image(image, targets["pictures"], overwrite=config.overwrite)
        files = (targets["pictures"],)
    summary["files"] = len(files)
    write_preview(image, targets["preview"], overwrite=config.overwrite)
    write_study_report(report, targets["report"], overwrite=config.overwrite)
    write_sidecar(summary, targets["sidecar"], overwrite=config.overwrite)
    return SeriesResult(
        name=source.name,
        pictures=targets["pictures"],
        files=files,
        report=targets["report"],
        preview=targets["preview"],
        sidecar=targets["sidecar"],
        summary=summary,
    )


def summary_of(image: Image, source: Series, config: StudyConfig, seconds: float) -> dict[str, Any]:
    """The sidecar: names nobody; a series goes by its hashed name."""
    made, found = image.provenance, image.diagnostics
    residuals = [value for value in found.data_residual if np.isfinite(value)]
    return {
        "version": __version__,
        "mode": config.mode,
        "method": made.method,
        "weights_digest": made.weights_digest,
        "parameters": made.parameters,
        "input": source.name,
        "input_digest": made.input_digest,
        "shape": list(image.pixels.shape),
        "field_of_view_mm": [1000 * length for length in image.geometry.field_of_view or ()],
        "device": made.device,
        "fft_engine": made.fft_engine,
        "seconds": seconds,
        "status": list(found.status),
        "data_residual": list(found.data_residual),
        "data_residual_median": float(np.median(residuals)) if residuals else None,
        "warnings": list(found.warnings),
        "verdict": None,
        **bids_of_header(source.frames[0].header),
    }
