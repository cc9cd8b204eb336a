r"""Learning without a reference: some of the measured samples are held out and predicted from the others.

The measured samples are split in two: the network reconstructs from the one part, and its loss is the error of its
picture's k-space at the other. Yaman et al., Magn. Reson. Med. 84, 3172 (2020), doi:10.1002/mrm.28378 (SSDU). There
samples are split; here whole lines are where whole lines were measured, so that rows of the picture stay decoupled, and
they are drawn evenly. Coil maps, scale and noise level are estimated from all that was measured, as there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.errors import InputError
from mri_unroll.nets.refinement import MeasuredOperator
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.sampling import varies_along
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import CalibratedSlice
from mri_unroll.training.losses import kspace_loss

CENTRE = 4  # lines, or sides of the block, around zero frequency that are never held out


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutExample:
    """A problem from a part of what was measured, and the rest of it to be predicted; batch of one."""

    op: SenseOperator | MeasuredOperator
    adjoint_kspace: Tensor  # (1, y, x)
    strength: Tensor  # (1, n_strength)
    mask: Tensor  # of `op`, (1, 1, ky or 1, kx)
    held_out_mask: Tensor  # the same of the samples that are held out
    held_out: Tensor  # those samples, (1, coil, ky, kx), zero elsewhere

    @property
    def held_out_op(self) -> SenseOperator:
        """The operator of the samples that are held out."""
        return SenseOperator(self.op.sens_maps, self.held_out_mask)

    def loss(self, image: Tensor) -> Tensor:
        """`kspace_loss` of a picture at the samples held out."""
        return kspace_loss(self.held_out_op.forward(image), self.held_out)

    @torch.no_grad()
    def error(self, image: Tensor) -> float:
        """Squared error of a picture at the samples held out, over their energy."""
        error = (self.held_out_op.forward(image) - self.held_out).abs().square().sum(dtype=torch.float64)
        return float(error / self.held_out.abs().square().sum(dtype=torch.float64).clamp_min(1e-30))

    def to(self, device: torch.device) -> HeldOutExample:
        """The same on another device."""
        if self.adjoint_kspace.device == device:
            return self
        return HeldOutExample(
            moved(self.op, self.mask, device),
            self.adjoint_kspace.to(device),
            self.strength.to(device),
            self.mask.to(device),
            self.held_out_mask.to(device),
            self.held_out.to(device),
        )


def split_samples(
    mask: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split the measured samples at random: those that are given, and those that are held out.

    Parameters
    ----------
    mask
        ``(ky, kx)``, True where measured. Of whole lines, lines are split; else samples.
    share
        Of the measured lines or samples that is held out, 0..1, at least one; the `CENTRE` never is.
    rng
        Decides which.

    Returns
    -------
    Two masks ``(ky, kx)`` that share no sample and together are ``mask``.

    Raises
    ------
    InputError
        If nothing was measured beyond the centre.
    """
    measured = mask if varies_along(mask) else mask[:1]  # (ky, kx), or (1, kx) of whole lines
    free = measured.copy()
    free[tuple(slice(n // 2 - CENTRE // 2, n // 2 + CENTRE // 2) if n > 1 else slice(None) for n in free.shape)] = False
    candidates = np.flatnonzero(free)
    if not candidates.size:
        raise InputError(
            f"Expected measured lines beyond the central {CENTRE}, to hold some of them out; there are none.",
            "Learning without a reference needs more of k-space.",
        )
    count = min(max(1, round(share * np.count_nonzero(measured))), candidates.size)
    chosen = np.zeros(free.size, dtype=bool)
    chosen[rng.choice(candidates, size=count, replace=False)] = True
    held_out = mask & chosen.reshape(free.shape)
    return mask & ~held_out, held_out


def hold_out(
    problem: CalibratedSlice,
    given: NDArray[np.bool_],
    held_out: NDArray[np.bool_],
    n_strength: int,
    rows: slice | None = None,
    refines_maps: bool = False,
) -> HeldOutExample:
    """The problem of reconstructing from some of the measured samples, to be judged at others.

    Parameters
    ----------
    problem
        Calibrated with all that was measured.
    given, held_out
        Masks ``(ky, kx)``, see `split_samples`.
    n_strength
        Of the network; as in a scan that was measured, all noise is to be kept.
    rows
        Readout rows to keep, where whole lines were measured; None: all.
    refines_maps
        Whether the network needs a `MeasuredOperator`.
    """
    maps, kspace = problem.op.sens_maps, problem.kspace
    strength = replace(problem, sampled_fraction=float(given.mean())).conditions(n_strength)
    if rows is not None:
        maps, given, held_out = maps[:, :, rows], given[:1], held_out[:1]
        kspace = centred_fft(centred_ifft(kspace, (-2,))[:, :, rows], (-2,))
    masks = [torch.from_numpy(mask).to(maps.device)[None, None] for mask in (given, held_out)]
    op = SenseOperator(maps, masks[0])
    return HeldOutExample(
        op=MeasuredOperator(op, op.coil_images(kspace)) if refines_maps else op,
        adjoint_kspace=op.adjoint(kspace),
        strength=strength,
        mask=masks[0],
        held_out_mask=masks[1],
        held_out=torch.where(masks[1], kspace, 0),
    )


def moved(op: SenseOperator | MeasuredOperator, mask: Tensor, device: torch.device) -> SenseOperator | MeasuredOperator:
    """An operator on another device, from its mask."""
    there = SenseOperator(op.sens_maps.to(device), mask.to(device))
    return MeasuredOperator(there, op.coil_images.to(device)) if isinstance(op, MeasuredOperator) else there
