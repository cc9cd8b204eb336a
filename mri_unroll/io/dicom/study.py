"""A DICOM study on disk: its series, what can be done with each, and their pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mri_unroll import __version__
from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.io.content import check_size
from mri_unroll.io.dicom.files import Place, is_directory_file, listed_in, places, quietly, read_object
from mri_unroll.io.dicom.frames import frames_of
from mri_unroll.io.dicom.grouping import grouped
from mri_unroll.io.dicom.pixels import Decoder
from mri_unroll.io.dicom.series import Frame, Series
from mri_unroll.scan import Geometry

AS_IT_IS = "As the study holds it."


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What was found."""

    series: tuple[Series, ...]
    unreadable: tuple[tuple[str, str], ...]  # name of a file, and why it was left out
    warnings: tuple[str, ...] = ()

    @property
    def eligible(self) -> tuple[Series, ...]:
        """Series that pictures can be made of."""
        return tuple(series for series in self.series if series.is_eligible)

    def pick(self, name: str | None = None) -> Series:
        """One series, by its name or number; without one, the only series that can be used.

        Raises
        ------
        InputError
            If there is no such series, or more than one; `UnsupportedScan` if it cannot be used.
        """
        candidates = self.eligible if name is None else self.named(name)
        if not candidates and name is None:
            raise self.nothing_eligible()
        if len(candidates) != 1:
            choices = ", ".join(series.name for series in (candidates or self.eligible)) or "none"
            asked = "more than one series" if name is None else f"{len(candidates)} series {name!r}"
            raise InputError(f"There are {asked} in the study.", f"Name one with --series: {choices}.")
        if candidates[0].refusals:
            raise candidates[0].refused()
        return candidates[0]

    def named(self, name: str) -> tuple[Series, ...]:
        """Series of a name, or of a number."""
        return tuple(series for series in self.series if name in (series.name, str(series.number)))

    def nothing_eligible(self) -> UnsupportedScan:
        """The error that says why no series can be used."""
        reasons = dict.fromkeys(reason for series in self.series for reason in series.refusals)
        reasons |= dict.fromkeys(reason for _, reason in self.unreadable)
        shown = " ".join(list(reasons)[:3]) or "The study holds no DICOM file."
        more = f" There are {len(reasons) - 3} more reasons." if len(reasons) > 3 else ""
        return UnsupportedScan(f"No series can be used. {shown}{more}", "See `mri-unroll inspect` for each series.")


def _ignore(done: int, total: int | None) -> None:
    """Report no progress."""


def find_series(path: str | Path, progress: Callable[[int, int | None], None] = _ignore) -> Study:
    """Find the series of a study; only headers are read.

    Parameters
    ----------
    path
        A folder with DICOM files under any names, a zip of one, a DICOMDIR, or a single file.
    progress
        Called with the number of files that were looked at.

    Raises
    ------
    InputError
        If the path cannot be read. A file that is bad among good ones is listed in the result.
    """
    path = Path(path)
    found = listed_in(path) if is_directory_file(path) else places(path)
    frames: list[Frame] = []
    unreadable: list[tuple[str, str]] = []
    twice: dict[str, Place] = {}
    repeated = 0
    for count, place in enumerate(found, start=1):
        try:
            dataset = read_object(place, pixels=False)
            with quietly():
                uid = str(dataset.get("SOPInstanceUID", "") or "")
            if uid in twice:
                if twice[uid].content() != place.content():
                    raise CorruptScan(
                        f"{place.name} and {twice[uid].name} differ, but claim to be the same object.",
                        "Leave one of them out.",
                    )
                repeated += 1
                continue
            frames += frames_of(dataset, place)
            if uid:
                twice[uid] = place
        except InputError as error:
            unreadable.append((place.name, error.message))
        progress(count, None)
    said = [f"{repeated} files are copies of others and were left out."] if repeated else []
    return Study(tuple(grouped(frames)), tuple(unreadable), tuple(said))


def read_pixels(series: Series) -> Image:
    """The pictures of a series as one volume, in the units of the modality transform.

    Rows become ``y``, columns ``x``; slices run along the normal ``row x column``. Positions are centres of pixel
    ``(rows // 2, columns // 2)``, where the Fourier transform puts the origin.

    Raises
    ------
    UnsupportedScan
        If the series was refused.
    CorruptScan
        If pixels are missing or broken.
    """
    if series.refusals:
        raise series.refused()
    first, count = series.frames[0], len(series.frames)
    height, width = first.shape
    check_size(series.name, "the series", 4 * count * height * width, 4 * count * height * width)
    decoder = Decoder()
    pixels = np.stack([decoder.picture(frame) for frame in series.frames])
    normal = np.cross(first.row, first.column)
    origin = np.array([frame.position for frame in series.frames])
    centre = origin + first.row * first.spacing[1] * (width // 2) + first.column * first.spacing[0] * (height // 2)
    step = float((origin[-1] - origin[0]) @ normal) / (count - 1)
    geometry = Geometry(
        recon_shape=(height, width),
        field_of_view=(height * first.spacing[0] / 1000, width * first.spacing[1] / 1000, step / 1000),
        orientation=np.stack([first.column, first.row, normal]),
        position=centre / 1000,
    )
    digest = hashlib.sha256(repr((pixels.shape, geometry.field_of_view)).encode())
    for part in (pixels, geometry.orientation, geometry.position):
        digest.update(np.ascontiguousarray(part).tobytes())
    return Image(
        pixels=pixels,
        geometry=geometry,
        diagnostics=Diagnostics(
            (float("nan"),) * count, (AS_IT_IS,) * count, (0,) * count, (0.0,) * count, series.warnings
        ),
        provenance=Provenance("source", __version__, "cpu", "none", input_digest=f"sha256:{digest.hexdigest()}"),
    )
