"""What a report is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import ShapeError
from mri_unroll.image import Image
from mri_unroll.quality import QualityReport


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """What a report shows.

    Raises
    ------
    ShapeError
        If the pictures do not fit together.
    """

    title: str  # file name of the input
    image: Image  # the whole reconstructed volume, with diagnostics and provenance
    quality: QualityReport
    shown: int  # index into image.pixels of the slice shown beside its zero-filled picture
    first_slice: int  # the file's index of image.pixels[0]
    zero_filled: NDArray[np.float32]  # (y, x) of the shown slice
    reference: NDArray[np.float32] | None  # (y, x) of the shown slice; None if there is none
    mask: NDArray[np.bool_] | None  # (ky, kx) of the shown slice, True where measured; None: see trajectory
    sens_maps: NDArray[np.complex64] | None  # (coil, y, x) of the shown slice; None: not shown
    found: dict[str, Any]  # the header, see io.registry.describe
    summary: dict[str, Any]  # the sidecar
    trajectory: NDArray[np.float32] | None = None  # (sample, ndim) of the shown slice, where there is no mask
    volume: bool = False  # 3-D on a grid: the mask is (kz, kx), the maps are (coil, z, x) in the middle of the readout

    def __post_init__(self) -> None:
        n_slices, *sides = self.image.pixels.shape
        if not 0 <= self.shown < n_slices:
            raise ShapeError(f"Expected a shown slice within 0:{n_slices}, got {self.shown}.")
        for name, picture in (("zero-filled picture", self.zero_filled), ("reference", self.reference)):
            if picture is not None and picture.shape != tuple(sides):
                raise ShapeError(f"Expected a {name} of the reconstruction's size {tuple(sides)}, got {picture.shape}.")
        if (self.mask is None) == (self.trajectory is None):
            raise ShapeError("Expected either a mask or a trajectory.")
        if self.mask is not None and self.mask.ndim != 2:
            raise ShapeError(f"Expected a mask (ky, kx), got {self.mask.shape}.")
        if self.sens_maps is not None and self.sens_maps.ndim != 3:
            raise ShapeError(f"Expected coil maps (coil, y, x), got {self.sens_maps.shape}.")

    @property
    def pixel_ratio(self) -> float:
        """Width of a pixel over its height; 1 where the field of view is unknown or absurd."""
        fov = self.image.geometry.field_of_view
        height, width = self.image.pixels.shape[-2:]
        if fov is None or not (fov[0] > 0 and fov[1] > 0):
            return 1.0
        ratio = (fov[1] / width) / (fov[0] / height)
        return ratio if 0.1 < ratio < 10 else 1.0
