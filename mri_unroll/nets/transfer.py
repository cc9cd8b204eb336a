"""Start a network from the weights of a smaller one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets.equilibrium import Equilibrium
from mri_unroll.nets.prior import n_conditions
from mri_unroll.nets.unrolled import Unrolled

_JOINS = re.compile(r"\.up\.\d+\.0\.weight$")  # first convolutions of a U-Net's way up: of coarse and fine channels
_FIRST = re.compile(r"\.(down\.0\.0|first|layers\.0\.0)\.weight$")  # of a prior: of pictures, then of conditions
_FRESH = 0.5  # by which weights into channels that the source does not have are made smaller


def transfer(source: nn.Module, target: nn.Module, steps: Sequence[int] = ()) -> None:
    """Start a network from the weights of a smaller one.

    Steps that the target has beyond the source's begin as copies of its last one, with their priors' last layer
    halved; pictures and conditions that the source did not know begin without effect, and so does a refinement of coil
    maps.
    Channels that it has beyond the source's begin with fresh weights that lead into them and none that lead out. The
    step of an equilibrium begins as one of an unrolled network.

    Parameters
    ----------
    source, target
        Networks; the target is changed in place, and what of its weights is fresh is kept as it is.
    steps
        Of an unrolled source, counted from 0: which of them each step of the target begins as, whole; an equilibrium
        has one step. Empty: as above, and an equilibrium begins as the last.

    Raises
    ------
    ModelError
        If a weight of the target has no counterpart.
    ConfigError
        If the source has no such step, or the target more or fewer steps than are named.
    """
    known = dict(source.named_parameters())
    conditions = n_conditions(source), n_conditions(target)
    becomes_equilibrium = isinstance(source, Unrolled) and isinstance(target, Equilibrium)
    last = _n_steps(source) - 1
    if steps and (len(steps) != _n_steps(target) or min(steps) < 0 or max(steps) > last):
        raise ConfigError(
            f"Expected a step of the start, from 0 to {last}, for each of the {_n_steps(target)} of the network to "
            f"begin as; got {list(steps)}.",
            "Correct `start_steps`, or leave it out.",
        )
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parts = name.split(".")
            index = int(parts[1]) if parts[0] == "steps" else last if becomes_equilibrium else 0
            added = index > last and not steps
            begins_as = steps[0 if becomes_equilibrium else index] if steps else min(index, last)
            if becomes_equilibrium:  # step.prior is a `ContractivePrior` around what the source has
                place = f"steps.{begins_as}.{name.removeprefix('step.')}"
                parts = place.replace("prior.prior.", "prior.").split(".")
            elif parts[0] == "steps":
                parts[1] = str(begins_as)
            given = known.get(".".join(parts))
            if given is None and parts[0] == "refiners":
                continue  # fresh, they leave the maps as they are
            if given is None or given.ndim != parameter.ndim or any(map(int.__gt__, given.shape, parameter.shape)):
                raise ModelError(
                    f"The weights to start from have no counterpart of {name!r}.",
                    "Start from a network of the same kind.",
                )
            weaker = 0.5 if added and parts[2:4] == ["prior", "last"] else 1.0
            _fill(name, parameter, weaker * given, conditions)


def _n_steps(network: nn.Module) -> int:
    return len(network.steps) if isinstance(network, Unrolled) else 1


def _fill(name: str, parameter: Tensor, given: Tensor, conditions: tuple[int, int]) -> None:
    """Put what is given where it belongs in a parameter that may have more channels."""
    if parameter.ndim < 2:
        parameter.zero_()
        parameter[tuple(map(slice, given.shape))] = given
        return
    n_out, n_in = given.shape[:2]
    columns = torch.arange(n_in)
    if _JOINS.search(name):  # the fine channels come after all of the coarse ones
        coarse = n_in - n_out
        columns[coarse:] += (parameter.shape[1] - parameter.shape[0]) - coarse
    elif _FIRST.search(name):
        pictures, wider = n_in - conditions[0], parameter.shape[1] - conditions[1]
        columns[pictures:] += wider - pictures
    elif name.endswith("log_weight.weight"):  # of conditions, then of the number of coils
        columns[conditions[0] :] += conditions[1] - conditions[0]
    parameter[:n_out] = 0
    parameter[:n_out, columns] = given
    parameter[n_out:] *= _FRESH
