"""A DICOM series as pictures that lie in a patient: what reading finds, and what writing goes by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mri_unroll.errors import UnsupportedScan


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a study: an object of its own, or one frame of a multi-frame object."""

    header: Dataset = field(
        repr=False
    )  # without pixels; of Enhanced MR flattened: what its functional groups say stands where classic MR has it
    path: str = field(repr=False)  # of the file, or of the zip that holds it
    member: str | None = field(repr=False)  # name inside the zip
    number: int | None  # of a multi-frame object: the frame, from 1
    shape: tuple[int, int]  # (rows, columns)
    position: NDArray[np.float64]  # (3,) millimetres, LPS: centre of the first pixel (ImagePositionPatient)
    row: NDArray[np.float64]  # (3,) unit vector in which the column index grows
    column: NDArray[np.float64]  # (3,) unit vector in which the row index grows
    spacing: tuple[float, float]  # millimetres from row to row, and from column to column (PixelSpacing)
    thickness: float | None  # millimetres


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Pictures that belong together, in the order in which they lie along their normal.

    ``frames`` run along ``row x column``. Nothing here but ``frames`` holds what names a person: ``name`` is made of a
    hash, and ``description`` is shown to the user at the terminal alone.
    """

    name: str  # "s3-1f09ab4c": number of the series and a hash of what tells it from others; the same in every run
    number: int | None
    description: str = field(repr=False)
    frames: tuple[Frame, ...] = field(repr=False)
    refusals: tuple[str, ...] = ()  # why it cannot be used, as sentences; empty: it can
    warnings: tuple[str, ...] = ()

    @property
    def is_eligible(self) -> bool:
        """Whether pictures can be made of it."""
        return not self.refusals

    def refused(self) -> UnsupportedScan:
        """The error that says why it cannot be used."""
        return UnsupportedScan(
            f"Series {self.name} cannot be used. {self.refusals[0]}",
            "Choose another series; `mri-unroll inspect` says which can be used.",
        )
