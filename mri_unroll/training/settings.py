"""What one training run is told, and the schedule of its learning rate."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mri_unroll.config import DeviceChoice, load_toml
from mri_unroll.errors import ConfigError
from mri_unroll.nets.model import N_STRENGTH, ModelConfig, load
from mri_unroll.recon.reconstructor import shipped_models
from mri_unroll.training.simulate import POISSON_SHARE

LossName = Literal["relative", "l1", "ssim", "mixed", "kspace"]
Samples = Literal["all", "measured", "held-out"]
Supervision = Literal["reference", "ssdu"]
Task = Literal["reconstruct", "restore"]
Direction = Literal["worst", "drift"]

PLACES = ("data", "out", "start_from")  # settings that are paths: of the machine, not of the weights


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One training run. Read from TOML by ``mri-unroll train``; `docs/training.md` explains each setting.

    The learning rate rises, stays, and falls over the last ``cool_down`` steps, so that a run can be made longer than
    was planned: what came before its fall is the same.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    data: str  # folder with index.json and image volumes, or with fastMRI-style .h5 files
    out: str  # folder for checkpoint.pt, log.csv, pictures, and model.safetensors
    held_out: str  # regular expression of validation people, see dataset.find_volumes
    model: ModelConfig = field(default_factory=ModelConfig)  # what is trained; in TOML the table [model]
    task: Task = "reconstruct"  # from k-space; "restore": from blurred pictures, see training.blurring
    n_steps: int = 6000  # steps of the optimiser
    learning_rate: float = 1e-3  # of AdamW, at its highest
    warm_up: int = 200  # steps over which the learning rate rises, the first ones
    cool_down: int = 2000  # steps over which the learning rate falls, the last ones
    start_from: str | None = None  # a shipped network, or weights of one that is no wider and has no more steps
    start_steps: tuple[int, ...] = ()  # of an unrolled start, from 0: which of them each step begins as; (): in order
    start_weight: tuple[float, ...] = ()  # log data weight of every step: exponents of its conditions, then a constant
    weight_rate: float = 1.0  # learning rate of the data weights, in multiples of that of the priors
    bfloat16: bool = True  # inside the priors; everything else is single precision
    ema_decay: float = 0.998  # of the running average of the weights, which is what is kept
    clip_norm: float = 1.0  # longer gradients are shortened to this
    strip: int = 112  # readout rows per step; rows decouple when whole lines are sampled
    repeats: int = 1  # steps that each acquisition serves, each with other rows and another share of noise
    poisson: float = POISSON_SHARE  # share of two-dimensional masks among those simulated
    seed: int = 0  # of weights, examples and their order
    n_workers: int = 1  # processes that make examples; 0: none but the trainer
    n_threads: int = 1  # of torch, in the trainer
    save_every: int = 250  # steps between checkpoints, each with a validation
    n_validation: int = 24  # slices of held-out people, spread over them
    loss: LossName = "relative"  # see losses.Objective
    ssim_weight: float = 0.84  # of "mixed", 0..1; the rest is L1
    deep_supervision: tuple[float, ...] = (0.1, 0.3, 0.5)  # weights of the last pictures; earlier ones as the first
    contraction_penalty: float = 0.0  # of an equilibrium: weight of what its step exceeds the next setting by, squared
    contraction_limit: float = 0.95  # gain of an equilibrium's step, at its own pictures, that is not penalised
    contraction_along: Direction = "worst"  # the gain in which direction; "drift": where plain iterations still move
    kspace_samples: Samples = "all"  # which samples "kspace" compares
    supervision: Supervision = "reference"  # "ssdu": no reference, measured lines are held out
    ssdu_share: float = 0.4  # of the measured lines that are held out of a step and predicted
    batch: int = 1  # examples per step, over all processes; their gradients are averaged
    checkpointing: bool = False  # recompute each step in the backward pass: memory of one step, a third more time
    rotation: float = 0.0  # degrees, at most, either way
    zoom: float = 0.0  # at most, either way; 0.1: from 10 % smaller to 10 % larger
    device: DeviceChoice = "auto"  # "auto": a GPU where there is one
    tensorboard: bool = True  # beside log.csv, where the package tensorboard is installed
    n_pictures: int = 3  # validation slices that are drawn at each save

    def __post_init__(self) -> None:
        for name, choices in (
            ("loss", get_args(LossName)),
            ("kspace_samples", get_args(Samples)),
            ("supervision", get_args(Supervision)),
            ("device", get_args(DeviceChoice)),
            ("task", get_args(Task)),
            ("contraction_along", get_args(Direction)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"Expected `{name}` to be one of {choices}, got {getattr(self, name)!r}.")
        for name, holds, wanted in (
            ("n_steps", self.n_steps >= 1, "1 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("weight_rate", 0 <= self.weight_rate < math.inf, "0 or more and finite"),
            ("warm_up", self.warm_up >= 0, "0 or more"),
            ("poisson", 0 <= self.poisson <= 1, "between 0 and 1"),
            ("cool_down", self.cool_down >= 0, "0 or more"),
            ("ema_decay", 0 <= self.ema_decay < 1, "from 0 to below 1"),
            ("clip_norm", self.clip_norm > 0, "above 0"),
            ("strip", self.strip >= 8, "8 rows or more"),
            ("repeats", self.repeats >= 1, "1 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("n_workers", self.n_workers >= 0, "0 or more"),
            ("n_threads", self.n_threads >= 1, "1 or more"),
            ("save_every", self.save_every >= 1, "1 or more"),
            ("n_validation", self.n_validation >= 1, "1 or more"),
            ("ssim_weight", 0 <= self.ssim_weight <= 1, "between 0 and 1"),
            (
                "deep_supervision",
                len(self.deep_supervision) > 0 and min(self.deep_supervision) >= 0 and self.deep_supervision[-1] > 0,
                "weights of 0 or more, the last above 0",
            ),
            ("contraction_penalty", self.contraction_penalty >= 0, "0 or more"),
            ("contraction_limit", 0 < self.contraction_limit < 1, "between 0 and 1"),
            ("ssdu_share", 0 < self.ssdu_share < 1, "between 0 and 1"),
            ("batch", self.batch >= 1, "1 or more"),
            ("rotation", 0 <= self.rotation <= 45, "0 to 45 degrees"),
            ("zoom", 0 <= self.zoom <= 0.5, "0 to 0.5"),
            ("n_pictures", self.n_pictures >= 0, "0 or more"),
        ):
            if not holds:
                raise ConfigError(
                    f"Expected `{name}` to be {wanted}, got {getattr(self, name)!r}.", "Correct the value."
                )
        n_conditions, data_term = self.model.n_strength + self.model.counts_coils, self.model.data_term
        if self.start_weight and (len(self.start_weight) != n_conditions + 1 or data_term != "cg"):
            raise ConfigError(
                f"Expected `start_weight` to be exponents of {n_conditions} conditions and a constant, with the "
                f'data term "cg"; got {self.start_weight} with {data_term!r}.',
                "Correct it, or leave it out: what `start_from` has is kept.",
            )
        if self.start_steps and self.start_from is None:
            raise ConfigError(
                f"`start_steps` names steps of `start_from`, which is missing; got {list(self.start_steps)}.",
                "Name the weights to start from, or leave out both.",
            )
        if self.contraction_penalty and self.model.kind != "equilibrium":
            raise ConfigError(
                f"Only an equilibrium has a contraction to keep, and the model is {self.model.kind!r}.",
                "Leave out contraction_penalty.",
            )
        if self.task == "restore" and (
            self.loss == "kspace"
            or self.supervision != "reference"
            or self.model.map_refinement != "none"
            or self.model.n_strength != N_STRENGTH
            or self.repeats != 1
        ):
            raise ConfigError(
                "A network that restores pictures has no coils, no k-space and no noise to keep.",
                f"Leave out loss = kspace, supervision, map_refinement and repeats; n_strength is {N_STRENGTH}.",
            )

    def recorded(self) -> dict[str, Any]:
        """What made the weights, without the folders of the machine that did; fit for JSON."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in PLACES}


def read_training(path: Path, out: Path | None = None, n_steps: int | None = None) -> TrainingConfig:
    """The run that a TOML file describes; its paths are relative to the file's folder.

    ``start_from`` may also name a network that ships; a run that says nothing of its ``model`` then trains that one.

    Parameters
    ----------
    path
        The file.
    out, n_steps
        In place of the file's own; ``out`` is relative to the current folder.

    Raises
    ------
    ConfigError
        As `load_toml`.
    """
    config = load_toml(path, TrainingConfig)
    folder = path.resolve().parent
    shipped = shipped_models().get(config.start_from or "")
    return dataclasses.replace(
        config,
        data=str((folder / config.data).resolve()),
        out=str((folder / config.out).resolve() if out is None else out.resolve()),
        start_from=config.start_from and str(shipped or (folder / config.start_from).resolve()),
        model=load(shipped)[1] if shipped and config.model == ModelConfig() else config.model,
        n_steps=config.n_steps if n_steps is None else n_steps,
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, a plateau, then a cosine to one percent over the last ``cool_down`` steps."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    length = min(config.cool_down, config.n_steps - config.warm_up)
    done = (step - config.n_steps + length) / max(1, length)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))))
