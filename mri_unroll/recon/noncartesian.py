"""Where data that lie on no grid meet physics: spokes, spirals or any samples become a scaled forward problem.

Samples are weighted by the grid cells that each stands for, at most one: where samples crowd they share a cell, where
they are far apart each counts in full. Thus :math:`A^H A` acts as a sampling mask does on a grid, near 1 where k-space
is fully sampled and near the density where it is not, and every method and network for grids has meaning here too.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, KDTree
from torch import Tensor

from mri_unroll.errors import UnsupportedScan
from mri_unroll.physics.fourier import centred_fft
from mri_unroll.physics.linop import operator_norm
from mri_unroll.physics.nufft import NufftOperator
from mri_unroll.physics.trajectory import density_compensation
from mri_unroll.recon.calibrate import (
    ACS_LIMIT,
    FALLBACK,
    MAX_COILS,
    MIN_ACS,
    CalibratedProblem,
    coil_maps,
    compressed,
    few_samples,
    middle,
    near_one,
    noise_of,
)
from mri_unroll.solvers.cg import cg

_NYQUIST = 0.6  # cycles: how far along an axis the nearest sample may be; half a cycle on a grid, and some slack
_MARGIN = 8  # grid points around the calibration block that take up what its border cannot explain
_NORM_SLACK = 1.02  # power iteration approaches the norm from below


@dataclass(frozen=True, slots=True, eq=False)
class SampledTrajectory:
    """A trajectory and what follows from it alone; made once, used by every slice."""

    coordinates: Tensor  # (sample, ndim), cycles per encoded field of view
    shape: tuple[int, ...]  # encoded picture, ([z,] y, x)
    weights: Tensor  # (sample,) grid cells that each sample stands for, at most 1: density compensation
    lipschitz: float  # of the gradient of the data term: the squared norm of A
    dense_side: int  # samples a side of the centre block that is sampled as densely as Nyquist asks for
    acceleration: float  # grid points inside the outline of the trajectory for each one measured, at least 1
    sampled_fraction: float  # grid points measured, of those of the whole grid


def sampled_trajectory(coordinates: NDArray[np.float32], shape: tuple[int, ...]) -> SampledTrajectory:
    """Density, Nyquist radius and norm of a trajectory; the last few are remembered.

    Parameters
    ----------
    coordinates
        ``(sample, ndim)``, cycles per encoded field of view.
    shape
        Pixels of the encoded field of view, ``([z,] y, x)``.
    """
    coordinates = np.ascontiguousarray(coordinates, dtype=np.float32)
    return _sampled_trajectory(coordinates.tobytes(), shape)


@functools.lru_cache(maxsize=4)
def _sampled_trajectory(raw: bytes, shape: tuple[int, ...]) -> SampledTrajectory:
    limits = np.array(shape, dtype=np.float32) / 2
    points = np.frombuffer(raw, dtype=np.float32).reshape(-1, len(shape)).clip(-limits, limits)  # rounding goes beyond
    if np.linalg.matrix_rank(points - points.mean(axis=0)) < len(shape):
        raise UnsupportedScan(
            f"The trajectory does not extend in all {len(shape)} dimensions: no such picture can be made from it.",
            "Check how the coordinates were stored.",
        )
    coordinates = torch.from_numpy(points)
    weights = torch.from_numpy(density_compensation(points, shape)).clamp_max(1.0).to(torch.float32)
    measured = float(weights.sum())
    everywhere = torch.ones(1, *shape, dtype=torch.complex64)
    # One coil that sees everything: coil maps of unit norm cannot raise the norm.
    norm = _NORM_SLACK * float(operator_norm(NufftOperator(everywhere, coordinates, weights), everywhere[0], 15))
    return SampledTrajectory(
        coordinates=coordinates,
        shape=shape,
        weights=weights,
        lipschitz=max(norm, 1.0) ** 2,
        dense_side=_dense_side(points, shape),
        acceleration=max(1.0, ConvexHull(points).volume / measured),
        sampled_fraction=min(1.0, measured / math.prod(shape)),
    )


def _dense_side(points: NDArray[np.float32], shape: tuple[int, ...]) -> int:
    """Side of the largest centre block, at most `ACS_LIMIT`, in which no point is far from all samples."""
    halves = [min(ACS_LIMIT // 2, (n - 1) / 2) for n in shape]
    grid = np.stack(np.meshgrid(*(np.arange(-2 * half, 2 * half + 1) / 2 for half in halves), indexing="ij"), axis=-1)
    distance, _ = KDTree(points).query(grid, p=np.inf, distance_upper_bound=1.0)
    holes = np.abs(grid[distance > _NYQUIST]).max(axis=-1)
    return ACS_LIMIT if holes.size == 0 else max(0, math.ceil(2 * float(holes.min())) - 1)


def calibrate_samples(
    kspace: Tensor, trajectory: SampledTrajectory, *, max_coils: int = MAX_COILS
) -> CalibratedProblem[NufftOperator]:
    """Estimate coil maps, scale and noise from samples that lie on no grid, in two or three dimensions.

    The calibration block on the grid is the least-squares fit to the central samples; from there on all is as in
    `calibrate.calibrate_slice`.

    Parameters
    ----------
    kspace
        Complex ``(coil, sample)``, any units.
    trajectory
        Where the samples lie.
    max_coils
        More are compressed to as many virtual coils.
    """
    kspace, magnitude = near_one(kspace)
    kspace = compressed(kspace, max_coils)
    reliable = trajectory.dense_side >= MIN_ACS
    calibration = calibration_block(kspace, trajectory, trajectory.dense_side if reliable else FALLBACK)
    sens_maps, scale = coil_maps(calibration, trajectory.shape, reliable)
    weights = trajectory.weights.to(kspace.device)
    return CalibratedProblem(
        op=NufftOperator(sens_maps[None], trajectory.coordinates, weights),
        kspace=kspace[None] * (weights.sqrt() / scale),
        scale=scale * magnitude,
        noise_level=_noise(kspace, trajectory) / scale,
        sampled_fraction=trajectory.sampled_fraction,
        lipschitz=trajectory.lipschitz,
        warnings=() if reliable else few_samples(trajectory.dense_side, kspace.shape[0]),
    )


def calibration_block(kspace: Tensor, trajectory: SampledTrajectory, side: int) -> Tensor:
    """Centre of k-space on the grid, ``(coil, [nz,] ny, nx)``, fitted to the samples around it.

    Parameters
    ----------
    kspace
        ``(coil, sample)``.
    trajectory
        Where the samples lie.
    side
        Grid points along each axis, fewer where the picture has fewer.
    """
    ndim = len(trajectory.shape)
    small = tuple(min(n, side + 2 * _MARGIN) for n in trajectory.shape)
    reach = torch.tensor(small) / 2
    inside = ((trajectory.coordinates >= -reach) & (trajectory.coordinates < reach)).all(-1)
    weights = trajectory.weights[inside].to(kspace.device)
    everywhere = kspace.new_ones(1, *small)
    op = NufftOperator(everywhere, trajectory.coordinates[inside], weights)
    measured = kspace[:, inside.to(kspace.device), None].movedim(-1, 1) * weights.sqrt()
    # The ridge only holds down what few samples near the border of the block say nothing of.
    images = cg(lambda x: op.normal(x) + 1e-4 * x, op.adjoint(measured), n_iterations=20, tolerance=1e-3, ndim=ndim)
    block = centred_fft(images.value, tuple(range(-ndim, 0)))
    return block[:, *middle(small, [side] * ndim)].contiguous()


def gridded(kspace: Tensor, trajectory: SampledTrajectory) -> tuple[Tensor, float]:
    """Density-compensated adjoint: root sum of squares of the coil images, and how far their k-space is from the data.

    Parameters
    ----------
    kspace
        ``(coil, sample)``.
    trajectory
        Where the samples lie.

    Returns
    -------
    picture
        ``([z,] y, x)``, in the units of ``kspace``.
    residual
        Relative, weighted by density compensation.
    """
    root = trajectory.weights.to(kspace.device).sqrt()
    op = NufftOperator(kspace.new_ones(1, *trajectory.shape), trajectory.coordinates, root.square())
    power, error = torch.zeros((), device=kspace.device), 0.0
    for coil in kspace:  # one by one: all coil images of a volume may not fit
        measured = (coil * root)[None]
        image = op.adjoint(measured)
        power = power + image.abs().square()
        error += float((op.forward(image) - measured).abs().square().sum())
    total = float((kspace * root).abs().square().sum())
    return power.sqrt(), math.sqrt(error / total) if total > 0 else math.nan


def _noise(kspace: Tensor, trajectory: SampledTrajectory) -> float:
    """Noise of one sample at Nyquist density, from the outermost samples: where they lie closer, they average."""
    reach = trajectory.coordinates / (torch.tensor(trajectory.shape) / 2)
    outermost = reach.square().sum(-1).argsort(stable=True)[-max(1, len(reach) // 16) :]
    averaged = math.sqrt(float(trajectory.weights.square().sum() / trajectory.weights.sum()))
    return averaged * noise_of(kspace[:, outermost.to(kspace.device)].abs().square())
