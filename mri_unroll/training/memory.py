"""Memory against time: a step's inside is computed again in the backward pass instead of being kept."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.utils.checkpoint import checkpoint

from mri_unroll.errors import ConfigError
from mri_unroll.nets.complex import prior_precision
from mri_unroll.nets.model import Network
from mri_unroll.nets.unrolled import Unrolled


def recompute_steps(network: Network, precision: torch.dtype | None) -> None:
    """Let each step of a network keep only its input until the backward pass; weights and results stay the same.

    Parameters
    ----------
    network
        Unrolled.
    precision
        Of the priors, see `prior_precision`: the backward pass may run in another thread, which does not know it.

    Raises
    ------
    ConfigError
        If the network is an equilibrium, whose backward pass needs the memory of one step as it is.
    """
    if not isinstance(network, Unrolled):
        raise ConfigError(
            "The setting `checkpointing` is for unrolled networks; an equilibrium has the memory of one step as it is.",
            "Leave it out.",
        )

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), prior_precision(precision)

    for step in set(network.steps):
        step.forward = functools.partial(
            checkpoint, step.forward, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )
