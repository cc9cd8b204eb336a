"""A scan taken apart into problems that do not know of each other, each two-dimensional wherever the physics allows it.

Slices are apart from the start. A 3-D Cartesian volume falls apart along its readout, which is sampled whole: after an
inverse Fourier transform along it, each row of the readout is a plane of its own, undersampled as ``(kz, kx)`` was. A
stack of stars (or of any one planar trajectory) falls apart along its partitions. What is left stays whole.

Lines run along the first axis of a plane. Where a mask shows that they ran along the last, the plane is turned: what
follows, networks above all, knows nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.metrics import center_crop
from mri_unroll.physics.coils import low_resolution_images, prewhiten
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.readout import is_turned, readout_axis
from mri_unroll.physics.sampling import varies_along
from mri_unroll.recon.calibrate import (
    ACS_LIMIT,
    FALLBACK,
    MAX_COILS,
    Problem,
    brightness,
    calibrate_slice,
    dense_sides,
    estimate_noise,
    middle,
)
from mri_unroll.recon.noncartesian import SampledTrajectory, calibrate_samples, sampled_trajectory
from mri_unroll.scan import Scan

_SAME = 1e-3  # cycles by which positions may differ and still count as the same
_ASYMMETRIC = "The readout was sampled from one side only; the samples that are missing were taken as zero."


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What was measured of one problem."""

    kspace: Tensor  # Cartesian (coil, [kz,] ky, kx), else (coil, sample); white noise where its covariance is known
    sampling: Tensor | SampledTrajectory  # mask of k-space without coils, True where measured, or where samples lie
    scale: float | None = None  # bright tissue of the volume it belongs to; None: it stands alone
    noise: float | None = None  # standard deviation of a sample of that volume
    turned: bool = False  # the last two axes are exchanged, so that lines run along the first of them

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """``([z,] y, x)`` before cropping."""
        return self.sampling.shape if isinstance(self.sampling, SampledTrajectory) else tuple(self.kspace.shape[1:])

    @property
    def is_empty(self) -> bool:
        """Whether nothing but zeros was measured."""
        measured = self.kspace != 0
        return not bool((measured if isinstance(self.sampling, SampledTrajectory) else measured & self.sampling).any())

    def to(self, device: torch.device) -> Part:
        """The same on another device; a trajectory moves where it is used."""
        sampling = self.sampling
        moved = sampling if isinstance(sampling, SampledTrajectory) else sampling.to(device)
        return dataclasses.replace(self, kspace=self.kspace.to(device), sampling=moved)

    def upright(self, picture: Tensor) -> Tensor:
        """A picture of this part, ``(..., y, x)``, with its axes as in the scan."""
        return picture.transpose(-2, -1) if self.turned else picture

    def calibrated(self, max_coils: int = MAX_COILS) -> Problem:
        """The forward problem, with coil maps, scale and noise; of at most ``max_coils`` virtual coils."""
        if isinstance(self.sampling, SampledTrajectory):
            return calibrate_samples(self.kspace, self.sampling, max_coils=max_coils)
        return calibrate_slice(self.kspace, self.sampling, scale=self.scale, noise=self.noise, max_coils=max_coils)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The problems of a scan, and how their pictures make up the volume."""

    count: int
    take: Callable[[int], Part]
    shape: tuple[int, ...]  # of each picture after cropping: (y, x), (z, x) or (z, y, x)
    axis: int = 0  # of the volume (z, y, x) along which they lie
    warnings: tuple[str, ...] = ()

    def cropped(self, picture: Tensor) -> NDArray[np.float32]:
        """The middle of one part's picture, by fastMRI's rule."""
        pixels = center_crop(picture.cpu().numpy().astype(np.float32), (self.shape[-2], self.shape[-1]))
        return pixels[_inside(len(pixels), self.shape[0])] if pixels.ndim == 3 else pixels

    def assembled(self, pictures: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The volume ``(slice, y, x)``."""
        return np.concatenate(pictures) if len(self.shape) == 3 else np.stack(pictures, self.axis)


def take_apart(scan: Scan) -> Parts:
    """Take a scan apart as far as it goes without approximation, but for a readout that was sampled from one side."""
    geometry = scan.geometry
    if scan.ndim == 2:
        one = _planar_slice if scan.is_cartesian else _sampled_slice
        return Parts(scan.n_slices, functools.partial(one, scan), geometry.recon_shape)
    parts = (_along_readout if scan.is_cartesian else _along_partitions)(scan)
    if parts is not None:
        return parts
    shape = (geometry.n_partitions, *geometry.recon_shape)
    return Parts(scan.n_slices, functools.partial(_volume if scan.is_cartesian else _sampled_slice, scan), shape)


def _inside(n: int, length: int) -> slice:
    """The middle of an axis, which starts at ``(n - length) // 2`` by fastMRI's rule."""
    if length > n:
        raise ShapeError(f"Expected a picture no larger than what k-space covers, {n} pixels, got {length}.")
    return slice((n - length) // 2, (n - length) // 2 + length)


def _white(scan: Scan, index: int) -> Tensor:
    kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index], dtype=np.complex64))
    if scan.noise_cov is None:
        return kspace
    noise_cov = torch.from_numpy(scan.noise_cov)
    # Divided by its mean power, the covariance decorrelates the coils and leaves the picture in the scan's own units.
    flat = prewhiten(kspace.reshape(scan.n_coils, 1, -1), noise_cov / noise_cov.diagonal().real.mean())
    return flat.reshape(kspace.shape)


def _mask(scan: Scan) -> NDArray[np.bool_]:
    assert scan.mask is not None  # a Cartesian scan has one
    return scan.mask


def _planar_slice(scan: Scan, index: int) -> Part:
    """One Cartesian slice, without readout oversampling.

    Where whole lines were measured, rows of the picture decouple along the readout, and those outside the final field
    of view are cut off by inverse FFT, crop, FFT: exact, and half the work for twofold oversampling.
    """
    kspace, masks = _white(scan, index), _mask(scan)
    mask = np.array(masks if masks.ndim == 2 else masks[index])
    turned = is_turned(mask)
    n_rows = scan.geometry.recon_shape[1 if turned else 0]
    if turned:
        kspace, mask = kspace.transpose(-2, -1).contiguous(), np.ascontiguousarray(mask.T)
    if n_rows < kspace.shape[-2] and not varies_along(mask):
        rows = centred_ifft(kspace, (-2,))
        kspace = centred_fft(rows[..., _inside(kspace.shape[-2], n_rows), :], (-2,))
        mask = mask[:n_rows]
    return Part(kspace, torch.from_numpy(mask), turned=turned)


def _sampled_slice(scan: Scan, index: int) -> Part:
    """One non-Cartesian slice or volume."""
    return Part(_white(scan, index), _trajectory(scan, index))


def _trajectory(scan: Scan, index: int) -> SampledTrajectory:
    assert scan.trajectory is not None
    assert scan.geometry.encoded_shape is not None
    coordinates = scan.trajectory if scan.trajectory.ndim == 2 else scan.trajectory[index]
    return sampled_trajectory(coordinates, scan.geometry.encoded_shape)


def _volume(scan: Scan, index: int) -> Part:
    """A Cartesian volume whose mask has no order along the readout."""
    return Part(_white(scan, index), torch.from_numpy(np.array(_mask(scan))))


def _along_readout(scan: Scan) -> Parts | None:
    """The planes of both phase encodings of a Cartesian volume; None if lines were not all read alike."""
    mask = torch.from_numpy(np.array(_mask(scan)))  # (kz, ky, kx)
    axis = readout_axis(mask.numpy())
    if axis is None:
        return None
    kspace = torch.where(mask, _white(scan, 0), 0)
    if axis == 2:
        kspace, mask = (x.transpose(-2, -1).contiguous() for x in (kspace, mask))
    n_rows, n_columns = scan.geometry.recon_shape[axis - 1], scan.geometry.recon_shape[2 - axis]
    plane, read = mask.any(1), mask.any(0).any(-1)
    noise, scale = estimate_noise(kspace, mask), _volume_scale(kspace, plane)
    inside = _inside(kspace.shape[-2], n_rows)
    rows = kspace.new_empty(n_rows, *kspace.shape[:2], kspace.shape[-1])
    for coil in range(scan.n_coils):
        rows[:, coil] = centred_ifft(kspace[coil], (-2,))[:, inside].movedim(1, 0)
    turned = is_turned(plane.numpy())
    sampling = plane.T.contiguous() if turned else plane

    def take(index: int) -> Part:
        row = rows[index].transpose(-2, -1).contiguous() if turned else rows[index]
        return Part(row, sampling, scale, noise, turned)

    return Parts(
        count=n_rows,
        take=take,
        shape=(scan.geometry.n_partitions, n_columns),
        axis=axis,
        warnings=() if bool(read.all()) else (_ASYMMETRIC,),
    )


def _volume_scale(kspace: Tensor, plane: Tensor) -> float:
    """`brightness` of a whole volume, at low resolution; its planes share it."""
    height, width = dense_sides(plane)
    sides = [max(height, FALLBACK), ACS_LIMIT, max(width, FALLBACK)]
    block = kspace[:, *middle(tuple(kspace.shape[1:]), sides)]
    small = torch.linalg.vector_norm(low_resolution_images(block, tuple(block.shape[1:])), dim=0)
    # A unitary transform spreads the same samples over more pixels of a larger picture.
    return brightness(small) * math.sqrt(small.numel() / kspace[0].numel())


def _along_partitions(scan: Scan) -> Parts | None:
    """The planes of a stack of one planar trajectory; None if it is none, or some partitions were left out."""
    stack = _stack(scan)
    if stack is None or scan.geometry.encoded_shape is None:
        return None
    order, trajectory = stack
    n_planes = scan.geometry.encoded_shape[0]
    kspace = centred_ifft(_white(scan, 0)[:, torch.from_numpy(order)].unflatten(1, (n_planes, -1)), (1,))
    kspace = kspace[:, _inside(n_planes, scan.geometry.n_partitions)]
    return Parts(
        count=scan.geometry.n_partitions,
        take=lambda index: Part(kspace[:, index], trajectory),
        shape=scan.geometry.recon_shape,
    )


def _stack(scan: Scan) -> tuple[NDArray[np.intp], SampledTrajectory] | None:
    """Order of samples by partition, and the trajectory of each; None if partitions are missing or not alike."""
    assert scan.trajectory is not None
    assert scan.geometry.encoded_shape is not None
    n_planes, height, width = scan.geometry.encoded_shape
    coordinates = scan.trajectory.reshape(-1, 3)
    partition = np.rint(coordinates[:, 0]).astype(np.int64)
    planes, counts = np.unique(partition, return_counts=True)
    if (
        scan.n_slices != 1
        or np.abs(coordinates[:, 0] - partition).max() > _SAME
        or not np.array_equal(planes, np.arange(n_planes) - n_planes // 2)
        or (counts != counts[0]).any()
    ):
        return None
    order = np.argsort(partition, kind="stable")
    stack = coordinates[order, 1:].reshape(n_planes, -1, 2)
    if np.abs(stack - stack[0]).max() > _SAME:
        return None
    return order, sampled_trajectory(stack[0], (height, width))


def sampling_of(scan: Scan, index: int = 0) -> NDArray[np.bool_] | SampledTrajectory:
    """How a slice, or a volume, was sampled: a mask, of a volume that of both phase encodings, or a trajectory."""
    if scan.is_cartesian:
        mask = _mask(scan)
        if scan.ndim == 3:
            return np.asarray(mask.any(axis=readout_axis(mask) or 1))
        return mask if mask.ndim == 2 else mask[index]
    stack = _stack(scan) if scan.ndim == 3 else None
    return stack[1] if stack is not None else _trajectory(scan, index)
