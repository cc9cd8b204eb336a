"""The commands that tell how good pictures are: ``evaluate``, and for what others compute ``predict`` and ``score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mri_unroll import __version__
from mri_unroll.config import DeviceChoice
from mri_unroll.errors import ConfigError
from mri_unroll.folders import (
    Cluster,
    Resume,
    ShardOption,
    SkipBad,
    Workers,
    conclude,
    make_crew,
    shard_named,
    telling,
)
from mri_unroll.terminal import RESEARCH, AsJson, Debug, guarded, listening, put, put_json, put_table, tell

if TYPE_CHECKING:
    from mri_unroll.evaluate.run import Evaluation

EvaluationMask = Literal["random", "equispaced", "equispaced_fraction", "magic", "poisson", "from-file"]
ConventionName = Literal["fastmri", "calgary", "slice"]

Convention = Annotated[
    ConventionName, typer.Option(help="Data range, crop, and whether volumes or slices are scored; it is printed.")
]
Device = Annotated[DeviceChoice, typer.Option(help="auto: a GPU where there is one.")]

evaluate_app = typer.Typer(rich_markup_mode=None)


@evaluate_app.command(
    epilog="Example: mri-unroll evaluate multicoil_val -o scores --methods zero-filled,l1-wavelet,unrolled "
    "--accelerate 4,8 --mask random\n\n"
    "Example: mri-unroll evaluate multicoil_val -o scores --methods unrolled --shard 0/4"
)
@guarded
def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of scans, in the fastMRI layout or another.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for scores and report.")],
    methods: Annotated[
        str, typer.Option(metavar="A,B,...", help="Names that `mri-unroll methods` lists, or .safetensors files.")
    ] = "zero-filled,l1-wavelet,unrolled",
    accelerate: Annotated[
        str | None, typer.Option(metavar="R,R,...", help="Undersample R-fold.", show_default="4,8")
    ] = None,
    mask: Annotated[
        EvaluationMask, typer.Option(help="Drawn from the file's name as fastMRI does; from-file: the file's own.")
    ] = "equispaced_fraction",
    convention: Convention = "fastmri",
    split_list: Annotated[
        Path | None, typer.Option(help="Text file with the names of the files to take, one a line.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take at most so many files.")] = None,
    resume: Resume = False,
    shard: ShardOption = None,
    cluster: Cluster = None,
    workers: Workers = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker.")] = None,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the evaluation that OUT holds.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score methods on every scan of a folder: NMSE, PSNR, SSIM, comparisons, report.

    The table goes to stdout, all else to stderr. OUT gets scores.csv (a row a volume and method, written as it is
    made), bad_files.csv, summary.csv, summary.json and report.html. Scans need a fully sampled reference: their own,
    or fully sampled k-space.

    Shards 0/4 to 3/4 may run in any order, on any machines that see both folders. Each makes the report over all scores
    that are there, so that the last one makes it complete; one that was killed is started again with --resume.
    """
    factors = _factors(accelerate, mask)
    with listening(as_json) as events:
        title = f"evaluating {methods} on {folder.name}"
        events({"event": "start", "version": __version__, "input": folder.name, "title": title})
        from mri_unroll.evaluate.run import evaluate_folder
        from mri_unroll.evaluate.settings import EvaluationConfig

        config = EvaluationConfig(
            methods=tuple(name for name in methods.split(",") if name),
            accelerations=factors,
            mask=mask,
            convention=convention,
            split_list=split_list,
            limit=limit,
            device=device,
        )
        found = evaluate_folder(
            folder,
            out,
            config,
            crew=make_crew(workers, cluster, threads, device),
            shard=shard_named(shard),
            resume=resume,
            overwrite=overwrite,
            events=telling(events),
        )
    _put_evaluation(found, config.methods, convention, as_json)
    conclude(found.bad, skip_bad)


def _factors(text: str | None, mask: str) -> tuple[float, ...]:
    if mask == "from-file":
        if text is not None:
            raise ConfigError(
                "The files' own masks cannot be accelerated.", "Leave out --accelerate, or choose --mask."
            )
        return ()
    try:
        return tuple(float(factor) for factor in ("4,8" if text is None else text).split(","))
    except ValueError:
        raise ConfigError(f"Expected --accelerate R,R,..., got {text!r}.", "Fourfold and eightfold are 4,8.") from None


def _put_evaluation(found: Evaluation, methods: tuple[str, ...], convention: str, as_json: bool) -> None:
    from mri_unroll.evaluate.conventions import MEASURES, convention_named
    from mri_unroll.evaluate.statistics import summarise

    paths = {name: str(path) for name, path in found.paths.items()}
    counts = {"scores": len(found.scores), "new": found.new, "expected": found.expected, "bad": len(found.bad)}
    groups = summarise(found.scores, methods)
    if as_json:
        means: list[dict[str, Any]] = [
            {
                "method": group.method,
                "mask": group.mask,
                "acceleration": group.acceleration,
                "n_volumes": group.n_volumes,
                **{f"{name}_mean": group.measures[name].mean for name in MEASURES if name in group.measures},
                **{f"{name}_sd": group.measures[name].sd for name in MEASURES if name in group.measures},
            }
            for group in groups
        ]
        seconds = {name: round(value, 3) for name, value in found.seconds.items()}
        done = {**counts, "convention": convention, "paths": paths, "means": means, "seconds": seconds}
        put_json({"event": "done", **done})
    elif groups:
        decimals = {"nmse": 4, "psnr": 2, "ssim": 4}
        rows = [
            [f"{group.acceleration:g}", group.method, str(group.n_volumes)]
            + [
                f"{group.measures[name].mean:.{decimals[name]}f} ± {group.measures[name].sd:.{decimals[name]}f}"
                if name in group.measures
                else "none"
                for name in MEASURES
            ]
            for group in groups
        ]
        put_table(rows, ("R", "method", "volumes", "NMSE", "PSNR [dB]", "SSIM"))
        put(f"Mean ± sample standard deviation over volumes. {convention_named(convention).statement}")
    tell(f"{counts['scores']} scores of {counts['expected']} asked for, {counts['new']} of them new; {RESEARCH}")
    tell(f"report: {paths['report']}")
