"""What can be said of a scan before any picture is made: coils, noise, and lines that were said to be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.scan import Scan
from mri_unroll.trust.checks import Check

# Logarithm of the noise in the corners of k-space over what the noise scan told of. Signal that reaches the corners
# raises it a little; a fault between the two scans (interference, a broken amplifier) raises it a lot.
NOISE_LIMIT, NOISE_HARD_LIMIT = math.log(2.0), math.log(3.0)
FLAT = 1.3  # power further in over that in the corner, up to which the spectrum counts as flat
LEAST_SAMPLES = 24  # of each coil, in a corner
SILENT = 1e-4  # of the median coil's energy, below which a coil gave nothing
EMPTY_LIMIT, EMPTY_HARD_LIMIT = 0.0, 0.02  # share of measured lines that are zero in all coils


@dataclass
class AcquisitionChecks:
    """Gathers over the parts of a file that are read one after the other, and then judges."""

    announced: float = 0.0
    corner: float = 0.0
    lines: int = 0
    empty: int = 0
    coils: int = 0
    silent: int = 0

    def see(self, scan: Scan) -> None:
        """Look at some slices of a scan on a grid; of other scans nothing is said here."""
        if scan.mask is None:
            return
        mask = torch.from_numpy(np.ascontiguousarray(scan.mask))
        for index in range(scan.n_slices):
            kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index]))
            where = mask[index] if mask.ndim > scan.ndim else mask
            by_line, energies = torch.zeros(where.shape[-1]), []
            for coil in kspace:  # one after the other: a volume may be large
                power = torch.where(where, coil.abs().square(), 0).flatten(0, -2).sum(0)
                by_line += power
                energies.append(float(power.sum()))
            lines = where.flatten(0, -2).any(0)
            if not bool((by_line > 0).any()):
                continue  # an empty slice is told of elsewhere
            self.lines += int(lines.sum())
            self.empty += int((lines & (by_line == 0)).sum())
            self.coils = max(self.coils, len(energies))
            self.silent = max(self.silent, int((np.array(energies) < SILENT * np.median(energies)).sum()))
            if scan.noise_cov is not None and scan.ndim == 2:
                floor = noise_floor(torch.where(where, kspace, 0), where)
                self.announced += float(np.trace(scan.noise_cov).real) if floor else 0.0
                self.corner += floor

    def judged(self) -> list[Check]:
        """The checks that there was something to make them from."""
        found = []
        if self.announced > 0:
            ratio = 0.5 * math.log(self.corner / self.announced)
            says = f"The noise is {math.exp(ratio):.1f} times what the noise scan had told of."
            found.append(Check("noise", ratio, NOISE_LIMIT, NOISE_HARD_LIMIT, says))
        if self.lines:
            share = self.empty / self.lines
            says = f"{self.empty} of {self.lines} lines that are said to be measured hold nothing but zeros."
            found.append(Check("empty_lines", share, EMPTY_LIMIT, EMPTY_HARD_LIMIT, says))
        if self.coils > 1:
            says = f"{self.silent} of {self.coils} coils gave no signal."
            found.append(Check("silent_coils", float(self.silent), 0.0, self.coils / 2, says))
        return found


def noise_floor(kspace: Tensor, mask: Tensor) -> float:
    """Noise power of a sample, summed over coils, from where there is least; 0 if unknown.

    That is a corner of k-space, if the spectrum has become flat there (what still falls towards the corner is signal),
    or, where whole lines were measured, rows of the picture beside the body, if several are alike.

    Parameters
    ----------
    kspace
        ``(coil, ky, kx)``, zero outside the mask.
    mask
        ``(ky, kx)``.
    """
    y, x = ((torch.arange(n, device=mask.device) - n // 2) / n for n in mask.shape)
    least = _beside_the_body(kspace, mask)
    for side_y, side_x in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        powers = []
        for low, high in ((0.42, 0.5), (0.34, 0.42)):
            rows, columns = (
                (side * place >= low) & (side * place <= high) for side, place in ((side_y, y), (side_x, x))
            )
            power = kspace[:, mask & rows[:, None] & columns].abs().square()
            power = power[:, (power > 0).any(0)]
            if power.shape[1] < LEAST_SAMPLES:
                break
            powers.append(float(torch.quantile(power[:, : 2**16], 0.25, dim=1).sum()) / math.log(4 / 3))
        if len(powers) == 2 and powers[1] < FLAT * powers[0] and (not least or powers[0] < least):
            least = powers[0]
    return least


def _beside_the_body(kspace: Tensor, mask: Tensor) -> float:
    """As `noise_floor`, from the rows of the picture with least power; 0 where they are not alike."""
    lines = mask.any(0)
    if not bool(lines.any()) or bool((mask[:, lines] != mask[:, lines][:, :1]).any()):
        return 0.0
    measured = mask[:, lines][:, 0].float().mean()  # of a readout that was sampled from one side, part is zero
    rows = centred_ifft(kspace[..., lines], (-2,)).abs().square().sum(0).mean(-1) / measured
    ordered = rows.sort().values
    few, more = max(2, round(0.04 * len(rows))), max(4, round(0.1 * len(rows)))
    spread = 1 / math.sqrt(int(lines.sum()) * len(kspace))  # of the mean power of a row of noise
    alike = float(ordered[more - 1]) < (FLAT + 3 * spread) * float(ordered[:few].mean())
    return float(ordered[:more].mean()) if alike else 0.0
