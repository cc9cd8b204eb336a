"""Teach a small network which bodies are known, and set the limit beyond which a picture is to be looked at.

    python scripts/trust/familiar.py --evidence runs/more runs/plain

Learns from thumbnails of `looks.py`, of people that reconstruction networks were trained on; the limit is one that few
pictures of the calibration people exceed, as the second network of the verdict reconstructs them (``collect.py --people
calibration``, with and without ``--plain 1``). ``--limit-only`` keeps what was learned. With ``--without heart`` that
body is learned neither as known nor as strange, and how often it is found strange is told: the nearest to a body that
nobody has thought of.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from collect import HERE, people
from evidence_files import load
from looks import known, shown, stranger
from torch import Tensor
from torch.nn import functional

from mri_unroll.config import load_toml
from mri_unroll.recon.reconstructor import weights_folder
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.trust import familiarity
from mri_unroll.trust.checks import FALSE_ALARMS
from mri_unroll.trust.familiarity import FILE, KINDS, Familiarity, log_odds

UNFAMILIAR = 0.1  # of the false alarms of all checks: what this one gets, which is only a reason to look
BATCH = 64


def thumbnails(data: Path, count: int, kinds: tuple[str, ...], seed: int = 5) -> tuple[Tensor, Tensor]:
    """So many of each side, ``(2 * count, SIDE, SIDE)``, and which of `KINDS` they are; one more: none of them."""
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    volumes = people("train", data, config.held_out)
    rng = np.random.default_rng(seed)
    pictures, labels = [], []
    while len(pictures) < 2 * count:
        kind, other = (str(rng.choice(kinds)) for _ in range(2))
        pictures += [shown(known(volumes, kind, rng), rng), shown(stranger(known(volumes, other, rng), rng), rng)]
        labels += [KINDS.index(kind), len(KINDS)]
    return torch.from_numpy(np.array(pictures)), torch.tensor(labels)


def learned(pictures: Tensor, labels: Tensor, steps: int) -> Familiarity:
    """A classifier in evaluation mode."""
    torch.manual_seed(0)
    network = Familiarity().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    started, total = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        chosen = torch.randint(len(pictures), (BATCH,))
        logits = network(_moved(pictures[chosen]))
        loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % 500 == 0:
            print(f"step {step}: loss {total / 500:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
            total = 0.0
    return network.eval()


def _moved(pictures: Tensor) -> Tensor:
    """Reflected, turned, stretched, shifted, brightened a little."""
    for axes in ((-1,), (-2,)):
        pictures = pictures.flip(axes) if torch.rand(()) < 0.5 else pictures
    n = len(pictures)
    turn = torch.eye(2) * torch.empty(n, 1, 1).uniform_(0.85, 1.15) + 0.12 * torch.randn(n, 2, 2)
    grid = functional.affine_grid(
        torch.cat([turn, 0.1 * torch.randn(n, 2, 1)], dim=2), [n, 1, *pictures.shape[-2:]], align_corners=False
    )
    moved = functional.grid_sample(pictures[:, None], grid, align_corners=False)[:, 0]
    return moved * torch.empty(n, 1, 1).uniform_(0.8, 1.2)


def main() -> None:
    """Learn, set the limit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evidence", type=Path, nargs="+", help="folders with calibration people, see collect.py")
    parser.add_argument("--count", type=int, default=10000, help="thumbnails of each side")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--limit-only", action="store_true", help="keep the network that is there")
    parser.add_argument("--without", choices=KINDS, help="leave out a body, tell how often it is found, write nothing")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=weights_folder() / "trust" / FILE)
    arguments = parser.parse_args()
    if not arguments.without and not arguments.evidence:
        parser.error("--evidence is needed to set the limit")
    torch.set_num_threads(1)
    truth = arguments.data / "truth"
    kinds = tuple(kind for kind in KINDS if kind != arguments.without)
    parts = [load(folder, "unrolled", "calibration", "none", pictures=False) for folder in arguments.evidence or ()]
    if arguments.limit_only:
        network, about = familiarity.load(arguments.out)
    else:
        network = learned(*thumbnails(truth, arguments.count, kinds), arguments.steps)
        about = {"thumbnails": 2 * arguments.count, "steps": arguments.steps}
    with torch.inference_mode():
        if arguments.without:
            told(network, truth, arguments.without)
            return
        found = torch.cat([log_odds(torch.from_numpy(part.thumbnails).float(), network) for part in parts])
    level = float(torch.quantile(found, 1 - UNFAMILIAR * FALSE_ALARMS))
    about |= {"limit": level, "pictures of the limit": len(found)}
    familiarity.save(network, about, arguments.out)
    print(about)


def told(network: Familiarity, truth: Path, without: str) -> None:
    """How often the body that was left out is found, at 5 % false alarms on the other calibration people."""
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    rng, scores = np.random.default_rng(6), {}
    for which in ("train", "calibration"):
        volumes = people(which, truth, config.held_out)
        for kind in KINDS:
            pictures = np.array([shown(known(volumes, kind, rng), rng) for _ in range(300)])
            scores[which, kind] = log_odds(torch.from_numpy(pictures), network)
    sound = torch.cat([scores["calibration", kind] for kind in KINDS if kind != without])
    level = torch.quantile(sound, 1 - FALSE_ALARMS)
    for which in ("train", "calibration"):
        share = float((scores[which, without] > level).float().mean())
        print(f"{without} of {which} people: {100 * share:.0f} % found strange")


if __name__ == "__main__":
    main()
