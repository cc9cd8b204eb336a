"""ISMRMRD (MRD) raw data in HDF5: a group with the XML header ``xml`` and the readouts ``data``.

What becomes of the readouts is decided by `mri_unroll.io.mrd_selection`; Cartesian ones are put on the grid by their
counters (`mri_unroll.io.mrd_cartesian`), others keep the trajectory stored with them (`mri_unroll.io.mrd_trajectory`).
Of the header are used: matrix sizes and fields of view of encodedSpace and reconSpace, the centres of
kspace_encoding_step_1 and 2, the last slice, the trajectory's name, relativeReceiverNoiseBandwidth, and contrast notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import UnsupportedScan
from mri_unroll.io.content import check_size, digest, slice_range
from mri_unroll.io.hdf5 import open_checked
from mri_unroll.io.header import MAX_HEADER_BYTES, AcquisitionHeader, parse_header
from mri_unroll.io.measured import clear_unmeasured, describe_sampling
from mri_unroll.io.mrd_acquisitions import Acquisitions, open_group, read_acquisitions
from mri_unroll.io.mrd_cartesian import Grid, make_grid, symmetric_lengths
from mri_unroll.io.mrd_geometry import EncodedSpace, Frame, encoded_space, frame, geometry
from mri_unroll.io.mrd_noise import noise_covariance
from mri_unroll.io.mrd_selection import Choice, Selection, choose_slab, parse_choice, select
from mri_unroll.io.mrd_trajectory import is_volume, read_samples
from mri_unroll.io.ragged import RaggedFile
from mri_unroll.scan import Geometry, PatientTags, Scan, Source


@dataclass(frozen=True, eq=False)
class _Plan:
    """All that is known before samples are read."""

    found: Acquisitions
    header: AcquisitionHeader
    choice: Choice
    selection: Selection
    space: EncodedSpace
    place: Frame
    geometry: Geometry
    is_3d: bool
    grid: Grid | None  # None: not Cartesian
    warnings: tuple[str, ...]

    @property
    def n_slices(self) -> int:
        return 1 if self.is_3d else int(self.place.slices.size)


def read(path: Path, slices: slice | None = None, layout: str | None = None, with_digest: bool = True) -> Scan:
    """Read an ISMRMRD file, or some of its slices; only their samples are loaded.

    Parameters
    ----------
    path
        An HDF5 file with a group that holds ``xml`` and ``data``.
    slices
        Which slices, as a Python slice of step 1; None: all. A 3-D scan is one.
    layout
        Which of several to read, as ``"repetition=1, contrast=0"``: contrast, phase, repetition, set, slab (of 3-D
        volumes), group (in the file), unit (of the trajectory, see `mri_unroll.io.mrd_trajectory`); None: by rule.
    with_digest
        Compute the digest of the file; else that of the source is empty.

    Returns
    -------
        K-space in the file's units, averages averaged, exactly zero where nothing was measured.

    Raises
    ------
    CorruptScan, UnsupportedScan, InputError
        Each with the one thing that is wrong.
    """
    with _opened(path, layout) as plan:
        first, last = slice_range(slices, plan.n_slices, path.name)
        mask = trajectory = None
        if plan.grid is not None:
            kspace, mask, warnings = _fill(plan, plan.grid, first, last, path.name)
            n_averages = _typical(plan.grid)
        else:
            numbers = plan.place.slices[first:last]
            kspace, trajectory, warnings = read_samples(
                plan.found,
                plan.selection,
                plan.space,
                plan.is_3d,
                numbers,
                plan.choice.unit,
                plan.header.partition_centre,
            )
            n_averages = 1.0
        noise_cov, sentences = noise_covariance(plan.found, plan.selection, plan.header.noise_bandwidth, n_averages)
    tags = plan.header.patient
    return Scan(
        kspace=kspace,
        mask=mask,
        geometry=_of_slices(plan.geometry, first, last) if not plan.is_3d else plan.geometry,
        source=Source(
            format="ismrmrd",
            digest=digest(path) if with_digest else "",
            n_slices=plan.n_slices,
            slices=(first, last),
            notes={**plan.header.notes, **plan.selection.notes},
            warnings=(*plan.warnings, *warnings, *sentences),
        ),
        noise_cov=noise_cov,
        trajectory=trajectory,
        patient=None if tags == PatientTags() else tags,
    )


def describe(path: Path, layout: str | None = None) -> dict[str, Any]:
    """What an ISMRMRD file holds, told from the headers of its readouts; no sample is looked at.

    Raises
    ------
    CorruptScan, UnsupportedScan, InputError
        As `read`.
    """
    with _opened(path, layout) as plan:
        warnings = list(plan.warnings)
        sampling: dict[str, Any]
        if plan.grid is not None:
            middle = plan.n_slices // 2
            measured = plan.grid.counts(middle, middle + 1)[0] > 0
            mask = measured.any(axis=1) if plan.is_3d else measured[0]
            sampling = describe_sampling(mask, None, None)
        else:
            sampling = {"sampling": plan.header.trajectory, "effective_acceleration": None, "n_acs_lines": 0}
            sampling["padding_columns"] = [0, 0]
        space, picture = plan.space, plan.geometry
        matrix = space.matrix[2:] * plan.is_3d + space.matrix[:2]
        recon = (picture.n_partitions,) * plan.is_3d + picture.recon_shape
        return {
            "format": "ismrmrd",
            "dtype": "complex64",
            "n_slices": plan.n_slices,
            "n_coils": int(plan.found.heads["active_channels"][plan.selection.imaging[0]]),
            "matrix": list(matrix),
            "recon_shape": list(recon),
            **sampling,
            "readout_oversampling": round(space.matrix[0] / picture.recon_shape[0], 4),
            "field_of_view_mm": _millimetres(picture.field_of_view),
            "encoded_field_of_view_mm": _millimetres(picture.encoded_field_of_view),
            "orientation": "unknown" if picture.orientation is None else _spoken(picture.orientation),
            "contrast": {**plan.header.notes, **plan.selection.notes},
            "reference": None,
            "reference_shape": None,
            "missing": _missing(plan),
            "warnings": warnings,
        }


@contextmanager
def _opened(path: Path, layout: str | None) -> Iterator[_Plan]:
    """Open a file and plan what is read from it."""
    choice = parse_choice(layout)
    with open_checked(path) as file:
        group = open_group(file, choice.group, path.name)
        store = RaggedFile(path)
        header = parse_header(store.text(group["xml"], MAX_HEADER_BYTES), path.name)
        found = read_acquisitions(group, store, path.name)
        yield _plan(found, header, choice)


def _plan(found: Acquisitions, header: AcquisitionHeader, choice: Choice) -> _Plan:
    selection = select(found, choice)
    readouts = np.sort(np.concatenate([selection.imaging, selection.calibration]))
    is_cartesian = header.trajectory in ("cartesian", "epi")
    space, warnings = encoded_space(header, symmetric_lengths(found, readouts) if is_cartesian else set(), found.title)
    n_steps = np.unique(found.index("kspace_encode_step_2")[readouts]).size
    is_3d = (space.matrix[2] > 1 and n_steps > 1) if is_cartesian else is_volume(found, selection, space.matrix[2])
    if space.matrix[2] > 1 and not is_3d:
        warnings.append(
            f"The header speaks of {space.matrix[2]} partitions, only one was encoded: the scan is read as 2-D slices."
        )
        space = EncodedSpace((*space.matrix[:2], 1), space.fov)
    if is_3d:
        selection = choose_slab(found, selection, choice)
    elif "slab" in choice.counters:
        raise UnsupportedScan(f"{found.title} is no 3-D scan, it has no slabs.", "Choose slices (--slices).")
    place = frame(found, selection.imaging)
    size, sentences = geometry(header, space, place, is_3d, is_cartesian)
    warnings += [*place.warnings, *sentences]
    if not is_3d and header.last_slice is not None and header.last_slice >= place.slices.size:
        warnings.append(f"The header speaks of {header.last_slice + 1} slices; {place.slices.size} were measured.")
    grid = None
    if is_cartesian:
        grid = make_grid(found, selection, header, space.matrix, place.slices)
        check_size(found.title, "a slice of its k-space grid", grid.n_bytes(found), found.store.size)
        warnings += grid.warnings
    return _Plan(
        found,
        header,
        choice,
        selection,
        space,
        place,
        size,
        is_3d,
        grid,
        (*header.warnings, *selection.warnings, *warnings),
    )


def _fill(
    plan: _Plan, grid: Grid, first: int, last: int, title: str
) -> tuple[NDArray[np.complex64], NDArray[np.bool_], list[str]]:
    check_size(title, "its k-space grid", grid.n_bytes(plan.found) * (last - first), plan.found.store.size)
    kspace, masks, warnings = grid.fill(plan.found, first, last)
    if not plan.is_3d:
        kspace, masks = kspace[:, :, 0], masks[:, 0]
    mask = masks[0] if (masks == masks[0]).all() else masks
    return kspace, mask, warnings + clear_unmeasured(kspace, mask, first, plan.n_slices, title)


def _typical(grid: Grid) -> float:
    """How often a line was measured: the median, over the whole scan, so that reading it in parts changes nothing."""
    lines = (grid.slices * grid.shape[0] + grid.kz) * grid.shape[2] + grid.kx
    return float(np.median(np.unique(lines, return_counts=True)[1]))


def _of_slices(whole: Geometry, first: int, last: int) -> Geometry:
    return whole if whole.position is None else replace(whole, position=whole.position[first:last])


def _missing(plan: _Plan) -> list[str]:
    there = {
        "field of view": plan.geometry.field_of_view is not None,
        "phase encoding limits (where the centre of k-space lies)": plan.grid is None
        or plan.header.phase_limits is not None,
        "reference": False,
        "noise covariance": plan.selection.noise.size > 0,
        "slice positions and orientation": plan.geometry.position is not None,
    }
    return [name for name, is_there in there.items() if not is_there]


def _millimetres(lengths: tuple[float, float, float] | None) -> list[float] | None:
    return None if lengths is None else [round(1000 * length, 4) for length in lengths]


def _spoken(orientation: NDArray[np.float64]) -> str:
    """Plane of the slices, and whether it is tilted."""
    normal = np.abs(orientation[2])
    plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return plane if normal.max() > 0.999 else f"oblique {plane}"
