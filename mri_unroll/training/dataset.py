"""Training data: magnitude images on disk, acquired anew with a random scanner at every step."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import InputError
from mri_unroll.training.simulate import Acquisition, simulate


@dataclass(frozen=True, slots=True)
class Volume:
    """Slices of one person's scan, and which of them may be used."""

    path: Path
    first: int
    last: int  # exclusive


def find_volumes(folder: Path, held_out: str) -> tuple[list[Volume], list[Volume]]:
    """Split a folder of image volumes into training and validation, by person.

    Parameters
    ----------
    folder
        Holds ``index.json`` (a list with ``file`` and ``shape``) and ``.npz`` files with ``images`` (n, y, x).
    held_out
        Regular expression over ``stem`` or ``stem:index`` of the file's slices; what matches in full is validation.
        The second form serves files that hold one slice per person.

    Raises
    ------
    InputError
        If there is no index, or nothing is left to train on.
    """
    index = folder / "index.json"
    if not index.is_file():
        raise InputError(f"Expected {index.name} in the folder of training images.", "Name the folder that holds it.")
    pattern = re.compile(held_out)
    training: list[Volume] = []
    validation: list[Volume] = []
    for entry in json.loads(index.read_text()):
        path = folder / entry["file"]
        count = int(entry["shape"][0])
        kept_out = [bool(pattern.fullmatch(path.stem) or pattern.fullmatch(f"{path.stem}:{i}")) for i in range(count)]
        start = 0
        while start < count:  # runs of slices on the same side of the split
            stop = start
            while stop < count and kept_out[stop] == kept_out[start]:
                stop += 1
            (validation if kept_out[start] else training).append(Volume(path, start, stop))
            start = stop
    if not training or not validation:
        raise InputError(
            f"The pattern {held_out!r} leaves {len(training)} training and {len(validation)} other volumes."
        )
    return training, validation


class SimulatedScans:
    """Endless, indexable acquisitions: item ``i`` is the same in every run, process and resume.

    Volumes are drawn equally often, whatever their number of slices, so that a long scan outweighs no contrast.
    """

    def __init__(self, volumes: list[Volume], seed: int, length: int) -> None:
        self.volumes = volumes
        self.seed = seed
        self.length = length
        self._images: dict[Path, NDArray[np.uint16]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Acquisition:
        rng = np.random.default_rng([self.seed, index])
        while True:
            volume = self.volumes[int(rng.integers(len(self.volumes)))]
            image = self._load(volume.path)[int(rng.integers(volume.first, volume.last))]
            if np.count_nonzero(image > image.max() // 8) > 0.02 * image.size:  # more than a few voxels of tissue
                return simulate(image, rng)

    def _load(self, path: Path) -> NDArray[np.uint16]:
        if path not in self._images:
            with np.load(path) as file:
                self._images[path] = file["images"]
        return self._images[path]
