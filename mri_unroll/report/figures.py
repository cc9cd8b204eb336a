"""The figures of a report: panels in one window, slices to leaf through, mask, coil maps, residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mri_unroll.physics.sampling import detect_acs, effective_acceleration, varies_along
from mri_unroll.report.content import ReportContent
from mri_unroll.report.pictures import LARGEST, Picture, colour_bar, colours, embed, hues, shade, white_level
from mri_unroll.report.wording import number

MAX_STACK = 16  # slices to leaf through
MAX_COILS = 8
FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # by which an error picture may be magnified
ERROR_COLOURS = "magma"  # perceptually even
_FULL = 1.05  # acceleration up to which a trajectory counts as fully sampled
_STRIP = (1280, 96)  # least width and height in pixels of the strip that shows a mask of lines


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with its name, what it is, and its colours from zero to ``top``."""

    name: str
    note: str
    picture: Picture
    bar: str  # data: address
    top: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """One slice of the volume, to leaf through."""

    picture: Picture
    slice: int  # its number in the file
    mark: str  # where it lies in the chart of residuals
    shown: bool


def panels(content: ReportContent) -> list[Panel]:
    """Reference, zero-filled and reconstruction in one window, then what separates the reconstruction from the truth.

    White is the 99.5 percentile of the reference, or of the reconstruction where there is none. The last picture is
    magnified by the largest factor of `FACTORS` that keeps its own 99.5 percentile in the window; where an error was
    predicted, it follows, in the same window as the true one.
    """
    recon, reference = content.image.pixels[content.shown], content.reference
    white = white_level(recon if reference is None else reference)
    where = f"slice {content.first_slice + content.shown}"
    method = content.image.provenance.method
    pictures = [
        ("Zero-filled", "inverse FFT alone" if content.mask is not None else "gridding alone", content.zero_filled),
        ("Reconstruction", method, recon),
    ]
    if reference is not None:
        pictures.insert(0, ("Reference", "fully sampled", reference))
    greys, top, ratio = colour_bar(colours("gray")), number(white), content.pixel_ratio
    shown = [
        Panel(name, note, embed(shade(pixels, white), f"{name}, {where}", pixel_ratio=ratio), greys, top)
        for name, note, pixels in pictures
    ]
    name, against, other = (
        ("Difference to zero-filled, not an error", "zero-filled", content.zero_filled)
        if reference is None
        else ("Error", "reference", reference)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(recon.astype(np.float64) - other)
    largest = white_level(gap, fallback=0.0)
    factor = max((factor for factor in FACTORS if factor * largest <= white), default=1) if largest else 1
    note = f"|reconstruction − {against}| × {factor}" if largest else f"|reconstruction − {against}|, zero everywhere"
    alt = f"{name}, {where}: magnitude of reconstruction minus {against}, {factor} times magnified"
    palette = colours(ERROR_COLOURS)
    picture = embed(shade(gap, white / factor), alt, pixel_ratio=ratio, palette=palette)
    shown.append(Panel(name, note, picture, colour_bar(palette), number(white / factor)))
    errors = content.image.predicted_error
    if errors is not None and np.isfinite(errors[content.shown]).any():
        if reference is None:  # with one, both errors share a window
            largest = white_level(errors[content.shown], fallback=0.0)
            factor = max((factor for factor in FACTORS if factor * largest <= white), default=1) if largest else 1
        alt = f"Predicted error, {where}, {factor} times magnified"
        picture = embed(shade(errors[content.shown], white / factor), alt, pixel_ratio=ratio, palette=palette)
        shown.append(Panel("Predicted error", f"× {factor}", picture, colour_bar(palette), number(white / factor)))
    return shown


def stack(content: ReportContent) -> list[Leaf]:
    """Slices to leaf through, evenly spaced, the shown one among them; none if there is but one."""
    pixels = content.image.pixels
    if len(pixels) == 1:
        return []
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), MAX_STACK)).round().astype(int)
    chosen[np.abs(chosen - content.shown).argmin()] = content.shown
    white = white_level(pixels[chosen])
    return [
        Leaf(
            picture=embed(
                shade(pixels[index], white),
                f"Reconstruction, slice {content.first_slice + index}",
                pixel_ratio=content.pixel_ratio,
                form="JPEG",
                largest=LARGEST // 2,
            ),
            slice=content.first_slice + int(index),
            mark=_abscissa(int(index), len(pixels)),
            shown=bool(index == content.shown),
        )
        for index in chosen
    ]


def sampling(content: ReportContent) -> dict[str, Any]:
    """The sampling as a picture, where its fully sampled centre lies, and how much was measured.

    Whole lines are drawn as a strip with a whole number of pixels each; other patterns as they lie in k-space.
    """
    mask = content.mask
    if mask is None:
        return _trajectory(content)
    lines = not varies_along(mask)
    if not lines and not varies_along(mask, -1):  # they run along the other axis
        mask, lines = mask.T, True
    if lines:
        scale = math.ceil(_STRIP[0] / mask.shape[1])
        plane = mask[:1].repeat(scale, axis=1).repeat(_STRIP[1], axis=0)
    else:
        scale = max(1, LARGEST // max(mask.shape))
        plane = mask.repeat(scale, axis=1).repeat(scale, axis=0)
    effective = effective_acceleration(mask)
    words = "whole lines" if lines else "single points"
    alt = f"Sampling mask of {words}, {mask.shape[0]} by {mask.shape[1]}, {number(effective)}-fold undersampled"
    acs = detect_acs(mask)
    sides = [part.stop - part.start for part in acs]
    starts = [part.start / size for part, size in zip(acs, mask.shape, strict=True)]
    extents = [side / size for side, size in zip(sides, mask.shape, strict=True)]
    return {
        "picture": embed(np.where(plane, 255, 0).astype(np.uint8), alt, largest=2 * max(_STRIP[0], mask.shape[1])),
        "lines": lines,
        "full": bool(mask.all()),
        "measured": int(mask[0].sum() if lines and not content.volume else mask.sum()),
        "total": mask.shape[1] if lines and not content.volume else mask.size,
        "acs": sides if 0 not in sides else None,
        "box": [f"{100 * share:.3f}%" for share in (*starts, *extents)],  # top, left, height, width
        "effective": effective,
        "asked": content.summary.get("retrospective"),
    }


def _trajectory(content: ReportContent) -> dict[str, Any]:
    """As `sampling`, for samples off the grid: how many fall on each point of the picture, in grey."""
    assert content.trajectory is not None
    plane = content.trajectory[:, -2:]
    high, wide = (max(float(np.abs(axis).max()), 0.5) for axis in plane.T)
    bins = [max(1, int(LARGEST / 2 * half / max(high, wide))) for half in (high, wide)]
    counts, _, _ = np.histogram2d(plane[:, 0], plane[:, 1], bins=bins, range=[(-high, high), (-wide, wide)])
    shades = np.log1p(counts)
    effective = float(content.summary["effective_acceleration"])
    alt = f"Where k-space was sampled: {len(plane)} points off the grid, {number(effective)}-fold undersampled"
    return {
        "picture": embed(shade(shades, white_level(shades[shades > 0])), alt),
        "lines": False,
        "full": effective < _FULL,
        "measured": len(plane),
        "total": None,
        "acs": None,
        "box": [],
        "effective": effective,
        "asked": None,
    }


def coils(content: ReportContent) -> list[Picture]:
    """Magnitude above phase of the first coils; phase fades to black where a coil sees nothing."""
    if content.sens_maps is None or content.sens_maps.size == 0:
        return []
    maps = np.nan_to_num(content.sens_maps[:MAX_COILS], posinf=0.0, neginf=0.0)
    magnitude = np.abs(maps).astype(np.float64)
    magnitude /= magnitude.max() or 1.0
    turns = ((np.angle(maps) / (2 * np.pi) + 0.5) * 255).round().astype(np.uint8)
    phase = hues()[turns] * np.minimum(1, 4 * magnitude)[..., None]
    grey = np.repeat(255 * magnitude[..., None], 3, axis=-1)
    tiles = np.concatenate([grey, phase], axis=1).round().astype(np.uint8)
    return [
        embed(
            tile,
            f"Sensitivity of coil {index}: magnitude above, phase below",
            pixel_ratio=1.0 if content.volume else content.pixel_ratio,
            largest=LARGEST // 2,
        )
        for index, tile in enumerate(tiles, start=1)
    ]


def residuals(values: tuple[float, ...], shown: int) -> dict[str, Any] | None:
    """Residuals as SVG paths in a box of 1000 by 100 that the page may stretch, with gaps where there is no number."""
    if len(values) < 2:
        return None
    top = _round_up(max((value for value in values if math.isfinite(value)), default=0.0))
    line, dots, pen = [], [], "M"
    for index, value in enumerate(values):
        if not math.isfinite(value):
            pen = "M"
            continue
        point = f"{_abscissa(index, len(values))} {100 * (1 - value / top):.2f}"
        line.append(pen + point)
        dots.append(f"M{point}h0")
        pen = "L"
    return {
        "line": " ".join(line),
        "dots": " ".join(dots),
        "mark": _abscissa(shown, len(values)),
        "top": top,
        "missing": len(values) - len(dots),
    }


def _abscissa(index: int, n_slices: int) -> str:
    return f"{1000 * (index + 0.5) / n_slices:.1f}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten; 1 for zero."""
    if not value > 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next((step * unit for step in (1, 2, 5) if step * unit >= value), 10 * unit)
