"""Rows of pictures side by side, as every figure of the gallery is drawn."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mri_unroll.io.registry import read_scan
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan

ROOT = Path(__file__).resolve().parents[2]
GALLERY = ROOT / "docs" / "gallery"

Panel = tuple[str, NDArray | None, str, tuple[float, float]]  # title, picture (None: nothing), colours, window


class FullScan:
    """One slice of a fully sampled scan, named on the command line, and what a figure of it needs.

    Parameters
    ----------
    about
        What ``--help`` says.
    accelerations
        When ``--accelerate`` says no others.
    """

    def __init__(self, about: str | None, accelerations: Sequence[float]) -> None:
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("scan", type=Path, help="a fully sampled scan")
        parser.add_argument("--slice", type=int, default=0)
        parser.add_argument("--accelerate", type=float, nargs="+", default=accelerations)
        parser.add_argument("-o", "--output", type=Path, required=True)
        given = parser.parse_args()
        self.accelerations: list[float] = given.accelerate
        self.output: Path = given.output
        self.scan = read_scan(given.scan, slice(given.slice, given.slice + 1))
        assert self.scan.reference is not None
        self.truth = self.scan.reference
        self.top = float(np.percentile(self.truth, 99.5))  # what is shown white

    def undersampled(self, acceleration: float) -> Scan:
        """As a faster scan would have been, with evenly spaced lines."""
        return undersample(self.scan, "equispaced_fraction", acceleration, 0.32 / acceleration, seed=0)


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
