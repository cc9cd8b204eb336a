"""Whether this installation can reconstruct, and on what: the answer of ``mri-unroll doctor``.

Nothing heavy is imported at module level, so that a broken library is a finding and not a crash.
"""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from mri_unroll import __version__
from mri_unroll.errors import MriUnrollError
from mri_unroll.machine import default_threads, disk_free_bytes, memory_bytes

LIBRARIES = (
    *("torch", "numpy", "scipy", "sigpy", "h5py", "scikit-image", "nibabel", "safetensors"),
    *("pydicom", "pynetdicom", "dicomweb-client", "dicognito"),
)
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
ABSENT = "not installed"
LEAST_DISK = 32 * 2**20  # bytes; below this hardly a volume and its report can be written
LEAST_MEMORY = 512 * 2**20  # bytes; below this hardly a slice fits


def examine(folder: Path | None = None) -> dict[str, Any]:
    """Look at Python, libraries, devices, weights, disk and memory.

    Parameters
    ----------
    folder
        Where results would be written, for the free space; the current folder if None.

    Returns
    -------
        Values fit for JSON. ``ok`` says whether reconstruction can run, ``problems`` why not, as sentences.
    """
    problems: list[str] = []
    findings: dict[str, Any] = {
        "ok": False,
        "problems": problems,
        "mri_unroll": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "cupy": next((found for found in map(_version, CUPY) if found != ABSENT), ABSENT),
    }
    findings["bart"] = _bart()
    try:
        importlib.import_module("mri_unroll.pipeline")  # all that a reconstruction needs
        findings |= _devices()
        findings["weights"] = _weights(problems)
        findings["dicom_decoders"] = _decoders()
    except Exception as error:  # whatever a broken library throws is the finding
        problems.append(f"The reconstruction cannot be loaded: {type(error).__name__}: {error}.")
    findings["threads"] = default_threads()
    findings |= _space(folder or Path.cwd(), problems)
    findings["ok"] = not problems
    return findings


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ABSENT


def _bart() -> str:
    """Version of the program that the method ``bart-pics`` runs; its absence is no problem of ours."""
    program = shutil.which("bart")
    if program is None:
        return ABSENT
    try:
        answer = subprocess.run([program, "version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{program} does not run: {error}"
    return f"{answer.stdout.strip()}, {program}"


def _devices() -> dict[str, Any]:
    import torch

    from mri_unroll.physics.fourier import engine_name

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append({"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)})
    engines = {"cpu": engine_name("cpu")}
    if gpus:
        engines["cuda"] = engine_name("cuda")
    return {"gpus": gpus, "fft_engines": engines}


def _decoders() -> dict[str, str]:
    """For compressed DICOM; what is missing comes with the extra `dicom` and is no problem of ours."""
    from mri_unroll.io.dicom.pixels import decoders

    return {kind: name or f"{ABSENT}: pip install 'mri-unroll[dicom]'" for kind, name in decoders().items()}


def _weights(problems: list[str]) -> list[dict[str, Any]]:
    from mri_unroll import checkpoints

    found: list[dict[str, Any]] = []
    try:
        names = checkpoints.shipped_names()
    except MriUnrollError as error:
        problems.append(str(error))
        return found
    if not names:
        problems.append("No trained weights are installed. Install mri_unroll again.")
    for name in names:
        try:
            found.append({"name": name, "digest": checkpoints.verify(name), "verified": True})
        except MriUnrollError as error:
            found.append({"name": name, "digest": None, "verified": False})
            problems.append(str(error))
    return found


def _space(folder: Path, problems: list[str]) -> dict[str, Any]:
    free, memory = disk_free_bytes(folder), memory_bytes()
    if free is not None and free < LEAST_DISK:
        problems.append(f"Only {free / 1e6:.0f} MB are free on the disk of {folder}. Free some space.")
    if memory is not None and memory[1] < LEAST_MEMORY:
        problems.append(f"Only {memory[1] / 1e6:.0f} MB of memory are free. Close other programs.")
    return {
        "disk_free_gb": None if free is None else round(free / 1e9, 1),
        "memory_gb": None if memory is None else round(memory[0] / 1e9, 1),
        "memory_free_gb": None if memory is None else round(memory[1] / 1e9, 1),
    }
