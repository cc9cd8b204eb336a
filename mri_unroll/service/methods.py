"""The methods that jobs may name. Workers know them and write them down; the others never load torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mri_unroll import __version__
from mri_unroll.errors import ConfigError, DeviceError
from mri_unroll.io.atomic import atomic_path
from mri_unroll.service.settings import ServiceSettings

_PATIENCE = 60.0  # seconds for a worker of a service that has just started


class Methods:
    """What ``mri-unroll methods`` lists, in a file of the service's folder."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._path, self._has_workers = settings.folder / "methods.json", settings.workers > 0

    def keep(self, methods: list[dict[str, Any]]) -> None:
        """Write them down, for everybody."""
        with atomic_path(self._path, overwrite=True) as part:
            part.write_text(json.dumps({"version": __version__, "methods": methods}), encoding="utf-8")

    def listed(self) -> list[dict[str, Any]]:
        """All methods for raw k-space; waits for the first worker, and asks the command line where there is none.

        Raises
        ------
        DeviceError
            If nobody can tell.
        """
        late = time.monotonic() + _PATIENCE
        while (found := _kept(self._path)) is None:
            if not self._has_workers:
                self.keep(_asked())
            elif time.monotonic() > late:
                raise DeviceError("No worker has started, so that methods are unknown.", "Run `mri-unroll doctor`.")
            else:
                time.sleep(0.2)
        return found

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


def _kept(path: Path) -> list[dict[str, Any]] | None:
    """What is written down by this version; None if nothing is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    methods: list[dict[str, Any]] = found["methods"]
    return methods if found["version"] == __version__ else None


def _asked() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "mri_unroll", "methods", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise DeviceError("The methods cannot be listed.", "Run `mri-unroll doctor`.")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
