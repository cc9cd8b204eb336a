"""The demonstration: one sample scan, undersampled fourfold and reconstructed in three ways."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.pipeline import Events, Outcome, ignore, reconstruct_file
from mri_unroll.recon.reconstructor import make_reconstructor

SAMPLE = "phantom_multicoil.h5"
METHODS = ("zero-filled", "l1-wavelet", "unrolled")
ACCELERATION = 4
_SUFFIXES = (".h5", ".html", ".png", ".json")


def sample_scan() -> Path:
    """The sample scan: inside an installed package, or beside the package in a source tree.

    Raises
    ------
    InputError
        If it is in neither place.
    """
    package = Path(str(resources.files("mri_unroll")))
    for folder in (package, package.parent):
        path = folder / "sample_data" / SAMPLE
        if path.is_file():
            return path
    raise InputError(f"The sample scan {SAMPLE} is not installed.", "Install mri_unroll again.")


def run_demo(out: Path, events: Events = ignore) -> dict[str, Outcome]:
    """Reconstruct the sample scan with `METHODS`, one folder each.

    Parameters
    ----------
    out
        A folder; an earlier demonstration in it is replaced.
    events
        As for `reconstruct_file`; a ``start`` event names each method.

    Raises
    ------
    InputError
        If ``out`` holds something that no demonstration wrote.
    """
    scan = sample_scan()
    volumes = {method: out / method / f"{scan.stem}_{method}.h5" for method in METHODS}
    _refuse_strangers(out, volumes)
    for method in METHODS:  # what is missing is said before anything is written
        make_reconstructor(method)
    outcomes = {}
    for method, volume in volumes.items():
        events({"event": "start", "input": scan.name, "method": method})
        config = ReconstructionConfig(
            method=method, accelerate=ACCELERATION, mask="equispaced_fraction", seed=0, overwrite=True
        )
        outcomes[method] = reconstruct_file(scan, volume, config, events=events)
    return outcomes


def _refuse_strangers(out: Path, volumes: dict[str, Path]) -> None:
    """Only what a demonstration writes may lie in its folder: it is overwritten without asking."""
    own = {volume.with_suffix(suffix) for volume in volumes.values() for suffix in _SUFFIXES}
    folders = {volume.parent for volume in volumes.values()}
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder.", "Name a folder for the demonstration with --out.")
    if not out.is_dir():
        return
    for path in _walk(out):
        left_over = path.name.startswith(".") and path.name.endswith(".part") and path.parent in folders
        if path not in own | folders and not left_over:
            raise InputError(
                f"The folder {out} holds {path.relative_to(out)}, which is not of a demonstration.",
                "Name another folder with --out.",
            )


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            yield Path(root, name)
