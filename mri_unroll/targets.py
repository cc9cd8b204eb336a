"""Where the files of a reconstruction go, and whether they can."""

from __future__ import annotations

import os
from pathlib import Path

from mri_unroll.config import OutputFormat, ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.io.registry import volume_format

SUFFIX: dict[OutputFormat, str] = {"h5": ".h5", "nifti": ".nii.gz", "npy": ".npy", "dicom": "_dicom"}


def targets_of(path: Path, out: Path, config: ReconstructionConfig) -> tuple[Path, Path, Path, Path]:
    """Volume, report, preview and sidecar: where they go. The sidecar is written last.

    Raises
    ------
    InputError
        If the name speaks against the format, or the output is the input.
    """
    format_of_name = volume_format(out)
    if format_of_name is not None and not out.is_dir():
        if config.format not in ("auto", format_of_name):
            raise InputError(
                f"{out.name} is named as {format_of_name}, but --format asks for {config.format}.",
                "Leave --format out.",
            )
        volume = out
        stem = out.name[: -len(".nii.gz")] if out.name.endswith(".nii.gz") else out.stem
    else:
        stem = path.stem
        volume = out / f"{stem}{SUFFIX['h5' if config.format == 'auto' else config.format]}"
    if volume.resolve() == path.resolve():
        raise InputError(f"The output {volume} is the input file itself.", "Choose another folder or name.")
    return volume, *(volume.with_name(stem + suffix) for suffix in (".html", ".png", ".json"))  # type: ignore[return-value]


def check_folder(folder: Path) -> None:
    """Refuse before the work, not after it, a folder that can be neither written nor made.

    Raises
    ------
    InputError
        If so.
    """
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file, so that {folder} cannot be a folder.", "Choose another output.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"The folder {nearest} cannot be written by this user.", "Choose another output.")
