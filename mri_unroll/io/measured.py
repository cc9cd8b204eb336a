"""Which samples were measured, and how they are arranged: the mask of a file, stated or inferred."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, UnsupportedScan
from mri_unroll.io.content import MAX_COILS

ZERO_SHARE = 0.01  # of a measured column's samples; less than this is quantisation that happened to give 0


def check_coils(n_coils: int, shape: tuple[int, ...], title: str) -> None:
    """Refuse a coil axis so long that the axes must be in another order than said.

    Raises
    ------
    UnsupportedScan
        If there are more than `MAX_COILS` coils.
    """
    if n_coils > MAX_COILS:
        raise UnsupportedScan(
            f"{title}: its shape {shape} would mean {n_coils} coils, more than {MAX_COILS}.",
            "Check the order of the axes: (slice, coil, ky, kx) with ky the readout.",
        )


def load_slice(raw: NDArray[Any], index: int, title: str) -> NDArray[np.complex64]:
    """Native complex64 of one slice, from complex samples of any width or from pairs of real numbers.

    Parameters
    ----------
    raw
        ``(coil, ky, kx)``, or ``(ky, kx)``; given back as it is where it is native complex64 in C order already.
    index
        Its number in the file, for messages.

    Raises
    ------
    CorruptScan
        If a sample is NaN, infinite, or too large for complex64.
    UnsupportedScan
        If the samples are not complex.
    """
    check_complex(raw.dtype, title)
    out = np.ascontiguousarray(raw)
    if raw.dtype.names is not None:
        real, imag = raw.dtype.names
        out = np.empty(raw.shape, np.complex64)
        with np.errstate(over="ignore"):  # ends as infinity, refused below
            out.real, out.imag = raw[real], raw[imag]
    elif raw.dtype != np.complex64:  # another width or byte order
        with np.errstate(over="ignore", invalid="ignore"):
            out = np.ascontiguousarray(raw, np.complex64)
    if not np.isfinite(out.view(np.float32)).all():
        raise CorruptScan(
            f"{title}: k-space of slice {index} holds NaN or infinite values.",
            "Export the raw data again; no picture is made from guesses.",
        )
    return out


def check_complex(dtype: np.dtype[Any], title: str) -> None:
    """Refuse samples that carry no phase.

    Raises
    ------
    UnsupportedScan
        If the type is neither complex nor a pair of real floats.
    """
    names = dtype.names or ()
    pair = (
        len(names) == 2
        and (names[0][:1].lower(), names[1][:1].lower()) == ("r", "i")
        and all(dtype[name].kind == "f" for name in names)
    )
    if dtype.kind != "c" and not pair:
        raise UnsupportedScan(
            f"{title}: k-space must be complex, but it is stored as {'structured' if names else dtype.name}.",
            "Magnitudes cannot be reconstructed; export real and imaginary parts as complex64.",
        )


def stated_mask(raw: NDArray[Any], matrix: tuple[int, ...], n_slices: int, title: str) -> NDArray[np.bool_]:
    """The mask a file states, as ``(ky, kx)``, ``(slice, ky, kx)`` or ``(kz, ky, kx)``.

    Parameters
    ----------
    raw
        ``(kx,)``, or the shape of ``matrix``, or that with slices before it; boolean, or numbers that are 0 or 1.
    matrix
        ``(ky, kx)`` or ``(kz, ky, kx)``.

    Raises
    ------
    CorruptScan
        If the shape does not fit, values are neither 0 nor 1, or nothing was measured.
    """
    raw = raw[0] if len(matrix) == 3 and raw.ndim == 4 and n_slices == 1 and len(raw) == 1 else raw
    if raw.shape not in ((matrix[-1],), matrix, (n_slices, *matrix)):
        raise CorruptScan(
            f"{title}: its mask has shape {raw.shape}; expected ({matrix[-1]},) or {matrix} for this k-space.",
            "Store one value for each phase encoding column.",
        )
    if raw.dtype.kind not in "biuf" or not np.isin(raw, (0, 1)).all():
        raise CorruptScan(f"{title}: its mask holds values other than 0 and 1.", "Store the mask as booleans.")
    mask = raw.astype(bool)
    if not mask.any():
        raise CorruptScan(f"{title}: its mask says that no sample was measured.", "Check the file's `mask`.")
    return np.ascontiguousarray(np.broadcast_to(mask, matrix)) if mask.ndim == 1 else mask


def inferred_mask(kspace: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """The mask of a file that states none: what is exactly zero in all coils of a slice was not measured.

    Whole columns (phase encoding lines) are looked at first. Single zeros within the other columns count only when they
    are more than `ZERO_SHARE` of them: then the sampling is two-dimensional, else they are values that happened to be
    zero. Each slice is judged by itself, so that reading a file in parts gives the same mask as reading it at once. A
    slice of zeros alone counts as measured.

    Parameters
    ----------
    kspace
        ``(slice, coil, ky, kx)`` or ``(1, coil, kz, ky, kx)``.

    Returns
    -------
        ``(ky, kx)`` or ``(kz, ky, kx)`` where all slices agree, else ``(slice, ky, kx)``.
    """
    masks = np.stack([_nonzero(volume) for volume in kspace])
    return masks[0] if (masks == masks[0]).all() else masks


def _nonzero(kspace: NDArray[np.complex64]) -> NDArray[np.bool_]:
    samples: NDArray[np.bool_] = np.zeros(kspace.shape[1:], bool)
    for coil in kspace:
        samples |= coil != 0
    columns = samples.any(axis=-2, keepdims=True)
    n_inside = int(columns.sum()) * samples.shape[-2]
    if n_inside == 0:  # an empty slice says nothing of how it was sampled
        return np.ones_like(samples)
    if 1 - samples.sum() / n_inside > ZERO_SHARE:
        return samples
    return np.ascontiguousarray(np.broadcast_to(columns, samples.shape))


def clear_unmeasured(
    kspace: NDArray[np.complex64], mask: NDArray[np.bool_], first: int, n_slices: int, title: str
) -> list[str]:
    """Set what was not measured to +0, in place, and tell of slices that hold nothing.

    Parameters
    ----------
    kspace, mask
        The slices read, and where they were measured.
    first, n_slices
        The first slice's number in the file, and how many the file has.

    Returns
    -------
        A sentence for each slice that holds only zeros.

    Raises
    ------
    CorruptScan
        If the whole file holds only zeros.
    """
    empty = []
    for index, volume in enumerate(kspace):
        here = mask if mask.ndim == kspace.ndim - 2 else mask[index]
        if not here.all():
            volume[:, ~here] = 0
        if not volume.any():
            empty.append(first + index)
    if len(empty) == n_slices:
        raise CorruptScan(f"{title}: k-space holds only zeros where it was measured.", "Export the raw data again.")
    return [f"Slice {index} holds only zeros; its picture is zero." for index in empty]


def describe_sampling(mask: NDArray[np.bool_], padding: tuple[int, int] | None, n_acs: int | None) -> dict[str, Any]:
    """How a mask is arranged, in words and numbers.

    Parameters
    ----------
    mask
        ``(ky, kx)``.
    padding
        Columns at the left and right edge that the header calls zero filling; None: the file does not say.
    n_acs
        Central lines as the file states it; None: counted, ``2 * min(left, right)`` of the run around the centre.

    Returns
    -------
        ``sampling``, ``effective_acceleration`` (columns that could have been measured for each one that was, or
        samples where the sampling is two-dimensional), ``n_acs_lines``, ``padding_columns``.
    """
    columns: NDArray[np.bool_] = np.asarray(mask.any(axis=0))
    width = columns.size
    if not columns.any():
        return {"sampling": "empty", "effective_acceleration": None, "n_acs_lines": 0, "padding_columns": [0, 0]}
    ends = int(columns.argmax()), int(columns[::-1].argmax())
    filled = bool(columns[ends[0] : width - ends[1]].all())
    left, right = ends if filled and padding is None else padding or (0, 0)
    inside = mask[:, left : width - right]
    if bool((mask != columns).any()):
        sampling = "undersampled 2-D"
    elif columns[left : width - right].all():
        # as many zeros on one side only are no padding: part of k-space was left out to save time
        sampling = "partial Fourier" if abs(left - right) > width // 8 else "fully sampled"
    else:
        sampling = "undersampled 1-D"
    centre = width // 2
    runs = [int(np.append(side, False).argmin()) for side in (columns[:centre][::-1], columns[centre:])]
    counted = int(columns.sum()) if filled else 2 * min(runs)
    return {
        "sampling": sampling,
        "effective_acceleration": round(inside.size / int(inside.sum()), 4),
        "n_acs_lines": n_acs if n_acs is not None else counted,
        "padding_columns": [left, right],
    }
