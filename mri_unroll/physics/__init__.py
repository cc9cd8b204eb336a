"""Forward operators and what they are made of.

Handed on lazily: masks, phantoms and data workers need NumPy alone and must not wait for torch and sigpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mri_unroll.physics.blur import BlurOperator, gaussian_psf
    from mri_unroll.physics.dense import DenseOperator
    from mri_unroll.physics.linop import LinearOperator, adjoint_error, operator_norm
    from mri_unroll.physics.nufft import NufftOperator
    from mri_unroll.physics.off_resonance import OffResonanceOperator
    from mri_unroll.physics.resolution import DownsamplingOperator, TruncationOperator
    from mri_unroll.physics.sense import SenseOperator

_ROOMS = {  # name: the module of this folder that it comes from
    "BlurOperator": "blur",
    "DenseOperator": "dense",
    "DownsamplingOperator": "resolution",
    "LinearOperator": "linop",
    "NufftOperator": "nufft",
    "OffResonanceOperator": "off_resonance",
    "SenseOperator": "sense",
    "TruncationOperator": "resolution",
    "adjoint_error": "linop",
    "gaussian_psf": "blur",
    "operator_norm": "linop",
}

__all__ = [
    "BlurOperator",
    "DenseOperator",
    "DownsamplingOperator",
    "LinearOperator",
    "NufftOperator",
    "OffResonanceOperator",
    "SenseOperator",
    "TruncationOperator",
    "adjoint_error",
    "gaussian_psf",
    "operator_norm",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"mri_unroll.physics.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
