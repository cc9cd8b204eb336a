"""Training examples: simulated acquisitions, calibrated as scans are, with the truth that a network is to give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mri_unroll.nets.model import N_STRENGTH
from mri_unroll.nets.refinement import MeasuredOperator
from mri_unroll.physics.fourier import use_engine
from mri_unroll.physics.sampling import varies_along
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.training.dataset import SimulatedScans
from mri_unroll.training.simulate import Acquisition


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A calibrated acquisition with its truth, batch of one, in units of its scale."""

    op: SenseOperator | MeasuredOperator  # the second for a network that refines coil maps
    adjoint_kspace: Tensor  # (1, y, x)
    strength: Tensor  # (1, n_strength)
    coil_combined: Tensor  # (1, y, x)
    rss: Tensor  # (1, y, x)
    body: Tensor  # (1, y, x)


def random_noise_kept(rng: np.random.Generator) -> float:
    """Share of the noise that the truth of an example holds: mostly all, as in a scan that was sampled fully."""
    return float(rng.choice([1.0, 0.0, rng.random()], p=[0.6, 0.2, 0.2]))


def prepare(
    acquisition: Acquisition,
    strip: int | None,
    rng: np.random.Generator,
    noise_kept: float,
    n_strength: int = 3,
    calibrated: CalibratedSlice | None = None,
    refines_maps: bool = False,
) -> Example:
    """Calibrate as at the scanner; keep ``strip`` random readout rows where the mask lets rows decouple.

    The truth is what full sampling would have shown, with ``noise_kept`` of its noise: samples that were measured hold
    that very noise, and a network that is to please a noisy reference learns to leave it there.
    """
    mask = torch.from_numpy(acquisition.mask)
    calibrated = calibrated or calibrate_slice(torch.from_numpy(acquisition.kspace), mask)
    maps = calibrated.op.sens_maps
    coil_images = torch.from_numpy(acquisition.coil_images + np.float32(noise_kept) * acquisition.noise_images)
    coil_images = coil_images / calibrated.scale
    strength = torch.cat([calibrated.strength, torch.full((1, 1), noise_kept)], dim=1)[:, :n_strength]
    adjoint_kspace = calibrated.op.adjoint(calibrated.kspace)
    coil_combined = (maps.conj() * coil_images).sum(-3)
    rss = torch.linalg.vector_norm(coil_images, dim=0)[None]
    body = torch.from_numpy(acquisition.body)[None]
    op, n_rows, rows = calibrated.op, maps.shape[-2], slice(None)
    if strip is not None and n_rows > strip and not varies_along(acquisition.mask):
        occupied = body[0].any(-1).nonzero().flatten()
        low, high = (int(occupied[0]), int(occupied[-1])) if occupied.numel() else (0, n_rows - 1)
        first = int(rng.integers(max(0, low - 8), max(low - 7, min(high + 8, n_rows) - strip + 1)))
        first = min(max(first, 0), n_rows - strip)
        rows = slice(first, first + strip)
        op = SenseOperator(maps[:, :, rows], mask[None, None, :1])
        adjoint_kspace, coil_combined, rss, body = (t[:, rows] for t in (adjoint_kspace, coil_combined, rss, body))
    if refines_maps:
        measured = MeasuredOperator(op, calibrated.op.coil_images(calibrated.kspace)[:, :, rows])
        return Example(measured, adjoint_kspace, strength, coil_combined, rss, body)
    return Example(op, adjoint_kspace, strength, coil_combined, rss, body)


class CalibratedScans:
    """`SimulatedScans` made ready for a training step inside the data worker: calibration runs on another core."""

    def __init__(
        self, scans: SimulatedScans, strip: int, n_strength: int, repeats: int, refines_maps: bool = False
    ) -> None:
        self.scans = scans
        self.strip = strip
        self.n_strength = n_strength
        self.repeats = repeats
        self.refines_maps = refines_maps
        self._latest: tuple[int, Acquisition, CalibratedSlice] | None = None

    def __len__(self) -> int:
        return len(self.scans) * self.repeats

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng([self.scans.seed, index, 1])
        with torch.no_grad(), use_engine("torch"):
            noise_kept = random_noise_kept(rng) if self.n_strength > N_STRENGTH else 0.0
            acquisition, calibrated = self._acquired(index // self.repeats)
            return prepare(acquisition, self.strip, rng, noise_kept, self.n_strength, calibrated, self.refines_maps)

    def _acquired(self, index: int) -> tuple[Acquisition, CalibratedSlice]:
        if self._latest is None or self._latest[0] != index:
            acquisition = self.scans[index]
            mask = torch.from_numpy(acquisition.mask)
            self._latest = index, acquisition, calibrate_slice(torch.from_numpy(acquisition.kspace), mask)
        return self._latest[1:]
