"""Checkpoints of other packages: read without running anything in them, and converted.

A pickle is read by `torch.load` with ``weights_only=True``,
which builds tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from mri_unroll import __version__
from mri_unroll.errors import ConfigError, InputError, ModelError
from mri_unroll.nets.imported import ImportedConfig, save
from mri_unroll.nets.layouts import LAYOUTS, MAX_BYTES, recognise
from mri_unroll.nets.weights import named_as_part

# What torch.load and zipfile raise on files that are broken or something else.
_BROKEN = (
    *(RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(OverflowError, struct.error, zipfile.BadZipFile),
)
UNKNOWN = "not stated in the checkpoint; ask whoever trained it"
_ASSUMED = {
    "fastmri-varnet": (
        "coil maps from the symmetric run of central lines that the mask shows",
        "whole lines measured, readout oversampling kept, coils neither whitened nor compressed",
    ),
    "fastmri-unet": ("input: root sum of squares of the zero-filled coils, cropped before it is normalised",),
    "direct-varnet": (
        "centred unitary Fourier transform, as its configurations for fastMRI have it, unlike Calgary-Campinas'",
        "coil maps start from the unbroken run of central lines that the mask shows, over their root sum of squares",
        "whole lines measured, k-space not cropped beforehand",
    ),
}


def import_checkpoint(
    kind: str,
    source: Path,
    out: Path,
    *,
    overwrite: bool = False,
    scale_percentile: float | None = None,
    maps_sigma: float | None = None,
) -> tuple[ImportedConfig, dict[str, Any]]:
    """Convert a checkpoint of another package into one of ours.

    Parameters
    ----------
    kind
        One of `LAYOUTS`.
    source
        ``.pt``, ``.ckpt`` or the like, as `torch.save` writes them.
    out
        ``NAME.safetensors``.
    overwrite
        Replace what is there.
    scale_percentile, maps_sigma
        Settings of DIRECT that its checkpoints do not hold, see `DirectVarNet`; None: DIRECT's own defaults.

    Returns
    -------
    config, card
        As they were written.

    Raises
    ------
    ModelError
        If the checkpoint holds more than weights, is too large, or is in no layout of `LAYOUTS`.
    InputError
        If ``out`` exists, or is no name for a checkpoint.
    """
    if kind not in LAYOUTS:
        raise ConfigError(f"Expected a kind of checkpoint of {', '.join(LAYOUTS)}, got {kind!r}.")
    given = {"scale_percentile": scale_percentile, "maps_sigma": maps_sigma}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if settings and kind != "direct-varnet":
        raise ConfigError(f"{kind} has no setting {' and '.join(settings)}.", "Leave it out; it is one of DIRECT.")
    ImportedConfig(kind, width=1, n_pools=1, **settings)  # a setting out of range is told before anything is read
    if out.suffix != ".safetensors" or named_as_part(out):
        raise InputError(
            f"Expected a name NAME.safetensors, without a number before the suffix, to write to, got {out.name!r}.",
            "Choose another name with --out.",
        )
    if os.path.lexists(out) and not overwrite:
        raise InputError(f"{out} exists already.", "Use --overwrite to replace it, or write to another name.")
    tensors, config, layout = recognise(kind, read_pickle(source), settings)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"The weights in {source.name} are not finite at {name!r}.", "Download or save it again.")
    card = {
        "imported_from": source.name,
        "source_digest": _digest(source),
        "layout": layout,
        "imported_by": f"mri_unroll {__version__}",
        "trained_on": UNKNOWN,
        "licence": UNKNOWN,
        "assumed": list(_ASSUMED[kind]),
    }
    save({name: tensor.float().contiguous() for name, tensor in tensors.items()}, config, card, out)
    return config, card


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors on the CPU in plain containers; nothing in the file is run.

    Raises
    ------
    ModelError
        If it is missing, larger than `MAX_BYTES`, no such file, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise ModelError(f"There is no checkpoint {path}.", "Check the path.")
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        if size > MAX_BYTES:
            raise ModelError(
                f"{path.name} holds {size / 2**30:.1f} GiB, more than the {MAX_BYTES / 2**30:.0f} GiB that are read.",
                "Save the state dict alone, without the state of the optimiser.",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how it should have been saved comes too late
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ModelError(
            f"{path.name} holds more than tensors and plain values"
            + (f" (`{named[1]}`)" if named else "")
            + " and was not opened; nothing in it was run.",
            "If you trust whoever made it, save its state dict alone with torch.save, and import that.",
        ) from error
    except _BROKEN as error:
        raise ModelError(
            f"Expected a checkpoint that torch.save wrote, but {path.name} cannot be read: "
            f"{' '.join(str(error).split())[:160] or type(error).__name__}.",
            "Download or save it again.",
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
