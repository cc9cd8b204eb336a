"""Methods that undo a known blur: learned, sparse, and the baselines that everybody knows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import restoration
from torch import Tensor

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets import model
from mri_unroll.physics.blur import BlurOperator
from mri_unroll.recon import classical
from mri_unroll.recon.blurred import BlurredProblem, keep_quiet
from mri_unroll.recon.psf import PsfSpec, parse_psf
from mri_unroll.recon.reconstructor import choose_device, weights_folder
from mri_unroll.recon.restorer import Restorer

__all__ = ["RESTORE_METHODS", "PsfSpec", "Restorer", "make_restorer", "parse_psf"]

RESTORE_METHODS: dict[str, str] = {
    "restore": "trained unrolled network: blur operator and CNN denoiser in turns (default)",
    "tv": "total variation, its weight in units of the noise",
    "wavelet": "wavelet sparsity, its weight in units of the noise",
    "richardson-lucy": "multiplicative iterations of scikit-image; a baseline",
    "wiener": "Wiener filter of scikit-image; a baseline",
}
# Weights in units of the noise level, and iterations; see docs/dicom.md for how they were chosen.
_WEIGHTS = {"tv": 0.2, "wavelet": 0.3, "wiener": 32.0}
_ITERATIONS = {"tv": 200, "wavelet": 100, "richardson-lucy": 8}


def make_restorer(
    method: str,
    psf: PsfSpec,
    *,
    device: str = "auto",
    reg_weight: float | None = None,
    n_iterations: int | None = None,
) -> Restorer:
    """A method of restoration, ready to run.

    Parameters
    ----------
    method
        One of `RESTORE_METHODS`, or the path of a checkpoint that was trained with ``task = "restore"``.
    psf
        See `mri_unroll.recon.psf.parse_psf`.
    device
        ``auto``, ``cpu`` or ``cuda``; classical methods run on the CPU.
    reg_weight
        Of ``tv``, ``wavelet`` and ``wiener``, in units of the noise level (its square for ``wiener``); None: the
        method's own.
    n_iterations
        Of ``tv``, ``wavelet`` and ``richardson-lucy``; None: the method's own.

    Raises
    ------
    ConfigError
        If there is no such method, or it does not take a setting or the point spread function.
    ModelError
        If the weights are missing or were trained for something else.
    DeviceError
        If the device is absent.
    """
    is_checkpoint = method.endswith(".safetensors")
    if method not in RESTORE_METHODS and not is_checkpoint:
        raise ConfigError(
            f"There is no method of restoration {method!r}.",
            f"Choose {', '.join(RESTORE_METHODS)}, or a checkpoint trained with task = restore.",
        )
    for name, given, taken in (("weight", reg_weight, _WEIGHTS), ("number of iterations", n_iterations, _ITERATIONS)):
        if given is not None and method not in taken:
            raise ConfigError(f"The method {method!r} has no {name} to set.", f"Choose one of {', '.join(taken)}.")
    if method == "restore" or is_checkpoint:
        path = Path(method) if is_checkpoint else weights_folder() / "restore.safetensors"
        return _learned(path.name if is_checkpoint else method, path, psf, choose_device(device))
    if psf.kind == "kspace-truncation" and method in ("richardson-lucy", "wiener"):
        raise ConfigError(
            f"The method {method!r} needs a point spread function; a cut of k-space has none that is short.",
            "Choose the method restore, tv or wavelet.",
        )
    parameters: dict[str, Any] = {}
    if method in _WEIGHTS:
        parameters["reg_weight"] = _WEIGHTS[method] if reg_weight is None else reg_weight
    if method in _ITERATIONS:
        parameters["n_iterations"] = _ITERATIONS[method] if n_iterations is None else n_iterations
    return Restorer(method, psf, functools.partial(_SOLVERS[method], **parameters), parameters=parameters)


def _learned(name: str, path: Path, psf: PsfSpec, device: torch.device) -> Restorer:
    if not path.is_file():
        raise ModelError(
            f"The weights {path.name} are missing.", "Install mri_unroll again, or choose a classical method."
        )
    network, config, card = model.load(path)
    if model.task(card) != "restore":
        raise ModelError(
            f"The network {name!r} was trained to reconstruct k-space, not to restore pictures.",
            'Choose the method restore, or train one with task = "restore".',
        )
    network = network.to(device)

    def solve(problem: BlurredProblem) -> Tensor:
        op = problem.op.to(device) if isinstance(problem.op, BlurOperator) else problem.op
        adjoint_data = op.adjoint(problem.kspace.to(device))
        value: Tensor = network(adjoint_data, op, problem.strength.to(device)).value
        return keep_quiet(problem, value.cpu())

    return Restorer(name, psf, solve, device, {"n_steps": config.n_steps}, model.digest(path))


def _tv(problem: BlurredProblem, reg_weight: float, n_iterations: int) -> Tensor:
    return classical.total_variation(problem, reg_weight * problem.noise_level or 1e-6, n_iterations).value


def _wavelet(problem: BlurredProblem, reg_weight: float, n_iterations: int) -> Tensor:
    return classical.l1_wavelet(problem, reg_weight * problem.noise_level or 1e-6, n_iterations).value


def _richardson_lucy(problem: BlurredProblem, n_iterations: int) -> Tensor:
    return _by_array(
        problem,
        lambda picture, psf: restoration.richardson_lucy(np.maximum(picture, 0), psf, n_iterations, clip=False),
    )


def _wiener(problem: BlurredProblem, reg_weight: float) -> Tensor:
    balance = reg_weight * problem.noise_level**2 or 1e-6
    return _by_array(problem, lambda picture, psf: restoration.wiener(picture, psf, balance, clip=False))


def _by_array(problem: BlurredProblem, method: Callable[[NDArray, NDArray], NDArray]) -> Tensor:
    """Run a method of scikit-image, which knows neither boundary; the picture is mirrored around itself for it."""
    assert isinstance(problem.op, BlurOperator)
    psf = problem.op.psf.double().numpy()
    reach = [n // 2 for n in psf.shape]
    picture = problem.kspace[0].real.double().numpy()
    padded = np.pad(picture, [(n, n) for n in reach], mode="symmetric")
    result = method(padded, psf)[reach[0] : reach[0] + picture.shape[0], reach[1] : reach[1] + picture.shape[1]]
    return torch.from_numpy(np.ascontiguousarray(result)).to(torch.complex64)[None]


_SOLVERS: dict[str, Callable[..., Tensor]] = {
    "tv": _tv,
    "wavelet": _wavelet,
    "richardson-lucy": _richardson_lucy,
    "wiener": _wiener,
}
