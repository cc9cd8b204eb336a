"""Arrays as pictures that lie inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 99.5  # shown as white: a few bright vessels do not darken the rest
LARGEST = 640  # pixels along the longer side; larger pictures are shrunk
SMALL = 64  # pictures with a shorter side up to this are shown as crisp squares, not smoothed


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded picture and how to place it."""

    src: str  # data: address
    width: int  # pixels in the file
    height: int
    ratio: float  # of width to height as it is to be shown
    alt: str
    crisp: bool


def embed(
    shades: NDArray[np.uint8],
    alt: str,
    *,
    pixel_ratio: float = 1.0,
    palette: NDArray[np.uint8] | None = None,
    form: Literal["PNG", "JPEG"] = "PNG",
    largest: int = LARGEST,
) -> Picture:
    """Encode a picture.

    Parameters
    ----------
    shades
        ``(y, x)`` grey values, or indices where a palette is given; ``(y, x, 3)`` colours.
    alt
        What it shows, for those who do not see it.
    pixel_ratio
        Width of a pixel over its height.
    palette
        ``(256, 3)`` colours.
    form
        JPEG is for small pictures to leaf through; it loses a little.
    largest
        Longest side, in pixels.
    """
    import PIL.Image

    picture = PIL.Image.fromarray(np.ascontiguousarray(shades))
    if max(picture.size) > largest:
        width, height = (max(1, round(side * largest / max(picture.size))) for side in picture.size)
        picture = picture.resize((width, height), PIL.Image.Resampling.BOX)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    if form == "JPEG":
        picture.save(buffer, form, quality=85)
    else:
        picture.save(buffer, form, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = shades.shape[:2]
    return Picture(
        src=f"data:image/{form.lower()};base64,{text}",
        width=picture.width,
        height=picture.height,
        ratio=pixel_ratio * width / height,
        alt=alt,
        crisp=min(height, width) <= SMALL,
    )


def white_level(pixels: NDArray[np.floating], fallback: float = 1.0) -> float:
    """The value to show as white: a percentile of the finite ones, or the maximum where most of them are zero."""
    finite = pixels[np.isfinite(pixels)]
    if finite.size == 0:
        return fallback
    level = float(np.percentile(finite, PERCENTILE))
    if not level > 0:
        level = float(finite.max())
    return level if level > 0 else fallback


def shade(pixels: NDArray[np.floating], white: float) -> NDArray[np.uint8]:
    """Grey values, black at zero; what is no number is black."""
    shares = np.nan_to_num(pixels.astype(np.float64) / white, nan=0.0, posinf=1.0, neginf=0.0)
    return (255 * shares.clip(0, 1)).round().astype(np.uint8)


def colours(name: str) -> NDArray[np.uint8]:
    """The 256 colours ``(256, 3)`` of a map of matplotlib."""
    from matplotlib import colormaps

    return (255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]).round().astype(np.uint8)


def hues() -> NDArray[np.uint8]:
    """A circle of 256 colours ``(256, 3)`` from -pi to pi, evenly light: brightness is left to say how much.

    References
    ----------
    Ottosson, "A perceptual color space for image processing" (2020): the OKLab matrices.
    """
    turn = np.linspace(-np.pi, np.pi, 256)
    lightness, chroma = 0.75, 0.125
    from_lab = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    to_linear = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    lab = np.stack([np.full(256, lightness), chroma * np.cos(turn), chroma * np.sin(turn)])
    linear = (np.array(to_linear) @ (np.array(from_lab) @ lab) ** 3).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.ascontiguousarray((255 * encoded).round().astype(np.uint8).T)


def colour_bar(palette: NDArray[np.uint8]) -> str:
    """Address of a picture of the colours ``(256, 3)`` side by side."""
    return embed(palette[None], "").src
