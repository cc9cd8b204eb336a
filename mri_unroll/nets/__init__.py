"""Networks whose layers are iterations."""

from mri_unroll.nets.model import ModelConfig, build
from mri_unroll.nets.unrolled import Unrolled

__all__ = ["ModelConfig", "Unrolled", "build"]
