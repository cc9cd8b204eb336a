"""Settings as frozen dataclasses, and the one way from a TOML file to any of them.

A setting that does not exist is refused with the nearest name that does; so is a value of another type. Nothing is
converted in silence, but for a whole number where a decimal one is meant.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mri_unroll.errors import ConfigError

DeviceChoice = Literal["auto", "cpu", "cuda"]
MaskKind = Literal["random", "equispaced", "equispaced_fraction", "magic", "poisson"]
Effort = Literal["fast", "normal", "best"]
OutputFormat = Literal["auto", "h5", "nifti", "npy", "dicom"]
StudyMode = Literal["restore", "retrospective"]

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionConfig:
    """How one scan becomes pictures: what the ``recon`` command line can say.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    method: str = "unrolled"  # a name that `mri-unroll methods` lists, or the path of a checkpoint
    format: OutputFormat = "auto"  # "auto": by the suffix of the output, else HDF5
    device: DeviceChoice = "auto"  # "auto": a GPU where there is one
    accelerate: float | None = None  # undersample a fully sampled scan by this factor, >= 1; None: as measured
    mask: MaskKind = "equispaced_fraction"  # with accelerate: which lines, or samples, are kept
    center_fraction: float | None = None  # share of phase encodings kept in the centre, 0..1; None: 0.32 / accelerate
    seed: int = 0  # of the mask
    slices: tuple[int, int] | None = None  # [first, last), counted from 0; None: all
    overwrite: bool = False  # replace files that are there
    reg_weight: float | None = None  # of classical methods, > 0, for k-space scaled as they scale it; None: their own
    n_iterations: int | None = None  # of classical methods, >= 1; None: their own
    effort: Effort = "normal"  # of networks; "fast": 8 virtual coils, bfloat16 where the CPU has it; "best": 4 passes
    denoise: float = 0.0  # of networks, 0..1: share of the noise to remove; 0: as a fully sampled scan would show it
    like: str | None = None  # with format "dicom": a study of the same scan, for patient and place
    synthetic_geometry: bool = False  # with format "dicom": places may be made up, which the objects then say
    deidentify: bool = False  # with format "dicom"
    slices_at_once: int = 2  # in memory, of a 2-D scan: a volume is never held in complex form
    max_coils: int | None = None  # more are compressed to as many virtual ones as they are read; None: as methods do
    verdict: bool = True  # predict the error and look for faults; costs up to a third of a network's time again
    coverage: float = 0.9  # share of scans, and of pixels, whose error stays within what is predicted; 0.5..0.99

    def __post_init__(self) -> None:
        _check_choices(self)
        for name, holds, wanted in (
            ("method", lambda method: method != "", "a name or a path"),
            ("accelerate", lambda factor: factor is None or 1 <= factor < float("inf"), "a factor >= 1"),
            ("center_fraction", lambda share: share is None or 0 <= share <= 1, "between 0 and 1"),
            ("seed", lambda seed: seed >= 0, ">= 0"),
            ("slices", lambda ends: ends is None or 0 <= ends[0] < ends[1], "first < last, counted from 0"),
            ("reg_weight", lambda weight: weight is None or 0 < weight < float("inf"), "> 0 and finite"),
            ("denoise", lambda share: 0 <= share <= 1, "between 0 and 1"),
            ("coverage", lambda share: 0.5 <= share <= 0.99, "between 0.5 and 0.99"),
            ("n_iterations", lambda count: count is None or count >= 1, ">= 1"),
            ("slices_at_once", lambda count: count >= 1, ">= 1"),
            ("max_coils", lambda count: count is None or count >= 1, ">= 1"),
        ):
            value = getattr(self, name)
            if not holds(value):
                raise ConfigError(f"Expected `{name}` to be {wanted}, got {value!r}.", "Correct the value.")

    @property
    def effective_center_fraction(self) -> float:
        """``center_fraction``, or fastMRI's habit where it is not set: 0.08 at 4x, 0.04 at 8x."""
        if self.center_fraction is not None:
            return self.center_fraction
        return 0.32 / (self.accelerate or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What is made of a DICOM study: what the ``recon`` command line can say of one.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    mode: StudyMode  # undo a blur, or simulate undersampling
    psf: str | None = None  # of "restore", see recon.psf.parse_psf
    method: str | None = None  # None: "restore" or "unrolled", as the mode asks
    series: str | None = None  # name or number; None: every series that can be used
    format: OutputFormat = "auto"  # "auto": DICOM
    device: DeviceChoice = "auto"  # "auto": a GPU where there is one
    accelerate: float | None = None  # of "retrospective", > 1
    mask: MaskKind = "equispaced_fraction"  # of "retrospective"
    center_fraction: float | None = None  # as in ReconstructionConfig
    seed: int = 0  # of mask and synthetic phase
    n_coils: int = 1  # synthetic ones, of "retrospective"
    insist: bool = False  # simulate although the pictures were processed before
    reg_weight: float | None = None  # of classical methods, > 0; None: their own
    n_iterations: int | None = None  # of classical methods, >= 1; None: their own
    keep_private: bool = False  # vendors' elements, in DICOM written
    deidentify: bool = False  # basic profile of PS3.15, in DICOM written
    overwrite: bool = False  # replace files that are there

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.mode == "restore" and self.psf is None:
            raise ConfigError(
                "Expected a point spread function, what blurred the pictures, for the mode `restore`, got none.",
                "Add --psf gaussian:FWHM_MM, --psf measured:FILE or --psf kspace-truncation:R.",
            )
        if self.mode == "retrospective" and not (self.accelerate and 1 < self.accelerate < float("inf")):
            raise ConfigError(
                f"Expected an acceleration above 1 for the mode `retrospective`, got {self.accelerate}.",
                "Add --accelerate R.",
            )
        if self.n_coils < 1 or self.n_coils > 64 or self.seed < 0:
            raise ConfigError(f"Expected 1 to 64 coils and a seed of 0 or more, got {self.n_coils} and {self.seed}.")

    def as_reconstruction(self) -> ReconstructionConfig:
        """Settings of the method that reconstructs simulated k-space."""
        return ReconstructionConfig(
            method=self.method or "unrolled",
            device=self.device,
            accelerate=self.accelerate,
            mask=self.mask,
            center_fraction=self.center_fraction,
            seed=self.seed,
            reg_weight=self.reg_weight,
            n_iterations=self.n_iterations,
        )


def load_toml(path: Path | str, cls: type[Config], over: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Read a TOML file into a configuration.

    Parameters
    ----------
    path
        The file. A table in it fills a field that is itself a dataclass.
    cls
        The dataclass to build.
    over
        Values that overrule the file's.

    Returns
    -------
    Config
        An instance of ``cls``; what the file leaves out has its default.

    Raises
    ------
    ConfigError
        If the file cannot be read, names an unknown setting, leaves out one that has no default, or a value has the
        wrong type or range.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Expected a TOML file at {path}, but it cannot be read: {error}.", "Check the path and that it is text."
        ) from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", "Correct that place.") from error
    try:
        return from_mapping({**table, **over}, cls)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from error


def from_mapping(table: Mapping[str, Any], cls: type[Config], where: str = "") -> Config:
    """Build a configuration from a mapping such as a parsed TOML table or a JSON object.

    Parameters
    ----------
    table
        Names and values; a nested mapping fills a field that is itself a dataclass.
    cls
        The dataclass to build.
    where
        Dotted place of ``table`` in its file, for messages; empty at the top.

    Returns
    -------
    Config
        An instance of ``cls``.

    Raises
    ------
    ConfigError
        As `load_toml`.
    """
    if not is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    known = {field.name: field for field in fields(cls) if field.init}
    for name in table:
        if name not in known:
            raise _unknown(f"{where}{name}", name, known)
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"The setting `{where}{name}` is missing.", "It has no default: name a value.")
    hints = get_type_hints(cls)
    return cls(**{name: _converted(value, hints[name], f"{where}{name}") for name, value in table.items()})


def _unknown(place: str, name: str, known: Mapping[str, Any]) -> ConfigError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean `{nearest[0]}`?" if nearest else f"Known here: {', '.join(sorted(known))}."
    return ConfigError(f"There is no setting `{place}`.", hint)


def _converted(value: Any, expected: Any, place: str) -> Any:
    """Return ``value`` as the annotation ``expected`` wants it, or refuse it."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return _first_fit(value, expected, place)
    if isinstance(expected, type) and is_dataclass(expected) and isinstance(value, Mapping):
        return from_mapping(value, expected, f"{place}.")
    if origin is Literal:
        # bool is int and 1 == 1.0: compare type and value, so that `true` is no 1
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise _not_a_choice(place, value, arguments)
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) == len(value):
            return tuple(_converted(item, kind, place) for item, kind in zip(value, arguments, strict=True))
    elif origin is list and isinstance(value, list):
        return [_converted(item, arguments[0], place) for item in value]
    elif origin is dict and isinstance(value, Mapping):
        return {name: _converted(item, arguments[1], f"{place}.{name}") for name, item in value.items()}
    elif expected is Any or (expected is type(None) and value is None):
        return value
    elif expected is float and type(value) in (int, float):
        return float(value)
    elif expected is Path and type(value) is str:
        return Path(value)
    elif expected in (bool, int, str) and type(value) is expected:
        return value
    raise ConfigError(f"Expected {_spoken(expected)} for `{place}`, got {value!r}.", "Correct the value.")


def _first_fit(value: Any, expected: Any, place: str) -> Any:
    choices = [kind for kind in get_args(expected) if kind is not type(None)]
    if value is None and len(choices) < len(get_args(expected)):
        return None
    if len(choices) == 1:  # its own refusal says more than "none of these"
        return _converted(value, choices[0], place)
    for kind in choices:
        try:
            return _converted(value, kind, place)
        except ConfigError:
            continue
    raise ConfigError(f"Expected {_spoken(expected)} for `{place}`, got {value!r}.", "Correct the value.")


def _spoken(expected: Any) -> str:
    """A type in words: what a message asks for."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    if expected in words:
        return words[expected]
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return " or ".join(_spoken(kind) for kind in arguments if kind is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list, each item {_spoken(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} ({', '.join(_spoken(kind) for kind in arguments)})"
    return "a table"


def _not_a_choice(place: str, value: Any, choices: tuple[Any, ...]) -> ConfigError:
    names = [choice for choice in choices if isinstance(choice, str)]
    nearest = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    hint = f"Did you mean {nearest[0]!r}?" if nearest else "Choose one of them."
    return ConfigError(f"Expected {_spoken(Literal[choices])} for `{place}`, got {value!r}.", hint)


def _check_choices(config: Any) -> None:
    """Hold every ``Literal`` field to its choices, also when the dataclass was built in Python."""
    for name, expected in get_type_hints(type(config)).items():
        if get_origin(expected) is Literal:
            _converted(getattr(config, name), expected, name)
