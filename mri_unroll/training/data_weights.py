"""How the data weights of a network are begun with, and how fast they learn."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import Parameter

from mri_unroll.nets.steps import ProximalStep

_NAMES = {"log_weight", "log_start_weight"}


@torch.no_grad()
def set_data_weights(network: nn.Module, exponents: tuple[float, ...]) -> None:
    """Give every step one data weight: exponents of its conditions, then a constant."""
    for step in network.modules():
        if isinstance(step, ProximalStep):
            step.log_weight.weight.copy_(step.log_weight.weight.new_tensor(exponents[:-1]))
            step.log_weight.bias.fill_(exponents[-1])


def by_learning_rate(network: nn.Module, weight_rate: float) -> Iterable[tuple[float, list[Parameter]]]:
    """Yield multiples of the learning rate with the parameters that learn at them.

    A data weight is a handful of numbers that have orders of magnitude to go through; at the pace of the weights of a
    convolution it stays where it began.
    """
    priors: list[Parameter] = []
    weights: list[Parameter] = []
    for name, parameter in network.named_parameters():
        (weights if weight_rate != 1 and _NAMES & set(name.split(".")) else priors).append(parameter)
    yield 1.0, priors
    if weights:
        yield weight_rate, weights
