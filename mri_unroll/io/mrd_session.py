"""Sessions of MRD streaming as ISMRMRD files: written as they come, and read to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from mri_unroll.errors import UnsupportedScan
from mri_unroll.io.hdf5 import open_checked, raw_data_groups
from mri_unroll.io.mrd_stream import ACQUISITION_HEAD, COUNTERS, Acquisition

_BATCH = 512  # readouts that are written at a time
_BATCH_BYTES = 8 * 2**20  # or fewer, if they are so long


class SessionFile:
    """An ISMRMRD file that readouts are added to as they come; `mri_unroll.io.mrd` reads it.

    Parameters
    ----------
    path
        A new file.
    header
        The XML header.
    """

    def __init__(self, path: Path, header: str) -> None:
        samples = h5py.vlen_dtype(np.float32)
        self._kind = np.dtype([("head", ACQUISITION_HEAD), ("traj", samples), ("data", samples)])
        self._file = h5py.File(path, "w", libver="latest")
        group = self._file.create_group("dataset")
        group.create_dataset("xml", (1,), h5py.string_dtype())[0] = header
        self._data = group.create_dataset("data", (0,), self._kind, chunks=(_BATCH,), maxshape=(None,))
        self._waiting: list[Acquisition] = []
        self._waiting_bytes = 0
        self.count = 0

    def __enter__(self) -> SessionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        self._file.close()

    def add(self, one: Acquisition) -> None:
        """Add a readout."""
        self._waiting.append(one)
        self.count += 1
        self._waiting_bytes += len(one.trajectory) + len(one.samples)
        if len(self._waiting) >= _BATCH or self._waiting_bytes >= _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        records = np.empty(len(self._waiting), self._kind)
        for record, one in zip(records, self._waiting, strict=True):
            record["head"] = one.head
            record["traj"], record["data"] = (np.frombuffer(part, "<f4") for part in (one.trajectory, one.samples))
        first = self.count - len(self._waiting)
        self._data.resize((self.count,))
        self._data[first:] = records
        self._waiting, self._waiting_bytes = [], 0


def stored_session(path: Path) -> tuple[str, Iterator[Acquisition]]:
    """Header and readouts of an ISMRMRD file, to be sent.

    Raises
    ------
    UnsupportedScan
        If it holds none, or several.
    CorruptScan
        If it cannot be read.
    """
    with open_checked(path) as file:
        names = raw_data_groups(file)
        if len(names) != 1:
            raise UnsupportedScan(
                f"{path.name} holds ISMRMRD raw data (`xml` beside `data`) in {len(names)} groups, not one.",
                "Give an ISMRMRD file; `mri-unroll inspect` says what a file holds.",
            )
        header = file[names[0]]["xml"][0]
        header = header.decode() if isinstance(header, bytes) else str(header)

    def readouts() -> Iterator[Acquisition]:
        with open_checked(path) as file:
            data = file[names[0]]["data"]
            for first in range(0, len(data), _BATCH):
                for record in data[first : first + _BATCH]:
                    head = np.zeros((), ACQUISITION_HEAD)
                    for field in ACQUISITION_HEAD.names or ():
                        head[field] = record["head"][field] if field != "idx" else _same(record["head"]["idx"])
                    yield Acquisition(
                        head[()], record["traj"].astype("<f4").tobytes(), record["data"].astype("<f4").tobytes()
                    )

    return header, readouts()


def _same(counters: Any) -> Any:
    found = np.zeros((), COUNTERS)
    for field in COUNTERS.names or ():
        found[field] = counters[field]
    return found[()]
