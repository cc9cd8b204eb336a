"""What nobody needs any more: results past their time, idle uploads, and what a process that died left behind."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from mri_unroll.service.jobs import Jobs
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.uploads import Uploads

_log = logging.getLogger(__name__)


class Sweeper:
    """Keeps database and disk in step. Any number of them may run at the same time."""

    def __init__(self, jobs: Jobs, uploads: Uploads, settings: ServiceSettings) -> None:
        self._jobs, self._uploads, self._settings = jobs, uploads, settings

    def sweep(self, now: float | None = None) -> int:
        """Delete; gives the number of things deleted.

        A folder or file that the database does not know is left alone for as long as a worker might still make it
        known: a lease, and ten minutes.
        """
        now = time.time() if now is None else now
        ended = now - 3600 * self._settings.result_hours
        count = self._jobs.delete_before(ended)
        results, needed = self._jobs.kept()
        for identity in self._uploads.idle_since(ended, needed):
            self._uploads.delete(identity)
            count += 1
        old = now - self._settings.lease_seconds - 600
        count += _clear(self._settings.folder / "results", results, old)
        count += _clear(self._settings.folder / "uploads", self._uploads.known(), old)
        if count:
            _log.info("swept", extra={"count": count})
        return count


def _clear(folder: Path, known: set[str], old: float) -> int:
    count = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.name in known or path.stat().st_mtime > old:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue  # another sweeper was faster
        count += 1
    return count
