"""The methods that jobs may name, asked of the command line once: this process never loads torch."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from typing import Any

from mri_unroll.errors import ConfigError, DeviceError

_turn = threading.Lock()


class Methods:
    """What ``mri-unroll methods`` lists."""

    def listed(self) -> list[dict[str, Any]]:
        """All methods for raw k-space; takes seconds when first asked."""
        with _turn:  # whoever comes second waits for the first
            return _asked()

    def check(self, name: str | None, mode: str | None) -> None:
        """Refuse a method that does not exist; those that restore pictures are known to the job itself.

        Raises
        ------
        ConfigError
            If so.
        """
        if name is None or mode == "restore":
            return
        known = [str(one["name"]) for one in self.listed()]
        if name not in known:
            raise ConfigError(f"There is no method {name!r}.", f"Known: {', '.join(known)}.")


@functools.lru_cache(maxsize=1)
def _asked() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "mri_unroll", "methods", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise DeviceError("The methods cannot be listed.", "Run `mri-unroll doctor`.")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
