"""The command ``mri-unroll``: it parses, calls the road, and says what came out. Nothing heavy is imported at the top.

Exit codes: 0 done, 2 a file or an option is wrong, 70 a bug, 75 not enough memory, disk or no such device.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from mri_unroll import __version__
from mri_unroll.config import DeviceChoice, MaskKind, OutputFormat, ReconstructionConfig
from mri_unroll.errors import ConfigError
from mri_unroll.evaluate_commands import evaluate_app
from mri_unroll.folders import Cluster, FolderOptions, Resume, ShardOption, SkipBad, Workers, recon_folder
from mri_unroll.model_commands import models_app
from mri_unroll.prediction_commands import prediction_app
from mri_unroll.terminal import (
    RESEARCH,
    RESOURCES,
    AsJson,
    Debug,
    guarded,
    listening,
    put,
    put_json,
    put_record,
    put_table,
    tell,
    tell_summary,
)
from mri_unroll.training_commands import training_app

# As reconstructor.SUMMARIES, which needs torch.
METHODS = ("zero-filled", "cg-sense", "l1-wavelet", "tv", "bart-pics", "sigpy-l1wavelet", "unrolled")
LAYOUT_HELP = 'Axes of a NumPy file, as "slice,coil,ky,kx"; of ISMRMRD which scan, as "repetition=1".'

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes half the time, and reads as well in a log
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mri-unroll recon knee.h5 -o results",
)
app.add_typer(evaluate_app)
app.add_typer(prediction_app)
app.add_typer(training_app)
app.add_typer(models_app, name="models", help="Trained weights: list, show, verify, import.")


def _say_version(wanted: bool) -> None:
    if wanted:
        put(f"mri-unroll {__version__}")
        raise typer.Exit


def _complete_method(incomplete: str) -> Iterable[str]:
    yield from (name for name in METHODS if name.startswith(incomplete))
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    if folder.is_dir():
        found = {str(path): re.sub(r"\.\d+(?=\.\w+$)", "", str(path)) for path in folder.glob("*.safetensors")}
        # NAME.2.safetensors beside NAME.safetensors is the second file of one checkpoint.
        checkpoints = sorted(name for name, first in found.items() if name == first or first not in found)
        yield from (name for name in checkpoints if name.startswith(incomplete))


Layout = Annotated[str | None, typer.Option(help=LAYOUT_HELP, show_default=False)]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="physical cores")]


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """MRI reconstruction by deep unrolling: k-space in, pictures and an honest report out. For research use only."""


@app.command(
    epilog="Example: mri-unroll recon knee.h5 -o results\n\n"
    "Example: mri-unroll recon brain.h5 -o brain.nii.gz --method l1-wavelet --accelerate 4 --mask equispaced_fraction"
    "\n\nExample: mri-unroll recon multicoil_test -o results --workers 4 --resume"
)
@guarded
def recon(
    input: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Raw k-space: fastMRI or ISMRMRD HDF5, .npy, .npz; or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, or the volume file: .h5, .nii.gz or .npy.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME|CHECKPOINT",
            autocompletion=_complete_method,
            help="A name that `mri-unroll methods` lists, or a .safetensors file.",
        ),
    ] = "unrolled",
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
    fast: Annotated[bool, typer.Option("--fast", help="Networks in bfloat16, where the CPU has it.")] = False,
    best: Annotated[bool, typer.Option("--best", help="Mean of a network's four passes.")] = False,
    denoise: Annotated[
        float, typer.Option(help="Of a network: share of the noise to remove, 0 to 1.", metavar="SHARE")
    ] = 0.0,
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
    """Reconstruct a file, or every file of a folder: volume, report, preview and sidecar.

    The paths written go to stdout, all else to stderr; with --json, stdout gets one event a line.
    """
    if accelerate is None:
        given = {"--mask": mask, "--center-fraction": center_fraction, "--seed": seed}
        if odd := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"Without --accelerate there is no use for {', '.join(odd)}.", "Add --accelerate R.")
    if fast and best:
        raise ConfigError("Expected one of --fast and --best, got both.", "Leave out one of them.")
    config = ReconstructionConfig(
        method=method,
        format=format,
        device=device,
        accelerate=accelerate,
        mask=mask or "equispaced_fraction",
        center_fraction=center_fraction,
        seed=seed or 0,
        slices=_slice_range(slices),
        overwrite=overwrite,
        reg_weight=reg_weight,
        n_iterations=iterations,
        denoise=denoise,
        effort="fast" if fast else "best" if best else "normal",
    )
    many = FolderOptions(workers, cluster, shard, resume, skip_bad)
    if input.is_dir():
        return recon_folder(input, out, config, layout, threads, many, as_json)
    many.refuse_for_one_file()
    with listening(as_json) as events:
        events({"event": "start", "version": __version__, "input": input.name, "method": method})
        from mri_unroll.pipeline import reconstruct_file

        _set_threads(threads)
        outcome = reconstruct_file(input, out, config, layout=layout, events=events)
    paths = {name: str(getattr(outcome, name)) for name in ("volume", "report", "preview", "sidecar")}
    tell_summary(outcome.summary)
    if as_json:
        put_json({"event": "done", "paths": paths, "summary": outcome.summary})
    else:
        put("\n".join(paths.values()))


@app.command(epilog="Example: mri-unroll inspect knee.h5\n\nExample: mri-unroll inspect kspace.npy --layout coil,ky,kx")
@guarded
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Raw k-space: fastMRI or ISMRMRD HDF5, .npy, .npz.")],
    layout: Layout = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a scan file holds and what it lacks; no picture is made."""
    from mri_unroll.io.registry import describe

    found = describe(file, layout)
    if as_json:
        put_json(found, indent=2)
    else:
        put_record(found)


@app.command(epilog="Example: mri-unroll methods")
@guarded
def methods(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the methods of reconstruction."""
    from mri_unroll.recon.reconstructor import described_methods

    rows = described_methods()
    if as_json:
        put_json(rows, indent=2)
    else:
        put_table(
            [[f"{r['name']}{' *' if r['default'] else ''}", str(r["kind"]), str(r["summary"])] for r in rows],
            ("method", "kind", "what it does"),
        )
        tell("* the default; a .safetensors checkpoint may stand in its place")


@app.command(epilog="Example: mri-unroll demo\n\nExample: mri-unroll demo -o somewhere")
@guarded
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the results.")] = Path("mri_unroll_demo"),
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Reconstruct a sample scan in three ways and compare them.

    The scan is a phantom; a quarter of its k-space is used.
    """
    with listening(False) as events:
        events({"event": "start", "input": "the sample scan", "method": "three methods"})
        from mri_unroll.demo import run_demo

        _set_threads(threads)
        outcomes = run_demo(out, events)
    rows = []
    for method, outcome in outcomes.items():
        scores = outcome.summary["metrics"]
        numbers = [f"{scores['nmse']:.4f}", f"{scores['psnr']:.2f}", f"{scores['ssim']:.4f}"]
        rows.append([method, *numbers, str(outcome.report)])
    put_table(rows, ("method", "NMSE", "PSNR [dB]", "SSIM", "report"))
    tell(f"4-fold undersampled phantom, scored against its fully sampled picture; {RESEARCH}")


@app.command(epilog="Example: mri-unroll doctor")
@guarded
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say whether reconstruction can run here, and on what. Exit code 75 if it cannot."""
    from mri_unroll.doctor import examine

    findings = examine()
    if as_json:
        put_json(findings, indent=2)
    else:
        put_record({name: value for name, value in findings.items() if name not in ("ok", "problems")})
    for problem in findings["problems"]:
        tell(f"problem: {problem}")
    if not findings["ok"]:
        raise typer.Exit(RESOURCES)
    tell("ready: reconstruction can run")


def _slice_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and last.isdecimal() and (first.isdecimal() or not first)):
        raise ConfigError(f"Expected --slices A:B, got {text!r}.", "Slices 0, 1 and 2 are 0:3.")
    return int(first or 0), int(last)


def _set_threads(threads: int | None) -> None:
    import torch

    from mri_unroll.machine import default_threads

    torch.set_num_threads(threads or default_threads())


def main() -> None:
    """Run the command line; the entry point of ``mri-unroll``."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is given back as it came, whatever its bytes
    logging.getLogger().addHandler(logging.NullHandler())  # libraries do not write on our stderr
    app(prog_name="mri-unroll")


if __name__ == "__main__":
    main()
