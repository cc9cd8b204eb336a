"""Draw a real scan at several accelerations: wavelets, the network, and the errors of both.

python scripts/figures/accelerations.py SCAN.h5 --slice 0 --accelerate 2 4 6 8 -o docs/gallery/brain.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from panels import draw, error, picture

from mri_unroll import metrics
from mri_unroll.io.registry import read_scan
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="a fully sampled scan")
    parser.add_argument("--slice", type=int, default=0)
    parser.add_argument("--accelerate", type=float, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--mask", default="equispaced_fraction")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    scan = read_scan(given.scan, slice(given.slice, given.slice + 1))
    truth = scan.reference
    assert truth is not None
    top = float(np.percentile(truth, 99.5))
    methods = ("l1-wavelet", "unrolled")
    rows = [[picture("fully sampled", truth[0], top)], [error("errors x 5", None, top)]]
    rows += [[picture("", None, top)], [error("", None, top)]]
    for factor in given.accelerate:
        accelerated = undersample(scan, given.mask, factor, 0.32 / factor, seed=0)
        for number, method in enumerate(methods):
            pixels = make_reconstructor(method).reconstruct(accelerated).pixels
            body = metrics.in_body(truth, pixels)
            title = f"{factor:g}x, {body['psnr']:.1f} dB, SSIM {body['ssim']:.3f}"
            rows[2 * number].append(picture(title, pixels[0], top))
            rows[2 * number + 1].append(error("", abs(pixels[0] - truth[0]), top / 5))
    draw(rows, given.output, [methods[0], "", methods[1], ""])


if __name__ == "__main__":
    main()
