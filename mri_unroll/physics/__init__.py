"""Forward operators and what they are made of.

Handed on lazily: masks, phantoms and data workers need NumPy alone and must not wait for torch and sigpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mri_unroll.physics.linop import LinearOperator, adjoint_error, operator_norm
    from mri_unroll.physics.sense import SenseOperator

__all__ = ["LinearOperator", "SenseOperator", "adjoint_error", "operator_norm"]


def __getattr__(name: str) -> Any:
    if name == "SenseOperator":
        return import_module("mri_unroll.physics.sense").SenseOperator
    if name in ("LinearOperator", "adjoint_error", "operator_norm"):
        return getattr(import_module("mri_unroll.physics.linop"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
