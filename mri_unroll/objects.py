"""A reconstruction as DICOM: the last stretch of the road, for those who ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import UnsupportedScan
from mri_unroll.image import Image


def check_place(found: dict[str, Any], config: ReconstructionConfig) -> None:
    """Refuse before the work what could not be written after it.

    Parameters
    ----------
    found
        The header, see `mri_unroll.io.registry.describe`.
    config
        With format, ``like`` and ``synthetic_geometry``.

    Raises
    ------
    UnsupportedScan
        If DICOM is asked for and nothing says where the picture lies.
    """
    if config.format != "dicom" or config.like is not None or config.synthetic_geometry:
        return
    if found["orientation"] == "unknown":
        raise UnsupportedScan(
            "The raw data does not say where the picture lies in the patient, so it cannot be written as DICOM.",
            "Name a study of the same scan with --like, or accept made-up places with --allow-synthetic-geometry.",
        )


def write_objects(
    image: Image, folder: Path, config: ReconstructionConfig, notes: Mapping[str, str], verdict: str = ""
) -> list[str]:
    """Write a reconstruction as a DICOM series; what is to be said of it comes back as sentences.

    ``notes`` are those of the raw data's header, see `mri_unroll.scan.Source`; ``verdict`` is a sentence that goes into
    the description of every object.
    """
    from mri_unroll.io.dicom.acquired import write_acquired
    from mri_unroll.io.dicom.deidentify import deidentifier
    from mri_unroll.io.dicom.provenance import Derivation
    from mri_unroll.io.dicom.study import find_series
    from mri_unroll.io.parameters import dicom_of_notes

    made = image.provenance
    change, said = deidentifier() if config.deidentify else (None, None)
    simulated = config.accelerate is not None
    how = f" {config.accelerate:g}-fold undersampled after the fact." if simulated else ""
    written = write_acquired(
        image,
        folder,
        Derivation(
            kind="reconstructed",
            title=f"{made.method}{' retrospective' if simulated else ''}",
            description=f"Reconstructed from raw k-space by {made.method}.{how}{' ' + verdict if verdict else ''}",
            parameters={**made.parameters, "method": made.method, "accelerate": config.accelerate, "seed": config.seed},
            weights_digest=made.weights_digest,
        ),
        like=None if config.like is None else find_series(config.like).pick(),
        parameters=dicom_of_notes(notes),
        allow_synthetic_geometry=config.synthetic_geometry,
        overwrite=config.overwrite,
        change=change,
    )
    return [*written.warnings, *([said] if said else [])]
