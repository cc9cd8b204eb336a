"""Checkpoints of a training run that a kill at any moment leaves whole, and the lock of its folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.io.atomic import flush_to_disk
from mri_unroll.training.settings import TrainingConfig

NAME = "checkpoint.pt"
# Changed midway, these make another run of it.
_FIXED = ("held_out", "seed", "supervision", "batch", "repeats", "task", "weight_rate")
_PATIENCE = 15.0  # seconds; data workers of a killed run keep its lock until they notice


class Part(Protocol):
    """Network, average, optimiser: anything with a state."""

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from there."""
        ...


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a run goes on."""

    step: int  # steps done
    changed: tuple[str, ...]  # settings that differ from those of the checkpoint, as sentences


def resume(folder: Path, parts: dict[str, Part], config: TrainingConfig) -> Resumed:
    """Load the checkpoint of a folder into the parts of a run, if there is one.

    Raises
    ------
    ConfigError
        If it is of another model or run, or done with more steps than are asked for.
    InputError
        If it cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return Resumed(0, ())
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        model, step, before = state["model"], int(state["step"]), state.get("settings", {})
    except Exception as error:  # torch has no error of its own for a file that is not its
        raise InputError(
            f"{path} cannot be read as a checkpoint of a training run: {type(error).__name__}: {error}.",
            "Choose another output folder, or begin again with --restart --overwrite.",
        ) from error
    if model != repr(config.model):
        raise ConfigError(
            f"The checkpoint in {folder.name} is of another model: {model}.",
            "Choose another output folder.",
        )
    if step > config.n_steps:
        raise ConfigError(
            f"The checkpoint in {folder.name} has done {step} steps, more than the {config.n_steps} asked for.",
            "Ask for more steps, or choose another output folder.",
        )
    changed = []
    for name, now in _comparable(config).items():
        if name in before and before[name] != now:
            if name in _FIXED:
                raise ConfigError(
                    f"The checkpoint in {folder.name} was trained with {name} = {before[name]!r}, now it is {now!r}.",
                    "Put it back, or choose another output folder.",
                )
            changed.append(f"{name} was {before[name]!r} until step {step} and is {now!r} from there on")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return Resumed(step, tuple(changed))


def write(folder: Path, step: int, parts: dict[str, Part], config: TrainingConfig) -> None:
    """Write beside, flush to disk, then rename: a kill leaves the old checkpoint or the new one, never half of one."""
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "model": repr(config.model), "settings": _comparable(config)}
    path = folder / NAME
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_to_disk(folder)


def clear(folder: Path) -> None:
    """Delete what a run has written into its folder, the checkpoint first."""
    for pattern in (
        NAME,
        "checkpoint.part",
        "log.csv",
        "model*.safetensors",
        "pictures/step_*",
        "tensorboard/events.*",
    ):
        for path in sorted(folder.glob(pattern)):
            path.unlink()


def _comparable(config: TrainingConfig) -> dict[str, Any]:
    """Settings but for the model's, whose text is compared whole, in types that weights-only loading allows."""
    settings = {name: value for name, value in config.recorded().items() if name != "model"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one training run at a time; the lock falls with the process that holds it.

    Raises
    ------
    ConfigError
        If another process trains into the folder.
    """
    with (folder / "lock").open("w") as file:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"Another training run is writing into {folder.name}.",
                        "Wait for it, stop it, or choose another output folder with --out.",
                    ) from None
                time.sleep(0.25)
        yield
