"""Compare a trained network with classical methods on one fully sampled scan, over several masks.

    python scripts/compare_methods.py SCAN.h5 --accelerate 4 --mask equispaced_fraction --seeds 5

Classical methods get, for this scan and acceleration, the best of the listed weights *by the truth*, so that nobody can
say they were handicapped; the network has no setting. Scores are means over mask seeds, for the whole picture by the
fastMRI definitions and inside the body. Nothing that this script finds may choose weights or settings of the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mri_unroll import metrics
from mri_unroll.config import ReconstructionConfig
from mri_unroll.io.registry import read_scan
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan

WEIGHTS = {
    "zero-filled": (None,),
    "cg-sense": (0.001, 0.003, 0.01, 0.03, 0.1),
    "l1-wavelet": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
    "tv": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
}
Scores = dict[str, float]


def score(scan: Scan, config: ReconstructionConfig, seeds: int) -> list[Scores]:
    """Scores of one method, one entry a seed."""
    reconstructor = make_reconstructor(config.method, config)
    reference = scan.reference
    if reference is None:
        reference = make_reconstructor("zero-filled").reconstruct(scan).pixels
    result = []
    for seed in range(seeds):
        accelerated = undersample(scan, config.mask, config.accelerate or 1.0, config.effective_center_fraction, seed)
        image = reconstructor.reconstruct(accelerated).pixels
        inside = metrics.in_body(reference, image)
        whole = {name: getattr(metrics, name)(reference, image) for name in ("nmse", "psnr", "ssim")}
        result.append(whole | {f"body_{name}": value for name, value in inside.items()})
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--accelerate", type=float, nargs="+", default=[4.0])
    parser.add_argument("--mask", default="equispaced_fraction")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["zero-filled", "cg-sense", "l1-wavelet", "tv", "unrolled"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scan = read_scan(arguments.scan)
    print(f"{arguments.scan.name}: {scan.n_slices} slices, {scan.n_coils} coils, {arguments.seeds} seeds")
    print(
        f"{'R':>4} {'method':<28} {'weight':>7} {'NMSE':>8} {'PSNR':>6} {'SSIM':>6}"
        f" | in body {'NMSE':>8} {'PSNR':>6} {'SSIM':>6}"
    )
    for accelerate in arguments.accelerate:
        for method in arguments.methods:
            best: tuple[float | None, list[Scores]] | None = None
            for weight in WEIGHTS.get(method, (None,)):
                config = ReconstructionConfig(
                    method=method, accelerate=accelerate, mask=arguments.mask, reg_weight=weight
                )
                scores = score(scan, config, arguments.seeds)
                if best is None or _mean(scores, "nmse") < _mean(best[1], "nmse"):
                    best = (weight, scores)
            assert best is not None
            weight, scores = best
            row = {name: _mean(scores, name) for name in scores[0]}
            print(
                f"{accelerate:4g} {Path(method).name:<28} {'' if weight is None else weight:>7} {row['nmse']:8.5f} "
                f"{row['psnr']:6.2f} {row['ssim']:6.4f} | {'':7} {row['body_nmse']:8.5f} {row['body_psnr']:6.2f} "
                f"{row['body_ssim']:6.4f}",
                flush=True,
            )


def _mean(scores: list[Scores], name: str) -> float:
    return float(np.mean([entry[name] for entry in scores]))


if __name__ == "__main__":
    main()
