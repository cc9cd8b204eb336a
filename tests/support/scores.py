"""Made-up scores of an evaluation, and the pictures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mri_unroll.evaluate.record import BY_NAME, VolumeScore, select_picture, write_picture

ACQUISITIONS = ("AXT1", "AXT2", "CORPD_FBK")
GAINS = {"zero-filled": 0.0, "cg-sense": 1.5, "l1-wavelet": 3.0, "unrolled": 5.0}  # dB


def make_score(**changes: Any) -> VolumeScore:
    """A score with everything in it."""
    values: dict[str, Any] = {
        "volume": "file1000000",
        "acquisition": "AXT2",
        "method": "zero-filled",
        "mask": "random",
        "acceleration": 4.0,
        "effective_acceleration": 3.9,
        "seed": BY_NAME,
        "convention": "fastmri",
        "n_slices": 10,
        "n_coils": 8,
        "height": 64,
        "width": 56,
        "nmse": 0.03,
        "psnr": 30.0,
        "ssim": 0.8,
        "body_nmse": 0.02,
        "body_psnr": 28.0,
        "body_ssim": 0.85,
        "data_residual": 0.01,
        "seconds": 20.0,
        "read_seconds": 0.5,
        "score_seconds": 0.3,
    }
    return VolumeScore(**(values | changes))


def make_scores(
    n_volumes: int = 30,
    methods: Sequence[str] = tuple(GAINS),
    accelerations: Sequence[float] = (4.0, 8.0),
    seed: int = 0,
) -> list[VolumeScore]:
    """Scores in which methods differ by `GAINS` and volumes by far more, as in life."""
    random = np.random.default_rng(seed)
    scores = []
    for index in range(n_volumes):
        level = 32 + 2.5 * random.standard_normal()
        for acceleration in accelerations:
            for method in methods:
                psnr = level + GAINS.get(method, 2.0) - 0.8 * (acceleration - 4) + 0.4 * random.standard_normal()
                nmse = 10 ** (-(psnr - 14) / 10)
                scores.append(
                    make_score(
                        volume=f"file{1000000 + index}",
                        acquisition=ACQUISITIONS[index % len(ACQUISITIONS)],
                        method=method,
                        acceleration=acceleration,
                        effective_acceleration=acceleration * (0.95 + 0.1 * random.random()),
                        nmse=nmse,
                        psnr=psnr,
                        ssim=1 - 1.2 * nmse**0.5,
                        body_nmse=0.8 * nmse,
                        body_psnr=psnr - 2,
                        body_ssim=1 - nmse**0.5,
                        seconds=5 + 4 * GAINS.get(method, 2.0) + random.random(),
                    )
                )
    return scores


def write_pictures(out: Path, scores: Sequence[VolumeScore], shape: tuple[int, int] = (64, 56)) -> None:
    """Pictures for scores: discs of the volume's own, with noise and stripes that grow with the error."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    for score in scores:
        random = np.random.default_rng(int("".join(c for c in score.volume if c.isdigit()) or 0))
        truth = (np.hypot(y / 0.9, x / 0.75) < 1) * 0.5
        for _ in range(6):
            top, left, size = (
                0.5 * random.standard_normal(2)[0],
                0.4 * random.standard_normal(),
                0.1 + 0.2 * random.random(),
            )
            truth = truth + 0.4 * random.random() * (np.hypot(y - top, x - left) < size)
        reference = np.stack([truth * factor for factor in (0.5, 1.0, 0.8)]).astype(np.float32)
        error = score.nmse**0.5 * (0.3 * random.standard_normal(reference.shape) + 0.4 * np.roll(reference, 14, axis=2))
        write_picture(out, score.key, select_picture(reference, np.abs(reference + error).astype(np.float32)))
