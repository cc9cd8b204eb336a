"""The training loop: resumable after a kill, because every step is a function of its index and the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from mri_unroll.errors import ConfigError
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import Network, build, digest, load, save
from mri_unroll.nets.transfer import transfer
from mri_unroll.physics.fourier import use_engine
from mri_unroll.recon.learned import fitting_precision
from mri_unroll.training import checkpoint
from mri_unroll.training.blurring import DRAWN_SHARE, EMPTY_SHARE, BlurredPictures
from mri_unroll.training.data_weights import by_learning_rate, set_data_weights
from mri_unroll.training.dataset import Scans, SimulatedScans, Volume, find_volumes
from mri_unroll.training.examples import CalibratedScans, Supervised
from mri_unroll.training.journal import Journal
from mri_unroll.training.measured import MeasuredScans
from mri_unroll.training.memory import recompute_steps
from mri_unroll.training.objective import Objective
from mri_unroll.training.processes import Processes, processes
from mri_unroll.training.self_supervision import HeldOutExample
from mri_unroll.training.settings import TrainingConfig, learning_rate
from mri_unroll.training.simulate import POISSON_SHARE
from mri_unroll.training.turning import random_turn
from mri_unroll.training.validation import HeldOutPeople

__all__ = ["TrainingConfig", "learning_rate", "train"]

Events = Callable[[dict[str, Any]], None]
WEIGHTS = "model.safetensors"
EMULATED = (
    "This processor emulates bfloat16, which takes several times as long as single precision. "
    "Set bfloat16 = false, now or when the run goes on."
)


def train(config: TrainingConfig, events: Events, restart: bool = False) -> Path:
    """Train until ``config.n_steps``, from the checkpoint in ``config.out`` if there is one.

    Under ``torchrun`` every process calls this; the first one writes.

    Parameters
    ----------
    config
        The run.
    events
        Gets ``start``, ``note``, ``progress`` (about once a second), ``saved`` and ``done``.
    restart
        Delete the run that is there, and begin again.

    Returns
    -------
    Path
        The exported weights, ``model.safetensors``.

    Raises
    ------
    ConfigError
        If the folder holds the checkpoint of another configuration, or another process trains into it.
    InputError
        If the data cannot be used.
    """
    torch.set_num_threads(config.n_threads)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        team = held.enter_context(processes(config.device, config.batch))
        if team.is_first:
            held.enter_context(checkpoint.locked(out))
            if restart:
                checkpoint.clear(out)
        team.wait()
        held.enter_context(use_engine("torch"))
        held.enter_context(prior_precision(torch.bfloat16 if config.bfloat16 else None))
        run = _Run(config, team, events if team.is_first else _ignore)
        if team.is_first:
            held.enter_context(run.journal)
        run.go()
    path = out / WEIGHTS
    if team.is_first:
        events({"event": "done", "weights": str(path), "digest": digest(path)})
    return path


def _ignore(event: dict[str, Any]) -> None:
    """Only the first process speaks."""


class _Run:
    """A run under way: data, network, and what is saved of it."""

    def __init__(self, config: TrainingConfig, team: Processes, events: Events) -> None:
        self.config = config
        self.team = team
        self.events = events
        self.out = Path(config.out)
        training, validation = find_volumes(Path(config.data), config.held_out)
        self.examples = self._examples(training)
        if team.is_first:
            held_out = _scans(validation, config.seed + 1, config.n_validation, config, augment=False)
            self.people = HeldOutPeople(held_out, config, self.refines_maps, team.device)
        torch.manual_seed(config.seed)
        self.network: Network = build(config.model)
        self.started_from = None if config.start_from is None else digest(Path(config.start_from))
        if config.start_from is not None:
            transfer(load(Path(config.start_from))[0], self.network, config.start_steps)
        if config.start_weight:
            set_data_weights(self.network, config.start_weight)
        self.network.to(team.device)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        groups = list(by_learning_rate(self.network, config.weight_rate))
        self.rates = [rate for rate, _ in groups]
        self.optimiser = torch.optim.AdamW(
            [{"params": parameters} for _, parameters in groups], lr=config.learning_rate, weight_decay=1e-4
        )
        self.parts: dict[str, Any] = {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
        }
        resumed = checkpoint.resume(self.out, self.parts, config)
        self.first = resumed.step
        if config.checkpointing:
            recompute_steps(self.network, torch.bfloat16 if config.bfloat16 else None)
        self.journal = Journal(self.out, self.first, config.tensorboard) if team.is_first else cast(Journal, None)
        events(
            {
                "event": "start",
                "parameters": sum(p.numel() for p in self.network.parameters()),
                "training_volumes": len(training),
                "validation_volumes": len(validation),
                "step": self.first,
                "n_steps": config.n_steps,
                "device": str(team.device),
                "processes": team.count,
                "out": str(self.out),
                "settings": config.recorded(),
            }
        )
        notes = [*resumed.changed, self.journal.note if team.is_first else ""]
        if config.bfloat16 and team.device.type == "cpu" and fitting_precision(team.device) is None:
            notes.append(EMULATED)
        for note in filter(None, notes):
            events({"event": "note", "message": note})

    def _examples(self, volumes: list[Volume]) -> CalibratedScans | BlurredPictures:
        config = self.config
        scans = _scans(volumes, config.seed, -(-config.n_steps * config.batch // config.repeats), config)
        if isinstance(scans, BlurredPictures):
            return scans
        return CalibratedScans(
            scans,
            config.strip,
            config.model.n_strength,
            config.repeats,
            self.refines_maps,
            with_coils=config.loss == "kspace",
            held_out_share=config.ssdu_share if config.supervision == "ssdu" else None,
        )

    @property
    def refines_maps(self) -> bool:
        """Whether the network is to be told what was measured by each coil."""
        return self.config.model.map_refinement != "none"

    def go(self) -> None:
        """Do the steps that are left."""
        config, objective = self.config, Objective(self.config)
        self.started, told, losses, n_skipped = time.monotonic(), 0.0, [], 0
        stream = self._stream()
        for step in range(self.first, config.n_steps):
            for rate, group in zip(self.rates, self.optimiser.param_groups, strict=True):
                group["lr"] = rate * learning_rate(config, step)
            self.optimiser.zero_grad(set_to_none=True)
            total = torch.zeros((), device=self.team.device)
            for _ in self.team.share(step, config.batch):
                loss = objective(self.network, next(stream).to(self.team.device)) / config.batch
                loss.backward()
                total += loss.detach()
            total = self.team.add_up(self.network, total)
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
            if torch.isfinite(norm):  # one impossible example must not end a night of training
                self.optimiser.step()
                self.average.update_parameters(self.network)
            else:
                n_skipped += 1
            losses.append(float(total))
            done = step + 1
            if time.monotonic() - told > 1 or done == config.n_steps:
                told = time.monotonic()
                pace = self._pace(done)
                left = pace * (config.n_steps - done)
                self.events(
                    {
                        "event": "progress",
                        "done": done,
                        "total": config.n_steps,
                        "loss": losses[-1],
                        "seconds_per_step": pace,
                        "seconds_left": left,
                    }
                )
            if done % config.save_every == 0 or done == config.n_steps:
                if self.team.is_first:
                    self._save(done, float(np.mean(losses)), float(norm), n_skipped)
                losses = []
        if self.team.is_first and not (self.out / WEIGHTS).exists():  # taken away after the last step
            self._save(config.n_steps, float("nan"), float("nan"), n_skipped)

    def _pace(self, done: int) -> float:
        return (time.monotonic() - self.started) / max(1, done - self.first)

    def _stream(self) -> Iterator[Supervised | HeldOutExample]:
        """The examples of this process, in order, from the first step that is not done."""
        config = self.config
        steps = range(self.first, config.n_steps)
        loader: DataLoader[Supervised | HeldOutExample] = DataLoader(
            Subset(self.examples, [i for step in steps for i in self.team.share(step, config.batch)]),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=config.n_workers,
            prefetch_factor=4 if config.n_workers else None,
        )
        return iter(loader)

    def _save(self, step: int, loss: float, norm: float, n_skipped: int) -> None:
        """Validate and write everything, the checkpoint last: what it stands for is then on the disk."""
        found = self.people.examine(cast(Network, self.average.module), self.config.n_pictures)
        row = {
            "step": step,
            "loss": loss,
            "start_db": found.start,
            "validation_db": found.result,
            "noisy_db": found.noisy,
            "seconds_per_step": self._pace(step),
            "gradient_norm": norm,
        }
        card = {
            "task": self.config.task,
            "training": self.config.recorded(),
            "started_from": self.started_from,
            "steps_done": step,
            "validation": self.people.score,
            "validation_db": found.result,
            "noisy_db": found.noisy,
        }
        self.journal.record(row)
        picture = self.journal.draw(step, found.pictures) if found.pictures else None
        save(self.average.module, self.config.model, card, self.out / WEIGHTS)
        checkpoint.write(self.out, step, self.parts, self.config)
        paths = {"weights": str(self.out / WEIGHTS), "pictures": None if picture is None else str(picture)}
        self.events(
            {"event": "saved", "n_steps": self.config.n_steps, **row, "skipped": n_skipped, "score": self.people.score}
            | {"seconds_left": self._pace(step) * (self.config.n_steps - step), "paths": paths}
        )


def _scans(
    volumes: list[Volume], seed: int, length: int, config: TrainingConfig, augment: bool = True
) -> Scans | BlurredPictures:
    """What training and validation draw from: images to be acquired or blurred, or raw k-space."""
    turn = random_turn(config.rotation, config.zoom) if augment else None
    if config.task == "restore":
        if volumes[0].path.suffix == ".h5":
            raise ConfigError(
                "The task `restore` learns from magnitude pictures; the folder of training data holds raw k-space.",
                "Give a folder with index.json and .npz files.",
            )
        shares = (EMPTY_SHARE, DRAWN_SHARE) if augment else (0.0, 0.0)
        return BlurredPictures(volumes, seed, length, turn, *shares)
    if volumes[0].path.suffix == ".h5":
        return MeasuredScans(volumes, seed, length, config.supervision == "reference", turn)
    # Validation keeps to the usual masks, so that runs with other shares can be compared.
    return SimulatedScans(volumes, seed, length, turn, config.poisson if augment else POISSON_SHARE)
