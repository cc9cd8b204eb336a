"""Networks whose layers are iterations."""

from mri_unroll.nets.amp import LearnedAMP
from mri_unroll.nets.band_shrinkage import BandShrinkage
from mri_unroll.nets.equilibrium import Equilibrium
from mri_unroll.nets.lista import ListaNetwork
from mri_unroll.nets.model import ModelConfig, build
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.nets.vamp import LearnedVAMP

__all__ = [
    "BandShrinkage",
    "Equilibrium",
    "LearnedAMP",
    "LearnedVAMP",
    "ListaNetwork",
    "ModelConfig",
    "Unrolled",
    "build",
]
