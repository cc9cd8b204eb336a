"""Methods without training: root sum of squares, least squares, wavelet sparsity, total variation."""

from __future__ import annotations

import numpy as np
import sigpy
import torch
from torch import Tensor

from mri_unroll.image import Image
from mri_unroll.physics.bridge import to_array, to_tensor
from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.recon.calibrate import AnyProblem, near_one
from mri_unroll.recon.noncartesian import SampledTrajectory, gridded
from mri_unroll.recon.parts import Part, take_apart
from mri_unroll.recon.slicewise import PartResult, Progress, quiet, run_parts
from mri_unroll.scan import Scan
from mri_unroll.solvers.cg import cg
from mri_unroll.solvers.primal_dual import condat_vu
from mri_unroll.solvers.proximal import fista
from mri_unroll.solvers.shrinkage import soft_threshold
from mri_unroll.solvers.solution import Solution

WAVELET = "db4"


class ZeroFilled:
    """Transform of what was measured, coils combined by root sum of squares; nothing to set.

    On a grid that is the inverse Fourier transform; else the adjoint transform of density-compensated samples.
    """

    name = "zero-filled"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reconstruct(self, scan: Scan, *, progress: Progress = quiet) -> Image:
        """Reconstruct a scan."""

        def reconstruct_part(part: Part) -> PartResult:
            sampling = part.sampling
            if isinstance(sampling, SampledTrajectory):
                kspace, scale = near_one(part.kspace)  # squares of 1e-30 would vanish in single precision
                picture, residual = gridded(kspace, sampling)
                status = "Density-compensated adjoint transform."
            else:
                kspace, scale = near_one(torch.where(sampling, part.kspace, 0))
                picture = torch.linalg.vector_norm(centred_ifft(kspace, tuple(range(-sampling.ndim, 0))), dim=0)
                status, residual = "Direct transform.", 0.0  # coil images agree with the measurements by construction
            return PartResult(picture * scale, status, 1, residual, scale, ())

        return run_parts(self.name, reconstruct_part, scan, take_apart(scan), self.device, {}, None, progress)


def cg_sense(problem: AnyProblem, reg_weight: float, n_iterations: int) -> Solution:
    r""":math:`\arg\min_x \|Ax-y\|^2 + w\|x\|^2` by conjugate gradients.

    Notes
    -----
    Pruessmann et al., Magn. Reson. Med. 46, 638 (2001), doi:10.1002/mrm.1241.
    """
    op = problem.op
    return cg(
        lambda x: op.normal(x) + reg_weight * x,
        op.adjoint(problem.kspace),
        n_iterations=n_iterations,
        tolerance=1e-5,
        ndim=op.image_ndim,
    )


def l1_wavelet(problem: AnyProblem, reg_weight: float, n_iterations: int) -> Solution:
    r""":math:`\arg\min_x \tfrac12\|Ax-y\|^2 + w\|\Psi x\|_1` by FISTA, ``db4`` wavelets shifted at random.

    Random circular shifts stand for a translation-invariant transform (Figueiredo and Nowak, IEEE Trans. Image Process.
    12, 906 (2003), doi:10.1109/TIP.2003.814255) at the price of one; the coarsest band is thresholded too.

    Notes
    -----
    Lustig, Donoho and Pauly, Magn. Reson. Med. 58, 1182 (2007), doi:10.1002/mrm.21391.
    """
    op = problem.op
    adjoint_kspace = op.adjoint(problem.kspace)
    dims = tuple(range(-op.image_ndim, 0))
    shape = tuple(adjoint_kspace.shape[-op.image_ndim :])
    # pywt's own packing tells where each band lies; sigpy asks for it to be handed back.
    bands = sigpy.wavelet.get_wavelet_shape(shape, WAVELET)[1]
    random = np.random.default_rng(0)
    step_size = 1.0 / problem.lipschitz

    def prox(image: Tensor) -> Tensor:
        shift = tuple(int(random.integers(8)) for _ in shape)
        moved = to_array(torch.roll(image[0], shift, dims).cpu())  # the transform runs on the CPU in any case
        coefficients = to_tensor(sigpy.fwt(moved, wave_name=WAVELET))
        kept = to_array(soft_threshold(coefficients, step_size * reg_weight))
        back = to_tensor(sigpy.iwt(kept, shape, bands, wave_name=WAVELET)).to(image)
        return torch.roll(back, tuple(-s for s in shift), dims)[None]

    return fista(lambda x: op.gradient(x, adjoint_kspace), prox, adjoint_kspace, step_size, n_iterations=n_iterations)


def total_variation(problem: AnyProblem, reg_weight: float, n_iterations: int) -> Solution:
    r""":math:`\arg\min_x \tfrac12\|Ax-y\|^2 + w\sum|\nabla x|`, isotropic and periodic, by Condat and Vu's method.

    Notes
    -----
    Block, Uecker and Frahm, Magn. Reson. Med. 57, 1086 (2007), doi:10.1002/mrm.21236.
    """
    op = problem.op
    dims = tuple(range(-op.image_ndim, 0))

    def differences(image: Tensor) -> Tensor:
        return torch.stack([image.roll(-1, dim) - image for dim in dims])

    def divergence(field: Tensor) -> Tensor:
        return sum((field[i].roll(1, dim) - field[i] for i, dim in enumerate(dims)), torch.zeros_like(field[0]))

    def project(field: Tensor) -> Tensor:
        size = torch.view_as_real(field).square().sum((0, -1), keepdim=True)[..., 0].sqrt()
        return field / (size / reg_weight).clamp_min(1.0)

    adjoint_kspace = op.adjoint(problem.kspace)
    return condat_vu(
        lambda x: op.gradient(x, adjoint_kspace),
        differences,
        divergence,
        project,
        adjoint_kspace,
        lipschitz=problem.lipschitz,
        transform_norm=(4.0 * op.image_ndim) ** 0.5,
        n_iterations=n_iterations,
    )
