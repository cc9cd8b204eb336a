"""What can be said of a scan before any picture is made: coils, noise, order, and lines that count as measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from mri_unroll.scan import Scan
from mri_unroll.trust.checks import Check
from mri_unroll.trust.middle import MiddleChecks
from mri_unroll.trust.noise import noise_over_announced

# Logarithm of the noise over what the noise scan told of. Signal that is taken for noise raises it a little; a fault
# between the two scans (interference, a broken amplifier) raises it a lot.
NOISE_LIMIT, NOISE_HARD_LIMIT = math.log(2.0), math.log(3.0)
SILENT = 1e-4  # of the median coil's energy, below which a coil gave nothing
EMPTY_LIMIT, EMPTY_HARD_LIMIT = 0.0, 0.02  # share of measured lines that are zero in all coils


@dataclass
class AcquisitionChecks:
    """Gathers over the parts of a file that are read one after the other, and then judges."""

    noise: float = 0.0  # power over what was announced, summed over slices
    noisy_slices: int = 0  # of which it is known
    lines: int = 0
    empty: int = 0
    coils: int = 0
    silent: int = 0
    middle: MiddleChecks = field(default_factory=MiddleChecks)

    def see(self, scan: Scan) -> None:
        """Look at some slices of a scan on a grid; of other scans nothing is said here."""
        if scan.mask is None:
            return
        mask = torch.from_numpy(np.ascontiguousarray(scan.mask))
        for index in range(scan.n_slices):
            kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index]))
            where = mask[index] if mask.ndim > scan.ndim else mask
            power, energies = torch.zeros(where.shape, dtype=torch.float64), []
            for coil in kspace:  # one after the other: a volume may be large
                one = torch.where(where, coil.abs().square(), 0)
                power += one
                energies.append(float(one.sum()))
            lines, by_line = where.flatten(0, -2).any(0), power.flatten(0, -2).sum(0)
            if not bool((by_line > 0).any()):
                continue  # an empty slice is told of elsewhere
            self.middle.see(kspace, where, power)
            self.lines += int(lines.sum())
            self.empty += int((lines & (by_line == 0)).sum())
            self.coils = max(self.coils, len(energies))
            self.silent = max(self.silent, int((np.array(energies) < SILENT * np.median(energies)).sum()))
            if scan.noise_cov is not None and scan.ndim == 2:
                noise = noise_over_announced(torch.where(where, kspace, 0), where, scan.noise_cov)
                self.noise += noise
                self.noisy_slices += noise > 0

    def judged(self) -> list[Check]:
        """The checks that there was something to make them from."""
        found = []
        if self.noisy_slices:
            ratio = 0.5 * math.log(self.noise / self.noisy_slices)
            says = f"The noise is {math.exp(ratio):.1f} times what the noise scan had told of."
            found.append(Check("noise", ratio, NOISE_LIMIT, NOISE_HARD_LIMIT, says))
        if self.lines:
            share = self.empty / self.lines
            says = f"{self.empty} of {self.lines} lines that are said to be measured hold nothing but zeros."
            found.append(Check("empty_lines", share, EMPTY_LIMIT, EMPTY_HARD_LIMIT, says))
        if self.coils > 1:
            says = f"{self.silent} of {self.coils} coils gave no signal."
            found.append(Check("silent_coils", float(self.silent), 0.0, self.coils / 2, says))
        return found + self.middle.judged()
