"""What every reproduction script shares: its options, and how it writes a table, a figure and a few sentences."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": plt.cycler(
        color=[
            "#0072b2",
            "#d55e00",
            "#009e73",
            "#cc79a7",
            "#e69f00",
            "#56b4e9",
            "#555555",
            "#882255",
            "#117733",
            "#332288",
        ]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 4,
}


def options(description: str | None, name: str) -> argparse.Namespace:
    """``--out`` and ``--quick``; the folder is made."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results") / name, help="folder for CSV, PNG and text")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def panels(n: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure with ``n`` axes side by side."""
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(1, n, figsize=(width * n, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def write(out: Path, rows: Sequence[Mapping[str, Any]], figure: Figure, sentences: Sequence[str]) -> None:
    """``table.csv``, ``figure.png`` and ``seen.txt``; the sentences are printed too."""
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    figure.savefig(out / "figure.png", dpi=90)
    plt.close(figure)
    text = "\n".join(sentences) + "\n"
    (out / "seen.txt").write_text(text, encoding="utf-8")
    print(text, end="")
