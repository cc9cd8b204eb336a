"""Cores, memory and disk of the computer this runs on, as far as they may be used."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "QUOTA PERIOD" in microseconds, or "max PERIOD"
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMORY = Path("/proc/meminfo")


def physical_cores() -> int:
    """Physical cores that this process may run on, at least 1.

    Two threads on the two halves of one core slow each other down. A container's quota counts: a machine of 64 cores
    that lends 2 has 2.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        siblings = str(cpu)
        with suppress(OSError):
            siblings = (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
        cores.add(siblings)
    count = len(cores) or 1
    with suppress(OSError, ValueError, IndexError):
        quota, period = _CPU_QUOTA.read_text().split()[:2]
        count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def default_threads() -> int:
    """What ``OMP_NUM_THREADS`` says, else `physical_cores`."""
    with suppress(ValueError):
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]))
    return physical_cores()


def memory_bytes() -> tuple[int, int] | None:
    """Memory in all and memory free to use, in bytes, held to a container's limit; None where that cannot be told."""
    try:
        lines = (line.split() for line in _MEMORY.read_text().splitlines())
        kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
        total, available = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return None
    with suppress(OSError, ValueError):
        limit = int(_MEMORY_LIMIT.read_text())
        total, available = min(total, limit), min(available, limit)
    return total, available


def disk_free_bytes(folder: Path) -> int | None:
    """Free space in bytes where ``folder`` lies; None where that cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
