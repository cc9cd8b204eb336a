"""Teach a small network which bodies are known, and set the limit beyond which a picture is to be looked at.

    python scripts/trust/familiar.py --looks runs/looks --evidence runs/more runs/plain

Learns from thumbnails of `looks.py`, of people that reconstruction networks were trained on; the limit is one that few
pictures of the calibration people exceed, as the second network of the verdict reconstructs them (``collect.py --people
calibration``, with and without ``--plain 1``). ``--limit-only`` keeps what was learned. With ``--without abdomen`` that
body, or those, are learned neither as known nor as strange, and how often they are found strange is told: the nearest
to a body that nobody has thought of.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from evidence_files import Collected, load
from looks import kind_of
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mri_unroll.recon.reconstructor import weights_folder
from mri_unroll.trust import familiarity
from mri_unroll.trust.checks import FALSE_ALARMS
from mri_unroll.trust.familiarity import FILE, KINDS, Familiarity, log_odds

UNFAMILIAR = 0.1  # of the false alarms of all checks: what this one gets, which is only a reason to look
BATCH = 64


def looked_at(folder: Path) -> tuple[Tensor, NDArray[np.str_]]:
    """Thumbnails ``(n, SIDE, SIDE)`` that `looks.py` made, and of what: a name of `KINDS`, or of something else."""
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise SystemExit(f"There are no thumbnails in {folder}: run looks.py.")
    files = [np.load(path) for path in paths]
    pictures = torch.from_numpy(np.concatenate([file["pictures"] for file in files])).float()
    return pictures, np.concatenate([file["labels"] for file in files])


def classes(names: NDArray[np.str_]) -> Tensor:
    """Which of `KINDS` each name is; one more: none of them."""
    return torch.tensor([KINDS.index(name) if name in KINDS else len(KINDS) for name in names])


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
    parser.add_argument("--looks", type=Path, help="folder with thumbnails of looks.py")
    parser.add_argument("--evidence", type=Path, nargs="+", required=True, help="folders with calibration people")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-only", action="store_true", help="keep the network that is there")
    parser.add_argument(
        "--without", nargs="+", default=(), help="leave out bodies, tell if they are found, write nothing"
    )
    parser.add_argument("--out", type=Path, default=weights_folder() / "trust" / FILE)
    arguments = parser.parse_args()
    if not arguments.limit_only and not arguments.looks:
        parser.error("--looks is needed to learn from")
    if arguments.limit_only and arguments.without:
        parser.error("--without learns anew, --limit-only does not")
    torch.set_num_threads(arguments.threads)
    parts = [load(folder, "unrolled", "calibration", "none", pictures=False) for folder in arguments.evidence]
    if arguments.limit_only:
        network, about = familiarity.load(arguments.out)
    else:
        pictures, names = looked_at(arguments.looks)
        if strange := set(arguments.without).difference(names):
            parser.error(f"--without {', '.join(sorted(strange))}: there are {', '.join(sorted(set(names)))}")
        left_out = np.isin(names, arguments.without)
        kept = torch.from_numpy(~left_out)
        network = learned(pictures[kept], classes(names)[kept], arguments.steps)
        about = {"thumbnails": int(kept.sum()), "steps": arguments.steps}
    with torch.inference_mode():
        known = [log_odds(torch.from_numpy(sound(part, arguments.without)).float(), network) for part in parts]
        if arguments.without:
            told(log_odds(pictures[~kept], network), names[left_out], known, arguments.evidence)
            return
    level = float(torch.quantile(torch.cat(known), 1 - UNFAMILIAR * FALSE_ALARMS))
    about |= {"limit": level, "pictures of the limit": sum(map(len, known))}
    familiarity.save(network, about, arguments.out)
    print(about)


def sound(part: Collected, without: Sequence[str]) -> NDArray[np.float16]:
    """Thumbnails of the people whose body is of a kind that was not left out."""
    return part.thumbnails[[kind_of(person) not in without for person in part.people]]


def told(scores: Tensor, names: NDArray[np.str_], known: list[Tensor], folders: list[Path]) -> None:
    """How often the bodies that were left out are found, at 5 % false alarms on calibration people of each folder."""
    for name in sorted(set(names)):
        chosen = scores[torch.from_numpy(names == name)]
        for folder, sound in zip(folders, known, strict=True):
            level = torch.quantile(sound, 1 - FALSE_ALARMS)
            share = float((chosen > level).float().mean())
            print(f"{name}: {100 * share:.0f} % of {len(chosen)} found strange, where 5 % of {folder.name} are")


if __name__ == "__main__":
    main()
