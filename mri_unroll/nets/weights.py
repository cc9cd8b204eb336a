"""Tensors and their metadata in one safetensors file, or in several where one would be too large.

A checkpoint in several files is named by its first, ``NAME.safetensors``, which knows the others
(``NAME.2.safetensors`` and so on) by their digests. The digest of the first is thereby the digest of the whole, and no
part can be swapped.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from itertools import count
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.io.atomic import atomic_path

_PARTS, _PART = "parts", "part"  # metadata of the first file: digests of the others; of another: its number
_PER_TENSOR, _PER_FILE = 256, 1024  # bytes of a header, more than enough
_LARGER = "Allow larger files."


def write(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path, max_bytes: int | None = None) -> None:
    """Write a checkpoint; what was there under its name is replaced, parts that it no longer has are removed.

    Parameters
    ----------
    tensors
        By name, contiguous, on the CPU.
    metadata
        Kept in the first file.
    path
        ``NAME.safetensors``, the first file.
    max_bytes
        Of a file; None: one file, however large.

    Raises
    ------
    ConfigError
        If a tensor or the metadata alone is larger than ``max_bytes``.
    """
    first, *others = _divided(tensors, metadata, max_bytes)
    digests = []
    for number, group in enumerate(others, start=2):
        with atomic_path(_part(path, number), overwrite=True) as target:
            target.write_bytes(_ordered(safetensors.torch.save(group, metadata={_PART: str(number)})))
        digests.append(digest(_part(path, number)))
    # The first comes last: until then the old one refuses the new parts.
    with atomic_path(path, overwrite=True) as target:
        listed = {_PARTS: json.dumps(digests)} if digests else {}
        target.write_bytes(_ordered(safetensors.torch.save(first, metadata=metadata | listed)))
    for number in count(len(digests) + 2):
        if not (_part(path, number).is_file() and _part_number(_part(path, number)) == number):
            break
        _part(path, number).unlink()


def _ordered(content: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes it in another one every time, and digests differ."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint, given by its first file.

    Raises
    ------
    ModelError
        If it is no safetensors file, or a part of a checkpoint is missing, foreign, or given for the whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is no safetensors checkpoint: {error}.", "Copy or download it again.") from error
    if _PART in metadata:
        raise ModelError(
            f"{path.name} is file {metadata[_PART]} of a checkpoint in several files, not its first.",
            "Name the first, the one without a number.",
        )
    digests = _digests(metadata, path)
    for number, expected in enumerate(digests, start=2):
        part = _part(path, number)
        try:
            content = part.read_bytes()
        except OSError as error:
            raise ModelError(
                f"Expected {part.name} beside {path.name}: the checkpoint is in {len(digests) + 1} files.",
                "Keep them together, under names that differ in nothing but the number.",
            ) from error
        if "sha256:" + hashlib.sha256(content).hexdigest() != expected:
            raise ModelError(
                f"{part.name} does not belong to {path.name}, or was changed: its digest is not the one named there.",
                "Copy all files of the checkpoint again.",
            )
        tensors |= safetensors.torch.load(content)
    return tensors, metadata


def digest(path: Path) -> str:
    """``sha256:...`` of a checkpoint's first file: it holds the digests of the others, and `read` holds them to it."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def files(path: Path) -> list[Path]:
    """All files of a checkpoint, the first first.

    Raises
    ------
    ModelError
        If the first is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is no safetensors checkpoint: {error}.", "Copy or download it again.") from error
    return [path, *(_part(path, number) for number in range(2, len(_digests(metadata, path)) + 2))]


def named_as_part(path: Path) -> bool:
    """Whether a file is called as the second or a later one of a checkpoint."""
    return re.fullmatch(r".+\.([2-9]|[1-9]\d+)\.safetensors", path.name) is not None


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}.safetensors")


def _part_number(path: Path) -> int | None:
    """What a file says it is the part of a checkpoint; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {}).get(_PART, "0")) or None
    except (SafetensorError, OSError, ValueError):
        return None


def _digests(metadata: dict[str, str], path: Path) -> list[str]:
    """What the first file says of the others."""
    try:
        digests = json.loads(metadata.get(_PARTS, "[]"))
    except ValueError:
        digests = None
    if not (isinstance(digests, list) and all(isinstance(value, str) for value in digests)):
        raise ModelError(
            f"The checkpoint {path.name} does not say which files belong to it.",
            "Copy all files of the checkpoint again.",
        )
    return digests


def _divided(tensors: dict[str, Tensor], metadata: dict[str, str], max_bytes: int | None) -> list[dict[str, Tensor]]:
    """Groups of tensors in their order, each small enough for a file."""
    if max_bytes is None:
        return [tensors]
    # The metadata is text inside a text: its quotes, of which JSON has many, are escaped.
    written = len(json.dumps(metadata))
    groups: list[dict[str, Tensor]] = [{}]
    room = max_bytes - written - 2 * _PER_FILE - 128 * math.ceil(sum(t.nbytes for t in tensors.values()) / max_bytes)
    if room < 0:
        raise ConfigError(
            f"The configuration and the card of {written} bytes do not fit into a file of {max_bytes}.", _LARGER
        )
    for name, tensor in tensors.items():
        needed = tensor.nbytes + len(name) + _PER_TENSOR
        if needed > room:
            groups.append({})
            room = max_bytes - _PER_FILE
        if needed > room:
            raise ConfigError(
                f"The tensor {name!r} of {tensor.nbytes} bytes does not fit into a file of {max_bytes}.", _LARGER
            )
        groups[-1][name] = tensor
        room -= needed
    return groups
