r"""MRI reconstruction by deep unrolling.

::

    import mri_unroll

    scan = mri_unroll.read_scan("knee.h5")
    image = mri_unroll.make_reconstructor("unrolled").reconstruct(scan)
    mri_unroll.write_image(image, "knee.nii.gz")

Everything is handed on lazily (:pep:`562`): ``import mri_unroll`` itself loads neither NumPy nor torch, so that the
command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mri_unroll import metrics, nets, physics, solvers
    from mri_unroll.config import StudyConfig
    from mri_unroll.io.dicom.study import find_series, read_pixels
    from mri_unroll.io.registry import read_scan, write_image
    from mri_unroll.recon.reconstructor import make_reconstructor
    from mri_unroll.studies.restoring import restore_study
    from mri_unroll.studies.simulating import simulate_study

__version__ = "0.1.0"

__all__ = [
    "StudyConfig",
    "__version__",
    "find_series",
    "make_reconstructor",
    "metrics",
    "nets",
    "physics",
    "read_pixels",
    "read_scan",
    "restore_study",
    "simulate_study",
    "solvers",
    "write_image",
]

_ROOMS = frozenset({"metrics", "nets", "physics", "solvers"})
_HANDED_ON = {  # name: the module it lives in
    "StudyConfig": "mri_unroll.config",
    "find_series": "mri_unroll.io.dicom.study",
    "make_reconstructor": "mri_unroll.recon.reconstructor",
    "read_pixels": "mri_unroll.io.dicom.study",
    "read_scan": "mri_unroll.io.registry",
    "restore_study": "mri_unroll.studies.restoring",
    "simulate_study": "mri_unroll.studies.simulating",
    "write_image": "mri_unroll.io.registry",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _HANDED_ON:
        value = getattr(import_module(_HANDED_ON[name]), name)
        globals()[name] = value  # the next look-up does not come here
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
