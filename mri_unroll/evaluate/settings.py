"""What an evaluation was asked for, kept beside its scores so that nothing else is ever added to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mri_unroll import __version__
from mri_unroll.cohort.kept import plain
from mri_unroll.config import DeviceChoice, MaskKind, ReconstructionConfig
from mri_unroll.errors import ConfigError
from mri_unroll.evaluate.conventions import convention_named
from mri_unroll.evaluate.record import BY_NAME, FROM_FILE
from mri_unroll.recon.reconstructor import Reconstructor, make_reconstructor

SETTINGS = "settings.json"
EvaluationMask = MaskKind | Literal["from-file"]
MASKS = (*get_args(MaskKind), FROM_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Which methods are scored, on what, and how.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    methods: tuple[str, ...] = ("zero-filled", "l1-wavelet", "unrolled")  # names, or paths of checkpoints
    accelerations: tuple[float, ...] = (4.0, 8.0)  # > 1; empty with the files' own masks
    mask: str = "equispaced_fraction"  # one of `MASKS`
    convention: str = "fastmri"  # a name of `evaluate.conventions`
    split_list: Path | None = None  # names of the files to take; None: all
    limit: int | None = None  # of these at most so many, >= 1
    device: DeviceChoice = "auto"

    def __post_init__(self) -> None:
        convention_named(self.convention)
        own = self.mask == FROM_FILE
        for name, holds, wanted in (
            ("methods", self.methods and len(set(self.methods)) == len(self.methods), "one method or more, each once"),
            ("mask", self.mask in MASKS, f"one of {', '.join(MASKS)}"),
            (
                "accelerations",
                own or (self.accelerations and len(set(self.accelerations)) == len(self.accelerations)),
                "one factor or more, each once",
            ),
            ("accelerations", not (own and self.accelerations), f"none with the mask {FROM_FILE}"),
            ("accelerations", all(1 <= factor < float("inf") for factor in self.accelerations), "factors >= 1"),
            ("limit", self.limit is None or self.limit >= 1, ">= 1"),
        ):
            if not holds:
                raise ConfigError(
                    f"Expected `{name}` to be {wanted}, got {getattr(self, name)!r}.", "Correct the value."
                )

    def center_fraction(self, acceleration: float) -> float:
        """Share of the lines that is kept in the centre, fastMRI's habit: 0.08 at 4x, 0.04 at 8x."""
        return ReconstructionConfig(accelerate=acceleration).effective_center_fraction

    def reconstructors(self) -> dict[str, Reconstructor]:
        """The methods, ready to run.

        Raises
        ------
        ConfigError, ModelError, DeviceError
            As `recon.reconstructor.make_reconstructor`.
        """
        return {
            name: make_reconstructor(name, ReconstructionConfig(method=name, device=self.device))
            for name in self.methods
        }


def settings_of(folder: Path, config: EvaluationConfig, reconstructors: Mapping[str, Reconstructor]) -> dict[str, Any]:
    """What decides about the scores, fit for JSON."""
    methods = {
        name: {
            "parameters": dict(getattr(made, "parameters", {})),
            "weights_digest": getattr(made, "weights_digest", None),
        }
        for name, made in reconstructors.items()
    }
    settings = {
        "version": __version__,
        "folder": str(folder.resolve()),
        "methods": methods,
        "mask": config.mask,
        "accelerations": list(config.accelerations),
        "center_fractions": [config.center_fraction(factor) for factor in config.accelerations],
        "seed": "" if config.mask == FROM_FILE else BY_NAME,
        "convention": config.convention,
    }
    return plain(settings)


def selection_of(config: EvaluationConfig) -> dict[str, Any]:
    """Which files were asked for last; this may change when an evaluation is continued."""
    return {"split_list": None if config.split_list is None else config.split_list.name, "limit": config.limit}
