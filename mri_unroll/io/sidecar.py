"""The sidecar beside every volume: what was done, as JSON that any parser reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mri_unroll.io.atomic import atomic_path


def finite(value: Any) -> Any:
    """The same value with null in place of NaN and infinity, which JSON has no words for, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def write_sidecar(summary: dict[str, Any], path: Path, overwrite: bool = False) -> None:
    """Write a summary; the file appears whole or not at all.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or cannot be written.
    """
    text = json.dumps(finite(summary), indent=2, allow_nan=False)
    with atomic_path(path, overwrite) as part:
        part.write_text(text + "\n", encoding="utf-8")
