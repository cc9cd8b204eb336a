"""Which team a cohort gets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from mri_unroll.cohort.crew import Keep, run_here, run_team
from mri_unroll.cohort.tasks import Events, Job, Task
from mri_unroll.config import DeviceChoice
from mri_unroll.errors import ConfigError
from mri_unroll.machine import default_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Who works.

    Raises
    ------
    ConfigError
        If a number is below 1, or Ray is asked for and not installed.
    """

    workers: int | None = None  # processes or actors; None: this process, on a cluster as many as it has room for
    threads: int | None = None  # CPU threads of each; None: this machine's, shared out
    cluster: str | None = None  # address of a Ray cluster, or "local"; None: no Ray
    device: DeviceChoice = "auto"

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"Expected `{name}` to be 1 or more, got {value}.")
        if self.cluster is not None and importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "A cluster needs Ray, which is not installed.", "Install it with `pip install 'mri-unroll[cluster]'`."
            )

    @property
    def spoken(self) -> str:
        """In words."""
        if self.cluster is not None:
            where = "a Ray cluster started for it" if self.cluster == "local" else "a Ray cluster"
            return f"{self.workers or 'all'} actors of {where}"
        return "one process" if self.workers in (None, 1) else f"{self.workers} processes"


def run_cohort(tasks: Sequence[Task], job: Job, crew: Crew, keep: Keep, events: Events) -> None:
    """Have every task done and its reply kept.

    Parameters
    ----------
    tasks
        One a file.
    job
        What is done with each.
    crew
        Who does it.
    keep
        Called in this process with each task and its reply, or `Lost`, as they come.
    events
        Gets ``progress`` and ``worker``.

    Raises
    ------
    ConfigError, DeviceError
        If the crew cannot be had, or is lost again and again.
    """
    if not tasks:
        return
    if crew.cluster is not None:
        from mri_unroll.cohort.cluster import RayTeam

        cluster = RayTeam(job, crew.cluster, crew.workers, crew.threads, crew.device, default_threads())
        try:
            run_team(tasks, cluster, cluster.size, keep, events)
        finally:
            cluster.close()
    elif crew.workers in (None, 1):
        import torch

        torch.set_num_threads(crew.threads or default_threads())
        run_here(tasks, job, keep, events)
    else:
        from mri_unroll.cohort.processes import ProcessTeam

        workers = crew.workers or 1
        threads = crew.threads or max(1, default_threads() // workers)
        run_team(tasks, ProcessTeam(job, threads), workers, keep, events)
