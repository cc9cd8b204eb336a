"""The command ``mri-unroll``: it parses, calls the road, and says what came out. Nothing heavy is imported at the top.

Exit codes: 0 done, 2 a file or an option is wrong, 70 a bug, 75 not enough memory, disk or no such device.
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from mri_unroll import __version__
from mri_unroll.evaluate_commands import evaluate_app
from mri_unroll.model_commands import models_app
from mri_unroll.options import Layout, Threads, set_threads
from mri_unroll.prediction_commands import prediction_app
from mri_unroll.recon_command import EXAMPLES, recon
from mri_unroll.sending_command import send
from mri_unroll.service_commands import mrd_client, serve
from mri_unroll.study_commands import holds_study, inspect_study
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
)
from mri_unroll.training_commands import training_app
from mri_unroll.watch_command import watch

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes half the time, and reads as well in a log
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mri-unroll recon knee.h5 -o results",
)
app.command(epilog=EXAMPLES)(recon)
app.command(epilog="Example: mri-unroll send better dicom://ARCHIVE@pacs.example.org:104")(send)
app.command(epilog="Example: mri-unroll serve --data-dir /srv/mri --token-file /etc/mri-unroll.token")(serve)
app.command("mrd-client", epilog="Example: mri-unroll mrd-client scan.h5 --to 127.0.0.1:9002 -o images.h5")(mrd_client)
app.command(epilog="Example: mri-unroll watch incoming -o results")(watch)
app.add_typer(evaluate_app)
app.add_typer(prediction_app)
app.add_typer(training_app)
app.add_typer(models_app, name="models", help="Trained weights: list, show, verify, import.")


def _say_version(wanted: bool) -> None:
    if wanted:
        put(f"mri-unroll {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """MRI reconstruction by deep unrolling: k-space in, pictures and an honest report out. For research use only."""


@app.command(
    epilog="Example: mri-unroll inspect knee.h5\n\nExample: mri-unroll inspect kspace.npy --layout coil,ky,kx"
    "\n\nExample: mri-unroll inspect study_folder"
)
@guarded
def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Raw k-space: fastMRI or ISMRMRD HDF5, .npy, .npz; or DICOM.")
    ],
    layout: Layout = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a scan file holds and what it lacks, or list the series of a DICOM study; no picture is made."""
    if holds_study(file):
        return inspect_study(file, as_json)
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

        set_threads(threads)
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


def main() -> None:
    """Run the command line; the entry point of ``mri-unroll``."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is given back as it came, whatever its bytes
    logging.getLogger().addHandler(logging.NullHandler())  # libraries do not write on our stderr
    app(prog_name="mri-unroll")


if __name__ == "__main__":
    main()
