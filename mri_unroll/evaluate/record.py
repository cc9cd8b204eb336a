"""What an evaluation keeps of each volume, and how that outlives a killed process.

A score is one row of a CSV file: appended in one write and flushed to the disk before the next volume begins. A row
that a killed process left unfinished is dropped when the file is opened again, and of two rows with the same key the
first counts. The pictures from which the report draws lie beside it, a small file for each score.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri_unroll.cohort.kept import BadFile as BadFile
from mri_unroll.errors import CorruptScan, InputError
from mri_unroll.io.atomic import atomic_path

FROM_FILE = "from-file"  # the kind of a mask that the file brought along
BY_NAME = "file-name"  # the seed of a mask that was drawn as fastMRI does, from the name of the file
PICTURES = "pictures"  # folder


class ScoreKey(NamedTuple):
    """What is scored once."""

    volume: str
    method: str
    mask: str
    acceleration: float
    seed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeScore:
    """One volume, reconstructed by one method from one undersampling, against its reference."""

    volume: str  # the file's name without suffix
    acquisition: str  # "AXT2", ... as the file says; "" where it does not
    method: str
    mask: str  # a kind that `physics.sampling` knows, or `FROM_FILE`
    acceleration: float  # nominal; from a file its attribute, else its effective one rounded to a tenth
    effective_acceleration: float  # grid points for each one measured
    seed: str  # `BY_NAME`, a number, or "" for the file's own mask
    convention: str  # of nmse, psnr and ssim: a name of `evaluate.conventions`
    n_slices: int
    n_coils: int
    height: int  # pixels of the picture
    width: int
    nmse: float
    psnr: float  # dB
    ssim: float
    body_nmse: float  # inside the body, see `metrics.in_body`; NaN where no body was found
    body_psnr: float
    body_ssim: float
    data_residual: float  # mean over slices, see `image.Diagnostics`
    seconds: float  # of the reconstruction
    read_seconds: float  # of reading, in a thread that runs ahead: this score's share of its volume's
    score_seconds: float  # of the measures

    @property
    def key(self) -> ScoreKey:
        """What the row is the score of."""
        return ScoreKey(self.volume, self.method, self.mask, self.acceleration, self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Two slices of a scored volume: the middle one, and the one with the largest squared error."""

    reference: NDArray[np.float32]  # (2, y, x)
    image: NDArray[np.float32]  # (2, y, x)
    index: tuple[int, int]  # of the slices, counted from 0


class Ledger:
    """A CSV file that grows by whole rows and is safe from a kill at any moment.

    Only one process writes it at a time. What a killed one left without its end of line is cut off on opening.

    Parameters
    ----------
    path
        The file; made if missing.

    Raises
    ------
    InputError
        If another process is writing it, or it is no such table.
    """

    def __init__(self, path: Path) -> None:
        import fcntl

        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise InputError(
                f"Another process is writing {path}.", "Wait for it to end, or give each its own --shard."
            ) from error
        try:
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.ftruncate(self._file, len(whole))
            if not whole:
                self._write([field.name for field in fields(VolumeScore)])
            self.scores = _parse(whole, path)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, score: VolumeScore) -> None:
        """Add a row; on return it is on the disk."""
        self._write([repr(value) if isinstance(value, float) else str(value) for value in astuple(score)])
        self.scores.append(score)

    def close(self) -> None:
        """Let others write."""
        os.close(self._file)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, row: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        data = text.getvalue().encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)


def read_scores(paths: Iterable[Path]) -> list[VolumeScore]:
    """The scores of several ledgers, each key once, sorted by key; an unfinished last row is left out.

    Raises
    ------
    InputError
        If a file is no such table.
    """
    found: dict[ScoreKey, VolumeScore] = {}
    for path in sorted(paths):
        content = path.read_bytes()
        for score in _parse(content[: content.rfind(b"\n") + 1], path):
            found.setdefault(score.key, score)
    return [found[key] for key in sorted(found)]


def _parse(content: bytes, path: Path) -> list[VolumeScore]:
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"))))
    expected = fields(VolumeScore)
    if rows and rows[0] != [field.name for field in expected]:
        raise InputError(
            f"{path} is not a table of scores that this version writes.",
            "Start again in another folder, or with --overwrite.",
        )
    convert: dict[str, Any] = {"str": str, "int": int, "float": float}
    scores = []
    for number, row in enumerate(rows[1:], 2):
        try:
            values = {field.name: convert[str(field.type)](text) for field, text in zip(expected, row, strict=True)}
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not a score: {error}.", "Delete that line.") from error
        scores.append(VolumeScore(**values))
    return scores


def select_picture(reference: NDArray[np.float32], image: NDArray[np.float32]) -> Picture:
    """The middle slice of a volume and the one with the largest squared error, both volumes ``(slice, y, x)``."""
    errors = [float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(reference, image, strict=True)]
    index = (len(image) // 2, int(np.argmax(errors)))
    return Picture(reference[list(index)].astype(np.float32), image[list(index)].astype(np.float32), index)


def picture_path(out: Path, key: ScoreKey) -> Path:
    """Where the picture of a score lies, whatever characters its names hold."""
    spoken = "_".join([key.volume, key.method, key.mask, f"{key.acceleration:g}x"])
    digest = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:12]
    return out / PICTURES / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', spoken)[:80]}-{digest}.npz"


def write_picture(out: Path, key: ScoreKey, picture: Picture) -> None:
    """Keep the picture of a score; one that is there is replaced.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    path = picture_path(out, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, overwrite=True) as part, part.open("wb") as file:
        np.savez(file, reference=picture.reference, image=picture.image, index=np.array(picture.index))


def read_picture(out: Path, key: ScoreKey) -> Picture | None:
    """The picture of a score; None where there is none.

    Raises
    ------
    CorruptScan
        If the file is damaged.
    """
    path = picture_path(out, key)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            first, worst = (int(index) for index in held["index"])
            return Picture(held["reference"], held["image"], (first, worst))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptScan(f"{path} is damaged: {error}.", "Delete it; the report does without.") from error


def mean_finite(values: Iterable[float]) -> float:
    """The mean of what is finite; NaN of nothing."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
