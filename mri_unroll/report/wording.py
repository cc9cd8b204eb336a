"""Numbers and header values as texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NAMES = {
    "file_bytes": "file size",
    "dtype": "number type",
    "n_slices": "slices in the file",
    "n_coils": "coils",
    "matrix": "k-space grid (ky × kx)",
    "recon_shape": "picture (y × x)",
    "n_acs_lines": "central lines",
    "padding_columns": "zero-filled columns (left, right)",
    "field_of_view_mm": "field of view [mm]",
    "encoded_field_of_view_mm": "encoded field of view [mm]",
    "reference_shape": "reference size",
    "missing": "not in the file",
}
_SIZES = ("matrix", "recon_shape", "reference_shape", "field_of_view_mm", "encoded_field_of_view_mm")


def number(value: float | None, digits: int = 3) -> str:
    """A number as it is printed: ``0.0312``, ``8.30 × 10⁻⁶``, ``∞``; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return "\N{NO-BREAK SPACE}".join((mantissa.replace("-", "−"), "×", power))


def percent(value: float | None) -> str:
    """A share of one as percent."""
    text = number(None if value is None else 100 * value)
    return text if text == "–" else f"{text}\N{NO-BREAK SPACE}%"


def span(values: Iterable[float]) -> str:
    """The smallest and the largest of some numbers."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return "–"
    return number(finite[0]) if finite[0] == finite[-1] else f"{number(finite[0])} to {number(finite[-1])}"


def described(found: Mapping[str, Any], plain_names: bool = True) -> list[tuple[str, list[str]]]:
    """Names and values of a header or of parameters, each value as lines of text; empty ones are left out.

    Parameters
    ----------
    found
        What to describe; values fit for JSON.
    plain_names
        Say names in words instead of as they are.
    """
    return [
        (_NAMES.get(name, name.replace("_", " ")) if plain_names else name, _lines(value, name))
        for name, value in found.items()
        if not (hasattr(value, "__len__") and len(value) == 0)
    ]


def _lines(value: Any, name: str = "") -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key}: {', '.join(_lines(item))}" for key, item in value.items()]
    if isinstance(value, list | tuple):
        texts = [text for item in value for text in _lines(item)]
        if all(isinstance(item, int | float) for item in value):
            return [(" × " if name in _SIZES else ", ").join(texts)]
        return texts
    if value is None:
        return ["unknown"]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if name == "file_bytes":
        return [f"{number(value / 1e6)} MB" if value >= 1e5 else f"{number(value / 1e3)} kB"]
    return [f"{value:.6g}" if isinstance(value, float) else str(value)]
