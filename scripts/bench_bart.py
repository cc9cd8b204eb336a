"""BART as a program: arrays to files, a command, files to arrays."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Bart:
    """A folder of BART's files, and the program run in it; its clock includes starting, reading and writing."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    @staticmethod
    def is_installed() -> bool:
        """Whether there is a program of that name."""
        return shutil.which("bart") is not None

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Write an array whose last axis BART calls its first: ``(..., coil, z, y, x)``."""
        sizes = " ".join(map(str, array.shape[::-1]))
        (self.folder / f"{name}.hdr").write_text(f"# Dimensions\n{sizes}\n")
        np.ascontiguousarray(array, np.complex64).tofile(self.folder / f"{name}.cfl")

    def read(self, name: str) -> NDArray[np.complex64]:
        """Read an array, singleton axes removed."""
        sizes = [int(word) for word in (self.folder / f"{name}.hdr").read_text().splitlines()[1].split()]
        return np.fromfile(self.folder / f"{name}.cfl", np.complex64).reshape(sizes[::-1]).squeeze()

    def run(self, *words: str) -> None:
        """Run a command, which names files of the folder."""
        subprocess.run(["bart", *words], cwd=self.folder, env=self._environment, check=True, stdout=subprocess.DEVNULL)
