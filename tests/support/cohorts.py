"""Folders of small scans, and jobs that other processes can be sent."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mri_unroll.cohort.tasks import Task
from mri_unroll.physics.phantom import phantom_kspace
from support.files import write_fastmri

ACQUISITIONS = ("AXT1", "AXT2")


def write_folder(folder: Path, n_volumes: int, n_slices: int = 1, width: int = 35) -> Path:
    """Fully sampled phantoms in the fastMRI layout, no two alike; every second one has a reference of its own."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    clean = phantom_kspace((36, width), 2, n_slices=n_slices)
    for index in range(n_volumes):
        noise = rng.standard_normal((*clean.shape, 2)).view(np.complex128)[..., 0]
        kspace = (clean * (1 + index) + 0.01 * np.abs(clean).max() * noise).astype(np.complex64)
        more = {}
        if index % 2:
            images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
            more["reconstruction_rss"] = np.linalg.norm(images, axis=1).astype(np.float32)
        write_fastmri(folder / f"file{index:03}.h5", kspace, {"acquisition": ACQUISITIONS[index % 2]}, **more)
    return folder


@dataclass(frozen=True)
class Deadly:
    """A job whose worker is killed the first time it meets a certain file, and by another file always."""

    once: str
    always: str
    marks: Path  # folder

    def open(self) -> Deadly:
        return self

    def run(self, task: Task, upcoming: Task | None) -> str:
        name = task.path.name
        mark = self.marks / f"{name}.{len(list(self.marks.glob(name + '.*')))}"
        mark.touch()
        if name == self.always or (name == self.once and mark.suffix == ".0"):
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{name} done"


@dataclass(frozen=True)
class Failing:
    """A job that cannot be begun."""

    def open(self) -> Failing:
        raise ValueError("no weights")

    def run(self, task: Task, upcoming: Task | None) -> None:
        raise AssertionError("not reached")
