"""Networks that others trained, in files of ours: configuration, weights as they were, and a card."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets import weights
from mri_unroll.nets.instance_unet import MagnitudeUNet
from mri_unroll.nets.varnet import DirectVarNet, FastmriVarNet

__all__ = ["KINDS", "MAX_CASCADES", "MAX_POOLS", "ImportedConfig", "build", "is_imported", "load", "misfit", "save"]

KINDS = ("fastmri-varnet", "fastmri-unet", "direct-varnet")
MAX_CASCADES, MAX_POOLS = 100, 10
_AGAIN = "Import it again with `mri-unroll models import`."

ImportedNetwork = FastmriVarNet | DirectVarNet | MagnitudeUNet


@dataclass(frozen=True, slots=True)
class ImportedConfig:
    """Everything needed to build a network of others before its weights are loaded."""

    kind: str  # one of `KINDS`
    width: int  # U-Net channels of the finest level
    n_pools: int  # levels below it
    n_cascades: int = 0  # of a variational network
    maps_width: int = 0  # of its U-Net for coil maps; 0: it has none
    maps_pools: int = 0
    # The rest is of DIRECT, whose state dict does not hold it; see `DirectVarNet`.
    maps_normalised: bool = False
    scale_percentile: float = 0.99
    maps_sigma: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Expected kind in {KINDS}, got {self.kind!r}.")
        if not (self.width >= 1 and 1 <= self.n_pools <= MAX_POOLS and 0 <= self.n_cascades <= MAX_CASCADES):
            raise ConfigError(
                f"Expected a U-Net with 1 to {MAX_POOLS} levels and at most {MAX_CASCADES} cascades, "
                f"got width {self.width}, {self.n_pools} levels and {self.n_cascades} cascades."
            )
        if not (self.maps_width >= 0 and 0 <= self.maps_pools <= MAX_POOLS):
            raise ConfigError(f"Expected 0 to {MAX_POOLS} levels for coil maps, got {self.maps_pools}.")
        if not 0 < self.scale_percentile <= 1:
            raise ConfigError(f"Expected a scale percentile above 0, at most 1, got {self.scale_percentile}.")
        if self.maps_sigma is not None and not 0 < self.maps_sigma < float("inf"):
            raise ConfigError(f"Expected a positive width of the window over central lines, got {self.maps_sigma}.")


def build(config: ImportedConfig) -> ImportedNetwork:
    """The network of a configuration, with fresh weights."""
    if config.kind == "fastmri-unet":
        return MagnitudeUNet(config.width, config.n_pools)
    sizes = (config.n_cascades, config.width, config.n_pools, config.maps_width, config.maps_pools)
    if config.kind == "fastmri-varnet":
        return FastmriVarNet(*sizes)
    return DirectVarNet(*sizes, config.maps_normalised, config.scale_percentile, config.maps_sigma)


def misfit(config: ImportedConfig, tensors: dict[str, Tensor]) -> str | None:
    """The name of the first weight that a network of this configuration lacks, has not, or has in another shape."""
    with torch.device("meta"):  # nothing is allocated
        expected = {name: parameter.shape for name, parameter in build(config).named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    return min((name for name, _ in set(expected.items()) ^ set(found.items())), default=None)


def save(tensors: dict[str, Tensor], config: ImportedConfig, card: dict[str, Any], path: Path) -> None:
    """Write weights in single precision, with their configuration and card; what was there is replaced.

    Half precision, in which our own networks are kept, would move the pictures of these by more than 1e-4.
    """
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "card": json.dumps(card, sort_keys=True)}
    weights.write(tensors, metadata, path)


def is_imported(path: Path) -> bool:
    """Whether a checkpoint of ours holds a network of others; False for anything else, readable or not."""
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
    except (SafetensorError, OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("kind") in KINDS


def load(path: Path) -> tuple[ImportedNetwork, ImportedConfig, dict[str, Any]]:
    """Read what `save` wrote: the network in evaluation mode, its configuration and its card.

    Raises
    ------
    ModelError
        If the file is no checkpoint of ours, or its weights do not fit its configuration or are not finite.
    """
    tensors, metadata = weights.read(path)
    try:
        config = ImportedConfig(**json.loads(metadata["config"]))
        card = json.loads(metadata.get("card", "{}"))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            f"The checkpoint {path.name} does not say which imported network it is for.",
            _AGAIN,
        ) from error
    odd = misfit(config, tensors)
    if odd is not None:
        raise ModelError(f"The weights in {path.name} do not fit its configuration, first at {odd!r}.", _AGAIN)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"The weights in {path.name} are not finite at {name!r}.", _AGAIN)
    with torch.device("meta"):
        network = build(config)
    network.load_state_dict(tensors, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval(), config, card
