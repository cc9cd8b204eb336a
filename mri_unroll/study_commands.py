"""What ``mri-unroll recon`` and ``inspect`` do with a DICOM study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mri_unroll.config import StudyConfig, StudyMode
from mri_unroll.errors import ConfigError, InputError
from mri_unroll.options import set_threads
from mri_unroll.sending_command import check_address, send_files
from mri_unroll.terminal import (
    NO_VERDICT,
    RESEARCH,
    listening,
    put,
    put_json,
    put_table,
    tell,
)

if TYPE_CHECKING:
    from mri_unroll.io.dicom.study import Study
    from mri_unroll.studies import SeriesResult, StudyOutcome

Mode = Annotated[
    StudyMode | None, typer.Option(help="Of a DICOM study: undo a blur, or simulate undersampling.", show_default=False)
]
Psf = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="With --mode restore: gaussian:FWHM_MM, measured:FILE or kspace-truncation:R."),
]
SeriesOption = Annotated[
    str | None,
    typer.Option("--series", metavar="NAME|NUMBER", help="Of a study: only this one.", show_default="all that can"),
]
Coils = Annotated[int, typer.Option("--coils", min=1, max=64, help="With --mode retrospective: synthetic coils.")]
Insist = Annotated[
    bool,
    typer.Option(
        "--i-understand-simulated", help="Simulate although the pictures were processed in ways that flatter."
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(metavar="STUDY", help="With --format dicom: study of the same scan, for patient and place."),
]
SyntheticGeometry = Annotated[
    bool, typer.Option("--allow-synthetic-geometry", help="With --format dicom: make up where slices lie, and say so.")
]
KeepPrivate = Annotated[bool, typer.Option("--keep-private", help="Of DICOM: keep the vendor's private elements.")]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="Of DICOM: PS3.15 basic profile. Faces remain in the pictures.")
]
Send = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Send DICOM to dicom://AET@HOST:PORT or https://HOST/dicom-web when done."),
]

MODES = (
    "A DICOM study holds finished pictures and no k-space, so that it cannot be reconstructed; two things can be done. "
    "`--mode restore --psf SPEC` undoes a known blur of the pictures. "
    "`--mode retrospective --accelerate R` simulates an accelerated scan of them, for experiments only."
)


def explain_modes() -> ConfigError:
    """What is said of a study without a mode."""
    return ConfigError(MODES, "For a real reconstruction give the scanner's raw k-space.")


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """Options that only DICOM takes."""

    mode: StudyMode | None
    psf: str | None
    series: str | None
    coils: int
    insist: bool
    keep_private: bool
    deidentify: bool
    send: str | None

    def refuse_for_raw(self, is_dicom: bool) -> None:
        """See to it that none is set for raw k-space; some serve where DICOM is written of it.

        Raises
        ------
        ConfigError
            If one is.
        """
        given: dict[str, Any] = {"--mode": self.mode, "--psf": self.psf, "--series": self.series}
        given |= {"--i-understand-simulated": self.insist, "--coils": self.coils != 1}
        given["--keep-private"] = self.keep_private
        if not is_dicom:
            given |= {"--deidentify": self.deidentify, "--send": self.send}
        if odd := [name for name, value in given.items() if value]:
            raise ConfigError(
                f"For raw k-space there is no use for {', '.join(odd)}.",
                "It is an option of DICOM studies; leave it out.",
            )


def holds_study(path: Path) -> bool:
    """Whether a path is DICOM, told by content; a folder that holds raw k-space too is refused.

    Raises
    ------
    InputError
        If a folder holds both.
    """
    from mri_unroll.io.content import dicom_and_others

    dicom, others = dicom_and_others(path)
    if dicom and others:
        raise InputError(
            f"{path.name} holds DICOM ({dicom}) and raw k-space ({others}).", "Name a folder that holds one of them."
        )
    return dicom is not None


def recon_study(
    path: Path,
    out: Path,
    config: StudyConfig,
    threads: int | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Restore or simulate a study; the paths written go to stdout."""
    if address is not None and config.format not in ("auto", "dicom"):
        raise ConfigError(f"--send sends DICOM, but --format asks for {config.format}.", "Leave one of them out.")
    with listening(as_json) as events:
        from mri_unroll.studies import restore_study, simulate_study

        set_threads(threads)
        if address is not None:
            check_address(address)  # before the work
        run = restore_study if config.mode == "restore" else simulate_study
        outcome = run(path, out, config, events=events)
        _say(outcome, as_json)
        if address is not None:
            files = [file for result in outcome.results for file in result.files]
            send_files(files, address, out, events, as_json)


def _say(outcome: StudyOutcome, as_json: bool) -> None:
    for result in outcome.results:
        if as_json:
            put_json({"event": "done", "series": result.name, "paths": _paths(result), "summary": result.summary})
            continue
        slices, height, width = result.summary["shape"]
        tell(f"{result.name}: {slices} slices of {height} x {width}, {result.summary['method']}")
        median = result.summary["data_residual_median"]
        if result.summary["mode"] == "restore" and median is not None:
            tell(f"data residual {median:.2f} times the noise (median slice)")
        if scores := result.summary.get("metrics"):
            tell(
                f"SIMULATED: PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.4f}; not comparable with k-space data"
            )
        for warning in result.summary["warnings"]:
            tell(f"warning: {warning}")
        put("\n".join(_paths(result).values()))
    reasons: dict[str, list[str]] = {}
    for name, reason in outcome.refused:
        reasons.setdefault(reason if reason.split(" ", 1)[0] != name else reason.split(" ", 1)[-1], []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        if as_json:
            put_json({"event": "refused", "names": names, "reason": reason})
        else:
            tell(f"left out: {names[0]}{more}: {reason}")
    if not as_json:
        tell(f"{NO_VERDICT}; {RESEARCH}")


def _paths(result: SeriesResult) -> dict[str, str]:
    return {name: str(getattr(result, name)) for name in ("pictures", "report", "preview", "sidecar")}


def inspect_study(path: Path, as_json: bool) -> None:
    """List the series of a study and what can be done with each."""
    from mri_unroll.io.dicom.study import find_series

    study = find_series(path)
    rows = [_row(series) for series in study.series]
    if as_json:
        unreadable = [{"file": name, "reason": reason} for name, reason in study.unreadable]
        put_json({"series": rows, "unreadable": unreadable, "warnings": list(study.warnings)}, indent=2)
        return
    put_table(
        [
            [str(row["name"]), str(row["description"]), str(row["slices"]), str(row["size"]), str(row["can"])]
            for row in rows
        ],
        ("series", "description", "slices", "pixels", "what can be done"),
    )
    _tell_left_out(study)
    if study.eligible:
        tell("restore: recon STUDY --mode restore --psf SPEC; simulate: --mode retrospective --accelerate R")


def _row(series: Any) -> dict[str, Any]:
    from mri_unroll.io.dicom.crimes import acquired_shape

    first = series.frames[0]
    acquired = acquired_shape(first)
    can = "restore, simulate" if series.is_eligible else f"nothing: {series.refusals[0]}"
    return {
        "name": series.name,
        "description": series.description,
        "slices": len(series.frames),
        "size": f"{first.shape[0]} x {first.shape[1]}",
        "acquired": None if acquired is None else list(acquired),
        "spacing_mm": list(first.spacing),
        "can": can,
        "refusals": list(series.refusals),
        "warnings": list(series.warnings),
    }


def _tell_left_out(study: Study) -> None:
    for sentence in study.warnings:
        tell(f"note: {sentence}")
    for series in study.series:
        for sentence in series.warnings:
            tell(f"note: {series.name}: {sentence}")
    for name, reason in study.unreadable[:10]:
        tell(f"left out: {reason if name in reason else f'{name}: {reason}'}")
    if len(study.unreadable) > 10:
        tell(f"left out: {len(study.unreadable) - 10} more files")
