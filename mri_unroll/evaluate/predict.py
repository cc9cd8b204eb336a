"""Predictions as fastMRI's challenges and evaluator take them: one file a scan, with its pictures and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.io.atomic import atomic_path
from mri_unroll.io.registry import describe, read_scan
from mri_unroll.recon.reconstructor import Reconstructor
from mri_unroll.recon.slicewise import Progress, quiet
from mri_unroll.scan import Scan

_AT_ONCE = ReconstructionConfig().slices_at_once
V2 = "_v2"  # ending of the names of the knee data's second edition


def prediction_path(path: Path, out_dir: Path, v2_suffix: bool = False) -> Path:
    """Where the prediction of a scan goes: the scan's own name, which ends in ``.h5``.

    Parameters
    ----------
    path
        The scan.
    out_dir
        Folder of the predictions.
    v2_suffix
        End the name in ``_v2``, if it does not already.
    """
    stem = path.stem
    return out_dir / f"{stem}{V2 if v2_suffix and not stem.endswith(V2) else ''}.h5"


def predict_file(
    path: str | Path,
    out_dir: str | Path,
    reconstructor: Reconstructor,
    *,
    v2_suffix: bool = False,
    overwrite: bool = False,
    undersampled: Callable[[Scan], Scan] | None = None,
    progress: Progress = quiet,
) -> Path:
    """Reconstruct a scan and write its prediction, a few slices in memory at a time.

    The file holds one dataset, ``reconstruction``, float32 ``(slice, y, x)``, in the units of the scan, and no
    attribute. Its pictures are as large as the scan's reference where there is one, else as the header's
    reconstructed matrix; where k-space is narrower than that, squares of its width (fastMRI's rule for
    ``FLAIR_203``). Where the scan says nothing they are as large as k-space.

    Parameters
    ----------
    path
        Raw k-space.
    out_dir
        A folder, made if missing.
    reconstructor
        The method.
    v2_suffix
        As for `prediction_path`.
    overwrite
        Replace a prediction that is there.
    undersampled
        What to make of each part of the scan before it is reconstructed; None: it is taken as it is.
    progress
        Called with slices done and slices in all.

    Returns
    -------
    The file.

    Raises
    ------
    InputError
        If the scan cannot be used, or the prediction exists.
    DeviceError
        If memory or the disk are full.
    """
    path, out_dir = Path(path), Path(out_dir)
    target = prediction_path(path, out_dir, v2_suffix)
    if target.resolve() == path.resolve():
        raise InputError(f"The prediction {target} would replace the scan itself.", "Choose another folder.")
    if target.exists() and not overwrite:  # before the work, not after it
        raise InputError(f"{target} exists already.", "Use --overwrite to replace it, or write to another folder.")
    n_slices = int(describe(path)["n_slices"])
    pictures: list[NDArray[np.float32]] = []
    progress(0, n_slices)
    for start in range(0, n_slices, _AT_ONCE):
        scan = read_scan(path, slice(start, min(start + _AT_ONCE, n_slices)))
        image = reconstructor.reconstruct(scan if undersampled is None else undersampled(scan))
        pictures.append(image.pixels)
        progress(min(start + _AT_ONCE, n_slices), n_slices)
    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_path(target, overwrite) as part, h5py.File(part, "w") as file:
        file.create_dataset("reconstruction", data=np.concatenate(pictures).astype(np.float32, copy=False))
    return target
