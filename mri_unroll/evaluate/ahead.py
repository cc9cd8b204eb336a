"""Reading ahead: a volume comes in a few slices at a time, read by a thread while earlier ones are reconstructed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mri_unroll.io.registry import read_scan
from mri_unroll.scan import Scan

CHUNK = 2  # slices


class Piece(NamedTuple):
    """Some slices of a volume."""

    scan: Scan
    is_last: bool


class VolumeAhead:
    """One volume, being read from now on.

    At most one piece lies ready and one waits in the thread's hands, so that a volume of any length takes little
    memory. A 3-D scan comes whole.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0  # of reading, so far
        self.waited = 0.0  # of those who wanted a piece that was not there yet
        self._pieces: queue.Queue[Piece | Exception] = queue.Queue(maxsize=1)
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"reading {path.name}")
        self._thread.start()

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces in order; what went wrong while reading is raised here."""
        while True:
            started = time.perf_counter()
            piece = self._pieces.get()
            self.waited += time.perf_counter() - started
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.is_last:
                return

    def close(self) -> None:
        """Read no further and let go of what was read."""
        self._unwanted.set()
        while self._thread.is_alive():
            try:
                self._pieces.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _read(self) -> None:
        first, last = 0, 1
        while first < last and not self._unwanted.is_set():
            started = time.perf_counter()
            try:
                # what lies beyond the end is cut off; no score needs the digest
                scan = read_scan(self.path, slice(first, first + CHUNK), with_digest=False)
            except Exception as error:
                self._pieces.put(error)
                return
            self.seconds += time.perf_counter() - started
            first, last = (1, 1) if scan.ndim == 3 else (scan.source.slices[1], scan.source.n_slices)
            self._pieces.put(Piece(scan, first >= last))
