"""Writer of ISMRMRD files for tests, in awkward sizes; the layout is that of the specification."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from support.files import random_kspace

NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE, NAVIGATION = 19, 20, 21, 22, 23
COUNTERS = np.dtype(
    [
        (name, "<u2")
        for name in (
            *("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition"),
            *("set", "segment"),
        )
    ]
    + [("user", "<u2", (8,))]
)
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        *((name, "<u4") for name in ("measurement_uid", "scan_counter", "acquisition_time_stamp")),
        ("physiology_time_stamp", "<u4", (3,)),
        *((name, "<u2") for name in ("number_of_samples", "available_channels", "active_channels")),
        ("channel_mask", "<u8", (16,)),
        *((name, "<u2") for name in ("discard_pre", "discard_post", "center_sample", "encoding_space_ref")),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        ("idx", COUNTERS),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
RECORD = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32))])


def readout(
    samples: NDArray[Any], flags: Iterable[int] = (), traj: NDArray[Any] | None = None, **fields: Any
) -> np.void:
    """One record; ``samples`` is (coil, sample), ``traj`` (sample, dimension), ``fields`` go to header or counters."""
    record = np.zeros(1, RECORD)[0]
    head = record["head"]
    head["version"] = 1
    head["flags"] = sum(1 << (flag - 1) for flag in flags)
    head["active_channels"], head["number_of_samples"] = samples.shape
    head["available_channels"] = samples.shape[0]
    head["center_sample"] = samples.shape[1] // 2
    head["sample_time_us"] = 5.0
    head["trajectory_dimensions"] = 0 if traj is None else traj.shape[1]
    for name, value in fields.items():
        place = head["idx"] if name in COUNTERS.names else head  # type: ignore[operator]
        place[name] = value
    record["data"] = np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()
    record["traj"] = np.zeros(0, np.float32) if traj is None else np.ascontiguousarray(traj, np.float32).ravel()
    return record


def cartesian(kspace: NDArray[Any], **fields: Any) -> list[np.void]:
    """Readouts of full k-space ``(slice, coil, kz, ky, kx)``, ky being the readout."""
    n_slices, _, n_partitions, _, n_lines = kspace.shape
    return [
        readout(kspace[index, :, kz, :, kx], slice=index, kspace_encode_step_1=kx, kspace_encode_step_2=kz, **fields)
        for index in range(n_slices)
        for kz in range(n_partitions)
        for kx in range(n_lines)
    ]


def volume(shape: tuple[int, ...] = (3, 2, 1, 13, 11), seed: int = 0) -> NDArray[np.complex64]:
    """Random k-space ``(slice, coil, kz, ky, kx)``, odd and unequal on purpose."""
    return random_kspace(shape, seed)


def mrd_header(
    encoded: tuple[int, int, int] = (13, 11, 1),
    recon: tuple[int, int, int] | None = (7, 9, 1),
    encoded_fov: tuple[float, float, float] | None = (260.0, 220.0, 5.0),
    recon_fov: tuple[float, float, float] | None = (140.0, 180.0, 5.0),
    limits: dict[str, tuple[int, int]] | None = None,
    trajectory: str = "cartesian",
    extra: str = "",
) -> str:
    """XML; sizes as (readout, phase, partition), ``limits`` as step -> (centre, maximum)."""

    def vector(name: str, values: Any) -> str:
        parts = () if values is None else zip("xyz", values, strict=True)
        inside = "".join(f"<{axis}>{value}</{axis}>" for axis, value in parts)
        return f"<{name}>{inside}</{name}>" if inside else ""

    def space(name: str, size: Any, fov: Any) -> str:
        return f"<{name}>{vector('matrixSize', size)}{vector('fieldOfView_mm', fov)}</{name}>"

    limits = {"kspace_encoding_step_1": (encoded[1] // 2, encoded[1] - 1)} if limits is None else limits
    steps = "".join(
        f"<{name}><minimum>0</minimum><maximum>{maximum}</maximum><center>{centre}</center></{name}>"
        for name, (centre, maximum) in limits.items()
    )
    return (
        f'<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{extra}<encoding>'
        f"{space('encodedSpace', encoded, encoded_fov)}{space('reconSpace', recon, recon_fov)}"
        f"<encodingLimits>{steps}</encodingLimits><trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    )


def write_mrd(
    path: Path,
    readouts: list[np.void] | None = None,
    header: str | None = None,
    group: str = "dataset",
    chunk: int | None = 1,
) -> Path:
    """Write a group; ``chunk``: records stored together, None: all in one piece."""
    readouts = cartesian(volume()) if readouts is None else readouts
    records = np.empty(len(readouts), RECORD)
    for index, one in enumerate(readouts):
        records[index] = one
    with h5py.File(path, "a") as file:
        place = file.require_group(group)
        place.create_dataset("xml", (1,), h5py.string_dtype())[0] = mrd_header() if header is None else header
        chunks = None if chunk is None else (chunk,)
        place.create_dataset("data", data=records, chunks=chunks, maxshape=None if chunk is None else (None,))
    return path
