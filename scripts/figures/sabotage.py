"""Draw a scan as it is and with faults that were put in, each with the picture that came of it and what was said.

python scripts/figures/sabotage.py SCAN.h5 --slice 0 --accelerate 4 -o docs/gallery/sabotage.jpg
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from panels import FullScan, draw, error, picture

from mri_unroll.config import ReconstructionConfig
from mri_unroll.physics.sampling import detect_acs
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.trust.witness import Witness

Fault = Callable[[NDArray, NDArray], NDArray]  # full k-space (slice, coil, ky, kx), lines outside the centre


def moved_lines(kspace: NDArray, outside: NDArray) -> NDArray:
    return np.where(outside, np.roll(kspace, 1, axis=-1), kspace)


def swapped_coils(kspace: NDArray, outside: NDArray) -> NDArray:
    loud = np.argsort(np.square(abs(kspace)).sum((0, 2, 3)))[-2:]
    order = np.arange(kspace.shape[1])
    order[loud] = loud[::-1]
    return np.where(outside, kspace[:, order], kspace)


def ghost(kspace: NDArray, outside: NDArray) -> NDArray:
    turned = kspace.copy()
    lines = np.flatnonzero(outside)
    turned[..., lines[::2]] *= np.exp(1j)
    return turned


def motion(kspace: NDArray, outside: NDArray) -> NDArray:
    lines = np.flatnonzero(outside)
    n_ky = kspace.shape[-2]
    ramp = np.exp(-2j * np.pi * 6 * (np.arange(n_ky) - n_ky // 2) / n_ky)[:, None]
    moved = kspace.copy()
    moved[..., lines[: max(1, len(lines) // 3)]] *= ramp
    return moved


FAULTS: dict[str, Fault] = {
    "as it is": lambda kspace, outside: kspace,
    "lines outside the centre moved by one": moved_lines,
    "two coils swapped outside the centre": swapped_coils,
    "every other line turned by 1 rad": ghost,
    "moved by 6 pixels in a third of the outer lines": motion,
}


def main() -> None:
    full = FullScan(__doc__, (4,))
    scan, truth, top = full.scan, full.truth, full.top
    sound = full.undersampled(full.accelerations[0])
    assert sound.mask is not None
    mask = np.broadcast_to(sound.mask, (1, *sound.mask.shape[-2:]))[0]
    measured = mask.any(0)
    measured[detect_acs(mask)[1]] = False
    outside = np.zeros(scan.kspace.shape[-1], bool)
    outside[np.flatnonzero(measured)] = True
    pictures, errors = [], []
    for name, fault in FAULTS.items():
        faulty = np.where(mask, fault(scan.kspace, outside), 0).astype(np.complex64)
        acquired = dataclasses.replace(sound, kspace=faulty)
        witness = Witness(make_reconstructor("unrolled"), ReconstructionConfig())
        witness.watch(acquired)
        image = witness.reconstructor.reconstruct(acquired)
        verdict = witness.verdict(image)
        alarms = [check.name for check in verdict.checks if check.verdict != "go"]
        pictures.append(picture(f"{name}: {verdict.answer} ({', '.join(alarms) or 'no alarm'})", image.pixels[0], top))
        errors.append(error("", abs(image.pixels[0] - truth[0]), top / 5))
    draw([pictures, errors], full.output)


if __name__ == "__main__":
    main()
