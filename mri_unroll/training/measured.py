"""Raw k-space as training data: folders of fastMRI-style files, undersampled anew at every step.

NumPy only: data workers stay free of torch and sigpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.fft import fft, fftshift, ifft, ifftshift
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mri_unroll.errors import InputError
from mri_unroll.io import fastmri
from mri_unroll.io.fastmri_contents import read_contents
from mri_unroll.io.hdf5 import open_checked
from mri_unroll.physics.readout import is_turned
from mri_unroll.physics.sampling import effective_acceleration
from mri_unroll.scan import Scan
from mri_unroll.training.simulate import Acquisition, Turn, centred_fft2, centred_ifft2, random_mask

MAX_COILS = 12  # as the calibration; its compression must be the reference's too


@dataclass(frozen=True, slots=True)
class MeasuredVolume:
    """A file of raw k-space."""

    path: Path
    n_slices: int
    person: str  # as the file names the person; empty where it does not. It goes no further than the split.


class _Slices(Protocol):
    @property
    def path(self) -> Path: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...


def survey(files: Sequence[Path]) -> list[MeasuredVolume]:
    """What fastMRI-style files hold, from their headers.

    Raises
    ------
    InputError
        If one cannot be read; see `mri_unroll.io.fastmri`.
    """
    found = []
    for path in files:
        with open_checked(path) as file:
            contents = read_contents(file, path)
        person = contents.patient.patient_id if contents.patient else ""
        found.append(MeasuredVolume(path, contents.shape[0], person))
    return found


class MeasuredScans:
    """Endless, indexable acquisitions from raw k-space: item ``i`` is the same in every run, process and resume.

    A fully sampled slice is undersampled by a random mask; what it showed fully sampled, with its noise, is the
    reference. Volumes are drawn equally often, whatever their number of slices.

    Parameters
    ----------
    volumes
        Files and slices.
    seed, length
        Of the sequence.
    needs_reference
        Refuse scans that were undersampled by the scanner; else they come as they are, without a reference.
    turn
        Rotates and zooms the coil images a little before they are undersampled; None: as measured.
    """

    def __init__(
        self, volumes: Sequence[_Slices], seed: int, length: int, needs_reference: bool, turn: Turn | None = None
    ) -> None:
        self.volumes = volumes
        self.seed = seed
        self.length = length
        self.needs_reference = needs_reference
        self.turn = turn

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Acquisition:
        rng = np.random.default_rng([self.seed, index])
        for _ in range(100):
            volume = self.volumes[int(rng.integers(len(self.volumes)))]
            number = int(rng.integers(volume.first, volume.last))
            scan = fastmri.read(volume.path, slice(number, number + 1))
            if scan.kspace.any():
                return self._acquired(scan, rng, volume.path.name)
        raise InputError("A hundred slices of the training data, drawn at random, held no signal.", "Check the files.")

    def _acquired(self, scan: Scan, rng: np.random.Generator, title: str) -> Acquisition:
        kspace, measured = without_oversampling(scan)
        lines = np.flatnonzero(measured.any(0))
        if not measured[:, lines[0] : lines[-1] + 1].all():
            if self.needs_reference:
                raise InputError(
                    f"{title} is {effective_acceleration(measured):.1f}-fold undersampled: it holds no reference.",
                    'Set supervision = "ssdu", or leave the file out.',
                )
            return Acquisition(kspace, measured, None, None, body_of(centred_ifft2(kspace)))
        if self.turn is not None:
            kspace = centred_fft2(self.turn(centred_ifft2(kspace), rng)).astype(np.complex64) * measured
        mask = random_mask((kspace.shape[1], kspace.shape[2]), rng) & measured
        given = np.where(mask, kspace, np.complex64(0))
        if len(kspace) > MAX_COILS:
            compression = strongest_coils(given, MAX_COILS)
            given, kspace = (np.tensordot(compression, x, 1).astype(np.complex64) for x in (given, kspace))
        coil_images = centred_ifft2(kspace)
        return Acquisition(given, mask, coil_images.astype(np.complex64), None, body_of(coil_images))


def without_oversampling(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """K-space and mask of a slice, its rows outside the final field of view cut off where lines were read whole.

    Lines along the last axis are turned, as reconstruction turns them.
    """
    kspace, mask = scan.kspace[0], scan.mask
    assert mask is not None  # fastMRI's layout is a grid
    mask, wanted = mask if mask.ndim == 2 else mask[0], scan.geometry.recon_shape[0]
    if is_turned(mask):
        kspace, mask, wanted = kspace.swapaxes(-2, -1), mask.T, scan.geometry.recon_shape[1]
    n = kspace.shape[1]
    if wanted >= n or (mask != mask[:1]).any():
        return kspace, mask
    rows = fftshift(ifft(ifftshift(kspace, axes=1), axis=1, norm="ortho"), axes=1)
    rows = rows[:, (n - wanted) // 2 : (n - wanted) // 2 + wanted]
    kspace = fftshift(fft(ifftshift(rows, axes=1), axis=1, norm="ortho"), axes=1).astype(np.complex64)
    return kspace, mask[:wanted]


def strongest_coils(kspace: NDArray[np.complex64], n_coils: int) -> NDArray[np.complex64]:
    """The matrix ``(n_coils, coil)`` that keeps most energy of ``(coil, ky, kx)`` in as many virtual coils."""
    samples = kspace.reshape(len(kspace), -1)
    _, vectors = np.linalg.eigh(samples @ samples.conj().T)
    return vectors[:, ::-1][:, :n_coils].conj().T.astype(np.complex64)


def body_of(coil_images: NDArray[np.complexfloating]) -> NDArray[np.bool_]:
    """Where there is tissue, ``(y, x)``, by the smoothed root sum of squares of ``(coil, y, x)``."""
    rss = np.linalg.norm(coil_images, axis=0)
    return gaussian_filter(rss, 3) > 0.08 * np.percentile(rss, 97)
