"""From a `ModelConfig` to a network, and between networks and files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets.prior import UNetPrior
from mri_unroll.nets.steps import GradientStep, ProximalStep
from mri_unroll.nets.unrolled import Unrolled

N_STRENGTH = 2  # log noise level, log sampled fraction: see recon.calibrate.strength_features


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything needed to build a network before its weights are loaded."""

    n_steps: int = 5
    tied: bool = False  # one set of weights for all steps
    data_term: str = "cg"  # "cg": proximal map of the data term; "gradient": one gradient step
    n_cg: int = 4  # conjugate gradients per step
    n_start_cg: int = 8  # conjugate gradients before the first step
    widths: tuple[int, ...] = (48, 64, 96)  # U-Net channels per level

    def __post_init__(self) -> None:
        if self.data_term not in ("cg", "gradient"):
            raise ConfigError(f"Expected data_term 'cg' or 'gradient', got {self.data_term!r}.")
        if self.n_steps < 1 or self.n_start_cg < 1 or not self.widths:
            raise ConfigError("Expected at least one step, one starting iteration and one U-Net level.")


def build(config: ModelConfig) -> Unrolled:
    """The network of a configuration, with fresh weights."""

    def step() -> nn.Module:
        prior = UNetPrior(n_evidence=1, n_strength=N_STRENGTH, widths=config.widths)
        return ProximalStep(prior, N_STRENGTH, config.n_cg) if config.data_term == "cg" else GradientStep(prior)

    steps = [step()] * config.n_steps if config.tied else [step() for _ in range(config.n_steps)]
    return Unrolled(steps, N_STRENGTH, config.n_start_cg)


def save(network: Unrolled, config: ModelConfig, card: dict[str, Any], path: Path) -> None:
    """Write weights in half precision with their configuration and model card inside one safetensors file.

    Half precision keeps a quality network under the size that a source repository carries well; weights are of order
    0.01 to 1, so its relative error of 5e-4 stays below what changes a picture (tested).
    """
    # `state_dict` repeats shared tensors under each name of a tied network; one copy is enough to load them all.
    tensors = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in network.named_parameters()}
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "card": json.dumps(card, sort_keys=True)}
    save_file(tensors, path, metadata=metadata)


def load(path: Path) -> tuple[Unrolled, ModelConfig, dict[str, Any]]:
    """Read what `save` wrote: the network in evaluation mode, its configuration and its card.

    Raises
    ------
    ModelError
        If the file is no safetensors file of ours, or its weights do not fit its configuration.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Expected a safetensors checkpoint at {path.name}: {error}.") from error
    try:
        fields = json.loads(metadata["config"])
        fields["widths"] = tuple(fields["widths"])
        config = ModelConfig(**fields)
        card = json.loads(metadata.get("card", "{}"))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"The checkpoint {path.name} does not say which network it is for.",
            "Only checkpoints written by mri_unroll can be loaded.",
        ) from error
    network = build(config)
    expected = {name: parameter.shape for name, parameter in network.named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise ModelError(f"The weights in {path.name} do not fit its configuration, first at {odd!r}.")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[name].to(parameter.dtype))
            if not bool(torch.isfinite(parameter).all()):
                raise ModelError(f"The weights in {path.name} are not finite at {name!r}.")
    return network.eval(), config, card


def digest(path: Path) -> str:
    """``sha256:...`` of a weights file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
