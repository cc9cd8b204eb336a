"""Small networks that were fitted to evidence: how large the error is, where it lies, and which fault it looks like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mri_unroll.errors import ModelError
from mri_unroll.trust import stored
from mri_unroll.trust.evidence import CHANNELS

FORMAT = "mri_unroll trust 4"
_FAR = 5.0  # standard deviations beyond which a feature says no more
_FAR_SQUARE = 9.0  # the same for squares
N_NUMBERS = 2  # of the whole part that the error map is told besides pictures: predicted error and noise
_DARK = 1e-3  # of pictures, below which differences do not matter; bright tissue is near 1


class Ensemble(nn.Module):
    """Several networks of two hidden layers on the same features; they agree where there was enough to learn from.

    Parameters
    ----------
    n_features, n_outputs, n_members, width
        Sizes.
    """

    def __init__(self, n_features: int, n_outputs: int, n_members: int = 5, width: int = 32) -> None:
        super().__init__()
        sizes = ((n_features, width), (width, width), (width, n_outputs))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(n_members, a, b) / a**0.5) for a, b in sizes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n_members, 1, b)) for _, b in sizes)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, n_features)`` to ``(member, n, n_outputs)``."""
        x = features.expand(len(self.weights[0]), *features.shape[-2:])
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < 2:
                x = nn.functional.silu(x)
        return x


class Discriminants(nn.Module):
    """One straight line for each fault, through the features and their squares: log-odds of the fault against none.

    Parameters
    ----------
    n_features, n_faults
        Sizes.
    """

    def __init__(self, n_features: int, n_faults: int) -> None:
        super().__init__()
        self.line = nn.Linear(2 * n_features, n_faults)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, n_features)`` to ``(n, n_faults)``."""
        return self.line(torch.cat([features, features.square().clamp_max(_FAR_SQUARE) - 1], dim=-1))


class ErrorMap(nn.Module):
    """Where errors are: from the pictures of the evidence to the logarithm of an error that few pixels exceed.

    Parameters
    ----------
    n_pictures
        Pictures that it sees, the first ones of the evidence.
    width
        Channels.
    n_dilated
        Convolutions between the first and the last, each reaching twice as far as the one before.
    """

    def __init__(self, n_pictures: int = len(CHANNELS), width: int = 12, n_dilated: int = 2) -> None:
        super().__init__()
        self.n_pictures = n_pictures
        sizes = [(n_pictures + N_NUMBERS, width, 1), *((width, width, 2**n) for n in range(1, n_dilated + 1))]
        layers: list[nn.Module] = []
        for n_in, n_out, reach in sizes:
            layers += [nn.Conv2d(n_in, n_out, 3, padding=reach, dilation=reach, padding_mode="replicate"), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1, padding_mode="replicate"))

    def forward(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        """``(n, channel, y, x)`` in units where bright tissue is near 1, and ``(n, N_NUMBERS)``, to ``(n, y, x)``."""
        told = numbers[:, :, None, None].expand(-1, -1, *pictures.shape[-2:])
        seen = (pictures[:, : self.n_pictures] + _DARK).log() + 3.0
        return self.layers(torch.cat([seen, told], dim=1))[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """All that was fitted for one method, and what says how well it fits.

    Attributes are explained where they are used, in `mri_unroll.trust.prediction` and `mri_unroll.trust.checks`.
    """

    names: tuple[str, ...]  # of the features, in order
    mean: Tensor  # (feature,)
    spread: Tensor  # (feature,)
    error: Ensemble  # to the mean and the logarithm of the spread of log NMSE
    places: ErrorMap
    faults: Discriminants  # log-odds of each fault, see `fault_names`
    fault_names: tuple[str, ...]
    usual: Tensor  # (term, fault), of faultless scans by `mri_unroll.trust.context.terms`
    log_usual_spread: Tensor  # (term, fault), of how far they are from that
    limits: Tensor  # (2, fault): scores above which a check says look, and do not use
    error_scores: Tensor  # (scan,), (log NMSE - mean) / spread of the calibration, ascending
    place_scores: Tensor  # (level,), true error over the map at pixels of the calibration, ascending
    about: dict[str, Any]  # method, digest of its weights, how it was made

    def standard(self, features: Sequence[dict[str, float]]) -> Tensor:
        """Features of order one, ``(n, feature)``.

        Raises
        ------
        ModelError
            If they are not the features that the heads were fitted to.
        """
        if any(tuple(found) != self.names for found in features):
            raise ModelError("The calibration of the verdict belongs to other features.", "Install mri_unroll again.")
        values = torch.tensor([list(found.values()) for found in features], dtype=torch.float32)
        # What is unknown says nothing: it counts as the mean.
        return ((values - self.mean) / self.spread).clamp(-_FAR, _FAR).nan_to_num(0.0)


def save(heads: Heads, path: Path) -> None:
    """Write a calibration; what was there under its name is replaced."""
    tensors = {name: getattr(heads, name) for name in _PLAIN}
    for part in _NETWORKS:
        tensors |= {f"{part}.{name}": value for name, value in getattr(heads, part).state_dict().items()}
    metadata = {
        "format": FORMAT,
        "names": json.dumps(heads.names),
        "fault_names": json.dumps(heads.fault_names),
        "about": json.dumps(heads.about, sort_keys=True),
    }
    stored.write({name: value.float() for name, value in tensors.items()}, metadata, path)


def load(path: Path) -> Heads:
    """Read what `save` wrote.

    Raises
    ------
    ModelError
        If it is no calibration of this version.
    """
    tensors, metadata = stored.read(path, FORMAT, "calibration of the verdict", "Make it anew.")
    names, fault_names = (tuple(json.loads(metadata[key])) for key in ("names", "fault_names"))
    n_members, _, width = tensors["error.weights.0"].shape
    error = Ensemble(len(names), 2, n_members, width)
    width, n_seen = tensors["places.layers.0.weight"].shape[:2]
    n_layers = sum(name.startswith("places.") and name.endswith(".weight") for name in tensors)
    places = ErrorMap(n_seen - N_NUMBERS, width, n_layers - 2)
    faults = Discriminants(len(names), len(fault_names))
    parts: dict[str, nn.Module] = {"error": error, "places": places, "faults": faults}
    for part, network in parts.items():
        network.load_state_dict({k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")})
        network.eval()
    return Heads(
        names=names,
        error=error,
        places=places,
        faults=faults,
        fault_names=fault_names,
        about=json.loads(metadata["about"]),
        **{name: tensors[name] for name in _PLAIN},
    )


_PLAIN = ("mean", "spread", "usual", "log_usual_spread", "limits", "error_scores", "place_scores")
_NETWORKS = ("error", "places", "faults")
