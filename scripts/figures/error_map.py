"""Draw a picture, the error that was predicted for each pixel, and the true one beside it.

python scripts/figures/error_map.py SCAN.h5 --slice 0 --accelerate 4 6 8 -o docs/gallery/error_map.jpg
"""

from __future__ import annotations

from panels import FullScan, draw, error, picture

from mri_unroll import metrics
from mri_unroll.config import ReconstructionConfig
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.trust.witness import Witness


def main() -> None:
    full = FullScan(__doc__, (4, 6, 8))
    truth, top = full.truth, full.top
    rows = []
    for factor in full.accelerations:
        accelerated = full.undersampled(factor)
        witness = Witness(make_reconstructor("unrolled"), ReconstructionConfig())
        witness.watch(accelerated)
        image = witness.reconstructor.reconstruct(accelerated)
        verdict = witness.verdict(image)
        assert verdict.predicted is not None
        assert image.predicted_error is not None
        true = abs(image.pixels - truth)[0]
        below = float((true <= image.predicted_error[0]).mean())
        predicted = verdict.predicted
        rows.append(
            [
                picture(f"{factor:g}x: {verdict.answer}", image.pixels[0], top),
                error(
                    f"predicted: NMSE {predicted.nmse:.4f} ({predicted.low:.4f} to {predicted.high:.4f})",
                    image.predicted_error[0],
                    top / 5,
                ),
                error(f"true: NMSE {metrics.nmse(truth, image.pixels):.4f}", true, top / 5),
                error(f"above the prediction: {1 - below:.0%} of pixels", true > image.predicted_error[0], 1),
            ]
        )
    draw(rows, full.output)


if __name__ == "__main__":
    main()
