"""Rows of pictures side by side, as every figure of the gallery is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
GALLERY = ROOT / "docs" / "gallery"

Panel = tuple[str, NDArray | None, str, tuple[float, float]]  # title, picture (None: nothing), colours, window


def picture(title: str, pixels: NDArray | None, top: float) -> Panel:
    """A magnitude picture, white at ``top``."""
    return title, pixels, "gray", (0.0, top)


def error(title: str, pixels: NDArray | None, top: float) -> Panel:
    """An error picture."""
    return title, pixels, "magma", (0.0, top)


def draw(rows: Sequence[Sequence[Panel]], out: Path, names: Sequence[str] = (), size: float = 2.3) -> None:
    """Write the figure; ``names`` stand in front of the rows."""
    shape = next(pixels.shape for row in rows for _, pixels, _, _ in row if pixels is not None)
    n_columns = max(len(row) for row in rows)
    figure = Figure(
        figsize=(size * n_columns + 0.3, len(rows) * (size * shape[0] / shape[1] + 0.35)),
        layout="constrained",
        facecolor="white",
    )
    axes = figure.subplots(len(rows), n_columns, squeeze=False)
    for number, row in enumerate(rows):
        for axis, (title, pixels, colours, (low, high)) in zip(axes[number], row, strict=False):
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.set_title(textwrap.fill(title, 30), fontsize=8.5)
            if pixels is not None:
                axis.imshow(np.asarray(pixels), cmap=colours, vmin=low, vmax=high)
        if names:
            axes[number, 0].set_ylabel(names[number], fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 88} if out.suffix == ".jpg" else {})
    print(out)
