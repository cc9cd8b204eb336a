"""What a training run writes down at each save: ``log.csv``, TensorBoard where it is installed, example pictures."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "loss", "start_db", "validation_db", "noisy_db", "seconds_per_step", "gradient_norm")
NO_TENSORBOARD = "TensorBoard is not installed: log.csv alone is written. `pip install 'mri-unroll[train]'` adds it."


class Journal:
    """The records of one run, kept consistent with its checkpoint.

    Parameters
    ----------
    folder
        Of the run.
    step
        Steps done, as the checkpoint says: rows beyond it, written by a run that was killed before its checkpoint was,
        are dropped and will be written again.
    tensorboard
        Write event files into ``tensorboard/`` too.

    Attributes
    ----------
    note
        A sentence about what is not written although it was asked for, else empty.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self.folder = folder
        self.note = ""
        self._table = folder / "log.csv"
        self._events: SummaryWriter | None = None
        if self._table.exists():
            _write_whole(self._table, _rows_until(self._table.read_bytes().decode(), step).encode())
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.note = NO_TENSORBOARD
            else:
                self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._events is not None:
            self._events.close()

    def record(self, row: dict[str, float]) -> None:
        """Add one row; its names are `COLUMNS`."""
        is_new = not self._table.exists()
        with self._table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerow([row[name] for name in COLUMNS])
        if self._events is not None:
            for name in COLUMNS[1:]:
                self._events.add_scalar(name, row[name], int(row["step"]))

    def draw(self, step: int, rows: list[tuple[NDArray[np.float32], ...]]) -> Path:
        """Write the example pictures of a step: a row for each slice; start, result, truth and error side by side.

        Parameters
        ----------
        step
            Steps done.
        rows
            Magnitudes ``(y, x)`` of start, result and truth, in the same units.

        Returns
        -------
        Path
            ``pictures/step_NNNNNN.png``.
        """
        from PIL import Image

        picture = contact_sheet(rows)
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        path = folder / f"step_{step:06d}.png"
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="png")
        _write_whole(path, buffer.getvalue())
        if self._events is not None:
            self._events.add_image("start, result, truth, error x 5", picture, step, dataformats="HW")
        return path


def contact_sheet(rows: list[tuple[NDArray[np.float32], ...]], margin: int = 4) -> NDArray[np.uint8]:
    """Start, result, truth and five times the error of each slice; white is the 99.5 % quantile of the truth."""
    strips = []
    for start, result, truth in rows:
        white = max(float(np.quantile(truth, 0.995)), 1e-12)
        panels = (start, result, truth, 5 * np.abs(result - truth))
        strips.append([(255 * np.clip(panel / white, 0, 1)).astype(np.uint8) for panel in panels])
    height = max(panel.shape[0] for strip in strips for panel in strip)
    width = max(panel.shape[1] for strip in strips for panel in strip)
    sheet = np.zeros((len(strips) * (height + margin) - margin, 4 * (width + margin) - margin), np.uint8)
    for row, strip in enumerate(strips):
        for column, panel in enumerate(strip):
            top = row * (height + margin) + (height - panel.shape[0]) // 2
            left = column * (width + margin) + (width - panel.shape[1]) // 2
            sheet[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return sheet


def _rows_until(text: str, step: int) -> str:
    """The heading and the whole rows of a table up to a step; a row that was cut off in writing is no row."""
    lines = text.splitlines(keepends=True)
    kept = lines[:1]
    for line in lines[1:]:
        first = line.partition(",")[0]
        if line.endswith("\n") and first.isdecimal() and int(first) <= step:
            kept.append(line)
    return "".join(kept) if kept and kept[0].endswith("\n") else ""


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one go, or remove it where there is nothing to write."""
    if not content:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)
