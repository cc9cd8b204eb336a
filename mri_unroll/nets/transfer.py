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
# Of one step: of an unrolled network, of an equilibrium, of an equilibrium of several in turn.
_STEP = re.compile(r"steps\.(?P<layer>\d+)\.|step\.(?:steps\.(?P<turn>\d+)\.)?")
_FRESH = 0.5  # by which weights into channels that the source does not have are made smaller


def transfer(source: nn.Module, target: nn.Module, steps: Sequence[int] = ()) -> None:
    """Start a network from the weights of a smaller one.

    Steps that the target has beyond the source's begin as copies of its last one, with their priors' last layer
    halved; pictures and conditions that the source did not know begin without effect, and so does a refinement of coil
    maps.
    Channels that it has beyond the source's begin with fresh weights that lead into them and none that lead out. The
    steps of an equilibrium begin as the last ones of an unrolled network, or as those that are named.

    Parameters
    ----------
    source, target
        Networks; the target is changed in place, and what of its weights is fresh is kept as it is.
    steps
        Counted from 0: which of the source's each step of the target begins as, whole; an equilibrium has as many as
        it takes in turn. Empty: as above.

    Raises
    ------
    ModelError
        If a weight of the target has no counterpart.
    ConfigError
        If the source has no such step, or the target more or fewer steps than are named.
    """
    known = {_place(name): parameter for name, parameter in source.named_parameters(remove_duplicate=False)}
    conditions = n_conditions(source), n_conditions(target)
    last, wanted = _n_steps(source) - 1, _n_steps(target)
    if steps and (len(steps) != wanted or min(steps) < 0 or max(steps) > last):
        raise ConfigError(
            f"Expected a step of the start, from 0 to {last}, for each of the {wanted} of the network to "
            f"begin as; got {list(steps)}.",
            "Correct `start_steps`, or leave it out.",
        )
    # The steps of an equilibrium begin as the last ones of an unrolled network, any others as the first ones.
    skipped = max(0, last + 1 - wanted) if isinstance(source, Unrolled) and isinstance(target, Equilibrium) else 0
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            index, place = _place(name)
            begins_as = None if index is None else steps[index] if steps else min(index + skipped, last)
            given = known.get((begins_as, place))
            if given is None and place.startswith("refiners."):
                continue  # fresh, they leave the maps as they are
            if given is None or given.ndim != parameter.ndim or any(map(int.__gt__, given.shape, parameter.shape)):
                raise ModelError(
                    f"The weights to start from have no counterpart of {name!r}.",
                    "Start from a network of the same kind.",
                )
            added = index is not None and index > last and not steps
            weaker = 0.5 if added and place.startswith("prior.last.") else 1.0
            _fill(name, parameter, weaker * given, conditions)


def _place(name: str) -> tuple[int | None, str]:
    """To which step a weight belongs, None: to none, and its name there, alike in networks of both kinds."""
    found = _STEP.match(name)
    if found is None:
        return None, name
    return int(found["turn"] or found["layer"] or 0), name[found.end() :].replace("prior.prior.", "prior.")


def _n_steps(network: nn.Module) -> int:
    indices = (_place(name)[0] for name, _ in network.named_parameters(remove_duplicate=False))
    return 1 + max(index for index in indices if index is not None)


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
