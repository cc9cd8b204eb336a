"""The commands for what goes from hand to hand: ``predict`` writes challenge files, ``score`` scores anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mri_unroll import __version__
from mri_unroll.config import MaskKind, ReconstructionConfig
from mri_unroll.errors import ConfigError, InputError
from mri_unroll.evaluate_commands import Convention, Device
from mri_unroll.folders import (
    Cluster,
    Resume,
    ShardOption,
    SkipBad,
    Workers,
    conclude,
    make_crew,
    putting_volumes,
    shard_named,
    telling,
)
from mri_unroll.terminal import RESEARCH, AsJson, Debug, guarded, listening, put, put_json, put_table, tell

if TYPE_CHECKING:
    from mri_unroll.evaluate.scoring import Scored, Spread

prediction_app = typer.Typer(rich_markup_mode=None)


@prediction_app.command(
    epilog="Example: mri-unroll predict multicoil_test -o reconstructions\n\n"
    "Example: mri-unroll predict multicoil_val -o reconstructions --method l1-wavelet --accelerate 4 --mask random\n\n"
    "Example: mri-unroll score multicoil_val reconstructions"
)
@guarded
def predict(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of scans, in the fastMRI layout or another.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the predictions.")],
    method: Annotated[
        str,
        typer.Option(metavar="NAME|CHECKPOINT", help="A name that `mri-unroll methods` lists, or a .safetensors file."),
    ] = "unrolled",
    accelerate: Annotated[
        float | None,
        typer.Option(metavar="R", help="Undersample R-fold first.", show_default="the files' own sampling"),
    ] = None,
    mask: Annotated[
        MaskKind | None,
        typer.Option(
            help="With --accelerate: drawn from the file's name as fastMRI does.", show_default="equispaced_fraction"
        ),
    ] = None,
    v2: Annotated[bool, typer.Option("--v2", help="End names in _v2.h5, as the knee challenge wants them.")] = False,
    resume: Resume = False,
    shard: ShardOption = None,
    cluster: Cluster = None,
    workers: Workers = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker.")] = None,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions that are there.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a challenge file for every scan of a folder: its own name, one dataset `reconstruction` (slice, y, x).

    Pictures are as large as the scan's reference where there is one, else as its header asks. The paths written go to
    stdout, all else to stderr.
    """
    if accelerate is None and mask is not None:
        raise ConfigError("Without --accelerate there is no use for --mask.", "Add --accelerate R.")
    config = ReconstructionConfig(
        method=method,
        device=device,
        accelerate=accelerate,
        mask=mask or "equispaced_fraction",
        overwrite=overwrite,
    )
    with listening(as_json) as events:
        title = f"predicting the scans in {folder.name} with {method}"
        events({"event": "start", "version": __version__, "input": folder.name, "title": title})
        from mri_unroll.evaluate.challenge import predict_folder

        found = predict_folder(
            folder,
            out,
            config,
            v2_suffix=v2,
            crew=make_crew(workers, cluster, threads, device),
            shard=shard_named(shard),
            resume=resume,
            events=telling(putting_volumes(events, as_json)),
        )
    counts = {"predicted": len(found.paths), "finished_before": found.finished, "bad": len(found.bad)}
    if as_json:
        put_json({"event": "done", "folder": str(out), **counts})
    spoken = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    tell(f"{folder.name}: {spoken}; {RESEARCH}")
    conclude(found.bad, skip_bad)


@prediction_app.command(
    epilog="Example: mri-unroll score multicoil_val reconstructions\n\n"
    "Example: mri-unroll score multicoil_val reconstructions --acquisition AXT2 --csv scores.csv"
)
@guarded
def score(
    targets: Annotated[
        Path, typer.Argument(metavar="TARGETS", help="A folder of files with reconstruction_rss or reconstruction_esc.")
    ],
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="A folder of files of the same names, with `reconstruction`.")
    ],
    convention: Convention = "fastmri",
    acquisition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only targets of this one, as AXT2.", show_default="all")
    ] = None,
    acceleration: Annotated[
        float | None, typer.Option(metavar="R", help="Only targets whose attribute says so.", show_default="all")
    ] = None,
    challenge: Annotated[
        Literal["multicoil", "singlecoil"] | None,
        typer.Option(help="Targets are reconstruction_rss or reconstruction_esc.", show_default="what there is"),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row a volume.", show_default=False)
    ] = None,
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the CSV file.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score anybody's predictions, as fastMRI's evaluator does or by another convention.

    The table goes to stdout: means over volumes, and twice the sample standard deviation as the evaluator gives it.
    """
    if table is not None and table.exists() and not overwrite:  # before the work, not after it
        raise InputError(f"{table} exists already.", "Use --overwrite to replace it, or name another file.")
    with listening(as_json) as events:
        title = f"scoring {predictions.name} against {targets.name}"
        events({"event": "start", "version": __version__, "input": targets.name, "title": title})
        from mri_unroll.evaluate.scoring import score_folders, write_file_scores

        found = score_folders(
            targets,
            predictions,
            convention,
            acquisition,
            challenge=challenge,
            acceleration=acceleration,
            progress=lambda done, total: events({"event": "progress", "done": done, "total": total, "unit": "volume"}),
        )
    for bad in found.bad:
        tell(f"not scored: {bad.file}: {bad.reason}")
    if found.unmatched:
        tell(f"without a target: {', '.join(found.unmatched)}")
    if table is not None:
        write_file_scores(found.scores, table, overwrite)
    _put_scores(found, as_json)
    conclude(found.bad, skip_bad)


def _put_scores(found: Scored, as_json: bool) -> None:
    from dataclasses import asdict

    from mri_unroll.evaluate.conventions import convention_named
    from mri_unroll.evaluate.scoring import MEASURES, spread

    acquisitions = sorted({score.acquisition for score in found.scores})
    chosen: list[str | None] = [None, *(acquisitions if len(acquisitions) > 1 else ())]
    groups = [
        (name, [score for score in found.scores if name in (None, score.acquisition)])
        for name in chosen
        if found.scores
    ]
    statement = convention_named(found.convention).statement
    if as_json:
        means = [
            {"acquisition": name, "n_volumes": len(held), **{m: asdict(spread(held, m)) for m in MEASURES}}
            for name, held in groups
        ]
        scores, bad = ([asdict(each) for each in part] for part in (found.scores, found.bad))
        put_json({"event": "done", "convention": statement, "means": means, "scores": scores, "bad": bad})
    elif groups:
        rows = [
            [name or ("all" if name is None else "not stated"), str(len(held))]
            + [_spoken(spread(held, measure)) for measure in MEASURES]
            for name, held in groups
        ]
        put_table(rows, ("acquisition", "volumes", *(name.upper() for name in MEASURES)))
        put(f"Mean ± twice the sample standard deviation over volumes. {statement}")


def _spoken(found: Spread) -> str:
    """As the official evaluator prints it; of one volume there is no deviation."""
    return f"{found.mean:.4g} ± {2 * found.sd:.4g}" if found.n > 1 else f"{found.mean:.4g}"
