"""Draw docs/phantom_4x.png, the picture of the README: the sample scan at fourfold acceleration.

python scripts/make_readme_figure.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from mri_unroll import metrics
from mri_unroll.io.registry import read_scan
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "phantom_4x.png")
    output: Path = parser.parse_args().output
    scan = read_scan(ROOT / "sample_data" / "phantom_multicoil.h5", slice(1, 2))
    assert scan.reference is not None
    accelerated = undersample(scan, "equispaced_fraction", 4.0, 0.08, seed=0)
    panels = [("fully sampled", scan.reference)]
    panels += [
        (name, make_reconstructor(name).reconstruct(accelerated).pixels)
        for name in ("zero-filled", "l1-wavelet", "unrolled")
    ]
    window = float(scan.reference.max()) * 0.8
    figure = Figure(figsize=(10, 5.6), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(panels))
    for column, (name, pixels) in enumerate(panels):
        error = abs(pixels[0] - scan.reference[0])
        title = name if column == 0 else f"{name}\n{metrics.psnr(scan.reference, pixels):.1f} dB"
        axes[0, column].set_title(title, fontsize=10)
        axes[0, column].imshow(pixels[0], cmap="gray", vmin=0, vmax=window)
        axes[1, column].imshow(error, cmap="magma", vmin=0, vmax=window / 10)
        for row in axes[:, column]:
            row.axis("off")
    axes[1, 0].text(0.5, 0.5, "error x 10", ha="center", va="center", color="white", transform=axes[1, 0].transAxes)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
