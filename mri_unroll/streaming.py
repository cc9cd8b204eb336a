"""Through a file, a few slices at a time: read, undersample, reconstruct; a volume is never held in complex form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError, UnsupportedScan
from mri_unroll.image import Image, join
from mri_unroll.io.registry import read_scan
from mri_unroll.physics.sampling import effective_acceleration
from mri_unroll.recon.fewer_coils import with_fewer_coils
from mri_unroll.recon.noncartesian import SampledTrajectory
from mri_unroll.recon.parts import sampling_of
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan

Events = Callable[[dict[str, Any]], None]  # gets {"event": "progress", "done": ..., "total": ...} and the like


def ignore(event: dict[str, Any]) -> None:
    """Listen to no event."""


def unwatched(scan: Scan) -> None:
    """Look at no scan."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamedVolume:
    """What streaming through a file leaves behind."""

    image: Image
    reference: NDArray[np.float32] | None
    reference_name: str | None
    warnings: tuple[str, ...]
    acceleration: float
    slices: tuple[int, int]  # [first, last) of the file; of a 3-D scan its partitions
    middle: Scan  # the part of the scan that holds the middle slice, which the report shows
    middle_first: int  # index into image.pixels of its first slice


def _accelerated(scan: Scan, config: ReconstructionConfig) -> Scan:
    if config.accelerate is None:
        return scan
    return undersample(scan, config.mask, config.accelerate, config.effective_center_fraction, config.seed)


def stream(
    path: Path,
    layout: str | None,
    config: ReconstructionConfig,
    reconstructor: Reconstructor,
    slices: tuple[int, int],
    events: Events,
    watch: Callable[[Scan], None] = unwatched,
) -> StreamedVolume:
    """Read, undersample and reconstruct a few slices at a time; a 3-D scan comes as one.

    Parameters
    ----------
    path, layout, config, reconstructor
        As for `mri_unroll.pipeline.reconstruct_file`.
    slices
        Those wanted, ``[first, last)``.
    events
        Called with progress.
    watch
        Called with every piece of the scan as it is reconstructed.

    Raises
    ------
    UnsupportedScan
        If slices of a 3-D scan are asked for.
    """
    first, last = slices
    images: list[Image] = []
    references: list[NDArray[np.float32]] = []
    reference_name: str | None = None
    warnings: dict[str, None] = {}
    full = make_reconstructor("zero-filled")
    acceleration = 1.0
    events({"event": "progress", "done": 0, "total": last - first})
    at_once = config.slices_at_once
    for start in range(first, last, at_once):
        scan = read_scan(path, slice(start, min(start + at_once, last)), layout)
        if scan.ndim == 3 and config.slices is not None:
            raise UnsupportedScan(
                "A 3-D scan is reconstructed as a whole: its partitions are not independent slices.",
                "Leave out --slices.",
            )
        warnings |= dict.fromkeys(scan.source.warnings)
        if scan.reference is not None:
            references.append(scan.reference)
            reference_name = "the file's own fully sampled reconstruction (root sum of squares)"
        elif config.accelerate is not None:
            references.append(full.reconstruct(scan).pixels)
            reference_name = "the root sum of squares of the fully sampled data, computed here"
        scan = _accelerated(scan, config)
        if config.max_coils is not None:
            scan = with_fewer_coils(scan, config.max_coils)
        watch(scan)
        acceleration = _effective_acceleration(scan)
        of_volume = scan.ndim == 3

        def progress(done: int, total: int, offset: int = start - first, of_volume: bool = of_volume) -> None:
            events({"event": "progress", "done": offset + done, "total": total if of_volume else last - first})

        images.append(reconstructor.reconstruct(scan, progress=progress))
        if of_volume or start - first <= (last - first) // 2 < start - first + at_once:
            middle, middle_first = scan, start - first
    image = join(images)
    reference = np.concatenate(references) if references else None
    if reference is not None and reference.shape != image.pixels.shape:
        warnings[
            f"The reference {reference.shape} and the picture {image.pixels.shape} differ in size: not scored."
        ] = None
        reference = reference_name = None
    held = (first, first + len(image.pixels))
    return StreamedVolume(image, reference, reference_name, tuple(warnings), acceleration, held, middle, middle_first)


def _effective_acceleration(scan: Scan) -> float:
    """Grid points for each one measured; off the grid, within what the trajectory covers."""
    if scan.mask is not None:
        return effective_acceleration(scan.mask)
    sampling = sampling_of(scan)
    assert isinstance(sampling, SampledTrajectory)
    return sampling.acceleration


def slice_range(config: ReconstructionConfig, n_slices: int) -> tuple[int, int]:
    """The slices that are wanted of so many.

    Raises
    ------
    InputError
        If there are no such slices.
    """
    first, last = config.slices or (0, n_slices)
    if not 0 <= first < last <= n_slices:
        raise InputError(f"Expected slices within 0:{n_slices}, got {first}:{last}.", "Slices are counted from 0.")
    return first, last
