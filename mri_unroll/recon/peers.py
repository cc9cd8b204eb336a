"""Other people's reconstructions on our problem: BART's, if that program is installed, and SigPy's.

They get the k-space, mask and coil maps that our methods get, in the same units, so that a table compares algorithms
and not calibrations. Both run on the CPU, on Cartesian scans.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.errors import ConfigError, ConvergenceError, DeviceError, UnsupportedScan
from mri_unroll.physics.bridge import to_array, to_tensor
from mri_unroll.physics.fourier import centred_fft
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import Problem
from mri_unroll.solvers.solution import Solution

BART = "bart"
TIME_LIMIT = 1800.0  # seconds for one slice or volume, after which the program is stopped
STEP_SIZE = 0.95  # of BART; the operator's norm is 1 at most, as the maps have unit norm
HOW_TO_GET_BART = (
    "Install BART (Debian and Ubuntu: apt-get install bart; else https://mrirecon.github.io/bart) so that the command "
    "`bart` is found, or choose another method."
)


def bart_program() -> str | None:
    """Path of the program ``bart``; None if it is not installed."""
    return shutil.which(BART)


@lru_cache(maxsize=4)
def bart_version(program: str) -> str:
    """What the program calls itself; empty if it does not run."""
    try:
        answer = subprocess.run([program, "version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def require_bart() -> str:
    """Path of the program ``bart``.

    Raises
    ------
    ConfigError
        If it is not installed, with how to get it.
    """
    program = bart_program()
    if program is None:
        raise ConfigError("The method 'bart-pics' needs the program `bart`, which is not installed.", HOW_TO_GET_BART)
    return program


def bart_pics(problem: Problem, reg_weight: float, n_iterations: int) -> Solution:
    r""":math:`\arg\min_x \tfrac12\|Ax-y\|^2 + w\|\Psi x\|_1` by BART's ``pics``: FISTA, wavelets of its own, shifted.

    BART would scale data by its own estimate; it is told not to, so that the weight is in the units of our methods.

    Raises
    ------
    ConfigError
        If the program is not installed.
    DeviceError
        If it fails, with the last line it said.
    ConvergenceError
        If it takes longer than `TIME_LIMIT`.
    UnsupportedScan
        If the scan is not Cartesian.

    Notes
    -----
    Uecker et al., Proc. Intl. Soc. Mag. Reson. Med. 23, 2486 (2015); BART Toolbox, doi:10.5281/zenodo.592960.
    """
    kspace, maps, mask = _arrays(problem, "bart-pics")
    program = require_bart()
    ndim = mask.ndim
    flags = 2**ndim - 1  # the axes x, y and, of a volume, z
    words = ["pics", f"-RW:{flags}:0:{reg_weight:.9g}", f"-s{STEP_SIZE}", f"-i{n_iterations}", "-w1", "-ppattern"]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="mri_unroll_", dir=_roomy(memory, 4 * kspace.nbytes)) as name:
        folder = Path(name)
        for title, array in (
            ("kspace", kspace * _modulation(kspace.shape[1:])),
            ("maps", maps),
            ("pattern", mask[None]),
        ):
            write_cfl(folder / title, array if ndim == 3 else array[:, None])  # (coil, z, y, x)
        run_bart(program, folder, *words, "kspace", "maps", "picture")
        picture = read_cfl(folder / "picture")
    wanted = (1, *mask.shape)
    if picture.size != mask.size or not np.isfinite(picture).all():
        raise DeviceError(
            f"BART's picture has shape {picture.shape} or values that are not finite; expected {wanted}.",
            "Reconstruct the scan with another method.",
        )
    status = f"BART {bart_version(program)}: ran the set number of iterations."
    return Solution(to_tensor(picture.reshape(wanted)).to(problem.kspace.device), status, n_iterations, ())


def sigpy_l1_wavelet(problem: Problem, reg_weight: float, n_iterations: int) -> Solution:
    r""":math:`\arg\min_x \tfrac12\|Ax-y\|^2 + w\|\Psi x\|_1` by SigPy's ``L1WaveletRecon``: ``db4``, no shifts, FISTA.

    The step size is given, as SigPy would estimate it from random numbers.

    Raises
    ------
    UnsupportedScan
        If the scan is not Cartesian.

    Notes
    -----
    Ong and Lustig, Proc. Intl. Soc. Mag. Reson. Med. 27, 4819 (2019); Lustig, Donoho and Pauly, Magn. Reson. Med. 58,
    1182 (2007), doi:10.1002/mrm.21391.
    """
    import sigpy
    from sigpy.mri.app import L1WaveletRecon

    kspace, maps, mask = _arrays(problem, "sigpy-l1wavelet")
    picture = L1WaveletRecon(
        kspace,
        maps,
        reg_weight,
        weights=mask.astype(np.float32),
        alpha=1.0 / problem.lipschitz,
        max_iter=n_iterations,
        show_pbar=False,
    ).run()
    status = f"SigPy {sigpy.__version__}: ran the set number of iterations."
    return Solution(to_tensor(picture[None]).to(problem.kspace.device), status, n_iterations, ())


def _modulation(shape: tuple[int, ...]) -> NDArray[np.complex64]:
    r"""What k-space is multiplied by, so that ``pics`` solves the centred problem at every size, odd ones too.

    With :math:`c = \lfloor n/2\rfloor` and :math:`m_k = e^{2\pi i c k/n - i\pi c^2/n}` on each axis, the centred
    transform is :math:`F_c = m F m`. BART 0.8.00 multiplies both maps and k-space by :math:`m`, where k-space would
    have to be divided by it. That is the same (but for a sign) where ``n`` is even, and scrambles the picture
    where it is odd.
    """
    product = np.ones((), np.complex128)
    for n in shape:
        center = n // 2
        phase = 2 * np.pi * (center * np.arange(n) / n - center**2 / (2 * n))
        product = np.multiply.outer(product, np.exp(-2j * phase))
    return product.astype(np.complex64)


def write_cfl(path: Path, array: NDArray[Any]) -> None:
    """Write an array as BART's pair of files, ``path.hdr`` and ``path.cfl``; BART's first axis is our last."""
    sizes = " ".join(str(n) for n in array.shape[::-1])
    path.with_name(f"{path.name}.hdr").write_text(f"# Dimensions\n{sizes}\n")
    np.ascontiguousarray(array, np.complex64).tofile(path.with_name(f"{path.name}.cfl"))


def read_cfl(path: Path) -> NDArray[np.complex64]:
    """Read BART's pair of files; all of its (16) axes, the first one last.

    Raises
    ------
    DeviceError
        If it is missing, or cut short as on a full disk.
    """
    try:
        sizes = [int(word) for word in path.with_name(f"{path.name}.hdr").read_text().splitlines()[1].split()]
        return np.fromfile(path.with_name(f"{path.name}.cfl"), np.complex64).reshape(sizes[::-1])
    except (OSError, ValueError, IndexError) as error:
        raise DeviceError(f"BART's result cannot be read: {error}.", "Check that the disk is not full.") from error


def run_bart(program: str, folder: Path, *words: str) -> None:
    """Run one command of BART in a folder, with as many threads as torch has.

    Raises
    ------
    ConfigError
        If the program cannot be started.
    DeviceError
        If it fails, with the last line it said.
    ConvergenceError
        If it takes longer than `TIME_LIMIT`.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    try:
        done = subprocess.run(
            [program, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConvergenceError(
            f"`{BART} {words[0]}` was stopped after {TIME_LIMIT:g} s.", "Allow fewer iterations, or more threads."
        ) from error
    except OSError as error:
        raise ConfigError(f"The program `{BART}` cannot be started: {error}.", HOW_TO_GET_BART) from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = lines[-1] if lines else "nothing"
        raise DeviceError(
            f"`{BART} {words[0]}` failed with code {done.returncode} and said: {said.rstrip('.')}.",
            "Check memory and disk space and that the program is sound (`bart version`), or choose another method.",
        )


def _arrays(problem: Problem, name: str) -> tuple[NDArray[np.complex64], NDArray[np.complex64], NDArray[np.bool_]]:
    """K-space and maps, ``(coil, [z,] y, x)``, and the mask, ``([kz,] ky, kx)``."""
    op = problem.op
    if not isinstance(op, SenseOperator):
        raise UnsupportedScan(
            f"The method {name!r} works on Cartesian scans; this one was not sampled on a grid.",
            "Choose cg-sense, l1-wavelet or tv.",
        )
    kspace, maps = (to_array(tensor[0].cpu()) for tensor in (problem.kspace, op.sens_maps))
    return kspace, maps, to_array(_mask(op, problem.kspace).cpu())


def _mask(op: SenseOperator, kspace: Tensor) -> Tensor:
    """Where it samples, ``([kz,] ky, kx)``: what is left of ones everywhere."""
    axes = tuple(range(2 - kspace.ndim, 0))
    return centred_fft(op.coil_images(torch.ones_like(kspace[:, :1])), axes)[0, 0].abs() > 0.5


def _roomy(folder: Path, n_bytes: int) -> Path | None:
    """A folder in memory, if there is one with room for files of that size; None: the system's usual place."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return None
    return folder if shutil.disk_usage(folder).free > n_bytes else None
