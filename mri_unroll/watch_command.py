"""The command ``mri-unroll watch``: for sites whose scanner drops raw data into a folder."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mri_unroll.config import DeviceChoice, ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.options import Threads, complete_method, set_threads
from mri_unroll.terminal import AsJson, Debug, guarded, put, put_json, tell

_LOOK = 1.0  # seconds


@guarded
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where raw data arrives.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the results.")],
    method: Annotated[
        str, typer.Option(metavar="NAME|CHECKPOINT", autocompletion=complete_method, help="As for `recon`.")
    ] = ReconstructionConfig().method,
    quiet: Annotated[float, typer.Option(min=0, help="Seconds after which a file that grows no more is whole.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="End when everything that is there is done.")] = False,
    device: Annotated[DeviceChoice, typer.Option(help="auto: a GPU where there is one.")] = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Reconstruct every scan that arrives in a folder, until Ctrl-C: volume, report, preview and sidecar of each.

    What is finished is left as it is, also by a later run. A scan that fails is told, noted in NAME.error.json, and
    tried again when the file changes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", "Name the folder that the scanner writes to.")
    if out.resolve() == folder.resolve():
        raise InputError(f"The results would lie among the scans in {folder}.", "Choose another folder.")
    from mri_unroll.recon.reconstructor import make_reconstructor

    set_threads(threads)
    config = ReconstructionConfig(method=method, device=device, overwrite=True)
    reconstructor = make_reconstructor(method, config)
    out.mkdir(parents=True, exist_ok=True)
    tell(f"watching {folder}; Ctrl-C ends it")
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stop.is_set():
            waiting = [path for path in _there(folder) if not _is_settled(path, out)]
            ready = [path for path in waiting if _is_whole(path, quiet)]
            for path in ready:
                if not stop.is_set():
                    _reconstruct(path, out, config, reconstructor, as_json)
            if once and not waiting:
                return
            if not ready:
                stop.wait(_LOOK)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    tell("stopped")


def _there(folder: Path) -> list[Path]:
    from mri_unroll.cohort.tasks import files_of

    try:
        return files_of(folder)
    except InputError:  # nothing has arrived yet
        return []


def _is_whole(path: Path, quiet: float) -> bool:
    try:
        return time.time() - path.stat().st_mtime >= quiet
    except FileNotFoundError:
        return False


def _is_settled(path: Path, out: Path) -> bool:
    """Whether a result, or a note of a failure, is as new as the file."""
    try:
        changed = path.stat().st_mtime
    except FileNotFoundError:
        return True
    notes = [out / f"{path.stem}.json", out / f"{path.stem}.error.json"]
    return any(note.exists() and note.stat().st_mtime >= changed for note in notes)


def _refuse_twin(path: Path, out: Path) -> None:
    """See to it that a scan does not take the place of another of the same name but for the suffix."""
    sidecar = out / f"{path.stem}.json"
    if sidecar.exists() and json.loads(sidecar.read_text(encoding="utf-8")).get("input") != path.name:
        raise InputError(f"{path.name} would replace the result of another scan of that name.", "Rename it.")


def _reconstruct(path: Path, out: Path, config: ReconstructionConfig, reconstructor: Any, as_json: bool) -> None:
    from mri_unroll.io.sidecar import write_sidecar
    from mri_unroll.pipeline import reconstruct_file
    from mri_unroll.terminal import diagnose

    tell(f"reconstructing {path.name}")
    note = out / f"{path.stem}.error.json"
    try:
        _refuse_twin(path, out)
        outcome = reconstruct_file(path, out, config, reconstructor=reconstructor)
    except Exception as error:  # one bad scan does not end the watch
        failure = diagnose(error)
        said = {"file": path.name, "kind": failure.kind, "message": failure.message, "hint": failure.hint}
        write_sidecar(said, note, overwrite=True)
        tell(f"error: {path.name}: {failure.message} {failure.hint}".strip())
        if as_json:
            put_json({"event": "bad-file", **said})
        return
    note.unlink(missing_ok=True)
    if as_json:
        put_json({"event": "file", "file": path.name, "summary": outcome.summary})
    else:
        put(str(outcome.volume))
