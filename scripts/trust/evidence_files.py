"""Evidence as `collect.py` writes it, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """Scans of some people with one fault."""

    names: tuple[str, ...]
    features: NDArray[np.float32]  # (scan, feature)
    nmse: NDArray[np.float64]  # (scan,)
    people: list[str]
    thumbnails: NDArray[np.float16]  # (scan, SIDE, SIDE), of `mri_unroll.trust.familiarity`
    pictures: list[NDArray[np.float16]]  # (channel, y, x) each, of the first scans; those after have none
    errors: list[NDArray[np.float16]]  # (y, x) each

    def named(self) -> list[dict[str, float]]:
        """Features by name, as `Heads.standard` takes them."""
        return [dict(zip(self.names, map(float, row), strict=True)) for row in self.features]


def write_whole(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """A file of arrays, ``.npz``, whole or not at all; what was there under its name is replaced."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)


def _paths(folder: Path, method: str, people: str, fault: str) -> list[Path]:
    return sorted(folder.glob(f"{method}-{people}-{fault.replace(' ', '_')}-[0-9]*-[0-9]*.npz"))


def has(folder: Path, method: str, people: str, fault: str) -> bool:
    """Whether there is anything to load."""
    return bool(_paths(folder, method, people, fault))


def joined(parts: Sequence[Collected], names: tuple[str, ...]) -> Collected:
    """All scans of several collections, without pictures; features that one does not have are NaN."""
    features = []
    for part in parts:
        place = [part.names.index(name) if name in part.names else len(part.names) for name in names]
        features.append(np.pad(part.features, [(0, 0), (0, 1)], constant_values=np.nan)[:, place])
    return Collected(
        names,
        np.concatenate(features),
        np.concatenate([part.nmse for part in parts]),
        [person for part in parts for person in part.people],
        np.concatenate([part.thumbnails for part in parts]),
        [],
        [],
    )


def load(folder: Path, method: str, people: str, fault: str, pictures: bool = True) -> Collected:
    """All files of a method, people and fault."""
    paths = _paths(folder, method, people, fault)
    if not paths:
        raise SystemExit(f"There is no evidence of {method}, {people}, {fault} in {folder}: run collect.py.")
    files = [np.load(path) for path in paths]
    kept, errors = [], []
    for number, file in enumerate(files):
        count = sum(name.startswith("error_") for name in file.files) if pictures else 0
        if count and len(kept) != sum(len(before["nmse"]) for before in files[:number]):
            raise SystemExit(f"Scans of {method}, {people}, {fault} with pictures come after others without them.")
        kept += [file[f"pictures_{i}"] for i in range(count)]
        errors += [file[f"error_{i}"] for i in range(count)]
    return Collected(
        tuple(map(str, files[0]["names"])),
        *(np.concatenate([file[key] for file in files]) for key in ("features", "nmse")),
        [str(name) for file in files for name in file["people"]],
        np.concatenate([file["thumbnail"] for file in files]),
        kept,
        errors,
    )
