"""The readouts of an ISMRMRD file: their headers all at once, their samples one by one.

Layout as in the ISMRMRD (MRD) specification, "Raw Acquisition Data": a one-dimensional dataset ``data`` of records with
``head``, ``traj`` and ``data``, the latter two of variable length, next to a text ``xml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan
from mri_unroll.io.content import MAX_COILS
from mri_unroll.io.hdf5 import raw_data_groups
from mri_unroll.io.ragged import PLACE, RaggedFile

NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22  # numbers of the flags, counted from 1
COUNTERS = ("contrast", "phase", "repetition", "set")  # loops of which one turn makes a scan
_COUNTS = ("flags", "number_of_samples", "active_channels", "discard_pre", "discard_post", "center_sample")
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {  # what is needed of a header: kind and shape
    **dict.fromkeys((*_COUNTS, "encoding_space_ref", "trajectory_dimensions"), ("u", ())),
    "sample_time_us": ("f", ()),
    **dict.fromkeys(("position", "read_dir", "phase_dir", "slice_dir"), ("f", (3,))),
}
_INDICES = ("kspace_encode_step_1", "kspace_encode_step_2", "slice", "average", *COUNTERS)
_WRITERS = "Write it again with an ISMRMRD library."


@dataclass(frozen=True, eq=False)
class Acquisitions:
    """Readouts as they are stored."""

    heads: NDArray[Any]  # (readout,) records, see the specification
    places: NDArray[Any]  # (readout,) where the samples lie
    trajectory_places: NDArray[Any]  # (readout,) where the trajectories lie
    store: RaggedFile
    kind: np.dtype[Any]  # of the stored samples, real and imaginary parts by turns
    trajectory_kind: np.dtype[Any]
    title: str

    def flagged(self, *flags: int) -> NDArray[np.bool_]:
        """Which readouts carry any of these flags."""
        bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
        return np.asarray(self.heads["flags"].astype(np.uint64) & bits) != 0

    def index(self, name: str) -> NDArray[np.int64]:
        """A counter of every readout, such as ``slice``."""
        return np.asarray(self.heads["idx"][name], np.int64)

    def head(self, name: str) -> NDArray[Any]:
        """A field of every header."""
        return np.asarray(self.heads[name])

    def samples(self, readout: int) -> NDArray[np.complex64]:
        """Samples ``(coil, sample)`` of a readout in the order of measurement, without those to be discarded."""
        head = self.heads[readout]
        raw = self.store.value(self.places[readout], self.kind.itemsize).view(self.kind)
        n_coils, n_samples = int(head["active_channels"]), int(head["number_of_samples"])
        values = raw.astype(np.float32).view(np.complex64)
        return values.reshape(n_coils, n_samples)[:, int(head["discard_pre"]) : n_samples - int(head["discard_post"])]

    def trajectory(self, readout: int) -> NDArray[np.float32]:
        """Where the samples of a readout lie, ``(sample, dimension)`` as stored, without those to be discarded."""
        head = self.heads[readout]
        raw = self.store.value(self.trajectory_places[readout], self.trajectory_kind.itemsize)
        n_samples = int(head["number_of_samples"])
        values = raw.view(self.trajectory_kind).astype(np.float32).reshape(n_samples, -1)
        return values[int(head["discard_pre"]) : n_samples - int(head["discard_post"])]


def open_group(file: h5py.File, wanted: str | None, title: str) -> h5py.Group:
    """The group that holds the raw data.

    Parameters
    ----------
    file
        An open file that `mri_unroll.io.hdf5.open_checked` let through.
    wanted
        Its name; None: the only one there is.

    Raises
    ------
    InputError
        If there are several, or none of that name.
    """
    groups = raw_data_groups(file)
    if wanted is not None and wanted.strip("/") in [name.strip("/") for name in groups]:
        return file[wanted.strip("/") or "/"]
    if wanted is not None or len(groups) > 1:
        names = ", ".join(name[:40] for name in groups[:8])
        raise InputError(
            f"{title} holds raw data in {len(groups)} groups ({names})"
            + (", and more than one cannot be read at once." if wanted is None else f", none is named {wanted[:40]}."),
            f"Choose one, as in `--layout group={groups[-1][:40]}`.",
        )
    return file[groups[0]]


def read_acquisitions(group: h5py.Group, store: RaggedFile, title: str) -> Acquisitions:
    """All headers of a group, checked against what the file stores.

    Raises
    ------
    CorruptScan, UnsupportedScan
        Each with the one thing that is wrong.
    """
    stored = group["data"]
    names = () if not isinstance(stored, h5py.Dataset) or stored.ndim != 1 else stored.dtype.names or ()
    if not {"head", "traj", "data"} <= set(names):
        raise UnsupportedScan(f"{title}: `{group.name}` has no list of ISMRMRD readouts named `data`.", _WRITERS)
    if stored.size == 0:
        raise CorruptScan(f"{title} holds no readout.", "Export the raw data again.")
    head = stored.dtype["head"]
    kinds = {name: head[name] for name in head.names or ()}
    indices = kinds["idx"].names or () if "idx" in kinds else ()
    for name, usual in _FIELDS.items():
        if name not in kinds or (kinds[name].base.kind, kinds[name].shape) != usual:
            raise UnsupportedScan(f"{title}: readouts have no usual header field `{name}`.", _WRITERS)
    if any(name not in indices or kinds["idx"][name].kind != "u" for name in _INDICES):
        raise UnsupportedScan(f"{title}: readouts have no usual counters.", _WRITERS)
    samples, trajectory = (h5py.check_vlen_dtype(stored.dtype[name]) for name in ("data", "traj"))
    if samples is None or trajectory is None or samples.kind != "f" or trajectory.kind != "f":
        raise UnsupportedScan(f"{title}: readouts are not stored as floating point numbers of any length.", _WRITERS)
    low = stored.id.get_type()
    offsets = [low.get_member_offset(low.get_member_index(name.encode())) for name in ("head", "traj", "data")]
    layout = {"names": ["head", "traj", "data"], "formats": [head, PLACE, PLACE], "offsets": offsets}
    records = store.records(stored, np.dtype({**layout, "itemsize": low.get_size()}))  # type: ignore[call-overload]
    found = Acquisitions(records["head"], records["data"], records["traj"], store, samples, trajectory, title)
    _check_lengths(found)
    return found


def _check_lengths(found: Acquisitions) -> None:
    n_coils, n_samples = found.head("active_channels").astype(np.int64), found.head("number_of_samples").astype(int)
    stored = found.places["length"].astype(np.int64)
    wrong = np.flatnonzero(stored != 2 * n_coils * n_samples)
    if wrong.size:
        first = int(wrong[0])
        raise CorruptScan(
            f"{found.title}: readout {first} should hold {n_samples[first]} samples of {n_coils[first]} coils, "
            f"it stores {stored[first]} numbers.",
            "Export the raw data again.",
        )
    n_points = found.trajectory_places["length"].astype(np.int64)
    wrong = np.flatnonzero((n_points != 0) & (n_points != n_samples * found.head("trajectory_dimensions")))
    if wrong.size:
        first = int(wrong[0])
        raise CorruptScan(
            f"{found.title}: readout {first} of {n_samples[first]} samples stores {n_points[first]} numbers of a "
            f"{found.heads['trajectory_dimensions'][first]}-dimensional trajectory.",
            "Export the raw data again.",
        )
    claimed = int(stored.sum()) * found.kind.itemsize + int(n_points.sum()) * found.trajectory_kind.itemsize
    if claimed > found.store.size:  # each readout has bytes of its own
        raise CorruptScan(
            f"{found.title} is cut short: its readouts claim {claimed} bytes, the file has {found.store.size}.",
            "Copy or export the file again.",
        )
    if int(n_coils.max()) > MAX_COILS:
        raise UnsupportedScan(
            f"{found.title}: a readout has {n_coils.max()} coils, more than {MAX_COILS}.", "Compress the coils."
        )
    outside = found.head("discard_pre").astype(int) + found.head("discard_post") > n_samples
    if outside.any():
        raise CorruptScan(
            f"{found.title}: readout {int(outside.argmax())} discards more samples than it has.",
            "Export the raw data again.",
        )
