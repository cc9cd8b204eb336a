"""Training examples: acquisitions, calibrated as scans are, with the truth that a network is to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mri_unroll.errors import InputError
from mri_unroll.nets.model import N_STRENGTH
from mri_unroll.nets.refinement import MeasuredOperator
from mri_unroll.physics.fourier import use_engine
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.sampling import varies_along
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.training.dataset import Scans
from mri_unroll.training.self_supervision import HeldOutExample, hold_out, moved, split_samples
from mri_unroll.training.simulate import Acquisition


@dataclass(frozen=True, slots=True, eq=False)
class Supervised:
    """A forward problem with its truth, batch of one, in units of its scale."""

    op: LinearOperator
    adjoint_kspace: Tensor  # (1, y, x)
    strength: Tensor  # (1, n_strength)
    coil_combined: Tensor  # (1, y, x)
    rss: Tensor  # (1, y, x)
    body: Tensor  # (1, y, x)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Example(Supervised):
    """A calibrated acquisition with its truth."""

    op: SenseOperator | MeasuredOperator  # the second for a network that refines coil maps
    mask: Tensor  # (1, 1, ky or 1, kx)
    coil_images: Tensor  # (1, coil, y, x), or (1, 0, y, x) where no loss compares coils

    def to(self, device: torch.device) -> Example:
        """The same on another device."""
        if self.adjoint_kspace.device == device:
            return self
        pictures = (self.adjoint_kspace, self.strength, self.coil_combined, self.rss, self.body)
        rest = (x.to(device) for x in (*pictures, self.mask, self.coil_images))
        return Example(moved(self.op, self.mask, device), *rest)


def random_noise_kept(rng: np.random.Generator) -> float:
    """Share of the noise that the truth of an example holds: mostly all, as in a scan that was sampled fully."""
    return float(rng.choice([1.0, 0.0, rng.random()], p=[0.6, 0.2, 0.2]))


def random_rows(body: Tensor, strip: int, rng: np.random.Generator) -> slice:
    """As many rows as ``strip`` says, at random, near what is occupied by a body ``(y, x)``."""
    n_rows = body.shape[0]
    occupied = body.any(-1).nonzero().flatten()
    low, high = (int(occupied[0]), int(occupied[-1])) if occupied.numel() else (0, n_rows - 1)
    first = int(rng.integers(max(0, low - 8), max(low - 7, min(high + 8, n_rows) - strip + 1)))
    first = min(max(first, 0), n_rows - strip)
    return slice(first, first + strip)


def prepare(
    acquisition: Acquisition,
    strip: int | None,
    rng: np.random.Generator,
    noise_kept: float,
    n_strength: int = 3,
    calibrated: CalibratedSlice | None = None,
    refines_maps: bool = False,
    with_coils: bool = False,
) -> Example:
    """Calibrate as at the scanner; keep ``strip`` random readout rows where the mask lets rows decouple.

    The truth is what full sampling would have shown, with ``noise_kept`` of its noise: samples that were measured hold
    that very noise, and a network that is to please a noisy reference learns to leave it there. The truth of a measured
    scan holds all of its noise.

    Raises
    ------
    InputError
        If there is no truth.
    """
    mask = torch.from_numpy(acquisition.mask)
    calibrated = calibrated or calibrate_slice(torch.from_numpy(acquisition.kspace), mask)
    maps = calibrated.op.sens_maps
    if acquisition.coil_images is None:
        raise InputError(
            "Expected a fully sampled scan to learn from, got an undersampled one.", 'Set supervision = "ssdu".'
        )
    if acquisition.noise_images is None:
        noise_kept, coil_images = 1.0, torch.from_numpy(acquisition.coil_images)
    else:
        coil_images = torch.from_numpy(acquisition.coil_images + np.float32(noise_kept) * acquisition.noise_images)
    coil_images = coil_images / calibrated.scale
    strength = calibrated.conditions(n_strength, noise_kept)
    adjoint_kspace = calibrated.op.adjoint(calibrated.kspace)
    coil_combined = (maps.conj() * coil_images).sum(-3)
    rss = torch.linalg.vector_norm(coil_images, dim=0)[None]
    body = torch.from_numpy(acquisition.body)[None]
    op, rows, mask = calibrated.op, slice(None), mask[None, None]
    if strip is not None and maps.shape[-2] > strip and not varies_along(acquisition.mask):
        rows = random_rows(body[0], strip, rng)
        mask = mask[:, :, :1]
        op = SenseOperator(maps[:, :, rows], mask)
        adjoint_kspace, coil_combined, rss, body = (t[:, rows] for t in (adjoint_kspace, coil_combined, rss, body))
    coil_images = coil_images[None, :, rows] if with_coils else coil_images[None, :0, rows]
    rest = (adjoint_kspace, strength, coil_combined, rss, body, mask, coil_images)
    if refines_maps:
        return Example(MeasuredOperator(op, calibrated.op.coil_images(calibrated.kspace)[:, :, rows]), *rest)
    return Example(op, *rest)


class CalibratedScans:
    """Acquisitions made ready for a training step inside the data worker: calibration runs on another core.

    Parameters
    ----------
    scans
        What is acquired.
    strip
        Readout rows to keep of scans of whole lines.
    n_strength
        Of the network.
    repeats
        Examples that are made of each acquisition.
    refines_maps
        Whether the network needs what was measured to refine coil maps.
    with_coils
        Whether the loss compares coils.
    held_out_share
        Of the measured lines, that is held out in place of a truth; None: there is one.
    """

    def __init__(
        self,
        scans: Scans,
        strip: int,
        n_strength: int,
        repeats: int,
        refines_maps: bool = False,
        with_coils: bool = False,
        held_out_share: float | None = None,
    ) -> None:
        self.scans = scans
        self.strip = strip
        self.n_strength = n_strength
        self.repeats = repeats
        self.refines_maps = refines_maps
        self.with_coils = with_coils
        self.held_out_share = held_out_share
        self._latest: tuple[int, Acquisition, CalibratedSlice] | None = None

    def __len__(self) -> int:
        return len(self.scans) * self.repeats

    def __getitem__(self, index: int) -> Example | HeldOutExample:
        rng = np.random.default_rng([self.scans.seed, index, 1])
        with torch.no_grad(), use_engine("torch"):
            if self.held_out_share is not None:
                acquisition, calibrated = self._acquired(index // self.repeats)
                return split(
                    acquisition, calibrated, self.held_out_share, self.strip, rng, self.n_strength, self.refines_maps
                )
            noise_kept = random_noise_kept(rng) if self.n_strength > N_STRENGTH else 0.0
            acquisition, calibrated = self._acquired(index // self.repeats)
            return prepare(
                acquisition,
                self.strip,
                rng,
                noise_kept,
                self.n_strength,
                calibrated,
                self.refines_maps,
                self.with_coils,
            )

    def _acquired(self, index: int) -> tuple[Acquisition, CalibratedSlice]:
        if self._latest is None or self._latest[0] != index:
            acquisition = self.scans[index]
            mask = torch.from_numpy(acquisition.mask)
            self._latest = index, acquisition, calibrate_slice(torch.from_numpy(acquisition.kspace), mask)
        return self._latest[1:]


def split(
    acquisition: Acquisition,
    calibrated: CalibratedSlice,
    share: float,
    strip: int | None,
    rng: np.random.Generator,
    n_strength: int = 3,
    refines_maps: bool = False,
) -> HeldOutExample:
    """Hold out a random share of what was measured; keep ``strip`` random rows where the mask lets rows decouple."""
    given, held_out = split_samples(acquisition.mask, share, rng)
    rows = None
    if strip is not None and acquisition.mask.shape[0] > strip and not varies_along(acquisition.mask):
        rows = random_rows(torch.from_numpy(acquisition.body), strip, rng)
    return hold_out(calibrated, given, held_out, n_strength, rows, refines_maps)
