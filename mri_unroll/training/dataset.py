"""Training data on disk, and who is held out: magnitude images, acquired anew by a random scanner, or raw k-space.

Data workers read and simulate with NumPy alone; calibration follows in `mri_unroll.training.examples`.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.training.measured import MeasuredVolume, survey
from mri_unroll.training.simulate import POISSON_SHARE, Acquisition, Turn, random_mask, simulate


class Scans(Protocol):
    """Acquisitions by their index: item ``i`` is the same in every run, process and resume."""

    seed: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Acquisition: ...


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
        Holds ``index.json`` (a list with ``file`` and ``shape``) and ``.npz`` files with ``images`` (n, y, x); or raw
        k-space in ``.h5`` files as fastMRI's, one person each or with the person's ``patient_id``.
    held_out
        Regular expression over ``stem`` or ``stem:index`` of the file's slices; what matches in full is validation.
        The second form serves files of images that hold one slice per person.

    Raises
    ------
    InputError
        If there are neither, a person would be on both sides, or nothing is left to train on.
    ConfigError
        If the pattern is no regular expression.
    """
    try:
        pattern = re.compile(held_out)
    except re.error as error:
        raise ConfigError(f"`held_out` is no regular expression: {error}.", "Correct the pattern.") from error
    index = folder / "index.json"
    training: list[Volume] = []
    validation: list[Volume] = []
    if not index.is_file():
        files = sorted(folder.glob("*.h5"))
        if not files:
            raise InputError(
                f"Expected index.json or .h5 files in the folder of training data, {folder.name}; there are neither.",
                "Name the folder that holds them in `data`.",
            )
        volumes = survey(files)
        for found in volumes:
            side = validation if pattern.fullmatch(found.path.stem) else training
            side.append(Volume(found.path, 0, found.n_slices))
        _refuse_shared_people(volumes, training, validation)
        return _both(training, validation, held_out)
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
    return _both(training, validation, held_out)


def _refuse_shared_people(volumes: list[MeasuredVolume], training: list[Volume], validation: list[Volume]) -> None:
    person = {volume.path: volume.person for volume in volumes if volume.person}
    sides = [
        {person[volume.path]: volume.path for volume in side if volume.path in person}
        for side in (training, validation)
    ]
    for shared in sides[0].keys() & sides[1].keys():
        raise InputError(
            f"{sides[0][shared].name} and {sides[1][shared].name} are of one person, but `held_out` matches only the "
            "latter.",
            "Hold out all scans of a person, or none.",
        )


def _both(training: list[Volume], validation: list[Volume], held_out: str) -> tuple[list[Volume], list[Volume]]:
    if not training or not validation:
        raise InputError(
            f"The pattern {held_out!r} leaves {len(training)} training and {len(validation)} other volumes.",
            "Both are needed: correct `held_out`.",
        )
    return training, validation


class Pictures:
    """Slices of magnitude images, drawn at random; volumes equally often, so that a long scan outweighs no contrast."""

    def __init__(self, volumes: list[Volume]) -> None:
        self.volumes = volumes
        self._images: dict[Path, NDArray[np.uint16]] = {}

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint16]:
        """A slice ``(y, x)`` with more than a few voxels of tissue."""
        while True:
            volume = self.volumes[int(rng.integers(len(self.volumes)))]
            if volume.path not in self._images:
                with np.load(volume.path) as file:
                    self._images[volume.path] = file["images"]
            image = self._images[volume.path][int(rng.integers(volume.first, volume.last))]
            if np.count_nonzero(image > image.max() // 8) > 0.02 * image.size:
                return image


class SimulatedScans:
    """Endless, indexable acquisitions of `Pictures`: item ``i`` is the same in every run, process and resume."""

    def __init__(
        self,
        volumes: list[Volume],
        seed: int,
        length: int,
        turn: Turn | None = None,
        poisson: float = POISSON_SHARE,
    ) -> None:
        self.pictures = Pictures(volumes)
        self.seed = seed
        self.length = length
        self.turn = turn
        self.poisson = poisson

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Acquisition:
        rng = np.random.default_rng([self.seed, index])
        masks = functools.partial(random_mask, rng=rng, poisson=self.poisson)
        return simulate(self.pictures.draw(rng), rng, turn=self.turn, sampling=masks)
