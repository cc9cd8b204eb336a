"""What each part of the network and of its training gives: one change a row, on simulated and on real scans.

    python scripts/ablation.py --out runs/ablation                         # trains every row, then scores it
    python scripts/ablation.py --out runs/ablation --rows base gradient    # some of them
    python scripts/ablation.py --out runs/ablation --page docs/models/ablation.md --figure docs/models/ablation.png

Every row is trained from nothing with the same number of steps, on the same simulated acquisitions in the same order,
on one thread, and scored with its last weights; nothing is chosen by a score. *Validation* are simulated 4x scans of
people whom no row saw (`model_table.py` makes them), *real* is raw k-space with five mask seeds each. Differences to
`base` are paired: the same scan, the same mask. A killed run goes on where it was.

Parts of the simulated scanner are taken away by putting something simpler in their place, here and nowhere else.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmark import replace_between
from model_table import COILS, MASKS, make_case
from numpy.typing import NDArray

from mri_unroll import metrics
from mri_unroll.config import ReconstructionConfig, load_toml
from mri_unroll.io.registry import read_scan
from mri_unroll.nets.model import ModelConfig, load
from mri_unroll.recon.calibrate import CalibratedSlice
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan
from mri_unroll.training import dataset, loop, simulate
from mri_unroll.training.examples import CalibratedScans
from mri_unroll.training.finetuning import FinetuningConfig, finetune
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import Acquisition

HERE = Path(__file__).resolve().parent
BASE = ModelConfig(n_steps=4, n_cg=3, n_start_cg=6, widths=(32, 48, 64), n_strength=3)
REAL = {  # file of raw k-space, acceleration
    "brain, 3 T, 7 coils, 4x": ("brain_t1_7coil.h5", 4.0),
    "knee, 1 coil, 3x": ("knee_fatsat_1coil_readout640.h5", 3.0),
    "brain, 0.055 T, 1 coil, 2x": ("lowfield_0p055T_sub1_FSE.h5", 2.0),
}
N_SEEDS, N_CASES = 5, 2  # masks of a real scan; slices of each simulated cell
ONE_VOLUME = "brain_patient01_T2W"
FIELDS = ("row", "scan", "seed", "psnr", "ssim")
Score = Callable[[Scan, Path], NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One change, and how it is made."""

    what: str
    model: ModelConfig = BASE
    scanner: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    tuned: bool = False  # base, tuned on each scan before it is scored


def without_phase() -> contextlib.AbstractContextManager[Any]:
    """An object that is real and positive; coils keep their phase."""
    return mock.patch.object(simulate, "object_phase", lambda shape, rng: np.zeros(shape))


def without_noise() -> contextlib.AbstractContextManager[Any]:
    """No noise that matters: a hundred-thousandth of bright tissue."""
    return mock.patch.object(dataset, "simulate", functools.partial(simulate.simulate, noise=1e-5))


def one_volume() -> contextlib.AbstractContextManager[Any]:
    """A single scan of a single person."""

    def chosen(*place: Any) -> tuple[list[dataset.Volume], list[dataset.Volume]]:
        training, held_out = dataset.find_volumes(*place)
        return [volume for volume in training if volume.path.stem == ONE_VOLUME], held_out

    return mock.patch.object(loop, "find_volumes", chosen)


@contextlib.contextmanager
def true_maps() -> Iterator[None]:
    """Coil maps as they are, in place of those that calibration finds, in training alone; the rest stays estimated."""
    made: list[NDArray] = []

    def remembered(*place: Any) -> NDArray:
        made[:] = [coil_maps(*place)]
        return made[0]

    def with_true_maps(scans: CalibratedScans, index: int) -> tuple[Acquisition, CalibratedSlice]:
        is_new = scans._latest is None or scans._latest[0] != index
        acquisition, found = acquired(scans, index)
        if is_new:
            maps = torch.from_numpy(made[0]).to(found.op.sens_maps.dtype)
            maps = maps / torch.linalg.vector_norm(maps, dim=0).clamp_min(1e-9)
            # The phase that the object leaves to the maps is a convention, and stays that of the estimated ones.
            maps = maps * torch.exp(1j * (maps.conj() * found.op.sens_maps[0]).sum(0).angle())
            found = replace(found, op=found.op.with_maps(maps[None]))
            scans._latest = index, acquisition, found
        return acquisition, found

    coil_maps, acquired = simulate.coil_maps, CalibratedScans._acquired
    with (
        mock.patch.object(simulate, "coil_maps", remembered),
        mock.patch.object(CalibratedScans, "_acquired", with_true_maps),
    ):
        yield


ROWS = {
    "base": Row("4 steps with conjugate gradients, 872 k weights, everything simulated"),
    "gradient": Row("data consistency by one gradient step", replace(BASE, data_term="gradient")),
    "two-steps": Row("2 cascades in place of 4", replace(BASE, n_steps=2)),
    "eight-steps": Row("8 cascades", replace(BASE, n_steps=8)),
    "true-maps": Row("trained with true coil maps", scanner=true_maps),
    "refined-maps": Row("coil maps refined once", replace(BASE, map_refinement="once")),
    "no-phase": Row("trained on objects without phase", scanner=without_phase),
    "no-noise": Row("trained without noise", scanner=without_noise),
    "one-scan": Row("trained on one scan of one person", scanner=one_volume),
    "half-width": Row("half the channels", replace(BASE, widths=(16, 24, 32))),
    "wide": Row("one and a half times the channels", replace(BASE, widths=(48, 72, 96))),
    "tuned": Row("tuned on held-out lines of the scan itself", tuned=True),
}


def weights_of(name: str, out: Path) -> Path:
    """Where the network of a row lies."""
    return out / ("base" if ROWS[name].tuned else name) / "model.safetensors"


def trained(name: str, out: Path, data: Path, n_steps: int) -> None:
    """Train a row, or what is missing of it."""
    row, split = ROWS[name], load_toml(HERE / "train_unrolled.toml", TrainingConfig).held_out
    config = TrainingConfig(
        data=str(data),
        out=str(out / name),
        held_out=split,
        model=row.model,
        n_steps=n_steps,
        warm_up=n_steps // 10,
        cool_down=n_steps // 2,
        strip=96,
        repeats=2,
        n_workers=0,
        bfloat16=False,
        save_every=max(1, n_steps // 2),
        n_validation=8,
        tensorboard=False,
        n_pictures=0,
        seed=5,
    )
    with row.scanner():
        loop.train(config, _told(name))


def _told(name: str) -> Callable[[dict[str, Any]], None]:
    def events(event: dict[str, Any]) -> None:
        if event["event"] == "saved":
            spent = event["seconds_per_step"]
            print(f"{name}: step {event['step']}, {event['noisy_db']:.2f} dB, {spent:.2f} s a step", flush=True)

    return events


def by_network(scan: Scan, weights: Path) -> NDArray[np.float32]:
    """The picture as a user gets it."""
    config = ReconstructionConfig(method=str(weights))
    return make_reconstructor(str(weights), config).reconstruct(scan).pixels


def by_tuned(scan: Scan, weights: Path) -> NDArray[np.float32]:
    """The picture by the network that was tuned on the scan first."""
    tuned = weights.with_name("tuned.safetensors")
    finetune(scan, weights, tuned, FinetuningConfig(minutes=1, max_steps=60, n_slices=2), lambda event: None)
    return by_network(scan, tuned)


def scans(data: Path) -> Iterator[tuple[str, int, Callable[[], tuple[Scan, NDArray[np.float32]]]]]:
    """Yield kind, number, and what makes the scan and its reference."""
    config = replace(load_toml(HERE / "train_unrolled.toml", TrainingConfig), data=str(data / "truth"))
    cells = [(mask, coils) for mask in MASKS for coils in COILS]
    for index in range(N_CASES * len(cells)):
        case, cell = divmod(index, len(cells))
        yield "validation", index, functools.partial(_simulated, cell, *cells[cell], case, config)
    for name, (file, acceleration) in REAL.items():
        for seed in range(N_SEEDS):
            yield name, seed, functools.partial(_measured, data / "kspace" / file, acceleration, seed)


def _simulated(cell: int, mask: str, coils: int, case: int, config: TrainingConfig) -> tuple[Scan, NDArray[np.float32]]:
    made = make_case(100 + cell, 4.0, mask, coils, case, config)  # apart from the cells of model_table.py
    return made.scan, made.noisy


def _measured(path: Path, acceleration: float, seed: int) -> tuple[Scan, NDArray[np.float32]]:
    scan = read_scan(path)
    reference = scan.reference
    if reference is None:
        reference = make_reconstructor("zero-filled").reconstruct(scan).pixels
    fraction = ReconstructionConfig(accelerate=acceleration).effective_center_fraction
    return undersample(scan, "equispaced_fraction", acceleration, fraction, seed), reference


def scored(name: str, out: Path, data: Path) -> None:
    """Score what is not scored yet."""
    path = out / "scores.csv"
    done = {(row["row"], row["scan"], int(row["seed"])) for row in read(path)}
    picture = by_tuned if ROWS[name].tuned else by_network
    for kind, seed, make in scans(data):
        if (name, kind, seed) in done:
            continue
        scan, reference = make()
        inside = metrics.in_body(reference, picture(scan, weights_of(name, out)))
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(FIELDS)
            writer.writerow([name, kind, seed, f"{inside['psnr']:.4f}", f"{inside['ssim']:.5f}"])


def read(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def gains(out: Path) -> dict[str, dict[str, tuple[float, float, float, float]]]:
    """Of every row and kind of scan: mean PSNR and SSIM in the body, mean difference to base, its standard error."""
    found: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for row in read(out / "scores.csv"):
        found.setdefault(row["row"], {}).setdefault(row["scan"], {})[int(row["seed"])] = (
            float(row["psnr"]),
            float(row["ssim"]),
        )
    result: dict[str, dict[str, tuple[float, float, float, float]]] = {}
    for name in ROWS:
        for kind, values in found.get(name, {}).items():
            pairs = [(values[seed][0], found["base"][kind][seed][0]) for seed in sorted(values)]
            difference = np.array([own - base for own, base in pairs])
            error = float(difference.std(ddof=1) / math.sqrt(len(pairs))) if len(pairs) > 1 else math.nan
            similarity = float(np.mean([ssim for _, ssim in values.values()]))
            mean = float(np.mean([own for own, _ in pairs]))
            result.setdefault(name, {})[kind] = (mean, similarity, float(difference.mean()), error)
    return result


def table(out: Path) -> str:
    """The table as Markdown."""
    kinds, found = ["validation", *REAL], gains(out)
    base = found["base"]
    steps = read(weights_of("base", out).with_name("log.csv"))[-1]["step"]
    lines = [
        f"{steps} steps each. `base`: " + ", ".join(f"{base[k][0]:.2f} dB ({k})" for k in kinds) + ".",
        "",
        "| row | change | weights | " + " | ".join(kinds) + " |",
        "|---|---|--:|" + "--:|" * len(kinds),
    ]
    for name, cells in found.items():
        if name == "base":
            continue
        count = sum(p.numel() for p in load(weights_of(name, out))[0].parameters())
        values = [f"{cells[k][2]:+.2f} ± {cells[k][3]:.2f}" if k in cells else "" for k in kinds]
        lines.append(f"| `{name}` | {ROWS[name].what} | {count:,} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def draw(out: Path, path: Path) -> None:
    """Difference to base on real scans over that on simulated ones: the diagonal is where both agree."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.5, 5), layout="constrained")
    for kind, marker in zip(REAL, "osD", strict=True):
        points = {n: (c["validation"], c[kind]) for n, c in gains(out).items() if n != "base" and kind in c}
        x, y = ([pair[i][2] for pair in points.values()] for i in (0, 1))
        axis.errorbar(x, y, [p[1][3] for p in points.values()], fmt=marker, ms=5, capsize=2, label=kind)
        if kind == next(iter(REAL)):
            for name, (simulated, real) in points.items():
                axis.annotate(name, (simulated[2], real[2]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    low, high = axis.get_xlim()
    axis.plot([low, high], [low, high], color="0.7", lw=1, zorder=0)
    axis.axhline(0, color="0.85", lw=1, zorder=0)
    axis.axvline(0, color="0.85", lw=1, zorder=0)
    axis.set(xlabel="change on simulated scans of held-out people [dB]", ylabel="change on real k-space [dB]")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train, score, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--figure", type=Path, help="draw real over simulated there")
    parser.add_argument("--page", type=Path, help="write the table between <!-- ablation --> and its end there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.rows:
        if not ROWS[name].tuned:
            trained(name, arguments.out, arguments.data / "truth", arguments.steps)
        scored(name, arguments.out, arguments.data)
    text = table(arguments.out)
    print(text)
    if arguments.page:
        replace_between(arguments.page, "ablation", text)
    if arguments.figure:
        draw(arguments.out, arguments.figure)
    (arguments.out / "gains.json").write_text(json.dumps(gains(arguments.out), indent=1))


if __name__ == "__main__":
    main()
