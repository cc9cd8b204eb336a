"""The command ``mri-unroll recon``: raw k-space, a folder of it, or a DICOM study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mri_unroll import __version__
from mri_unroll.config import DeviceChoice, MaskKind, OutputFormat, ReconstructionConfig, StudyConfig
from mri_unroll.errors import ConfigError, VerdictError
from mri_unroll.folders import Cluster, FolderOptions, Resume, ShardOption, SkipBad, Workers, recon_folder
from mri_unroll.options import Layout, Threads, complete_method, set_threads
from mri_unroll.sending_command import check_address, send_files
from mri_unroll.study_commands import (
    Coils,
    Deidentify,
    Insist,
    KeepPrivate,
    Like,
    Mode,
    Psf,
    Send,
    SeriesOption,
    StudyOptions,
    SyntheticGeometry,
    explain_modes,
    holds_study,
    recon_study,
)
from mri_unroll.terminal import AsJson, Debug, guarded, listening, put, put_json
from mri_unroll.terminal_summary import tell_summary

FailOn = Literal["check", "no-go"]
EXAMPLES = (
    "Example: mri-unroll recon knee.h5 -o results\n\n"
    "Example: mri-unroll recon brain.h5 -o brain.nii.gz --method l1-wavelet --accelerate 4 --mask equispaced_fraction"
    "\n\nExample: mri-unroll recon multicoil_test -o results --workers 4 --resume"
    "\n\nExample: mri-unroll recon brain.h5 -o out --fail-on no-go"
    "\n\nExample: mri-unroll recon study -o better --mode restore --psf gaussian:1.5"
)


@guarded
def recon(
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Raw k-space: fastMRI or ISMRMRD HDF5, .npy, .npz, or a folder; or DICOM."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, or the volume file: .h5, .nii.gz or .npy.")],
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|CHECKPOINT",
            autocompletion=complete_method,
            help="A name that `mri-unroll methods` lists, or a .safetensors file.",
            show_default="unrolled; with --mode restore: restore",
        ),
    ] = None,
    format: Annotated[OutputFormat, typer.Option(help="auto: by the name of OUT.")] = "auto",
    accelerate: Annotated[
        float | None,
        typer.Option(help="Undersample a fully sampled file R-fold, and score the result.", metavar="R"),
    ] = None,
    mask: Annotated[
        MaskKind | None, typer.Option(help="With --accelerate.", show_default="equispaced_fraction")
    ] = None,
    center_fraction: Annotated[
        float | None,
        typer.Option(help="With --accelerate: share of lines kept in the centre.", show_default="0.32 / R"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --accelerate: of the mask.", show_default="0")] = None,
    layout: Layout = None,
    device: Annotated[DeviceChoice, typer.Option(help="auto: a GPU where there is one.")] = "auto",
    slices: Annotated[
        str | None, typer.Option(metavar="A:B", help="From A up to, not including, B; counted from 0.")
    ] = None,
    reg_weight: Annotated[float | None, typer.Option(help="Of a classical method.", show_default="its own")] = None,
    iterations: Annotated[int | None, typer.Option(help="Of a classical method.", show_default="its own")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Networks at 8 virtual coils; in bfloat16, where the CPU has it.")
    ] = False,
    best: Annotated[bool, typer.Option("--best", help="Mean of a network's four passes.")] = False,
    denoise: Annotated[
        float, typer.Option(help="Of a network: share of the noise to remove, 0 to 1.", metavar="SHARE")
    ] = 0.0,
    verdict: Annotated[
        bool, typer.Option("--verdict/--no-verdict", help="Predict the error and look for faults.")
    ] = True,
    coverage: Annotated[
        float, typer.Option(help="Share of scans, and of pixels, whose error stays within the prediction.")
    ] = 0.9,
    fail_on: Annotated[
        FailOn | None, typer.Option(help="Exit with 3 if the verdict is this or worse; all is written all the same.")
    ] = None,
    mode: Mode = None,
    psf: Psf = None,
    series: SeriesOption = None,
    coils: Coils = 1,
    insist: Insist = False,
    like: Like = None,
    synthetic_geometry: SyntheticGeometry = False,
    keep_private: KeepPrivate = False,
    deidentify: Deidentify = False,
    send: Send = None,
    threads: Threads = None,
    workers: Workers = None,
    cluster: Cluster = None,
    shard: ShardOption = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Reconstruct a file, or every file of a folder: volume, report, preview and sidecar. Restore a DICOM study.

    The paths written go to stdout, all else to stderr; with --json, stdout gets one event a line.
    """
    if accelerate is None:
        given = {"--mask": mask, "--center-fraction": center_fraction, "--seed": seed}
        if needless := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"Without --accelerate there is no use for {', '.join(needless)}.", "Add --accelerate R.")
    if fast and best:
        raise ConfigError("Expected one of --fast and --best, got both.", "Leave out one of them.")
    many = FolderOptions(workers, cluster, shard, resume, skip_bad)
    of_study = StudyOptions(mode, psf, series, coils, insist, keep_private, deidentify, send)
    if holds_study(input):
        if mode is None:
            raise explain_modes()
        many.refuse_for_one_file()
        odd: dict[str, object] = {
            "--layout": layout,
            "--slices": slices,
            "--fast": fast,
            "--best": best,
            "--denoise": denoise,
            "--fail-on": fail_on,
            "--no-verdict": not verdict,
        }
        odd |= {"--like": like, "--allow-synthetic-geometry": synthetic_geometry}
        if mode == "restore":
            odd["--accelerate"] = accelerate
        if given_odd := [name for name, value in odd.items() if value]:
            raise ConfigError(f"For this mode there is no use for {', '.join(given_odd)}.", "Leave it out.")
        wanted = StudyConfig(
            mode=mode,
            psf=psf,
            method=method,
            series=series,
            format=format,
            device=device,
            accelerate=accelerate,
            mask=mask or "equispaced_fraction",
            center_fraction=center_fraction,
            seed=seed or 0,
            n_coils=coils,
            insist=insist,
            reg_weight=reg_weight,
            n_iterations=iterations,
            keep_private=keep_private,
            deidentify=deidentify,
            overwrite=overwrite,
        )
        return recon_study(input, out, wanted, threads, send, as_json)
    of_study.refuse_for_raw(format == "dicom")
    if (like or synthetic_geometry) and format != "dicom":
        raise ConfigError(
            "Without --format dicom there is no use for --like or --allow-synthetic-geometry.", "Add --format dicom."
        )
    if send:
        check_address(send)
    config = ReconstructionConfig(
        method=method or ReconstructionConfig().method,
        format=format,
        device=device,
        accelerate=accelerate,
        mask=mask or "equispaced_fraction",
        center_fraction=center_fraction,
        seed=seed or 0,
        like=None if like is None else str(like),
        synthetic_geometry=synthetic_geometry,
        deidentify=deidentify,
        slices=_slice_range(slices),
        overwrite=overwrite,
        reg_weight=reg_weight,
        n_iterations=iterations,
        denoise=denoise,
        effort="fast" if fast else "best" if best else "normal",
        verdict=verdict,
        coverage=coverage,
    )
    if fail_on and not verdict:
        raise ConfigError("With --no-verdict there is nothing for --fail-on to look at.", "Leave out one of them.")
    if input.is_dir():
        return _refuse(recon_folder(input, out, config, layout, threads, many, as_json), fail_on)
    many.refuse_for_one_file()
    with listening(as_json) as events:
        events({"event": "start", "version": __version__, "input": input.name, "method": config.method})
        from mri_unroll.pipeline import reconstruct_file

        set_threads(threads)
        outcome = reconstruct_file(input, out, config, layout=layout, events=events)
        if send:
            send_files(sorted(outcome.volume.glob("*.dcm")), send, outcome.volume, events, as_json)
    paths = {name: str(getattr(outcome, name)) for name in ("volume", "report", "preview", "sidecar")}
    tell_summary(outcome.summary)
    if as_json:
        put_json({"event": "done", "paths": paths, "summary": outcome.summary})
    else:
        put("\n".join(paths.values()))
    _refuse([outcome.summary], fail_on)


def _refuse(summaries: list[dict[str, Any]], fail_on: FailOn | None) -> None:
    """End with an error if the verdict of any is what was asked to fail on, or worse."""
    if fail_on is None:
        return
    from mri_unroll.trust.verdict import ANSWERS

    for summary in summaries:
        if ANSWERS.index(summary["verdict"]) >= ANSWERS.index(fail_on):
            raise VerdictError(
                f"The verdict of {summary['input']} is {summary['verdict']}; everything was written.",
                "See `advice` in the sidecar, or leave out --fail-on.",
            )


def _slice_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and last.isdecimal() and (first.isdecimal() or not first)):
        raise ConfigError(f"Expected --slices A:B, got {text!r}.", "Slices 0, 1 and 2 are 0:3.")
    return int(first or 0), int(last)
