"""The commands ``mri-unroll train`` and ``finetune``, and what they say meanwhile."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mri_unroll.config import MaskKind, ReconstructionConfig
from mri_unroll.errors import ConfigError, InputError
from mri_unroll.terminal import AsJson, Debug, Events, guarded, printable, put, put_json, tell

_QUIET = 60.0  # seconds between two lines of progress where no bar is drawn
_TRAIN_HELP = "A TOML file; scripts/train_unrolled.toml made the weights that come along; see docs/training.md."

training_app = typer.Typer(rich_markup_mode=None)


@training_app.command(
    epilog="Example: mri-unroll train scripts/train_unrolled_small.toml --out runs/mine\n\n"
    "Example: torchrun --nproc-per-node 2 -m mri_unroll train my.toml"
)
@guarded
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help=_TRAIN_HELP)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="as CONFIG says")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="In all.", show_default="as CONFIG says")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again, not at the last checkpoint.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --restart: delete the run that is there.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a network, from the last checkpoint if there is one.

    Killed at any moment and run again, it ends with the same weights as if it had not been killed. The folder of the
    run gets checkpoint.pt, log.csv, pictures/, tensorboard/ and, for recon --method, model.safetensors.
    """
    from mri_unroll.training.settings import read_training

    if overwrite and not restart:
        raise ConfigError(
            "Without --restart there is no use for --overwrite.",
            "Add --restart, or leave --overwrite out to go on with the run that is there.",
        )
    run = read_training(config, out, steps)
    if restart and not overwrite and (Path(run.out) / "checkpoint.pt").exists():
        raise ConfigError(
            f"{run.out} holds the checkpoint of a run, which --restart would delete.",
            "Add --overwrite to delete it, or choose another folder with --out.",
        )
    with told(as_json, "step") as events:
        from mri_unroll.training.loop import train as train_network

        weights = train_network(run, events, restart=restart)
    if not as_json and is_first():
        put(str(weights))


@training_app.command(
    epilog="Example: mri-unroll finetune knee.h5 -o knee.safetensors --minutes 5\n\n"
    "Example: mri-unroll recon knee.h5 -o results --method knee.safetensors"
)
@guarded
def finetune(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="Undersampled Cartesian k-space, as for `recon`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The weights to write, NAME.safetensors.")],
    start: Annotated[
        str, typer.Option("--from", metavar="NAME|CHECKPOINT", help="Weights to begin with.")
    ] = "unrolled",
    minutes: Annotated[float, typer.Option(min=0.1, help="At most.")] = 5.0,
    accelerate: Annotated[
        float | None, typer.Option(help="Undersample a fully sampled scan first, as `recon` does.", metavar="R")
    ] = None,
    mask: Annotated[MaskKind, typer.Option(help="With --accelerate.")] = "equispaced_fraction",
    center_fraction: Annotated[float | None, typer.Option(help="With --accelerate.", show_default="0.32 / R")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the mask, and of which lines are held out.")] = 0,
    layout: Annotated[str | None, typer.Option(help="As for `recon`.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="physical cores")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let a network learn from one undersampled scan, without any reference.

    Some measured lines are never learned from; where they are not predicted better than before, the weights stay as
    they were, and the command says so. The weights are for this scan alone.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"Expected --out NAME.safetensors, got {out}.", "End the name in .safetensors.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already.", "Use --overwrite to replace it, or write to another name.")
    if not out.resolve().parent.is_dir():
        raise InputError(f"There is no folder {out.parent} to write into.", "Make the folder first.")
    settings = ReconstructionConfig(accelerate=accelerate, mask=mask, center_fraction=center_fraction, seed=seed)
    with told(as_json, "step") as events:
        import torch

        from mri_unroll.checkpoints import find_checkpoint
        from mri_unroll.io.registry import read_scan
        from mri_unroll.machine import default_threads
        from mri_unroll.recon.retrospective import undersample
        from mri_unroll.training import finetuning

        torch.set_num_threads(threads or default_threads())
        measured = read_scan(scan, None, layout)
        if accelerate is not None:
            fraction = settings.effective_center_fraction
            measured = undersample(measured, mask, accelerate, fraction, seed)
        config = finetuning.FinetuningConfig(minutes=minutes, seed=seed)
        tuned = finetuning.finetune(measured, find_checkpoint(start), out, config, events)
    if not tuned.kept:
        tell(f"no better on this scan's own lines: the weights are those of {start}, unchanged")
    if not as_json:
        put(str(out))


def is_first() -> bool:
    """Whether this is the one process of a run that speaks; ``torchrun`` numbers them."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def told(as_json: bool, unit: str) -> Iterator[Events]:
    """Tell the events of a training: JSON lines on stdout, or on stderr a bar on a terminal, else a few lines."""
    if as_json:
        yield put_json if is_first() else _nothing
        return
    lines = _Lines(unit)
    if not sys.stderr.isatty():
        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task("preparing", total=None, left="")

        def events(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                left = f"{_duration(event['seconds_left'])} left"
                title = f"training, loss {event['loss']:.3f}"
                progress.update(task, description=title, completed=event["done"], total=event["total"], left=left)
            for line in spoken(event):
                progress.console.print(printable(line), markup=False)

        yield events


def _nothing(event: dict[str, Any]) -> None:
    """Other processes than the first say nothing."""


class _Lines:
    """Events as lines on stderr, progress once a minute."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.latest = time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            if time.monotonic() - self.latest < _QUIET:
                return
            left = _duration(event["seconds_left"])
            lines = [f"{self.unit} {event['done']} of {event['total']}, loss {event['loss']:.4f}, {left} left"]
        else:
            lines = spoken(event)
        if lines:
            self.latest = time.monotonic()
        for line in lines:
            tell(line)


def spoken(event: dict[str, Any]) -> list[str]:
    """An event of a training as lines; none where there is nothing to say."""
    match event["event"]:
        case "start" if "deciding_lines" in event:
            counts = f"{event['deciding_lines'][0]} lines decide, {event['known_lines'][0]} are learned from"
            return [
                f"{event['n_slices']} slices, of the first {counts}; at most {event['minutes']:g} min; error at the "
                f"lines that decide {event['start_db']:.3f} dB"
            ]
        case "looked":
            return [
                f"step {event['step']}: error at the lines that decide {event['error_db']:.3f} dB "
                f"(best {event['best_db']:.3f}, start {event['start_db']:.3f})"
            ]
        case "done" if "reason" in event:
            return [f"{event['reason']} {event['start']:.3f} to {event['result']:.3f} dB in {event['steps']} steps"]
        case "start":
            settings = "; ".join(f"{name} = {_setting(value)}" for name, value in event["settings"].items())
            others = f", {event['processes']} processes" if event["processes"] > 1 else ""
            return [
                f"{event['parameters']:,} parameters, {event['training_volumes']} training and "
                f"{event['validation_volumes']} validation volumes, {event['device']}{others}, into {event['out']}, "
                f"from step {event['step']} of {event['n_steps']}",
                f"settings: {settings}",
            ]
        case "note":
            return [f"note: {event['message']}"]
        case "saved":
            return [
                f"step {event['step']}/{event['n_steps']} loss {event['loss']:.4f}; {event['score']} of validation "
                f"people {event['validation_db']:.2f} dB (least squares {event['start_db']:.2f}), with noise kept "
                f"{event['noisy_db']:.2f} dB; {event['seconds_per_step']:.2f} s/step, "
                f"{_duration(event['seconds_left'])} left, {event['skipped']} steps skipped"
            ]
        case "done":
            return [f"weights {event['digest']}"]
    return []


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} = {_setting(inner)}" for name, inner in value.items()) + ")"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _duration(seconds: float) -> str:
    """Time to wait, in words: nobody needs the seconds of two hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
