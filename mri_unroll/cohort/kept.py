"""What a cohort leaves in its folder beside the results: what was asked for, and which files were not done and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.io.atomic import atomic_path
from mri_unroll.io.sidecar import finite, write_sidecar


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFile:
    """A file that was not done (by one method or by any), and why."""

    file: str  # its name
    method: str = ""  # the only one it failed with; "" for all
    kind: str = ""  # name of the error, as "CorruptScan"
    reason: str = ""  # a sentence or two


def write_bad_files(bad: Iterable[BadFile], path: Path) -> None:
    """Replace the table of files that were not done.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    names = [field.name for field in fields(BadFile)]
    with atomic_path(path, overwrite=True) as part, part.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in bad)


def read_bad_files(paths: Iterable[Path]) -> list[BadFile]:
    """Tables that `write_bad_files` wrote, as one, each entry once."""
    found: dict[BadFile, None] = {}
    for path in sorted(paths):
        with path.open(newline="", errors="surrogateescape") as file:
            found |= dict.fromkeys(BadFile(**row) for row in csv.DictReader(file))
    return sorted(found, key=astuple)


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they will be read again from JSON."""
    read: dict[str, Any] = json.loads(json.dumps(finite(settings)))
    return read


def agree(settings: dict[str, Any], path: Path) -> None:
    """Write settings to a file, or hold them against those that it has.

    Parameters
    ----------
    settings
        As `plain` gives them.
    path
        The file; of several processes that make it at the same time one succeeds, and the others compare.

    Raises
    ------
    ConfigError
        If the file has others; the message names what differs.
    InputError
        If it cannot be read or written.
    """
    try:
        write_sidecar(settings, path)
        return
    except InputError:
        if not path.is_file():
            raise
    differing = [
        f"{name} was {_shortly(was)}, now {_shortly(now)}" for name, was, now in _differ(_load(path), settings)
    ]
    if differing:
        raise ConfigError(
            f"{path.parent} holds the results of other settings: {'; '.join(differing)}.",
            "Continue with the same settings, use --overwrite to start again, or name another folder.",
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Name another folder, or use --overwrite.") from error
    if not isinstance(held, dict):
        raise InputError(f"{path} holds no settings.", "Name another folder, or use --overwrite.")
    return held


def _differ(held: Any, wanted: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        return [
            found
            for name in sorted({*held, *wanted})
            for found in _differ(held.get(name), wanted.get(name), f"{place}.{name}" if place else name)
        ]
    return [] if held == wanted else [(place, held, wanted)]


def _shortly(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
