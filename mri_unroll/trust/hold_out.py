"""Samples that are left out on purpose, so that they can be predicted and the prediction held against them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.sampling import detect_acs, varies_along
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import CalibratedSlice, middle

OUTER_SHARE = 0.2  # of the samples outside the fully sampled centre
INNER_PERIOD = 5  # one of so many lines of the centre: alone among its neighbours, and so easy to predict
KEPT_MIDDLE = 1  # lines on either side of zero frequency that are never left out: they hold the contrast
REDUCTION = 3  # of the readout resolution of the low-resolution problem
LEAST_ROWS = 64  # readout rows of the low-resolution problem, at least


def left_out(mask: NDArray[np.bool_], seed: int = 0) -> NDArray[np.bool_]:
    """Which of the measured samples to leave out: lines where whole lines were measured, else single samples.

    In the fully sampled centre a line is left out alone, between neighbours, so that it can be predicted well: what
    does not fit there is a fault. Outside it is drawn at random: how badly it is predicted tells how badly samples that
    were never measured are.

    Parameters
    ----------
    mask
        ``(ky, kx)``, True where measured.
    seed
        Of the draw; the same scan always leaves out the same samples.

    Returns
    -------
    ``(ky, kx)``, True where left out; nowhere if too little was measured.
    """
    random = np.random.default_rng(seed)
    rows, columns = detect_acs(mask)
    if varies_along(mask):
        inner = np.zeros_like(mask)
        inner[rows, columns] = True
        phase = int(random.integers(INNER_PERIOD))
        y, x = np.indices(mask.shape)
        lattice = (x + 2 * y) % INNER_PERIOD == phase  # a lattice on which no two samples touch
        chosen = np.where(inner, lattice, random.random(mask.shape) < OUTER_SHARE)
        far = (np.abs(y - mask.shape[0] // 2) > KEPT_MIDDLE) | (np.abs(x - mask.shape[1] // 2) > KEPT_MIDDLE)
        return mask & chosen & far
    lines, width = mask.any(axis=0), mask.shape[1]
    centre = np.zeros(width, dtype=np.bool_)
    centre[columns] = True
    position = np.arange(width)
    among = np.flatnonzero(centre & (np.abs(position - width // 2) > KEPT_MIDDLE))
    # An edge of the centre may have no neighbour beyond it.
    among = among[(among > columns.start) & (among < columns.stop - 1)]
    outer = np.flatnonzero(lines & ~centre)
    chosen = np.zeros(width, dtype=np.bool_)
    if len(among):
        chosen[among[int(random.integers(min(INNER_PERIOD, len(among)))) :: INNER_PERIOD]] = True
    count = round(OUTER_SHARE * len(outer))
    if count:  # spread over all frequencies: one out of each run of neighbours
        chosen[[int(random.choice(run)) for run in np.array_split(outer, count)]] = True
    return mask & chosen


def at_low_resolution(problem: CalibratedSlice) -> CalibratedSlice:
    """The same scan with a third of the readout resolution, which keeps how it aliases and thirds the work.

    K-space is cut along the readout, which is exact; coil maps are smooth and are resampled. Pictures keep their
    brightness.
    """
    rows = problem.kspace.shape[-2]
    kept = max(min(rows, LEAST_ROWS), rows // REDUCTION)
    if kept == rows:
        return problem
    block = middle((rows,), (kept,))[0]
    factor = (kept / rows) ** 0.5
    mask = problem.op.mask[block]
    maps = resampled_rows(problem.op.sens_maps, kept)
    maps = maps / torch.linalg.vector_norm(maps, dim=-3, keepdim=True).clamp_min(1e-6)
    return replace(
        problem,
        op=SenseOperator(maps, mask[None, None]),
        kspace=problem.kspace[..., block, :] * factor,
        noise_level=problem.noise_level * factor,
        sampled_fraction=float(mask.float().mean()),
        unmeasured_noise=problem.unmeasured_noise * factor**2,
        corner_noise=problem.corner_noise * factor,
    )


def with_samples(problem: CalibratedSlice, given: Tensor) -> CalibratedSlice:
    """The problem with only the samples ``given``, boolean ``(ky, kx)``."""
    return replace(
        problem,
        op=SenseOperator(problem.op.sens_maps, given[None, None]),
        kspace=torch.where(given, problem.kspace, 0),
        sampled_fraction=float(given.float().mean()),
    )


def resampled_rows(picture: Tensor, n_rows: int) -> Tensor:
    """Smooth pictures ``(..., y, x)`` on another number of rows, by linear interpolation about pixel ``n // 2``."""
    rows = picture.shape[-2]
    place = (torch.arange(n_rows, device=picture.device) - n_rows // 2) * (rows / n_rows) + rows // 2
    place = place.clamp(0, rows - 1)
    low = place.floor().long().clamp(max=max(rows - 2, 0))
    share = (place - low).to(picture.real.dtype if picture.is_complex() else picture.dtype)[:, None]
    return picture[..., low, :] * (1 - share) + picture[..., (low + 1).clamp(max=rows - 1), :] * share


def low_pass_rows(picture: Tensor, n_rows: int) -> Tensor:
    """A complex picture ``(..., y, x)`` cut to ``n_rows`` readout frequencies; its brightness stays."""
    rows = picture.shape[-2]
    if rows == n_rows:
        return picture
    block = middle((rows,), (n_rows,))[0]
    return centred_ifft(centred_fft(picture, (-2,))[..., block, :], (-2,)) * (n_rows / rows) ** 0.5
