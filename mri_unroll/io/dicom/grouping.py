"""Which pictures belong together, in which order, and why some cannot be a volume."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from mri_unroll.io.dicom.files import quietly
from mri_unroll.io.dicom.series import Frame, Series

_SAME_DIRECTION = 1e-3  # of unit vectors
_SAME_PLACE = 0.01  # millimetres along the normal
_UNEVEN = 0.01  # of the distance between slices
_SHEAR = 0.02  # of the distance between slices, per slice
_COMPONENTS = {"P": "phase", "PHASE": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary"}

# What tells pictures at one place apart, in the order in which it is tried.
_DISTINCTIONS = (
    "EchoTime",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "AcquisitionNumber",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ContentTime",
)


def grouped(frames: Iterable[Frame]) -> list[Series]:
    """Series of the frames of a study, those that cannot be used included; ordered by number and name."""
    with quietly():
        groups: dict[tuple[Hashable, ...], list[Frame]] = defaultdict(list)
        for frame in frames:
            groups[_kind(frame)].append(frame)
        found = []
        for kind, members in groups.items():
            for distinction, part in _told_apart(members):
                found.append(_series(kind, distinction, part))
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, series.name))


def _text(frame: Frame, keyword: str) -> str:
    value = frame.header.get(keyword)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Sequence):
        return "\\".join(str(item).strip() for item in value)
    return str(value)


def _kind(frame: Frame) -> tuple[Hashable, ...]:
    spacing = tuple(round(value, 3) for value in frame.spacing)
    component = _text(frame, "ComplexImageComponent")
    return (_text(frame, "SeriesInstanceUID"), image_type(frame), component, frame.shape, spacing)


def image_type(frame: Frame) -> tuple[str, ...]:
    """Values of ImageType, in capitals."""
    return tuple(part.strip().upper() for part in _text(frame, "ImageType").split("\\"))


def _told_apart(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Parts of a group in which no two pictures lie at one place, as far as their headers tell them apart."""
    if not _crowded(frames):
        return [("", frames)]
    for keyword in _DISTINCTIONS:
        parts: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[_text(frame, keyword)].append(frame)
        # Acquisition times differ from slice to slice too: a value tells volumes apart only if each has slices.
        if 1 < len(parts) <= len(frames) // 2:
            return [
                (f"{keyword}={value}/{rest}", part)
                for value, members in sorted(parts.items())
                for rest, part in _told_apart(members)
            ]
    return _by_turn(frames)


def _by_turn(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Repetitions that only InstanceNumber tells apart: the first picture of every place, the second, and so on."""
    normal = _normal(frames[0])
    numbers = [_whole(_text(frame, "InstanceNumber")) for frame in frames]
    if None in numbers or len(set(numbers)) < len(numbers):
        return [("", frames)]
    at: dict[int, list[Frame]] = defaultdict(list)
    for _, frame in sorted(zip(numbers, frames, strict=True), key=lambda pair: pair[0] or 0):
        at[round(float(frame.position @ normal) / _SAME_PLACE)].append(frame)
    if len({len(members) for members in at.values()}) > 1:
        return [("", frames)]
    return [(f"turn={turn}", list(part)) for turn, part in enumerate(zip(*at.values(), strict=True))]


def _normal(frame: Frame) -> np.ndarray:
    return np.cross(frame.row, frame.column)


def _crowded(frames: list[Frame]) -> bool:
    along = np.sort([float(frame.position @ _normal(frames[0])) for frame in frames])
    return bool(len(along) > 1 and np.diff(along).min() < _SAME_PLACE and _one_direction(frames))


def _one_direction(frames: list[Frame]) -> bool:
    first = frames[0]
    return all(
        np.abs(frame.row - first.row).max() < _SAME_DIRECTION
        and np.abs(frame.column - first.column).max() < _SAME_DIRECTION
        for frame in frames
    )


def _series(kind: tuple[Any, ...], distinction: str, frames: list[Frame]) -> Series:
    normal = _normal(frames[0])
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    number = _whole(_text(frames[0], "SeriesNumber"))
    digest = hashlib.sha256(repr((kind, distinction)).encode()).hexdigest()[:8]
    refusals: list[str] = []
    for check in _CHECKS:
        refusal = check(frames)
        if refusal is not None:
            refusals.append(refusal)
            break  # what else is wrong may follow from it
    return Series(
        name=f"s{'x' if number is None else number}-{digest}",
        number=number,
        description=_text(frames[0], "SeriesDescription")[:64],
        frames=tuple(frames),
        refusals=tuple(refusals),
        warnings=tuple(_warnings(frames)),
    )


def _whole(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _mosaic(frames: list[Frame]) -> str | None:
    if "MOSAIC" in image_type(frames[0]):
        return "Its pictures are mosaics of many slices; convert them to one slice a picture first."
    return None


def _localiser(frames: list[Frame]) -> str | None:
    if "LOCALIZER" in image_type(frames[0]) or "SCOUT" in image_type(frames[0]):
        return "It is a localiser, made to plan other series."
    return None


def _component(frames: list[Frame]) -> str | None:
    words = (*image_type(frames[0])[2:], _text(frames[0], "ComplexImageComponent").upper())
    for word in words:
        if word in _COMPONENTS or word.startswith("PHASE"):
            return f"Its pictures are {_COMPONENTS.get(word, 'phase')} parts, not magnitudes."
    return None


def _directions(frames: list[Frame]) -> str | None:
    if _one_direction(frames):
        return None
    kept: list[Frame] = []
    for frame in frames:
        if not any(_one_direction([frame, other]) for other in kept):
            kept.append(frame)
    return f"Its pictures lie in {len(kept)} orientations; a volume has one."


def _too_few(frames: list[Frame]) -> str | None:
    if len(frames) == 1:
        return (
            "It holds a single slice; a series of two or more is needed. Name the folder, if the others lie beside it."
        )
    return None


def _places(frames: list[Frame]) -> str | None:
    normal = _normal(frames[0])
    along = np.array([float(frame.position @ normal) for frame in frames])
    steps = np.diff(along)
    if steps.min() < _SAME_PLACE:
        count = int((steps < _SAME_PLACE).sum())
        return (
            f"Pictures lie at the same place ({count} of {len(frames)}), and nothing in their headers tells them apart."
        )
    step = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - step) > _UNEVEN * step)
    if uneven.size:
        index = int(uneven[0])
        return (
            f"Slices are missing or unevenly spaced: {steps[index]:.3g} mm between slices {index + 1} and {index + 2}, "
            f"{step:.3g} mm elsewhere ({uneven.size} such places)."
        )
    across = np.array([frame.position for frame in frames]) - frames[0].position
    across = across - np.outer(across @ normal, normal)
    if float(np.linalg.norm(across, axis=1).max()) > max(_SHEAR * step * (len(frames) - 1), 0.1):
        return "Its slices are shifted against each other (gantry tilt or shear); resample it first."
    return None


_CHECKS: tuple[Callable[[list[Frame]], str | None], ...] = (
    _mosaic,
    _localiser,
    _component,
    _directions,
    _too_few,
    _places,
)


def _warnings(frames: list[Frame]) -> list[str]:
    found = []
    kind = image_type(frames[0])
    if kind and kind[0] == "DERIVED":
        found.append(f"Its pictures were derived from others ({', '.join(kind[2:4]) or 'not said how'}).")
    if any(_text(frame, "LossyImageCompression") == "01" for frame in frames):
        found.append("Its pictures were compressed with loss at some time.")
    return found
