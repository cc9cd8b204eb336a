"""A team of Ray actors, on this machine or on a cluster; `ray` is imported only when one is asked for.

Ray's usage statistics are off and its token authentication is on, whatever its defaults are. A cluster that is started
here listens on the loopback interface only and ends with the process that started it.
"""

from __future__ import annotations

import os
import pickle
import secrets
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TextIO

from mri_unroll.cohort.crew import Answer, Died, Done, Ready
from mri_unroll.cohort.processes import unpack
from mri_unroll.cohort.tasks import Job, Task, Worker
from mri_unroll.errors import ConfigError, DeviceError

LOCAL = "local"
CORE_GROUP = 4  # threads of an actor, where nothing else is said


@dataclass(slots=True, eq=False)
class _Handle:
    actor: Any
    pending: Any  # the future that is awaited; None: nothing to do
    ready: bool = False


class RayTeam:
    """Workers as Ray actors: one for each GPU, or for each group of cores where there is none.

    Parameters
    ----------
    job
        What they do.
    address
        Of a running cluster, or ``"local"`` to start one for this run.
    workers
        How many actors; None: as many as the cluster has room for.
    threads
        CPU threads of each; None: `CORE_GROUP`, or all of a smaller cluster.
    device
        ``"auto"``: a GPU each, where the cluster has any.

    Raises
    ------
    ConfigError
        If the cluster is too small for what is asked.
    DeviceError
        If the cluster cannot be reached or started.
    """

    def __init__(
        self, job: Job, address: str, workers: int | None, threads: int | None, device: str, own_cores: int
    ) -> None:
        self._ray = ray = _import_ray(address)
        self._job = pickle.dumps(job)
        local_cpus = max(own_cores, (workers or 1) * (threads or 1))
        self._stdout = redirect_stdout(_OfOneThread(sys.stdout))
        self._stdout.__enter__()
        try:
            _connect(ray, address, local_cpus)
        except BaseException:
            self.close()
            raise
        found = ray.cluster_resources()
        cpus, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
        on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
        if on_gpu:
            room, self.threads = gpus, threads or max(1, min(CORE_GROUP, cpus // max(1, gpus)))
        else:
            self.threads = threads or min(CORE_GROUP, max(1, cpus // (workers or 1)))
            room = cpus // self.threads
        self.size = workers or room
        if self.size > room or self.size < 1:
            self.close()
            each = "a GPU" if on_gpu else f"{self.threads} CPU threads"
            raise ConfigError(
                f"{workers or 1} workers with {each} each do not fit a cluster of {cpus} CPUs and {gpus} GPUs.",
                "Ask for fewer --workers or --threads.",
            )
        self._options = {"num_cpus": self.threads, "num_gpus": int(on_gpu), "max_restarts": 0, "max_task_retries": 0}
        self._handles: list[_Handle] = []

    def hire(self) -> _Handle:
        """Start an actor."""
        actor = self._ray.remote(_Actor).options(**self._options).remote(self._job, self.threads)
        return _Handle(actor, actor.open.remote())

    def submit(self, handle: _Handle, task: Task, upcoming: Task | None) -> None:
        """Send a task."""
        handle.pending = handle.actor.run.remote(task, upcoming)

    def wait(self, handles: Sequence[_Handle], timeout: float) -> list[tuple[_Handle, Answer]]:
        """Wait for answers; an actor that has nothing to do is not waited for."""
        of_future = {handle.pending: handle for handle in handles if handle.pending is not None}
        done, _ = self._ray.wait(list(of_future), num_returns=1, timeout=timeout)
        return [(of_future[future], self._answer(of_future[future])) for future in done]

    def dismiss(self, handle: _Handle) -> None:
        """End an actor."""
        self._ray.kill(handle.actor)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()
        self._stdout.__exit__(None, None, None)

    def _answer(self, handle: _Handle) -> Answer:
        future, handle.pending = handle.pending, None
        try:
            value = self._ray.get(future)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except self._ray.exceptions.RayError as error:  # the actor, its node or its reply was lost
            return Died(" ".join(str(error).split()).partition(" class_name:")[0][:300].rstrip("."))
        if handle.ready:
            return Done(value)
        handle.ready = True
        return Ready(value)


class _Actor:
    """What runs on the cluster."""

    def __init__(self, job: bytes, threads: int) -> None:
        self._job, self._threads = job, threads
        self._worker: Worker | None = None

    def open(self) -> int:
        self._worker = unpack(self._job, self._threads).open()
        return os.getpid()

    def run(self, task: Task, upcoming: Task | None) -> Any:
        assert self._worker is not None
        return self._worker.run(task, upcoming)


class _OfOneThread:
    """Standard output for the thread that makes it: what Ray's threads print goes to standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._owner = stream, threading.current_thread()

    def write(self, text: str) -> int:
        stream = self._stream if threading.current_thread() is self._owner else sys.stderr
        return stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _import_ray(address: str) -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if address == LOCAL:  # the one way to have Ray listen on the loopback interface alone; it is read on import
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    import ray.exceptions

    module: ModuleType = ray
    return module


def _connect(ray: ModuleType, address: str, local_cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            ray.init(address=LOCAL, num_cpus=local_cpus, include_dashboard=False, **quiet)
            if elsewhere := [ip for node in ray.nodes() if not (ip := node["NodeManagerAddress"]).startswith("127.")]:
                raise RuntimeError(f"Ray listens on {elsewhere[0]}, not on the loopback interface alone")
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise DeviceError(
            f"The Ray cluster {address!r} cannot be used: {' '.join(str(error).split())[:300].rstrip('.')}.",
            "Check its address and the token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or use --cluster local.",
        ) from error
