"""Scores of the checks `origin` and `wrapped` on sound scans, on k-space in the order of an FFT, and without its signs.

python scripts/trust/middle.py --count 200
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from collect import HERE, PLAIN, PLANAR, SMALL, acquire, people

from mri_unroll.config import load_toml
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.trust.middle import MiddleChecks


def main() -> None:
    """Print quantiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", choices=("train", "calibration", "test"), default="calibration")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    settings = parser.parse_args()
    settings.coarse, settings.planar, settings.plain = SMALL, PLANAR, PLAIN
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    volumes = people(settings.people, settings.data / "truth", config.held_out)
    scores: dict[str, list[float]] = {}
    alarms: dict[str, int] = {}
    for index in range(settings.count):
        acquisition, _ = acquire(volumes, "none", settings, np.random.default_rng([33, index]))
        kspace, mask = acquisition.kspace, acquisition.mask
        signs = np.where(np.indices(mask.shape).sum(0) % 2, -1, 1)
        unshifted = (np.fft.ifftshift(kspace, axes=(-2, -1)), np.fft.ifftshift(mask))
        for name, (k, m) in {"sound": (kspace, mask), "order": unshifted, "signs": (kspace * signs, mask)}.items():
            checks = MiddleChecks()
            given, where = (torch.from_numpy(np.ascontiguousarray(x)) for x in (k, m))
            checks.see(given, where, given.abs().square().sum(0))
            for check in checks.judged():
                found = f"{name}: {check.name}"
                scores.setdefault(found, []).append(check.score)
                alarms[found] = alarms.get(found, 0) + (check.verdict != "go")
    for name, values in scores.items():
        low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
        print(f"{name}: {len(values)} scans, {low:.3f} .. {middle:.3f} .. {high:.3f}, least {min(values):.3f}", end="")
        print(f", largest {max(values):.3f}, {alarms[name]} with an alarm")


if __name__ == "__main__":
    main()
