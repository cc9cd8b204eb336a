"""Which readouts of an ISMRMRD file make the scan: a clear rule, and a sentence for all that is left out.

Kept are imaging and calibration readouts of the first encoding. Of several contrasts, cardiac phases, repetitions or
sets the user chooses one (``repetition=1``), else the lowest number is taken and the others are named in a warning.
Averages are all kept. Readouts only for calibration fill lines that no imaging readout of the choice covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import InputError, UnsupportedScan
from mri_unroll.io.mrd_acquisitions import CALIBRATION, CALIBRATION_AND_IMAGING, COUNTERS, NOISE, Acquisitions

_SKIPPED = {  # no part of the picture
    23: "navigation",
    24: "phase correction",
    26: "feedback",
    27: "dummy",
    28: "real-time feedback",
    29: "surface coil correction",
    30: "phase stabilisation reference",
    31: "phase stabilisation",
}
_EXAMPLE = "Write it as in `--layout repetition=1,contrast=0`."


@dataclass(frozen=True)
class Choice:
    """What the user asked for; None or missing: the rule decides."""

    counters: dict[str, int]  # of `COUNTERS`, and "slab" for one of several 3-D volumes
    group: str | None = None
    unit: str | None = None  # of the trajectory, see `mri_unroll.io.mrd_trajectory`


@dataclass(frozen=True, eq=False)
class Selection:
    """Readouts by their number in the file."""

    imaging: NDArray[np.int64]
    calibration: NDArray[np.int64]  # measured only for calibration
    noise: NDArray[np.int64]
    notes: dict[str, str]
    warnings: tuple[str, ...]


def parse_choice(text: str | None) -> Choice:
    """Read a choice such as ``"repetition=1, contrast=0, group=scan2, unit=cycles/fov"``.

    Raises
    ------
    InputError
        If it is written otherwise.
    """
    counters: dict[str, int] = {}
    texts: dict[str, str] = {}
    for part in (text or "").split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not part.strip() and text is None:
            continue
        if not equals or not value or name not in (*COUNTERS, "slab", "group", "unit"):
            raise InputError(
                f"{part[:60]!r} is no choice of what to read from ISMRMRD data; expected "
                f"{', '.join((*COUNTERS, 'slab', 'group'))} or unit, and a value.",
                _EXAMPLE,
            )
        if name in ("group", "unit"):
            texts[name] = value
        elif value.isdecimal() and len(value) < 6:
            counters[name] = int(value)
        else:
            raise InputError(f"The {name} {value[:20]!r} is no whole number from 0.", _EXAMPLE)
    return Choice(counters, **texts)


def select(found: Acquisitions, choice: Choice) -> Selection:
    """Apply the rule.

    Raises
    ------
    InputError
        If what was chosen is not there.
    UnsupportedScan
        If no readout is left, or they differ in their number of coils.
    """
    noise = found.flagged(NOISE)
    skipped = found.flagged(*_SKIPPED) & ~noise
    other = ~noise & ~skipped & (found.head("encoding_space_ref") != 0)
    kept = ~(noise | skipped | other)
    warnings = []
    notes = {}
    if skipped.any():
        counts = [(int((found.flagged(flag) & skipped).sum()), name) for flag, name in _SKIPPED.items()]
        notes["skipped_readouts"] = ", ".join(f"{count} {name}" for count, name in counts if count)
    if other.any():
        warnings.append(
            f"{int(other.sum())} readouts belong to a further encoding, such as a separate reference scan; "
            "they are left out."
        )
    calibration = found.flagged(CALIBRATION) & ~found.flagged(CALIBRATION_AND_IMAGING) & kept
    imaging = kept & ~calibration
    if not imaging.any():  # a scan of calibration lines is still a scan
        imaging, calibration = calibration, imaging
    if not imaging.any():
        raise UnsupportedScan(
            f"{found.title} holds no imaging readout: {int(noise.sum())} of {noise.size} are noise, "
            f"{int(skipped.sum())} navigation and the like, {int(other.sum())} of another encoding.",
            "Export the imaging scan.",
        )
    for name in COUNTERS:
        turn, sentence = _turn(found, name, imaging, choice.counters.get(name))
        warnings += sentence
        index = found.index(name)
        imaging &= index == turn
        if calibration.any():  # where it was measured once for all turns, it serves all
            calibration &= index == (turn if (index[calibration] == turn).any() else index[calibration].min())
    coils = np.unique(found.head("active_channels")[imaging | calibration])
    if coils.size > 1 or coils[0] == 0:
        raise UnsupportedScan(
            f"{found.title}: its readouts have {' or '.join(map(str, coils[:4]))} coils; expected one number of them.",
            "Export the raw data with the same coils throughout.",
        )
    return Selection(
        np.flatnonzero(imaging), np.flatnonzero(calibration), np.flatnonzero(noise), notes, tuple(warnings)
    )


def choose_slab(found: Acquisitions, selection: Selection, choice: Choice) -> Selection:
    """Of several 3-D volumes (slabs), which the slice counter tells apart, one.

    Raises
    ------
    InputError
        If the chosen one is not there.
    """
    imaging = np.zeros(found.heads.size, bool)
    imaging[selection.imaging] = True
    turn, sentence = _turn(found, "slice", imaging, choice.counters.get("slab"), "slab")
    index = found.index("slice")
    return Selection(
        selection.imaging[index[selection.imaging] == turn],
        selection.calibration[index[selection.calibration] == turn],
        selection.noise,
        selection.notes,
        (*selection.warnings, *sentence),
    )


def _turn(
    found: Acquisitions, name: str, imaging: NDArray[np.bool_], chosen: int | None, shown: str | None = None
) -> tuple[int, list[str]]:
    shown = shown or name
    turns = np.unique(found.index(name)[imaging]).tolist()
    if chosen is not None:
        if chosen not in turns:
            raise InputError(
                f"{found.title} has no {shown} {chosen}; it has {_listed(turns)}.", f"Choose another {shown}."
            )
        return chosen, []
    if len(turns) == 1:
        return turns[0], []
    return turns[0], [
        f"The file holds {len(turns)} {shown}s: {shown} {turns[0]} is used, {_listed(turns[1:])} left out "
        f"(choose with `--layout {shown}={turns[1]}`)."
    ]


def _listed(turns: list[int]) -> str:
    if len(turns) > 2 and turns == list(range(turns[0], turns[-1] + 1)):
        return f"{turns[0]} to {turns[-1]}"
    return ", ".join(map(str, turns[:12])) + (" and more" if len(turns) > 12 else "")
