"""Train the network of deblurring.py, and write weights/deblurring.safetensors.

python scripts/reproduce/train_deblurring.py FOLDER

Half of the pictures are photographs that come with scikit-image, half are MR magnitude images of a folder as
`mri_unroll.training.dataset.find_volumes` reads it; the people that the package keeps for validation are left out.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from deblurring_problem import TRAINING_PHOTOS, WEIGHTS, Problem, acquire, photo, random_psf
from rich.progress import track
from torch import Tensor

from mri_unroll.nets.model import ModelConfig, build, save
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.physics.fourier import use_engine
from mri_unroll.training.dataset import find_volumes

CONFIG = ModelConfig(n_steps=6, data_term="gradient", n_start_cg=12, widths=(24, 32))
LEARNING_RATE = 2e-3
STEP_SIZE_RATE = 10.0  # times that, for step sizes, which have further to go than convolution weights
HELD_OUT = (
    r"brain_patient20_.*|brain_uih_T1|brain_register_T2w|brain_skyra_T1|brain_adi_.*"
    r"|knee20:(1[6-9])|cardiac100:(8[4-9]|9[0-9])"
)


class Pictures:
    """Random patches in [0, 1], half of photographs, half of MR volumes drawn equally often."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.rng = rng
        self.photos = [photo(name) for name in TRAINING_PHOTOS]
        self.volumes = []
        for volume in find_volumes(folder, HELD_OUT)[0]:
            with np.load(volume.path) as file:
                images = file["images"][volume.first : volume.last]
            kept = [image for image in images if np.count_nonzero(image > image.max() // 8) > 0.1 * image.size]
            if kept and min(kept[0].shape) > 96:
                self.volumes.append(kept)

    def patch(self, size: int) -> np.ndarray:
        """One patch ``(size, size)``, turned and mirrored at random, not nearly empty."""
        while True:
            if self.rng.random() < 0.5:
                image = self.photos[self.rng.integers(len(self.photos))]
            else:
                volume = self.volumes[self.rng.integers(len(self.volumes))]
                image = volume[self.rng.integers(len(volume))] / 4095
                image = np.clip(image / max(np.percentile(image, 99.5), 1e-3), 0, 1)
            top, left = (self.rng.integers(n - size + 1) if n >= size else 0 for n in image.shape)
            patch = image[top : top + size, left : left + size]
            if patch.shape == (size, size) and patch.std() > 0.03:
                patch = np.rot90(patch, self.rng.integers(4))
                return patch[:: self.rng.choice([-1, 1])] * self.rng.uniform(0.7, 1)

    def problem(self, batch: int, size: int, generator: torch.Generator) -> Problem:
        """A batch of blurred patches, each with its own PSF and noise of 0.5 to 2 %."""
        truth = torch.tensor(np.stack([self.patch(size) for _ in range(batch)]), dtype=torch.float32)
        psfs = torch.tensor(np.stack([random_psf(self.rng) for _ in range(batch)]), dtype=torch.float32)
        levels = torch.tensor(10 ** self.rng.uniform(-2.3, -1.7, batch), dtype=torch.float32)
        return acquire(truth, psfs, levels, generator)


def loss(network: Unrolled, problem: Problem) -> tuple[Tensor, Tensor]:
    """Log mean square error of every iterate, later ones weighing more; and that of the last, in dB."""
    iterates = network.iterates(problem.op.adjoint(problem.blurred), problem.op, problem.strength)
    errors = torch.stack([(x - problem.truth).abs().square().mean((-2, -1)) for x in iterates])
    decibels = 10 * torch.log10(errors + 1e-8).mean(1)
    weights = 0.7 ** torch.arange(len(decibels) - 1, -1, -1)
    return (weights * decibels).sum() / weights.sum(), decibels[-1].detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="weights file")
    parser.add_argument("--minutes", type=float, default=7.0, help="of processor time; the learning rate ends with it")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=82)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    pictures = Pictures(arguments.data, rng)
    network = build(CONFIG)
    assert isinstance(network, Unrolled)
    step_sizes = [step.raw_step_size for step in network.steps]
    others = [parameter for name, parameter in network.named_parameters() if not name.endswith("raw_step_size")]
    optimiser = torch.optim.Adam([{"params": others, "rate": 1.0}, {"params": step_sizes, "rate": STEP_SIZE_RATE}])
    started, step, recent = time.process_time(), 0, 0.0
    with use_engine("torch"):
        for percent in track(range(100), description="training"):
            while (done := (time.process_time() - started) / (60 * arguments.minutes)) < (percent + 1) / 100:
                rate = LEARNING_RATE * min(1, (step + 1) / 50) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["rate"]
                value, last = loss(network, pictures.problem(arguments.batch, arguments.patch, generator))
                optimiser.zero_grad()
                value.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimiser.step()
                step, recent = step + 1, 0.98 * recent + 0.02 * float(last)
            print(f"{percent + 1} %: step {step}, last iterate {recent / (1 - 0.98**step):.2f} dB", flush=True)
    card = {
        "title": "deblurring: six untied proximal gradient steps with small U-Net priors",
        "data": "photographs bundled with scikit-image, and MR magnitude images; PSFs and noise drawn at random",
        "training": f"{step} steps of {arguments.batch} patches of {arguments.patch}^2, one core",
        "weights_licence": "Apache-2.0",
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save(network, CONFIG, card, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
