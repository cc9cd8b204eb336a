"""One training run in several processes, as ``torchrun`` starts them: each takes its share of every step's examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from mri_unroll.config import DeviceChoice
from mri_unroll.errors import ConfigError
from mri_unroll.recon.reconstructor import choose_device


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among those of the run."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether it is the one that validates and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """For all processes of the run to come here."""
        if self.count > 1:
            distributed.barrier()

    def share(self, step: int, batch: int) -> range:
        """Which examples of a step are this process's; the first step has the first ``batch`` examples."""
        size = batch // self.count
        first = step * batch + self.rank * size
        return range(first, first + size)

    def add_up(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Sum the gradients of all processes into each, and their losses, which are returned.

        A parameter that had no gradient anywhere keeps none, as in one process.
        """
        if self.count == 1:
            return loss
        parameters = list(network.parameters())
        present = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(g.flatten() for g in gradients), present, loss.reshape(1)])
        distributed.all_reduce(flat)
        sizes = [p.numel() for p in parameters]
        *summed, present, loss = flat.split([*sizes, len(parameters), 1])
        for parameter, gradient, total, anywhere in zip(parameters, gradients, summed, present.tolist(), strict=True):
            if anywhere:  # copied, so that it lies in memory as before: norms are summed in that order
                parameter.grad = gradient.copy_(total.view_as(parameter))
        return loss[0]


@contextmanager
def processes(device: DeviceChoice, batch: int) -> Iterator[Processes]:
    """Join the other processes of the run, if ``torchrun`` started several.

    Raises
    ------
    ConfigError
        If a step's examples cannot be shared out evenly.
    DeviceError
        If the device is absent.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    if batch % count:
        raise ConfigError(
            f"Expected `batch`, the examples per step, to be a multiple of the {count} processes, got {batch}.",
            f"Set batch = {count * max(1, round(batch / count))}.",
        )
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, chosen)
    finally:
        distributed.destroy_process_group()
