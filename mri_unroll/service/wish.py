"""What a job asks for: options that may come from strangers, and the configurations that they stand for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mri_unroll.config import DeviceChoice, Effort, MaskKind, ReconstructionConfig, StudyConfig, StudyMode
from mri_unroll.errors import ConfigError

_PSF = r"^(gaussian|kspace-truncation):[0-9.]{1,8}$"  # never a file of this machine
_METHOD = r"^[a-z0-9][a-z0-9-]{0,40}$"  # a name, never a path
_SERIES = r"^[A-Za-z0-9-]{1,40}$"
STUDY_ONLY = ("mode", "psf", "series", "coils", "i_understand_simulated")
_RAW_ONLY = ("first_slice", "last_slice", "denoise", "effort", "allow_synthetic_geometry", "mrd")
_SAMPLING = ("mask", "center_fraction", "seed")  # nothing without `accelerate`
RELIEF = (  # what each step down the ladder of memory changes
    "",
    "One slice at a time, because memory ran out.",
    "One slice at a time and at most 6 virtual coils, because memory ran out.",
    "One slice at a time, at most 6 virtual coils, and on the CPU, because memory ran out.",
)


class Wish(BaseModel):
    """Method and options of one job; what is left out has the default of the command line."""

    model_config = ConfigDict(extra="forbid", strict=True)

    method: Annotated[str | None, Field(pattern=_METHOD, description="A name that /v1/methods lists.")] = None
    accelerate: Annotated[float | None, Field(ge=1, le=64, description="Undersample a full scan, and score.")] = None
    mask: MaskKind = "equispaced_fraction"
    center_fraction: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    first_slice: Annotated[int | None, Field(ge=0, le=10**6)] = None
    last_slice: Annotated[int | None, Field(ge=1, le=10**6, description="Not included.")] = None
    reg_weight: Annotated[float | None, Field(gt=0, le=1e9)] = None
    iterations: Annotated[int | None, Field(ge=1, le=10_000)] = None
    denoise: Annotated[float, Field(ge=0, le=1)] = 0.0
    effort: Effort = "normal"
    mode: Annotated[StudyMode | None, Field(description="Of a DICOM study: what is made of it.")] = None
    psf: Annotated[str | None, Field(pattern=_PSF, description="With mode restore.")] = None
    series: Annotated[str | None, Field(pattern=_SERIES, description="Of a study with several.")] = None
    coils: Annotated[int, Field(ge=1, le=64, description="With mode retrospective: synthetic ones.")] = 1
    i_understand_simulated: bool = False
    allow_synthetic_geometry: bool = False
    deidentify: bool = False
    mrd: Annotated[bool, Field(description="Also as a stream of MRD images.")] = False

    def reconstruction(self, device: DeviceChoice = "auto", relief: int = 0) -> ReconstructionConfig:
        """Settings for raw k-space, on some step of the ladder."""
        if (self.first_slice is None) != (self.last_slice is None):
            raise ConfigError("Expected both `first_slice` and `last_slice`, or neither.", "Name both.")
        slices = None
        if self.first_slice is not None and self.last_slice is not None:
            slices = (self.first_slice, self.last_slice)
        return ReconstructionConfig(
            method=self.method or ReconstructionConfig().method,
            format="h5",
            device="cpu" if relief >= 3 else device,
            accelerate=self.accelerate,
            mask=self.mask,
            center_fraction=self.center_fraction,
            seed=self.seed,
            slices=slices,
            reg_weight=self.reg_weight,
            n_iterations=self.iterations,
            denoise=self.denoise,
            effort=self.effort,
            synthetic_geometry=self.allow_synthetic_geometry,
            deidentify=self.deidentify,
            slices_at_once=1 if relief >= 1 else ReconstructionConfig().slices_at_once,
            max_coils=6 if relief >= 2 else None,
        )

    def study(self, device: DeviceChoice = "auto", relief: int = 0) -> StudyConfig:
        """Settings for a DICOM study."""
        assert self.mode is not None
        return StudyConfig(
            mode=self.mode,
            psf=self.psf,
            method=self.method,
            series=self.series,
            format="dicom",
            device="cpu" if relief >= 3 else device,
            accelerate=self.accelerate,
            mask=self.mask,
            center_fraction=self.center_fraction,
            seed=self.seed,
            n_coils=self.coils,
            insist=self.i_understand_simulated,
            reg_weight=self.reg_weight,
            n_iterations=self.iterations,
            deidentify=self.deidentify,
        )

    def check(self) -> None:
        """Refuse what contradicts itself before it is queued.

        Raises
        ------
        ConfigError
            If so.
        """
        if self.mode is None:
            self._refuse(STUDY_ONLY, "Without `mode`")
            self.reconstruction()
        else:
            self._refuse(_RAW_ONLY, "With `mode`")
            if self.mode == "restore":
                self._refuse(("accelerate",), "With `mode` restore")
            self.study()
        if self.accelerate is None:
            self._refuse(_SAMPLING, "Without `accelerate`")

    def _refuse(self, names: tuple[str, ...], where: str) -> None:
        defaults = type(self).model_fields
        if odd := [f"`{name}`" for name in names if getattr(self, name) != defaults[name].default]:
            raise ConfigError(f"{where} there is no use for {', '.join(odd)}.", "Leave it out.")
