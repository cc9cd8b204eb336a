"""Draw docs/gallery/radial.jpg: spokes through the sample scan, ever fewer, by three methods.

python scripts/figures/radial.py
"""

from __future__ import annotations

import numpy as np
import torch
from panels import GALLERY, ROOT, draw, picture

from mri_unroll import metrics
from mri_unroll.io.registry import read_scan
from mri_unroll.physics import NufftOperator
from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.physics.trajectory import radial
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.scan import Geometry, Scan, Source

SIZE = 160
METHODS = ("zero-filled", "cg-sense", "l1-wavelet")


def spokes(coil_images: torch.Tensor, n_spokes: int) -> Scan:
    """The sample's coil images, acquired along spokes."""
    trajectory = radial(n_spokes, 2 * SIZE, (SIZE, SIZE))
    op = NufftOperator(torch.ones(1, SIZE, SIZE, dtype=torch.complex64), trajectory)
    kspace = torch.cat([op.forward(image) for image in coil_images])[None]
    return Scan(
        kspace=kspace.numpy(),
        mask=None,
        trajectory=np.asarray(trajectory, np.float32),
        geometry=Geometry(recon_shape=(SIZE, SIZE), encoded_shape=(SIZE, SIZE)),
        source=Source(format="made", digest="", n_slices=1, slices=(0, 1)),
    )


def main() -> None:
    scan = read_scan(ROOT / "sample_data" / "phantom_multicoil.h5", slice(1, 2))
    assert scan.reference is not None
    full = centred_ifft(torch.from_numpy(scan.kspace[0]), (-2, -1))
    coil_images = full[:, SIZE // 2 : SIZE // 2 + SIZE]  # without readout oversampling
    truth = torch.linalg.vector_norm(coil_images, dim=0).numpy()
    top = float(truth.max()) * 0.8
    rows = []
    for n_spokes in (101, 51, 26):
        acquired = spokes(coil_images, n_spokes)
        row = [picture("fully sampled grid", truth, top)] if not rows else [picture("", None, top)]
        for method in METHODS:
            pixels = make_reconstructor(method).reconstruct(acquired).pixels[0]
            row.append(picture(f"{method}, {metrics.psnr(truth[None], pixels[None]):.1f} dB", pixels, top))
        rows.append(row)
    draw(rows, GALLERY / "radial.jpg", [f"{n} spokes" for n in (101, 51, 26)])


if __name__ == "__main__":
    main()
