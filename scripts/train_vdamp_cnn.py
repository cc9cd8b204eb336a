"""Train the denoiser of the method vdamp-cnn, and write mri_unroll/weights/message_passing/vdamp-cnn.safetensors.

    python scripts/train_vdamp_cnn.py --data ../shared/data/truth            some twenty minutes of one core

Pictures of the people whom the other networks learn from get a phase, as the simulated scanner gives it, and Gaussian
noise in each wavelet band, whose strength falls towards finer bands as that of undersampling does, or does not. The
loss is the squared error over that of soft thresholds that are best by Stein's estimate: 0 dB is what ``vdamp`` has.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mri_unroll.checkpoints import DIGESTS, digest_list
from mri_unroll.config import load_toml
from mri_unroll.nets.band_shrinkage import BandShrinkage, save
from mri_unroll.recon.calibrate import brightness
from mri_unroll.recon.message_passing import N_LEVELS, WAVELET, shipped_denoiser
from mri_unroll.recon.reconstructor import weights_folder
from mri_unroll.solvers.sure import denoise_band
from mri_unroll.solvers.wavelet import wavelet_bands
from mri_unroll.training.dataset import Pictures, find_volumes
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import complex_normal, object_image, smooth_noise

HERE = Path(__file__).resolve().parent
N_VALIDATION, EVERY, SEED = 24, 250, 41
WARM_UP, LEARNING_RATE, AVERAGED = 100, 2e-3, 0.998


def noisy_bands(pictures: Pictures, rng: Generator) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """True coefficients of a picture, noisy ones, and the variances of the noise; band by band."""
    picture = torch.from_numpy(object_image(pictures.draw(rng), rng)).to(torch.complex64)
    picture = picture.roll([int(n) for n in rng.integers(1 << N_LEVELS, size=2)], (0, 1)) / brightness(picture)
    shape = (picture.shape[0], picture.shape[1])
    bands = wavelet_bands(shape, WAVELET, N_LEVELS)
    uneven = np.exp(rng.uniform(0, 0.5) * smooth_noise(shape, 2, rng)) if rng.random() < 0.5 else np.ones(shape)
    truth, noisy, variances = bands.analyse(picture), [], []
    for band, (x, level) in enumerate(zip(truth, band_levels(len(bands.rows), rng), strict=True)):
        variance = level**2 * bands.spread(torch.from_numpy(uneven).float(), band).clamp_min(1e-6)
        noise = torch.from_numpy(complex_normal((x.shape[0], x.shape[1]), rng)).to(torch.complex64)
        noisy.append(x + variance.sqrt() * noise)
        variances.append(variance)
    return truth, noisy, variances


def band_levels(n_bands: int, rng: Generator) -> list[float]:
    """Standard deviations of a coefficient's noise in each band, the coarsest first.

    Undersampling leaves the centre of k-space known, so that there is less noise in the coarsest band; from there on it
    mostly falls, as the signal does that is aliased.
    """
    n_levels = (n_bands - 1) // 3
    steps = rng.uniform(-0.4, 0.2) + rng.normal(0, 0.1, n_levels)
    steps[0] += rng.uniform(0, 0.5)
    by_level = np.concatenate([[0.0], np.cumsum(steps)])
    by_band = np.concatenate([by_level[:1], np.repeat(by_level[1:], 3) + rng.normal(0, 0.08, 3 * n_levels)])
    shares = np.concatenate([[1.0], np.repeat(4.0 ** np.arange(n_levels), 3)])  # of coefficients
    total = np.sqrt((shares * 10 ** (2 * by_band)).sum() / shares.sum())
    return [float(level) for level in 10 ** (by_band + rng.uniform(-2.6, -0.3)) / total]


def ratio(network: BandShrinkage, truth: list[Tensor], noisy: list[Tensor], variances: list[Tensor]) -> Tensor:
    """Squared error in all bands but the coarsest, over that of soft thresholds."""
    with torch.no_grad():
        thresholds = [denoise_band(r, v).estimate for r, v in zip(noisy[1:], variances[1:], strict=True)]
    estimates = network(noisy, variances)[1:]
    errors = [
        torch.stack([(g - x).abs().square().sum() for g, x in zip(found, truth[1:], strict=True)]).sum()
        for found in (estimates, thresholds)
    ]
    return errors[0] / errors[1]


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of magnitude images, see docs/training.md")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--log", type=Path, default=HERE.parent / "docs" / "training" / "vdamp_cnn.csv")
    parser.add_argument("--out", type=Path, default=shipped_denoiser())
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    held_out = load_toml(HERE / "train_unrolled.toml", TrainingConfig).held_out
    training, validation = map(Pictures, find_volumes(arguments.data, held_out))
    judges = [noisy_bands(validation, np.random.default_rng([SEED, 1, index])) for index in range(N_VALIDATION)]
    network = BandShrinkage()
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGED)
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / WARM_UP, 0.01 + 0.495 * (1 + math.cos(math.pi * step / arguments.steps))),
    )
    rows, losses, began = [], [], time.monotonic()
    for step in range(1, arguments.steps + 1):
        optimiser.zero_grad()
        for index in range(arguments.batch):
            rng = np.random.default_rng([SEED, 0, arguments.batch * step + index])
            loss = ratio(network, *noisy_bands(training, rng)) / arguments.batch
            loss.backward()
            losses.append(arguments.batch * float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        if step % EVERY == 0 or step == arguments.steps:
            with torch.no_grad():
                gains = [10 * math.log10(float(ratio(average.module, *judge))) for judge in judges]  # type: ignore[arg-type]
            rows.append(
                {"step": step, "loss": np.mean(losses), "validation_db": np.mean(gains), "worst_db": max(gains)}
            )
            losses = []
            pace = (time.monotonic() - began) / step
            print(*(f"{key} {value:.4g}" for key, value in rows[-1].items()), f"{pace:.3f} s a step", flush=True)
    with arguments.log.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    card = {
        "title": "vdamp-cnn: shares of wavelet coefficients by a network of four convolutions, inside message passing",
        "data": "the pictures that `unrolled` was trained on",
        "sources": tomllib.loads((HERE / "unrolled_card.toml").read_text(encoding="utf-8"))["sources"],
        "held_out": held_out,
        "training": f"scripts/train_vdamp_cnn.py --steps {arguments.steps} --batch {arguments.batch}, seed {SEED}",
        "validation": f"{rows[-1]['validation_db']:.2f} dB against thresholds by SURE, {N_VALIDATION} noisy pictures",
        "weights_licence": "Apache-2.0",
        "known_failures": ["Masks that are not random in two directions: the method refuses them."],
    }
    arguments.out.parent.mkdir(exist_ok=True)
    save(average.module, card, arguments.out)  # type: ignore[arg-type]
    arguments.out.chmod(0o644)
    if arguments.out == shipped_denoiser():
        (weights_folder() / DIGESTS).write_text(digest_list(), encoding="utf-8")


if __name__ == "__main__":
    main()
