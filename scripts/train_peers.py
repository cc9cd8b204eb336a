"""A network of ours and fastMRI's variational network, trained from nothing for the same time on the same simulation.

    python scripts/train_peers.py --network ours --minutes 20 -o runs/peers
    python scripts/train_peers.py --network varnet --learning-rate 1e-3 --minutes 20 -o runs/peers   # and other rates
    python scripts/train_peers.py --plot -o runs/peers

Both have about as many weights, see the same acquisitions in the same order, one a step, on one core that does
everything, and lower the same error of the magnitude against the noiseless root sum of squares; ours adds its deep
supervision, which is part of it. The learning rate rises, stays and falls with the time that has passed. Scored on 4x
line masks of held-out people. The peer needs the package `fastmri`; its learning rate is chosen by its own curve, so
give it three.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mri_unroll import metrics
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import ModelConfig, build
from mri_unroll.physics.fourier import use_engine
from mri_unroll.physics.sampling import make_mask
from mri_unroll.training.dataset import SimulatedScans, find_volumes
from mri_unroll.training.examples import prepare
from mri_unroll.training.losses import ssim_loss, unrolled_loss, weighted_nrmse
from mri_unroll.training.simulate import Acquisition, simulate

HELD_OUT = (
    r"brain_patient20_.*|brain_uih_T1|brain_register_T2w|brain_skyra_T1|brain_adi_.*"
    r"|knee20:(1[6-9])|cardiac100:(8[4-9]|9[0-9])"
)
OURS = ModelConfig(n_steps=4, n_cg=3, n_start_cg=6, widths=(32, 48, 64))
PEER = {"num_cascades": 6, "chans": 8, "pools": 3, "sens_chans": 4, "sens_pools": 4}
N_VALIDATION = 24
N_SCORES = 8  # times that a run is scored


class Ours:
    """The unrolled network, with the calibration that it has at inference, inside the time."""

    def __init__(self) -> None:
        self.network: nn.Module = build(OURS)

    def loss(self, acquisition: Acquisition, rng: np.random.Generator) -> Tensor:
        """What a step lowers."""
        with torch.no_grad():
            example = prepare(acquisition, 96, rng, 0.0, OURS.n_strength)
        iterates = list(self.network.iterates(example.adjoint_kspace, example.op, example.strength))  # type: ignore[operator]
        return unrolled_loss(iterates, example.coil_combined, example.rss, example.body)

    def magnitude(self, acquisition: Acquisition) -> Tensor:
        """The picture ``(1, y, x)`` in units of the acquisition."""
        example = prepare(acquisition, None, np.random.default_rng(0), 0.0, OURS.n_strength)
        scale = _rss(acquisition).norm() / example.rss.norm()
        value: Tensor = self.network(example.adjoint_kspace, example.op, example.strength).value
        return value.abs() * scale


class Peer:
    """`fastmri.models.VarNet`: estimates maps inside, gives a root sum of squares."""

    def __init__(self) -> None:
        from fastmri.models import VarNet

        self.network: nn.Module = VarNet(**PEER)

    def _run(self, acquisition: Acquisition) -> tuple[Tensor, float]:
        kspace = torch.from_numpy(acquisition.kspace)
        scale = float(_rss(acquisition).quantile(0.99))
        # Its masks are of whole columns; the readout comes first here as there.
        mask = torch.from_numpy(acquisition.mask[:1])[None, None, :, :, None]
        samples = torch.view_as_real(kspace / scale)[None].contiguous()
        value: Tensor = self.network(samples, mask)
        return value, scale

    def loss(self, acquisition: Acquisition, rng: np.random.Generator) -> Tensor:
        """What a step lowers."""
        value, scale = self._run(acquisition)
        reference, body = _rss(acquisition)[None] / scale, torch.from_numpy(acquisition.body)[None]
        start = torch.linalg.vector_norm(torch.fft.ifft2(torch.from_numpy(acquisition.kspace), norm="ortho"), dim=0)
        start = torch.fft.ifftshift(start)[None] / scale
        error = weighted_nrmse(value, reference, body) / (weighted_nrmse(start, reference, body) + 0.02)
        return error + 0.3 * ssim_loss(value, reference, body)

    def magnitude(self, acquisition: Acquisition) -> Tensor:
        """The picture ``(1, y, x)`` in units of the acquisition."""
        value, scale = self._run(acquisition)
        return value * scale


def _rss(acquisition: Acquisition) -> Tensor:
    assert acquisition.coil_images is not None
    return torch.linalg.vector_norm(torch.from_numpy(acquisition.coil_images), dim=0)


class LineScans(SimulatedScans):
    """Scans with masks of whole lines, which both networks know."""

    def __init__(self, volumes: list[Any], seed: int, acceleration: float | None = None) -> None:
        super().__init__(volumes, seed, 10**9, poisson=0.0)
        self.acceleration = acceleration

    def __getitem__(self, index: int) -> Acquisition:
        if self.acceleration is None:
            return super().__getitem__(index)
        rng = np.random.default_rng([self.seed, index])
        volume = self.volumes[int(rng.integers(len(self.volumes)))]
        image = self._load(volume.path)[int(rng.integers(volume.first, volume.last))]
        kind = ("random", "equispaced_fraction")[index % 2]
        sampling = functools.partial(make_mask, kind, acceleration=self.acceleration, center_fraction=0.08, seed=index)
        return simulate(image, rng, sampling=lambda shape: sampling(shape=shape))


def train(trained: Ours | Peer, data: Path, rate: float, minutes: float, path: Path) -> None:
    """Train until the time is over; write a row whenever it is scored. Scoring does not count as time."""
    volumes, held_out = find_volumes(data, HELD_OUT)
    scans, people = LineScans(volumes, 41), [LineScans(held_out, 42, 4.0)[index] for index in range(N_VALIDATION)]
    optimiser = torch.optim.AdamW(trained.network.parameters(), lr=rate, weight_decay=1e-4)
    average = torch.optim.swa_utils.AveragedModel(
        trained.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    limit, used, step, scored = 60 * minutes, 0.0, 0, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["minutes", "step", "psnr", "psnr_in_body", "ssim"])
        while used < limit:
            begun = time.perf_counter()
            done = used / limit
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, 0.02 + done / 0.03) * _fall(done)
            optimiser.zero_grad(set_to_none=True)
            loss = trained.loss(scans[step], np.random.default_rng([43, step]))
            loss.backward()
            if torch.isfinite(torch.nn.utils.clip_grad_norm_(trained.network.parameters(), 1.0)):
                optimiser.step()
                average.update_parameters(trained.network)
            step += 1
            used += time.perf_counter() - begun
            if used >= limit * (scored + 1) / N_SCORES:
                scored += 1
                row = [used / 60, step, *_scores(trained, average.module, people)]
                rows.writerow([f"{value:.4f}" for value in row])
                file.flush()
                print(path.stem, *(f"{value:.3f}" for value in row), flush=True)


def _fall(done: float) -> float:
    """Constant, then a cosine to one percent over the last 40 % of the time."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(max((done - 0.6) / 0.4, 0.0), 1.0)))


@torch.no_grad()
def _scores(trained: Ours | Peer, averaged: nn.Module, people: list[Acquisition]) -> list[float]:
    """PSNR and SSIM by fastMRI's definitions, and PSNR in the body; means over slices."""
    network, trained.network = trained.network, averaged
    found = []
    for acquisition in people:
        reference, image = _rss(acquisition)[None].numpy(), trained.magnitude(acquisition).numpy()
        inside = metrics.in_body(reference, image)
        found.append([metrics.psnr(reference, image), inside["psnr"], metrics.ssim(reference, image)])
    trained.network = network
    return [float(value) for value in np.mean(found, axis=0)]


def draw(out: Path) -> None:
    """Curves of all runs in a folder, and a table."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4))
    print("| network | steps | PSNR [dB] | PSNR in the body [dB] | SSIM |\n|---|---|---|---|---|")
    for path in sorted(out.glob("*.csv")):
        with path.open() as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        axis.plot([row["minutes"] for row in rows], [row["psnr_in_body"] for row in rows], marker=".", label=path.stem)
        last = rows[-1]
        numbers = f"{last['psnr']:.2f} | {last['psnr_in_body']:.2f} | {last['ssim']:.4f}"
        print(f"| {path.stem} | {last['step']:.0f} | {numbers} |")
    axis.set_xlabel("minutes of training on one core")
    axis.set_ylabel("PSNR in the body, 4x [dB]")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out / "peers.png", dpi=110)


def main() -> None:
    """Train one network, or draw what was trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("ours", "varnet"), default="ours")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/truth"))
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.plot:
        return draw(arguments.out)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trained = Ours() if arguments.network == "ours" else Peer()
    count = sum(parameter.numel() for parameter in trained.network.parameters())
    print(
        f"{arguments.network}: {count} weights, {arguments.minutes:g} minutes at {arguments.learning_rate:g}",
        flush=True,
    )
    path = arguments.out / f"{arguments.network}_{arguments.learning_rate:g}.csv"
    with use_engine("torch"), prior_precision(torch.bfloat16 if arguments.network == "ours" else None):
        train(trained, arguments.data, arguments.learning_rate, arguments.minutes, path)
    return None


if __name__ == "__main__":
    main()
