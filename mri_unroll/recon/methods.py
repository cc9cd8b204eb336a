"""The methods there are, by name; nothing is imported until one is used, so that a shell can complete their names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ClassicalMethod:
    """An iterative method with its own settings, which a user may override."""

    solve: str  # "module:function" below recon; the function takes (problem, reg_weight=, n_iterations=)
    reg_weight: float  # for k-space scaled so that bright tissue is near 1
    n_iterations: int
    summary: str


CLASSICAL: dict[str, ClassicalMethod] = {
    "cg-sense": ClassicalMethod("classical:cg_sense", 0.01, 30, "regularised least squares with coil maps"),
    "l1-wavelet": ClassicalMethod("classical:l1_wavelet", 0.005, 60, "compressed sensing: FISTA with wavelet sparsity"),
    "tv": ClassicalMethod("classical:total_variation", 0.005, 100, "compressed sensing: total variation"),
}
NOTHING_TO_SET: dict[str, tuple[str, str, str]] = {  # what makes the reconstructor of a device, kind, and a summary
    "zero-filled": (
        "classical:ZeroFilled",
        "classical",
        "transform and root sum of squares; what every other method is compared with",
    ),
    "vdamp": (
        "message_passing:message_passing",
        "classical",
        "message passing with wavelets for masks random in 2-D: tunes itself, predicts its error",
    ),
    "vdamp-cnn": (
        "message_passing:learned_message_passing",
        "learned",
        "the same with a trained network in place of thresholds: better where samples are drawn one by one",
    ),
}
PEERS: dict[str, ClassicalMethod] = {  # other people's programs, on the CPU
    "bart-pics": ClassicalMethod(
        "peers:bart_pics",
        0.005,
        60,
        "BART's compressed sensing with its wavelets, on our coil maps; needs the program bart",
    ),
    "sigpy-l1wavelet": ClassicalMethod(
        "peers:sigpy_l1_wavelet", 0.005, 60, "SigPy's compressed sensing with wavelets, on our coil maps"
    ),
}
NETWORKS: dict[str, str] = {  # whose weights lie in the package
    "unrolled": "trained unrolled proximal-gradient network",
    "unrolled-small": "the same with fewer and narrower steps, a fifth of the weights: faster, 2 dB less",
    "equilibrium": "one trained step with a quarter of the weights, repeated until the picture stays: slower",
}
SUMMARIES: dict[str, str] = {
    **{name: summary for name, (_, _, summary) in NOTHING_TO_SET.items()},
    **{name: method.summary for name, method in (CLASSICAL | PEERS).items()},
    **NETWORKS,
}


def function(place: str) -> Callable[..., Any]:
    """The function that ``"module:function"`` names."""
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"mri_unroll.recon.{module}"), name)
    return found
