"""A study in, an experiment out: what an accelerated scan might have given, scored and marked as simulated."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from mri_unroll.config import StudyConfig
from mri_unroll.errors import ConfigError, UnsupportedScan
from mri_unroll.image import transposed
from mri_unroll.io.dicom.crimes import Crime, acquired_shape, data_crimes
from mri_unroll.io.dicom.files import quietly
from mri_unroll.io.dicom.series import Series
from mri_unroll.io.dicom.study import find_series, read_pixels
from mri_unroll.io.dicom.writer import Derivation
from mri_unroll.metrics import CONVENTION
from mri_unroll.quality import assess
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor
from mri_unroll.recon.resampling import resampled
from mri_unroll.recon.retrospective import undersample
from mri_unroll.recon.simulated import STATED, simulated_scan
from mri_unroll.report.study import StudyReport
from mri_unroll.studies.results import (
    Events,
    SeriesResult,
    StudyOutcome,
    check_free,
    chosen,
    refused,
    summary_of,
    targets_of,
    write_result,
)

NOT_COMPARABLE = (
    "SIMULATED: k-space was made from magnitude pictures. Scores are not comparable with benchmarks on measured "
    "k-space, and flatter every method (Shimron et al., PNAS 2022, doi:10.1073/pnas.2117203119)."
)


def _quiet(event: dict[str, object]) -> None:
    """Listen to no event."""


def simulate_study(path: str | Path, out: str | Path, config: StudyConfig, *, events: Events = _quiet) -> StudyOutcome:
    """Undersample the series of a magnitude study after the fact, reconstruct and score them.

    Parameters
    ----------
    path, out, events
        As for `restore_study`.
    config
        ``mode="retrospective"`` with an acceleration.

    Raises
    ------
    UnsupportedScan
        If the pictures were processed in a way that flatters, and ``insist`` is not set; all reasons are listed.
    MriUnrollError
        Whatever else went wrong, as one sentence.
    """
    if config.mode != "retrospective":
        raise ConfigError(f"Expected the mode `retrospective`, got {config.mode!r}.")
    reconstructor = make_reconstructor(config.method or "unrolled", config.as_reconstruction())
    study = find_series(path)
    series = chosen(study, config)
    stems = {found.name: f"{found.name}_SIMULATED_{config.accelerate:g}x" for found in series}
    targets = {name: targets_of(Path(out), stem, config.format) for name, stem in stems.items()}
    for planned in targets.values():
        check_free(planned, config)
    results: list[SeriesResult] = []
    left_out = list(refused(study))
    for index, found in enumerate(series):
        try:
            result = _one(found, reconstructor, targets[found.name], config, events, (index, len(series)))
        except UnsupportedScan as error:
            if len(series) == 1:
                raise
            left_out.append((found.name, error.message))
        else:
            results.append(result)
    if not results:
        raise UnsupportedScan(
            f"No series was simulated. {left_out[0][1]}",
            "Add --i-understand-simulated if you mean to do it all the same.",
        )
    return StudyOutcome(tuple(results), tuple(left_out))


def _one(
    source: Series,
    reconstructor: Reconstructor,
    targets: dict[str, Path],
    config: StudyConfig,
    events: Events,
    place: tuple[int, int],
) -> SeriesResult:
    title = f"SIMULATING {config.accelerate:g}x of series {source.name} ({place[0] + 1} of {place[1]})"
    events({"event": "start", "input": source.name, "method": reconstructor.name, "title": title})
    started = time.perf_counter()
    whole = read_pixels(source)
    crimes = data_crimes(source, whole)
    _refuse(crimes, config)
    acquired = acquired_shape(source.frames[0])
    reference = resampled(whole, acquired) if acquired else whole  # without zeros that k-space was filled with
    with quietly():
        along_rows = str(source.frames[0].header.get("InPlanePhaseEncodingDirection", "")).startswith("COL")
    # Phase encoding is the last axis of k-space; along a column of the picture, y is.
    oriented = transposed(reference) if along_rows else reference
    scan = simulated_scan(oriented, config.n_coils, config.seed)
    recon = config.as_reconstruction()
    scan = undersample(scan, config.mask, config.accelerate or 1.0, recon.effective_center_fraction, config.seed)
    image = reconstructor.reconstruct(
        scan, progress=lambda done, total: events({"event": "progress", "done": done, "total": total})
    )
    image = transposed(image) if along_rows else image
    image = dataclasses.replace(image, geometry=reference.geometry)
    quality = assess(image, reference.pixels, "the magnitude pictures that k-space was simulated from")
    events({"event": "writing", "folder": targets["sidecar"].parent.name})
    stated = STATED.format(n_coils=config.n_coils, seed=config.seed)
    summary = summary_of(image, source, config, time.perf_counter() - started)
    summary["warnings"] = [NOT_COMPARABLE, stated, *(crime.sentence for crime in crimes), *summary["warnings"]]
    summary |= {
        "simulated": True,
        "retrospective": {
            "accelerate": config.accelerate,
            "mask": config.mask,
            "center_fraction": recon.effective_center_fraction,
            "seed": config.seed,
            "n_coils": config.n_coils,
            "acquired_shape": list(acquired) if acquired else None,
        },
        "metrics": quality.metrics,
        "metrics_in_body": quality.in_body,
        "metrics_reference": quality.reference,
        "metrics_convention": CONVENTION,
    }
    derivation = Derivation(
        kind="simulated",
        title=f"{config.accelerate:g}x {reconstructor.name}",
        description=f"{reconstructor.name} on {config.accelerate:g}-fold undersampled synthetic k-space.",
        parameters={**image.provenance.parameters, "method": reconstructor.name, **summary["retrospective"]},
        weights_digest=image.provenance.weights_digest,
    )
    zero_filled = make_reconstructor("zero-filled").reconstruct(scan)
    zero_filled = transposed(zero_filled) if along_rows else zero_filled
    report = StudyReport(
        title=f"Series {source.name}, SIMULATED {config.accelerate:g}x",
        eyebrow="Report of a simulation",
        image=image,
        panels=(
            ("Source", "the magnitude study", reference.pixels),
            ("Zero-filled", "SIMULATED", zero_filled.pixels),
            ("Reconstruction", f"SIMULATED, {reconstructor.name}", image.pixels),
        ),
        difference=("Error", "|reconstruction - source|", reference.pixels),
        facts=(
            ("Method", (reconstructor.name,)),
            ("Undersampling", (f"{config.accelerate:g}-fold, simulated", f"{config.mask} mask, seed {config.seed}")),
            ("Synthetic", (f"{config.n_coils} coils, smooth phase",)),
        ),
        notes=(NOT_COMPARABLE, stated),
        warnings=tuple(summary["warnings"]),
        scores=quality,
    )
    result = write_result(image, source, derivation, report, summary, targets, config)
    events({"event": "done", "pictures": str(result.pictures), "report": str(result.report)})
    return result


def _refuse(crimes: tuple[Crime, ...], config: StudyConfig) -> None:
    forbidding = [crime.sentence for crime in crimes if crime.forbids]
    if forbidding and not config.insist:
        raise UnsupportedScan(
            f"The pictures were processed in ways that flatter every method. {' '.join(forbidding)}",
            "Give a series as the scanner made it, or add --i-understand-simulated.",
        )
