"""One small picture of a volume, to look at before opening it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri_unroll.image import Image
from mri_unroll.io.atomic import atomic_path

MAX_TILES = 9
_GAP = 2  # black pixels between tiles
_WINDOW = (1.0, 99.5)  # percentiles shown as black and white: a few bright vessels do not darken the rest


def write_preview(image: Image, path: str | Path, overwrite: bool = False) -> None:
    """Write a grey PNG of up to nine slices, evenly spaced, the middle one always among them.

    All tiles share one window, between two percentiles of what is shown. Pixels that are not square are shown in their
    true proportion. NaN is black.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    import PIL.Image

    tiles = windowed(image.pixels[shown_slices(len(image.pixels))])
    picture = PIL.Image.fromarray(_mosaic([_in_proportion(tile, image) for tile in tiles]))
    with atomic_path(path, overwrite) as part:
        picture.save(part, format="PNG")


def shown_slices(n_slices: int) -> list[int]:
    """Indices of the slices that a preview shows: at most `MAX_TILES`, evenly spaced, with ``n_slices // 2``."""
    if n_slices <= MAX_TILES:
        return list(range(n_slices))
    middle, side = n_slices // 2, MAX_TILES // 2
    before = np.linspace(0, middle, side + 1).round().astype(int)
    after = np.linspace(middle, n_slices - 1, side + 1).round().astype(int)
    return [int(index) for index in (*before, *after[1:])]


def windowed(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey values of pixels of any shape, black and white at robust percentiles of the finite ones."""
    finite = pixels[np.isfinite(pixels)]
    if finite.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    black, white = (float(level) for level in np.percentile(finite, _WINDOW))
    if white <= black:  # more than 99 % of it is one value
        black, white = float(finite.min()), float(finite.max())
    span = white - black
    if not span > 0:
        return np.zeros(pixels.shape, np.uint8)
    grey = (np.nan_to_num(pixels.astype(np.float64), nan=black, posinf=white, neginf=black) - black) / span
    return (255 * grey.clip(0, 1)).round().astype(np.uint8)


def _in_proportion(tile: NDArray[np.uint8], image: Image) -> NDArray[np.uint8]:
    import PIL.Image

    fov = image.geometry.field_of_view
    height, width = tile.shape
    if fov is None:
        return tile
    ratio = (fov[0] / height) / (fov[1] / width)
    if abs(ratio - 1) < 0.02 or not 0.1 < ratio < 10:
        return tile
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    return np.asarray(PIL.Image.fromarray(tile).resize(size, PIL.Image.Resampling.BICUBIC))


def _mosaic(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    n_columns = math.ceil(math.sqrt(len(tiles)))
    n_rows = math.ceil(len(tiles) / n_columns)
    height, width = tiles[0].shape
    canvas = np.zeros((n_rows * (height + _GAP) - _GAP, n_columns * (width + _GAP) - _GAP), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // n_columns) * (height + _GAP), (index % n_columns) * (width + _GAP)
        canvas[top : top + height, left : left + width] = tile
    return canvas
