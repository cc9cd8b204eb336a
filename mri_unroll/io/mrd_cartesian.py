"""Cartesian readouts of ISMRMRD data, each put where it was measured on the k-space grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan
from mri_unroll.io.header import AcquisitionHeader
from mri_unroll.io.mrd_acquisitions import REVERSE, Acquisitions
from mri_unroll.io.mrd_selection import Selection

_CHECK = "Check the header's encodedSpace and encodingLimits."


@dataclass(frozen=True, eq=False)
class Grid:
    """Where each readout lies; zero frequency is at index ``n // 2`` of each axis."""

    shape: tuple[int, int, int]  # (kz, ky, kx)
    readouts: NDArray[np.int64]  # number in the file
    slices: NDArray[np.int64]  # place in the stack
    kz: NDArray[np.int64]
    ky: NDArray[np.int64]  # of the first sample
    n_samples: NDArray[np.int64]
    kx: NDArray[np.int64]
    reverse: NDArray[np.bool_]  # measured backwards
    warnings: tuple[str, ...]

    def n_bytes(self, found: Acquisitions) -> int:
        """Bytes of k-space for one slice or volume."""
        return 8 * int(found.heads["active_channels"][self.readouts[0]]) * math.prod(self.shape)

    def counts(self, first: int, last: int) -> NDArray[np.uint16]:
        """How often each sample of some slices was measured, ``(slice, kz, ky, kx)``."""
        counts = np.zeros((last - first, *self.shape), np.uint16)
        for number in self._within(first, last):
            counts[self._place(number, first)] += 1
        return counts

    def fill(
        self, found: Acquisitions, first: int, last: int
    ) -> tuple[NDArray[np.complex64], NDArray[np.bool_], list[str]]:
        """K-space ``(slice, coil, kz, ky, kx)`` of some slices, averages averaged, and the mask without the coils.

        Readouts of zeros alone count as not measured, except in a slice that holds nothing else.
        """
        n_coils = int(found.heads["active_channels"][self.readouts[0]])
        kspace = np.zeros((last - first, n_coils, *self.shape), np.complex64)
        counts = np.zeros((last - first, *self.shape), np.uint16)
        empty: list[int] = []
        for number in self._within(first, last):
            samples = found.samples(int(self.readouts[number]))
            if not samples.any():
                empty.append(number)
                continue
            stack, kz, rows, kx = self._place(number, first)
            kspace[stack, :, kz, rows, kx] += samples[:, ::-1] if self.reverse[number] else samples
            counts[stack, kz, rows, kx] += 1
        measured = [bool(one.any()) for one in counts]
        n_empty = 0
        for number in empty:
            if measured[self.slices[number] - first]:
                n_empty += 1
            else:
                counts[self._place(number, first)] = 1
        if counts.max() > 1:
            kspace /= np.maximum(counts, 1)[:, None]
        sentences = [f"{n_empty} readouts hold only zeros and count as not measured."] if n_empty else []
        return kspace, counts > 0, sentences

    def _within(self, first: int, last: int) -> list[int]:
        inside: list[int] = np.flatnonzero((self.slices >= first) & (self.slices < last)).tolist()
        return inside

    def _place(self, number: int, first: int) -> tuple[int, int, slice, int]:
        start = int(self.ky[number])
        rows = slice(start, start + int(self.n_samples[number]))
        return int(self.slices[number]) - first, int(self.kz[number]), rows, int(self.kx[number])


def symmetric_lengths(found: Acquisitions, readouts: NDArray[np.int64]) -> set[int]:
    """Lengths of the readouts, if all have their centre in the middle; else nothing."""
    lengths, centres, _ = _readout_axis(found, readouts, 0)
    return set(lengths.tolist()) if (np.abs(2 * centres - lengths) <= 1).all() else set()


def make_grid(
    found: Acquisitions,
    selection: Selection,
    header: AcquisitionHeader,
    matrix: tuple[int, int, int],
    slices: NDArray[np.int64],
) -> Grid:
    """Turn counters into places.

    Parameters
    ----------
    found, selection
        All readouts, and which of them make the scan.
    header
        Of the file: the steps at which zero frequency lies.
    matrix
        Encoded, ``(readout, phase, partition)``.
    slices
        Numbers of the slice counter in the order of the stack.

    Raises
    ------
    CorruptScan
        If a readout lies outside the matrix.
    """
    n_read, n_phase, n_partitions = matrix
    warnings = []
    readouts = np.sort(np.concatenate([selection.imaging, selection.calibration]))
    places = []
    limits = None if header.phase_limits is None else header.phase_limits[0]
    for name, step, size, stated in (
        ("phase", "kspace_encode_step_1", n_phase, limits),
        ("partition", "kspace_encode_step_2", n_partitions, header.partition_centre),
    ):
        steps = found.index(step)[readouts]
        centre = steps.min() if size == 1 else stated
        if centre is None or (centre == 0 and steps.max() >= size - size // 2):  # some converters leave zero there
            centre = size // 2
            warnings.append(f"The header does not say which {name} encoding step is the centre: {centre} is taken.")
        place = size // 2 + steps - centre
        outside = (place < 0) | (place >= size)
        if outside.any():
            raise CorruptScan(
                f"{found.title}: {name} encoding step {steps[outside.argmax()]} lies outside the encoded matrix of "
                f"{size} with its centre at step {centre}.",
                _CHECK,
            )
        places.append(place)
    kx, kz = places
    lengths, centres, sentences = _readout_axis(found, readouts, n_read)
    ky = n_read // 2 - centres
    outside = (ky < 0) | (ky + lengths > n_read) | (lengths < 1)
    if outside.any():
        bad = int(outside.argmax())
        raise CorruptScan(
            f"{found.title}: a readout of {lengths[bad]} samples around its sample {centres[bad]} does not fit the "
            f"encoded matrix of {n_read}.",
            _CHECK,
        )
    number = np.full(int(slices.max()) + 1, -1)
    number[slices] = np.arange(slices.size)
    stack = found.index("slice")[readouts]
    stack = np.where(stack < number.size, number[np.minimum(stack, number.size - 1)], -1)
    is_calibration = np.isin(readouts, selection.calibration)
    line = (stack * n_partitions + kz) * n_phase + kx
    kept = (stack >= 0) & ~(is_calibration & np.isin(line, line[~is_calibration]))
    turns = np.unique(np.stack([line, found.index("average")[readouts]])[:, kept], axis=1, return_counts=True)[1]
    if turns.max(initial=1) > 1:
        warnings.append(f"Lines were measured up to {turns.max()} times under the same counters; they are averaged.")
    return Grid(
        (n_partitions, n_read, n_phase),
        readouts=readouts[kept],
        slices=stack[kept],
        kz=kz[kept],
        ky=ky[kept],
        n_samples=lengths[kept],
        kx=kx[kept],
        reverse=found.flagged(REVERSE)[readouts][kept],
        warnings=(*warnings, *sentences),
    )


def _readout_axis(
    found: Acquisitions, readouts: NDArray[np.int64], n_read: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Samples kept of each readout, and which of them is the centre of k-space, both after reversal.

    A readout with ``c`` samples before its centre and ``n - c`` from there on has ``n - c`` before it when reversed:
    the samples lie symmetrically about the echo.
    """
    before = found.head("discard_pre")[readouts].astype(np.int64)
    stored = found.head("number_of_samples")[readouts].astype(np.int64)
    lengths = stored - before - found.head("discard_post")[readouts].astype(np.int64)
    centres = found.head("center_sample")[readouts].astype(np.int64) - before
    if not found.head("center_sample")[readouts].any() and (lengths > n_read - n_read // 2).any():
        sentence = "The readouts do not say where the centre of k-space lies: their middle is taken."
        return lengths, lengths // 2, [sentence]
    reverse = found.flagged(REVERSE)[readouts]
    return lengths, np.where(reverse, lengths - centres, centres), []
