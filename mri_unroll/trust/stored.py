"""Tensors, and in words what they are, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from mri_unroll.errors import ModelError
from mri_unroll.io.atomic import atomic_path


def write(tensors: Mapping[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a file; what was there under its name is replaced."""
    content = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}, metadata)
    with atomic_path(path, overwrite=True) as target:
        target.write_bytes(content)


def read(path: Path, form: str, what: str, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write` wrote with ``format`` in its metadata.

    Parameters
    ----------
    path
        The file.
    form
        What its ``format`` has to be.
    what, advice
        For the error: what it should have been, and what to do.

    Raises
    ------
    ModelError
        If it is of another format.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != form:
            raise ModelError(f"{path.name} is no {what} of this version.", advice)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata
