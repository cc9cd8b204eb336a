"""Lines of the fully sampled centre, each predicted linearly from its neighbours in all coils."""

from __future__ import annotations

import torch
from torch import Tensor

TAPS = 1  # samples to either side along the readout that a kernel reaches
LEAST_LINES = 6
_RIDGE = 1e-3


def predicted_from_neighbours(kspace: Tensor, columns: slice, rows: slice) -> Tensor | None:
    """Every inner line of the centre, from the line before and the line after it.

    One kernel for all lines, as what coils see of a bounded object obeys the same linear relation everywhere in k-space
    (GRAPPA, SPIRiT). It is fitted to all lines, each with the same weight; a few bad ones do not bend it much.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``.
    columns, rows
        The fully sampled centre.

    Returns
    -------
    ``(coil, ky, kx)``, zero where nothing is predicted; None where the centre is too small for it.

    Notes
    -----
    Lustig and Pauly, Magn. Reson. Med. 64, 457 (2010), doi:10.1002/mrm.22428.
    """
    first, last = columns.start, columns.stop
    height = rows.stop - rows.start
    n_lines = last - first - 2
    if n_lines < LEAST_LINES or height < 4 * TAPS + 4:
        return None
    block = kspace[:, rows, first:last]
    inner = slice(TAPS, height - TAPS)
    sources = torch.stack(
        [
            block[:, TAPS + tap : height - TAPS + tap, 1 + side : last - first - 1 + side]
            for side in (-1, 1)
            for tap in range(-TAPS, TAPS + 1)
        ]
    )  # (neighbour, coil, ky, line)
    wanted = block[:, inner, 1:-1]
    weight = wanted.abs().square().sum((0, 1)).clamp_min(1e-12).rsqrt()
    sources = sources.flatten(0, 1).flatten(1).mT  # (ky * line, neighbour * coil)
    weights = weight.repeat(wanted.shape[1])[:, None]
    left, right = sources * weights, wanted.flatten(1).mT * weights
    gram = left.mH @ left
    gram = gram + _RIDGE * gram.diagonal().real.mean() * torch.eye(len(gram), device=gram.device)
    kernel = torch.linalg.solve(gram, left.mH @ right)
    found = torch.zeros_like(kspace)
    middle = (sources @ kernel).mT.unflatten(1, wanted.shape[1:])
    found[:, rows.start + TAPS : rows.stop - TAPS, first + 1 : last - 1] = middle
    return found
