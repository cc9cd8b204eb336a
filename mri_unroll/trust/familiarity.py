"""Whether a picture shows a body of a kind that the verdict was calibrated on.

It is asked of the picture of the second network (`mri_unroll.trust.evidence`), the same for every method.
"""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.recon.reconstructor import weights_folder
from mri_unroll.trust import stored

FORMAT = "mri_unroll familiarity 1"
FILE = "familiarity.safetensors"  # beside the calibrations of the verdict
KINDS = ("brain", "knee", "heart")  # of bodies that are known; whatever else comes after them
SIDE = 64  # pixels of a thumbnail
_BRIGHTEST = 1.5  # of a thumbnail, in which bright tissue is 1
_WIDTHS = (24, 48, 72, 96)


class Familiarity(nn.Module):
    """A small classifier of thumbnails: a brain, a knee, a heart, or something else.

    Four convolutions, each followed by batch normalisation; means and maxima over the thumbnail decide.
    """

    def __init__(self) -> None:
        super().__init__()
        first = _WIDTHS[0]
        layers: list[nn.Module] = [nn.Conv2d(1, first, 5, stride=2, padding=2), nn.BatchNorm2d(first), nn.SiLU()]
        for index, (n_in, n_out) in enumerate(itertools.pairwise(_WIDTHS)):
            layers += [nn.MaxPool2d(2)] if index else []
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(2 * _WIDTHS[-1], len(KINDS) + 1)

    def forward(self, thumbnails: Tensor) -> Tensor:
        """``(n, SIDE, SIDE)`` of `thumbnail` to logits ``(n, len(KINDS) + 1)``, the last of what is none of them."""
        found = self.layers(thumbnails[:, None].clamp_min(0).sqrt())
        return self.last(self.drop(torch.cat([found.mean((-2, -1)), found.amax((-2, -1))], dim=1)))


def thumbnail(magnitude: Tensor) -> Tensor:
    """A picture ``(y, x)`` in any unit as ``(SIDE, SIDE)``, bright tissue near 1; proportions are not kept."""
    small = functional.interpolate(magnitude[None, None], (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
    return (small / torch.quantile(small, 0.99).clamp_min(1e-12)).clamp(0, _BRIGHTEST)


def log_odds(thumbnails: Tensor, network: Familiarity) -> Tensor:
    """That ``(n, SIDE, SIDE)`` show no known body, ``(n,)``: mean over the pictures and their reflections."""
    found = []
    for axes in ((), (-1,), (-2,), (-2, -1)):
        logits = network(thumbnails.flip(axes))
        found.append(logits[:, -1] - logits[:, :-1].logsumexp(dim=1))
    return torch.stack(found).mean(0)


def unfamiliarity(magnitude: Tensor) -> float:
    """Log-odds, by the shipped classifier, that a picture ``(y, x)`` shows none of the bodies that are known."""
    with torch.inference_mode():
        return float(log_odds(thumbnail(magnitude.float().cpu())[None], shipped()[0]))


def limit() -> float:
    """Log-odds above which a picture is to be looked at."""
    return float(shipped()[1]["limit"])


@functools.cache
def shipped() -> tuple[Familiarity, dict[str, Any]]:
    """The classifier of the package, in evaluation mode, and what is told of it: ``limit``, how it was made."""
    return load(weights_folder() / "trust" / FILE)


def save(network: Familiarity, about: dict[str, Any], path: Path) -> None:
    """Write a classifier; what was there under its name is replaced."""
    stored.write(network.state_dict(), {"format": FORMAT, "about": json.dumps(about, sort_keys=True)}, path)


def load(path: Path) -> tuple[Familiarity, dict[str, Any]]:
    """Read what `save` wrote.

    Raises
    ------
    ModelError
        If it is no classifier of this version.
    """
    tensors, metadata = stored.read(path, FORMAT, "classifier of bodies", "Install mri_unroll again.")
    network = Familiarity()
    network.load_state_dict(tensors)
    return network.eval(), json.loads(metadata["about"])
