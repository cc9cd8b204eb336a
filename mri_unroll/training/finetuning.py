"""Zero-shot fine-tuning: a network goes on learning on one undersampled scan, from nothing but that scan.

The measured lines are split in three. One set is never trained on: it decides when to stop. The others are split anew
at every step into lines that the network is given and lines that it has to predict. Yaman, Hosseini and Akcakaya, ICLR
2022, arXiv:2102.07737 (ZS-SSL). The tuned network is kept only if it predicts the first set better than the network
that it began as.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.errors import InputError, ModelError, UnsupportedScan
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import ModelConfig, Network, build, digest, load, save, task
from mri_unroll.physics.fourier import use_engine
from mri_unroll.physics.sampling import effective_acceleration, varies_along
from mri_unroll.recon.calibrate import CalibratedProblem
from mri_unroll.recon.parts import take_apart
from mri_unroll.scan import Scan
from mri_unroll.training.examples import random_rows
from mri_unroll.training.measured import body_of
from mri_unroll.training.self_supervision import HeldOutExample, hold_out, split_samples

Events = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class FinetuningConfig:
    """How long and how boldly. The defaults are for a few minutes on a CPU."""

    minutes: float = 5.0  # at most, validation included
    learning_rate: float = 1e-4
    stopping_share: float = 0.2  # of the measured lines, that decide when to stop
    share: float = 0.4  # of the lines left, that a step holds out
    n_slices: int = 4  # of the scan, evenly spaced, that are learned from
    strip: int = 96  # readout rows per step
    every: int = 10  # steps between two looks at the lines that decide
    patience: int = 5  # looks without progress after which it stops
    max_steps: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it."""

    kept: bool  # the tuned weights; else those it began with
    start: float  # squared error of the lines that decide, over their energy, in decibels
    result: float  # the same with the weights that were written
    steps: int  # done in all
    best_step: int  # whose weights were written; 0: the start's
    seconds: float
    reason: str  # why it ended, a sentence


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """A calibrated slice with its lines split in those to learn from and those that decide."""

    problem: CalibratedProblem
    known: NDArray[np.bool_]  # (ky, kx)
    deciding: NDArray[np.bool_]
    body: torch.Tensor  # (y, x)


def finetune(scan: Scan, start: Path, out: Path, config: FinetuningConfig, events: Events) -> Tuned:
    """Tune a network on one scan and write it.

    Parameters
    ----------
    scan
        Cartesian, as measured.
    start
        Weights to begin with.
    out
        ``NAME.safetensors``.
    config
        How long and how boldly.
    events
        Gets ``start``, ``progress`` about once a second, ``looked`` and ``done``.

    Raises
    ------
    UnsupportedScan
        If the scan does not fall apart into Cartesian planes.
    InputError
        If it was not undersampled, has no signal, or too few lines.
    ModelError
        If the file holds no network of ours, or one that does not reconstruct k-space.
    """
    began = time.monotonic()
    network, model, card = load(start)
    if task(card) != "reconstruct":
        raise ModelError(
            f"The network {start.name} was trained for the task {task(card)!r}; a scan tunes those that reconstruct.",
            "Start from unrolled, or leave out --from.",
        )
    rng = np.random.default_rng(config.seed)
    with use_engine("torch"), prior_precision(None):
        slices = _prepare(scan, config, rng)
        refines = model.map_refinement != "none"
        judges = [hold_out(each.problem, each.known, each.deciding, model.n_strength, None, refines) for each in slices]
        first = error_of(network, judges)
        events(
            {
                "event": "start",
                "n_slices": len(slices),
                "deciding_lines": [_lines(each.deciding) for each in slices],
                "known_lines": [_lines(each.known) for each in slices],
                "start_db": first,
                "minutes": config.minutes,
            }
        )
        best, tuned = _tune(network, model, slices, judges, first, config, rng, began, events)
        tuned = _write(best, model, card, scan, start, out, judges, tuned, config)
    events({"event": "done", **asdict(tuned), "weights": str(out), "digest": digest(out)})
    return tuned


def _prepare(scan: Scan, config: FinetuningConfig, rng: np.random.Generator) -> list[_Slice]:
    if not scan.is_cartesian:
        raise UnsupportedScan(
            "Fine-tuning holds out k-space lines of a grid; this scan has a trajectory.", "Use the network as it is."
        )
    parts = take_apart(scan)
    if len(parts.shape) != 2:
        raise UnsupportedScan(
            "Fine-tuning works on planes, but this 3-D acquisition couples all three directions.",
            "Use a classical method.",
        )
    filled = [index for index in range(parts.count) if not parts.take(index).is_empty]
    if not filled:
        raise InputError("The scan holds no signal.", "Check the file.")
    count = min(config.n_slices, len(filled))
    chosen = [filled[int((i + 0.5) * len(filled) / count)] for i in range(count)]
    found = []
    for index in chosen:
        part = parts.take(index)
        assert isinstance(part.sampling, torch.Tensor)  # a grid
        mask = part.sampling.numpy()
        columns = np.flatnonzero(mask.any(0))
        if mask[:, columns[0] : columns[-1] + 1].all():
            raise InputError(
                "The scan is fully sampled: there is nothing to reconstruct that it does not show.",
                "Add --accelerate R to tune on what an accelerated scan would have measured.",
            )
        with torch.no_grad():
            problem = part.calibrated()
        known, deciding = split_samples(mask, config.stopping_share, rng)
        body = torch.from_numpy(body_of(problem.op.coil_images(problem.kspace)[0].numpy()))
        found.append(_Slice(problem, known, deciding, body))
    return found


def _lines(mask: NDArray[np.bool_]) -> int:
    """Phase-encoding lines with samples in them."""
    return int(mask.any(0).sum())


@torch.no_grad()
def error_of(network: Network, judges: list[HeldOutExample]) -> float:
    """Mean squared error of the lines that decide, over their energy, in decibels."""
    errors = [judge.error(network(judge.adjoint_kspace, judge.op, judge.strength).value) for judge in judges]
    return 10 * math.log10(max(float(np.mean(errors)), 1e-30))


def _tune(
    network: Network,
    model: ModelConfig,
    slices: list[_Slice],
    judges: list[HeldOutExample],
    first: float,
    config: FinetuningConfig,
    rng: np.random.Generator,
    began: float,
    events: Events,
) -> tuple[Network, Tuned]:
    """Learn until the time is up or the lines that decide get no better; the best network and how it went."""
    deadline = began + 60 * config.minutes
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    best, best_error, best_step, idle, step = copy.deepcopy(network), first, 0, 0, 0
    now = time.monotonic()
    looking, reason, told = now - began, f"It did the {config.max_steps} steps that it may.", 0.0
    for step in range(1, config.max_steps + 1):
        example = _example(slices[(step - 1) % len(slices)], config, rng, model)
        *_, image = network.iterates(example.adjoint_kspace, example.op, example.strength)
        loss = example.loss(image)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        now, before = time.monotonic(), now
        out_of_time = now + (now - before) + 2 * looking > deadline  # a look, and one more at what is written
        if now - told > 1 or out_of_time:
            told = now
            left = max(0.0, deadline - now)
            progress = {"done": step, "total": config.max_steps, "loss": float(loss.detach())}
            events({"event": "progress", **progress, "seconds_left": left})
        if step % config.every == 0 or out_of_time:
            error = error_of(network, judges)
            looking, now = time.monotonic() - now, time.monotonic()
            idle += 1
            if error < best_error:
                best, best_error, best_step, idle = copy.deepcopy(network), error, step, 0
            events({"event": "looked", "step": step, "error_db": error, "best_db": best_error, "start_db": first})
        if out_of_time:
            reason = f"The {config.minutes:g} minutes were over."
            break
        if idle >= config.patience:
            reason = f"The lines that decide got no better for {idle * config.every} steps."
            break
    seconds = time.monotonic() - began
    return best, Tuned(best_step > 0, first, best_error, step, best_step, seconds, reason)


def _example(one: _Slice, config: FinetuningConfig, rng: np.random.Generator, model: ModelConfig) -> HeldOutExample:
    """A new split of the lines that may be learned from, in some rows where rows decouple."""
    given, held_out = split_samples(one.known, config.share, rng)
    rows = None
    if one.known.shape[0] > config.strip and not varies_along(one.known):
        rows = random_rows(one.body, config.strip, rng)
    with torch.no_grad():
        return hold_out(one.problem, given, held_out, model.n_strength, rows, model.map_refinement != "none")


def _write(
    best: Network,
    model: ModelConfig,
    card: dict[str, Any],
    scan: Scan,
    start: Path,
    out: Path,
    judges: list[HeldOutExample],
    tuned: Tuned,
    config: FinetuningConfig,
) -> Tuned:
    """Write the best network as it will be read again, in half precision; the start if that made it no better."""
    if tuned.kept:
        stored = _rounded(best, model)
        result = error_of(stored, judges)
        tuned = Tuned(
            result < tuned.start,
            tuned.start,
            min(result, tuned.start),
            tuned.steps,
            tuned.best_step if result < tuned.start else 0,
            tuned.seconds,
            tuned.reason,
        )
    network = best if tuned.kept else load(start)[0]
    assert scan.mask is not None  # a Cartesian scan has one
    tuning = {
        "scan_digest": scan.source.digest,
        "scan_format": scan.source.format,
        "scan_acceleration": round(effective_acceleration(scan.mask), 3),
        "started_from": digest(start),
        "kept": tuned.kept,
        "held_out_lines_db": {"start": tuned.start, "result": tuned.result},
        "steps": tuned.steps,
        "best_step": tuned.best_step,
        "reason": tuned.reason,
        "settings": asdict(config),
        "use": "For this scan alone: on others it is untested and may be worse than what it began as.",
    }
    save(network, model, card | {"tuned_on": tuning}, out)
    return tuned


def _rounded(network: Network, model: ModelConfig) -> Network:
    """The network with its weights as a checkpoint keeps them."""
    other = build(model)
    with torch.no_grad():
        for target, source in zip(other.parameters(), network.parameters(), strict=True):
            target.copy_(source.half())
    return other.eval()
