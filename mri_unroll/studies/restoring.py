"""A study in, a sharper study out: a known blur is undone, series by series."""

from __future__ import annotations

import time
from pathlib import Path

from mri_unroll.config import StudyConfig
from mri_unroll.errors import ConfigError
from mri_unroll.image import Image
from mri_unroll.io.dicom.series import Series
from mri_unroll.io.dicom.study import find_series, read_pixels
from mri_unroll.io.dicom.writer import Derivation
from mri_unroll.recon.restore import Restorer, make_restorer, parse_psf
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

RESIDUAL_MEANS = (
    "The data residual is the root mean square of the blurred result minus its source, over tissue, in units of the "
    "noise estimated from the source. Near or below 1 the result explains its source; that does not make detail right "
    "that blur had taken away."
)


def _quiet(event: dict[str, object]) -> None:
    """Listen to no event."""


def restore_study(path: str | Path, out: str | Path, config: StudyConfig, *, events: Events = _quiet) -> StudyOutcome:
    """Undo a known blur of the series of a DICOM study.

    Parameters
    ----------
    path
        A folder, zip, DICOMDIR or file.
    out
        A folder, made if missing: each series gets a folder of DICOM files (or a volume file), a report, a preview and
        a sidecar.
    config
        ``mode="restore"`` with a point spread function.
    events
        Called with a dict at every step of progress.

    Raises
    ------
    MriUnrollError
        Whatever went wrong, as one sentence.
    """
    if config.mode != "restore" or config.psf is None:
        raise ConfigError(f"Expected the mode `restore`, got {config.mode!r}.")
    psf = parse_psf(config.psf)
    restorer = make_restorer(
        config.method or "restore",
        psf,
        device=config.device,
        reg_weight=config.reg_weight,
        n_iterations=config.n_iterations,
    )
    study = find_series(path)
    series = chosen(study, config)
    targets = {found.name: targets_of(Path(out), f"{found.name}_restored", config.format) for found in series}
    for planned in targets.values():
        check_free(planned, config)
    results = [
        _one(found, restorer, targets[found.name], config, study.warnings, events, (index, len(series)))
        for index, found in enumerate(series)
    ]
    return StudyOutcome(tuple(results), refused(study))


def _one(
    source: Series,
    restorer: Restorer,
    targets: dict[str, Path],
    config: StudyConfig,
    said: tuple[str, ...],
    events: Events,
    place: tuple[int, int],
) -> SeriesResult:
    title = f"restoring series {source.name} ({place[0] + 1} of {place[1]}) with {restorer.name}"
    events({"event": "start", "input": source.name, "method": restorer.name, "title": title})
    started = time.perf_counter()
    before: Image = read_pixels(source)
    image = restorer.restore(
        before, progress=lambda done, total: events({"event": "progress", "done": done, "total": total})
    )
    events({"event": "writing", "folder": targets["sidecar"].parent.name})
    summary = summary_of(image, source, config, time.perf_counter() - started)
    summary["psf"] = restorer.psf.text
    summary["data_residual_unit"] = RESIDUAL_MEANS
    summary["warnings"] = [*said, *summary["warnings"]]
    derivation = Derivation(
        kind="restored",
        title=f"restored {restorer.psf.text.split(':')[0]}",
        description=f"Image restoration by {restorer.name}: undone was {restorer.psf.sentence}.",
        parameters={**image.provenance.parameters, "method": restorer.name},
        weights_digest=image.provenance.weights_digest,
    )
    noise = float(image.provenance.parameters["noise_level"])
    report = StudyReport(
        title=f"Series {source.name}, restored",
        eyebrow="MRI restoration report",
        image=image,
        panels=(("Source", "as the study holds it", before.pixels), ("Restored", restorer.name, image.pixels)),
        difference=("Change", "|restored - source|", before.pixels),
        facts=(
            ("Method", (restorer.name,)),
            ("Undone", (restorer.psf.sentence,)),
            ("Noise", (f"{noise:.4g} in units of the source", "estimated from it")),
            ("Data residual", _residual(summary["data_residual_median"])),
        ),
        notes=(
            RESIDUAL_MEANS,
            "A picture in DICOM holds no k-space: blur and noise have taken away what no method can bring back. Detail "
            "finer than the blur is the method's guess. Research use only.",
        ),
        warnings=tuple(summary["warnings"]),
        scores=None,
    )
    result = write_result(image, source, derivation, report, summary, targets, config)
    events({"event": "done", "pictures": str(result.pictures), "report": str(result.report)})
    return result


def _residual(median: float | None) -> tuple[str, ...]:
    return ("not judged: no noise was found",) if median is None else (f"{median:.2f} times the noise", "median slice")
