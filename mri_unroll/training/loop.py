"""The training loop: resumable after a kill, because every step is a function of its index and the checkpoint."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from mri_unroll.errors import ConfigError
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import ModelConfig, build, digest, load, save, transfer
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.physics.fourier import use_engine
from mri_unroll.training.dataset import SimulatedScans, find_volumes
from mri_unroll.training.examples import CalibratedScans, Example, prepare
from mri_unroll.training.losses import unrolled_loss


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One training run. Read from TOML by ``scripts/train_unrolled.py``.

    The learning rate rises, stays, and falls over the last ``cool_down`` steps, so that a run can be made longer than
    was planned: what came before its fall is the same.
    """

    data: str  # folder with index.json and image volumes
    out: str  # folder for checkpoint.pt, log.csv and model.safetensors
    held_out: str  # regular expression of validation people, see dataset.find_volumes
    model: ModelConfig = field(default_factory=ModelConfig)
    n_steps: int = 6000
    learning_rate: float = 1e-3
    warm_up: int = 200
    cool_down: int = 2000  # steps over which the learning rate falls, the last ones
    start_from: str | None = None  # weights of a smaller network of the same widths, see nets.model.transfer
    bfloat16: bool = True  # inside the priors; everything else is single precision
    ema_decay: float = 0.998
    clip_norm: float = 1.0
    strip: int = 112  # readout rows per step; rows decouple when whole lines are sampled
    repeats: int = 1  # steps that each acquisition serves, each with other rows and another share of noise
    seed: int = 0
    n_workers: int = 1
    n_threads: int = 1
    save_every: int = 250
    n_validation: int = 24


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, a plateau, then a cosine to one percent over the last ``cool_down`` steps."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    length = min(config.cool_down, config.n_steps - config.warm_up)
    done = (step - config.n_steps + length) / max(1, length)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))))


@torch.no_grad()
def validate(network: Unrolled, examples: list[Example]) -> tuple[float, float]:
    """Mean NMSE in decibels inside the body, of the start and of the result."""
    start: list[float] = []
    result: list[float] = []
    for example in examples:
        reference = example.rss * example.body
        iterates = list(network.iterates(example.adjoint_kspace, example.op, example.strength))
        for image, scores in ((iterates[0], start), (iterates[-1], result)):
            error = (image.abs() * example.body - reference).square().sum() / reference.square().sum()
            scores.append(10 * math.log10(float(error)))
    return float(np.mean(start)), float(np.mean(result))


def train(config: TrainingConfig, report: Callable[[str], None]) -> Path:
    """Train until ``config.n_steps``, from the checkpoint in ``config.out`` if there is one.

    Parameters
    ----------
    config
        The run.
    report
        Gets one line at a time about progress.

    Returns
    -------
    Path
        The exported weights, ``model.safetensors``.

    Raises
    ------
    ConfigError
        If the folder holds the checkpoint of another configuration.
    """
    torch.set_num_threads(config.n_threads)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    training, validation = find_volumes(Path(config.data), config.held_out)
    n_strength = config.model.n_strength
    refines = config.model.map_refinement != "none"
    scans = CalibratedScans(
        SimulatedScans(training, config.seed, config.n_steps), config.strip, n_strength, config.repeats, refines
    )
    held_out = _validation(SimulatedScans(validation, config.seed + 1, config.n_validation), n_strength, refines)
    torch.manual_seed(config.seed)
    network = build(config.model)
    started_from = None if config.start_from is None else digest(Path(config.start_from))
    if config.start_from is not None:
        transfer(load(Path(config.start_from))[0], network)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    smooth = cast(Unrolled, average.module)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    parts: dict[str, Any] = {"network": network, "average": average, "optimiser": optimiser}
    first = _resume(out / "checkpoint.pt", parts, config)
    n_parameters = sum(p.numel() for p in network.parameters())
    report(
        f"{n_parameters} parameters, {len(training)} training and {len(validation)} validation volumes, step {first}"
    )
    loader: DataLoader[Example] = DataLoader(
        Subset(scans, range(first, config.n_steps)),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=config.n_workers,
        prefetch_factor=4 if config.n_workers else None,
    )
    started, recent, n_skipped = time.monotonic(), [], 0
    with use_engine("torch"), prior_precision(torch.bfloat16 if config.bfloat16 else None):
        for step, example in enumerate(loader, start=first):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            iterates = list(network.iterates(example.adjoint_kspace, example.op, example.strength))
            loss = unrolled_loss(iterates, example.coil_combined, example.rss, example.body)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            if torch.isfinite(norm):  # one impossible example must not end a night of training
                optimiser.step()
                average.update_parameters(network)
            else:
                n_skipped += 1
            recent.append(float(loss.detach()))
            if (step + 1) % config.save_every == 0 or step + 1 == config.n_steps:
                start, result = validate(smooth, held_out[0.0])
                _, noisy = validate(smooth, held_out[1.0])
                pace = (time.monotonic() - started) / (step + 1 - first)
                row = [step + 1, float(np.mean(recent)), start, result, noisy, pace, float(norm)]
                _log(out / "log.csv", row)
                left = pace * (config.n_steps - step - 1) / 60
                report(
                    f"step {step + 1}/{config.n_steps} loss {row[1]:.4f} validation NMSE {result:.2f} dB "
                    f"(least squares {start:.2f}), noise kept {noisy:.2f} dB, {pace:.2f} s/step, {left:.0f} min left, "
                    f"{n_skipped} steps skipped"
                )
                recent = []
                _checkpoint(out / "checkpoint.pt", step + 1, parts, config)
                card = {
                    "training": _settings(config),
                    "started_from": started_from,
                    "steps_done": step + 1,
                    "validation_db": result,
                    "noisy_db": noisy,
                }
                save(smooth, config.model, card, out / "model.safetensors")
    report(f"weights {digest(out / 'model.safetensors')}")
    return out / "model.safetensors"


def _validation(scans: SimulatedScans, n_strength: int, refines_maps: bool) -> dict[float, list[Example]]:
    """Whole validation slices by the share of noise that their truth holds, made once."""
    with torch.no_grad(), use_engine("torch"):
        return {
            noise_kept: [
                prepare(scans[index], None, np.random.default_rng(0), noise_kept, n_strength, None, refines_maps)
                for index in range(len(scans))
            ]
            for noise_kept in (0.0, 1.0)
        }


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """What made the weights, without the folders of the machine that did."""
    return {name: value for name, value in asdict(config).items() if name not in ("data", "out", "start_from")}


def _resume(path: Path, parts: dict[str, Any], config: TrainingConfig) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["model"] != repr(config.model):
        raise ConfigError(
            f"The checkpoint in {path.parent.name} is of another model: {state['model']}.",
            "Choose another output folder.",
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _checkpoint(path: Path, step: int, parts: dict[str, Any], config: TrainingConfig) -> None:
    """Write beside, flush to disk, then rename: a kill leaves the old checkpoint or the new one, never half of one."""
    state = {name: part.state_dict() for name, part in parts.items()}
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        torch.save(state | {"step": step, "model": repr(config.model)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _log(path: Path, row: list[float]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(
                ["step", "loss", "start_db", "validation_db", "noisy_db", "seconds_per_step", "gradient_norm"]
            )
        writer.writerow(row)
