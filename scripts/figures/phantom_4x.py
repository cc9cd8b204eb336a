"""Draw docs/phantom_4x.png, the picture of the README: the sample scan at fourfold acceleration.

python scripts/figures/phantom_4x.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from panels import ROOT, draw, error, picture

from mri_unroll import metrics
from mri_unroll.io.registry import read_scan
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "phantom_4x.png")
    output: Path = parser.parse_args().output
    scan = read_scan(ROOT / "sample_data" / "phantom_multicoil.h5", slice(1, 2))
    truth = scan.reference
    assert truth is not None
    accelerated = undersample(scan, "equispaced_fraction", 4.0, 0.08, seed=0)
    top = float(truth.max()) * 0.8
    pictures, errors = [picture("fully sampled", truth[0], top)], [error("error x 10", None, top)]
    for name in ("zero-filled", "l1-wavelet", "unrolled"):
        pixels = make_reconstructor(name).reconstruct(accelerated).pixels
        pictures.append(picture(f"{name}, {metrics.psnr(truth, pixels):.1f} dB", pixels[0], top))
        errors.append(error("", abs(pixels[0] - truth[0]), top / 10))
    draw([pictures, errors], output)


if __name__ == "__main__":
    main()
