"""From a `ModelConfig` to a network, and between networks and files."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets import weights
from mri_unroll.nets.contraction import ContractivePrior
from mri_unroll.nets.equilibrium import Equilibrium
from mri_unroll.nets.lista import Momentum
from mri_unroll.nets.prior import DnCNNPrior, FoldedPrior, Prior, ResNetPrior, SharedPrior, UNetPrior
from mri_unroll.nets.refinement import MapRefiner
from mri_unroll.nets.steps import GradientStep, ProximalStep, StepsInTurn
from mri_unroll.nets.unrolled import Unrolled
from mri_unroll.nets.weights import digest, files
from mri_unroll.solvers.fixed_point import Method, fixed_point
from mri_unroll.solvers.implicit import Backward

__all__ = ["N_STRENGTH", "ModelConfig", "Network", "build", "digest", "files", "load", "save"]

Network = Unrolled | Equilibrium

MapRefinement = Literal["none", "once", "each"]
PRIORS: dict[str, Callable[[int, int, tuple[int, ...], int], FoldedPrior]] = {  # n_evidence, n_strength, widths, fold
    "unet": UNetPrior,
    "resnet": ResNetPrior,
    "dncnn": DnCNNPrior,
}

# What a network may be conditioned on: log noise level, log sampled fraction (see recon.calibrate.strength_features),
# as a third number the share of the noise that its picture is to keep, as a fourth the noise by another measure.
N_STRENGTH = 2
_AGAIN = "Copy or train it again."


@dataclass(frozen=True, slots=True, repr=False)
class ModelConfig:
    """Everything needed to build a network before its weights are loaded."""

    kind: str = "unrolled"  # or "equilibrium": the fixed point of one step, or of a few in turn
    n_steps: int = 5  # of an unrolled network
    tied: bool = False  # one set of weights for all steps
    momentum: Momentum = "none"  # skip connections past a step: "none", "fista" or "learned"
    data_term: str = "cg"  # "cg": proximal map of the data term; "gradient": one gradient step
    n_cg: int = 4  # conjugate gradients per step
    n_start_cg: int = 8  # conjugate gradients before the first step
    widths: tuple[int, ...] = (48, 64, 96)  # channels: of a U-Net per level, a ResNet per block, a DnCNN per layer
    n_strength: int = N_STRENGTH  # 2: noise and sampling density; 3: also the share of noise to keep; 4: noise again
    # The rest is for equilibria; see `Equilibrium`, `fixed_point` and `ContractivePrior`.
    contraction: float = 0.8  # what a fresh step contracts by, 0..1; nearer 1 trains less steadily
    method: Method = "anderson"  # or "picard", "broyden"
    tolerance: float = 1e-3  # relative residual of both passes
    n_iterations: int = 30  # at most, of both passes
    backward: Backward = "implicit"  # or "neumann", "one-step"
    n_terms: int = 5  # of a Neumann series
    # Fields from here on came later: see `__repr__`.
    prior: str = "unet"  # a name of `PRIORS`
    fold: int = 2  # space to depth in front of the prior: 1 (full resolution), 2 or 4
    n_priors: int = 0  # as many, each shared by consecutive steps with scales and weights of their own; 0: see `tied`
    map_refinement: MapRefinement = "none"  # of the coil maps: "once" at the start, or before "each" step
    map_width: int = 16  # channels of a refinement network
    prior_last: bool = False  # with data_term "cg": which of the two a step ends with, see `ProximalStep`
    sees_start: bool = False  # of an equilibrium: its prior sees the start of iterations and shrinks towards it
    contraction_slope: float = 0.0  # power of acceleration that 1 - contraction grows with, which then is at fourfold
    counts_coils: bool = False  # with data_term "cg": the data weight depends on the number of coils
    n_in_turn: int = 1  # of an equilibrium: so many steps, one after the other, are what is repeated

    def __repr__(self) -> str:
        """All fields, but a later one only where it is not at its default: training resumes where texts agree."""
        fields = dataclasses.fields(self)
        n_first = [field.name for field in fields].index("prior")
        shown = [*fields[:n_first], *(f for f in fields[n_first:] if getattr(self, f.name) != f.default)]
        return f"ModelConfig({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in shown)})"

    def __post_init__(self) -> None:
        for name, choices in (
            ("kind", ("unrolled", "equilibrium")),
            ("momentum", get_args(Momentum)),
            ("data_term", ("cg", "gradient")),
            ("method", get_args(Method)),
            ("backward", get_args(Backward)),
            ("prior", tuple(PRIORS)),
            ("fold", (1, 2, 4)),
            ("map_refinement", get_args(MapRefinement)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"Expected {name} in {choices}, got {getattr(self, name)!r}.")
        if not N_STRENGTH <= self.n_strength <= N_STRENGTH + 2:
            raise ConfigError(f"Expected n_strength from {N_STRENGTH} to {N_STRENGTH + 2}, got {self.n_strength}.")
        if min(self.n_steps, self.n_start_cg, self.n_iterations) < 1 or not self.widths:
            raise ConfigError(
                f"Expected at least one step, one starting iteration, one iteration and one U-Net level, got "
                f"{self.n_steps}, {self.n_start_cg}, {self.n_iterations} and {len(self.widths)}."
            )
        if not (0 < self.contraction < 1 and self.tolerance >= 0 and self.n_terms >= 0):
            raise ConfigError(
                f"Expected 0 < contraction < 1, tolerance >= 0 and n_terms >= 0, got {self.contraction}, "
                f"{self.tolerance} and {self.n_terms}."
            )
        if self.kind == "equilibrium" and self.momentum != "none":
            raise ConfigError(
                "Expected no momentum in an equilibrium: it would change the step from one iteration to the next.",
                "Its solver accelerates; choose `method`.",
            )
        if self.n_priors and (self.tied or self.kind == "equilibrium" or not 0 < self.n_priors <= self.n_steps):
            raise ConfigError(
                f"Expected n_priors from 1 to n_steps, without `tied`, in an unrolled network; got {self.n_priors}.",
                "Tied steps share their weights whole, and an equilibrium has one step.",
            )
        if self.prior_last and (self.data_term != "cg" or self.kind == "equilibrium"):
            raise ConfigError(
                "Expected prior_last with conjugate gradients in an unrolled network.",
                "A gradient step ends with its prior as it is.",
            )
        if self.counts_coils and self.data_term != "cg":
            raise ConfigError(
                "Expected counts_coils with conjugate gradients: it is their weight that depends on the coils.",
                'Choose data_term = "cg".',
            )
        if (self.sees_start or self.contraction_slope) and self.kind != "equilibrium":
            raise ConfigError(
                "Expected sees_start and contraction_slope of an equilibrium only.",
                "The steps of an unrolled network are shown the picture and its gradient, and do not shrink.",
            )
        if self.n_in_turn < 1 or (self.n_in_turn > 1 and self.kind != "equilibrium"):
            raise ConfigError(
                f"Expected n_in_turn of at least 1, and 1 in an unrolled network; got {self.n_in_turn}.",
                "The steps of an unrolled network are counted by n_steps.",
            )
        if self.kind == "equilibrium" and self.map_refinement != "none":
            raise ConfigError(
                "Expected no map refinement in an equilibrium: its fixed point belongs to one operator.",
                "Choose an unrolled network, or leave the maps as they are estimated.",
            )
        if self.map_width < 1 or (self.prior == "resnet" and len(set(self.widths)) > 1):
            raise ConfigError(
                f"Expected map_width of at least 1 and residual blocks of one width, got {self.map_width} and "
                f"{self.widths}."
            )


def build(config: ModelConfig) -> Network:
    """The network of a configuration, with fresh weights."""

    def fresh_prior() -> FoldedPrior:
        return PRIORS[config.prior](2 if config.sees_start else 1, config.n_strength, config.widths, config.fold)

    def step(prior: Prior) -> nn.Module:
        if config.data_term == "gradient":
            return GradientStep(prior)
        return ProximalStep(prior, config.n_strength, config.n_cg, config.prior_last, config.counts_coils)

    def refiners() -> list[MapRefiner]:
        count = {"none": 0, "once": 1, "each": config.n_steps}[config.map_refinement]
        return [MapRefiner(config.n_strength, config.map_width) for _ in range(count)]

    if config.kind == "equilibrium":
        solver = functools.partial(
            fixed_point, method=config.method, tolerance=config.tolerance, n_iterations=config.n_iterations
        )
        in_turn = [
            step(ContractivePrior(fresh_prior(), config.contraction, config.sees_start, config.contraction_slope))
            for _ in range(config.n_in_turn)
        ]
        return Equilibrium(
            in_turn[0] if len(in_turn) == 1 else StepsInTurn(in_turn),
            n_start_cg=config.n_start_cg,
            solver=solver,
            backward=config.backward,
            n_terms=config.n_terms,
            sees_start=config.sees_start,
        )
    steps = [step(prior) for prior in _priors(config, fresh_prior)]
    return Unrolled(
        steps * config.n_steps if config.tied else steps,
        config.n_strength,
        config.n_start_cg,
        config.momentum,
        refiners(),
    )


def _priors(config: ModelConfig, fresh_prior: Callable[[], FoldedPrior]) -> Iterator[Prior]:
    """Yield the prior of each step, or the one of tied steps; made when asked for, which orders random numbers."""
    if not config.n_priors:
        for _ in range(1 if config.tied else config.n_steps):
            yield fresh_prior()
        return
    shared = [fresh_prior() for _ in range(config.n_priors)]
    for index in range(config.n_steps):
        yield SharedPrior(shared[index * config.n_priors // config.n_steps])


def save(
    network: nn.Module, config: ModelConfig, card: dict[str, Any], path: Path, max_bytes: int | None = None
) -> None:
    """Write weights in half precision with their configuration and model card into a safetensors file.

    Half precision keeps a quality network near the size that a source repository carries well; weights are of order
    0.01 to 1, so its relative error of 5e-4 stays below what changes a picture (tested).

    Parameters
    ----------
    network, config, card
        What to write; the card must be fit for JSON.
    path
        ``NAME.safetensors``; replaced if it exists.
    max_bytes
        Of a file: more goes into ``NAME.2.safetensors`` and so on, see `mri_unroll.nets.weights`; None: one file.
    """
    # `state_dict` repeats shared tensors under each name of a tied network; one copy is enough to load them all.
    tensors = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in network.named_parameters()}
    metadata = {"config": json.dumps(dataclasses.asdict(config)), "card": json.dumps(card, sort_keys=True)}
    weights.write(tensors, metadata, path, max_bytes)


def load(path: Path) -> tuple[Network, ModelConfig, dict[str, Any]]:
    """Read what `save` wrote: the network in evaluation mode, its configuration and its card.

    Raises
    ------
    ModelError
        If the file is no safetensors file of ours, one that belongs to it is missing or foreign, or its weights do
        not fit its configuration.
    """
    tensors, metadata = weights.read(path)
    try:
        fields = json.loads(metadata["config"])
        fields["widths"] = tuple(fields["widths"])
        config = ModelConfig(**fields)
        card = json.loads(metadata.get("card", "{}"))
    except (KeyError, TypeError, ValueError) as error:
        held = f"holds {metadata['format']!r}" if "format" in metadata else "does not say which network it is for"
        raise ModelError(
            f"The checkpoint {path.name} {held}.",
            "Give a network that mri_unroll wrote; those of others go through `mri-unroll models import`.",
        ) from error
    network = build(config)
    expected = {name: parameter.shape for name, parameter in network.named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise ModelError(f"The weights in {path.name} do not fit its configuration, first at {odd!r}.", _AGAIN)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[name].to(parameter.dtype))
            if not bool(torch.isfinite(parameter).all()):
                raise ModelError(f"The weights in {path.name} are not finite at {name!r}.", _AGAIN)
    return network.eval(), config, card


def task(card: dict[str, Any]) -> str:
    """What a network was trained for, by its model card: ``"reconstruct"`` k-space or ``"restore"`` pictures."""
    return str(card.get("task") or card.get("run", {}).get("task") or "reconstruct")
