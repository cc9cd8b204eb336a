"""The one road: file -> Scan -> Image -> report -> files. Every door walks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll import __version__
from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.image import Image
from mri_unroll.io.parameters import bids_of_notes
from mri_unroll.io.preview import write_preview
from mri_unroll.io.registry import describe, write_image
from mri_unroll.io.sidecar import write_sidecar
from mri_unroll.metrics import CONVENTION
from mri_unroll.objects import check_place, write_objects
from mri_unroll.quality import NO_VERDICT, QualityReport, assess
from mri_unroll.recon.noncartesian import SampledTrajectory
from mri_unroll.recon.parts import sampling_of, take_apart
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor
from mri_unroll.report import ReportContent, write_report
from mri_unroll.streaming import Events, StreamedVolume, ignore, slice_range, stream
from mri_unroll.targets import check_folder, targets_of
from mri_unroll.trust.witness import Witness


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where everything was written, and the sidecar's content."""

    volume: Path
    report: Path
    preview: Path
    sidecar: Path
    summary: dict[str, Any]


def reconstruct_file(
    path: str | Path,
    out: str | Path,
    config: ReconstructionConfig | None = None,
    *,
    layout: str | None = None,
    events: Events = ignore,
    reconstructor: Reconstructor | None = None,
    finished: Callable[[Image, Mapping[str, str], str], None] = lambda image, notes, verdict: None,
) -> Outcome:
    """Reconstruct one file and write volume, report, preview and sidecar.

    Parameters
    ----------
    path
        Raw k-space.
    out
        A folder, made if missing, that gets ``STEM.h5`` and its companions; or, told by its suffix, the volume file.
    config
        Method, device, retrospective undersampling, slices; defaults if None.
    layout
        Axes of a plain NumPy file, see `read_scan`.
    events
        Called with a dict at every step of progress.
    reconstructor
        The method that ``config`` names, made already; None: it is made here.
    finished
        Called with the picture, the notes of the header, see `mri_unroll.scan.Source`, and the verdict in one line,
        before anything is written.

    Raises
    ------
    MriUnrollError
        Whatever went wrong, as one sentence; nothing is left half written.
    """
    config = config or ReconstructionConfig()
    path = Path(path)
    found = describe(path, layout)
    check_place(found, config)
    targets = targets_of(path, Path(out), config)
    if not config.overwrite and (there := [target for target in targets if target.exists()]):
        raise InputError(f"{there[0]} exists already.", "Use --overwrite to replace it, or write to another place.")
    check_folder(targets[0].parent)
    first, last = slice_range(config, int(found["n_slices"]))
    reconstructor = reconstructor or make_reconstructor(config.method, config)
    started = time.perf_counter()
    witness = Witness(reconstructor, config) if config.verdict else None
    if witness is None:
        volume = stream(path, layout, config, reconstructor, (first, last), events)
    else:
        volume = stream(path, layout, config, witness.reconstructor, (first, last), events, witness.watch)
    verdict = None if witness is None else witness.verdict(volume.image)
    quality = assess(volume.image, volume.reference, volume.reference_name, volume.warnings, verdict)
    seconds = time.perf_counter() - started
    said = verdict.text if verdict else ""
    finished(volume.image, volume.middle.source.notes, said)
    summary = _summary(path, config, volume, quality, seconds)
    content = _report_content(path, volume, quality, found, summary)
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    events({"event": "writing", "folder": str(targets[0].parent)})
    if config.format == "dicom":
        summary["warnings"] += write_objects(volume.image, targets[0], config, volume.middle.source.notes, said)
    else:
        write_image(volume.image, targets[0], overwrite=config.overwrite)
    write_preview(volume.image, targets[2], overwrite=config.overwrite)
    write_report(content, targets[1], overwrite=config.overwrite)
    write_sidecar(summary, targets[3], overwrite=config.overwrite)
    outcome = Outcome(*targets, summary=summary)
    events({"event": "done", "volume": str(outcome.volume), "report": str(outcome.report)})
    return outcome


def zero_filled(path: str | Path, config: ReconstructionConfig, *, layout: str | None = None) -> NDArray[np.float32]:
    """The same slices from the same samples without any method, ``(slice, y, x)``: what a method is compared with.

    Raises
    ------
    MriUnrollError
        As `reconstruct_file`.
    """
    path = Path(path)
    slices = slice_range(config, int(describe(path, layout)["n_slices"]))
    return stream(path, layout, config, make_reconstructor("zero-filled"), slices, ignore).image.pixels


def _summary(
    path: Path,
    config: ReconstructionConfig,
    volume: StreamedVolume,
    quality: QualityReport,
    seconds: float,
) -> dict[str, Any]:
    """The sidecar."""
    made = volume.image.provenance
    summary: dict[str, Any] = {
        "version": __version__,
        "method": made.method,
        "weights_digest": made.weights_digest,
        "parameters": made.parameters,
        "input": path.name,
        "input_digest": made.input_digest,
        "slices": list(volume.slices),
        "shape": list(volume.image.pixels.shape),
        "scale": list(made.scale),
        "device": made.device,
        "fft_engine": made.fft_engine,
        "seconds": seconds,
        "seconds_per_slice": list(volume.image.diagnostics.seconds),
        "effective_acceleration": volume.acceleration,
        "status": list(volume.image.diagnostics.status),
        "data_residual": list(quality.data_residual),
        "warnings": list(quality.warnings),
        **(quality.verdict.summary() if quality.verdict else NO_VERDICT),
        **bids_of_notes(volume.middle.source.notes),
    }
    if config.accelerate is not None:
        summary["retrospective"] = {
            "accelerate": config.accelerate,
            "mask": config.mask,
            "center_fraction": config.effective_center_fraction,
            "seed": config.seed,
        }
    if quality.metrics is not None:
        summary["metrics"] = quality.metrics
        summary["metrics_in_body"] = quality.in_body
        summary["metrics_reference"] = quality.reference
        summary["metrics_convention"] = CONVENTION
    return summary


def _report_content(
    path: Path, volume: StreamedVolume, quality: QualityReport, found: dict[str, Any], summary: dict[str, Any]
) -> ReportContent:
    """What the report shows of the middle slice."""
    scan, shown = volume.middle, volume.image.pixels.shape[0] // 2
    index = shown - volume.middle_first
    zero_filled = make_reconstructor("zero-filled").reconstruct(scan).pixels[index]
    sampling = sampling_of(scan, index if scan.ndim == 2 else 0)
    parts = take_apart(scan)
    sens_maps = None
    if len(parts.shape) == 2:  # of a volume that stays whole, maps would cost as much again as the picture
        across = parts.axis != 0
        part = parts.take(parts.count // 2 if across else index)
        with torch.inference_mode():
            sens_maps = part.upright(part.calibrated().op.sens_maps[0]).numpy()
    return ReportContent(
        title=path.name,
        image=volume.image,
        quality=quality,
        shown=shown,
        first_slice=volume.slices[0],
        zero_filled=zero_filled,
        reference=None if volume.reference is None else volume.reference[shown],
        mask=None if isinstance(sampling, SampledTrajectory) else sampling,
        trajectory=sampling.coordinates.numpy() if isinstance(sampling, SampledTrajectory) else None,
        sens_maps=sens_maps,
        found=found,
        summary=summary,
        volume=scan.is_cartesian and scan.ndim == 3,
    )
