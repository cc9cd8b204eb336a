"""Draw a real scan at several accelerations: wavelets, the network, and the errors of both.

python scripts/figures/accelerations.py SCAN.h5 --slice 0 --accelerate 2 4 6 8 -o docs/gallery/brain.jpg
"""

from __future__ import annotations

from panels import FullScan, draw, error, picture

from mri_unroll import metrics
from mri_unroll.recon.reconstructor import make_reconstructor

METHODS = ("l1-wavelet", "unrolled")


def main() -> None:
    full = FullScan(__doc__, (2, 4, 6, 8))
    truth, top = full.truth, full.top
    rows = [[picture("fully sampled", truth[0], top)], [error("errors x 5", None, top)]]
    rows += [[picture("", None, top)], [error("", None, top)]]
    for factor in full.accelerations:
        for number, method in enumerate(METHODS):
            pixels = make_reconstructor(method).reconstruct(full.undersampled(factor)).pixels
            body = metrics.in_body(truth, pixels)
            title = f"{factor:g}x, {body['psnr']:.1f} dB, SSIM {body['ssim']:.3f}"
            rows[2 * number].append(picture(title, pixels[0], top))
            rows[2 * number + 1].append(error("", abs(pixels[0] - truth[0]), top / 5))
    draw(rows, full.output, [METHODS[0], "", METHODS[1], ""])


if __name__ == "__main__":
    main()
