"""What a `Scan` accepts: 2-D and 3-D grids, and trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.files import random_kspace

from mri_unroll.errors import CorruptScan, MriUnrollError, ShapeError, UnsupportedScan
from mri_unroll.scan import Geometry, Scan, Source

_FLAT = Geometry((7, 5), encoded_shape=(9, 6))
_DEEP = Geometry((7, 5), n_partitions=3, encoded_shape=(4, 9, 6))


def scan(kspace_shape: tuple[int, ...], geometry: Geometry = _FLAT, **fields: Any) -> Scan:
    fields.setdefault("mask", None if "trajectory" in fields else np.ones(kspace_shape[2:], bool))
    return Scan(
        kspace=random_kspace(kspace_shape),
        geometry=geometry,
        source=Source("test", "", 9, (0, kspace_shape[0])),
        **fields,
    )


def points(*shape: int, size: tuple[int, ...] = (9, 6)) -> np.ndarray:
    return (np.random.default_rng(0).uniform(-0.5, 0.5, (*shape, len(size))) * size).astype(np.float32)


def test_flat_grid() -> None:
    made = scan((3, 2, 9, 6), Geometry((7, 5)))
    assert (made.is_cartesian, made.ndim, made.n_slices, made.n_coils, made.matrix) == (True, 2, 3, 2, (9, 6))
    assert scan((3, 2, 9, 6), mask=np.ones((3, 9, 6), bool)).mask.shape == (3, 9, 6)  # type: ignore[union-attr]


def test_deep_grid() -> None:
    made = scan((1, 2, 4, 9, 6), Geometry((7, 5), n_partitions=3), reference=np.ones((3, 7, 5), np.float32))
    assert (made.is_cartesian, made.ndim, made.n_slices, made.n_coils, made.matrix) == (True, 3, 1, 2, (9, 6))


@pytest.mark.parametrize("shape", [(20,), (3, 20)])
def test_trajectories(shape: tuple[int, ...]) -> None:
    made = scan((3, 2, 20), trajectory=points(*shape))
    assert (made.is_cartesian, made.ndim, made.n_slices, made.n_coils, made.matrix) == (False, 2, 3, 2, (9, 6))
    made = scan((3, 2, 20), _DEEP, trajectory=points(*shape, size=(4, 9, 6)))
    assert (made.is_cartesian, made.ndim, made.n_slices, made.matrix) == (False, 3, 3, (9, 6))


@pytest.mark.parametrize(
    ("kspace", "fields", "kind", "words"),
    [
        ((2, 9, 6), {}, UnsupportedScan, "got 3 dimensions"),
        ((1, 1, 2, 4, 9, 6), {}, UnsupportedScan, "got 6 dimensions"),
        ((3, 2, 9, 6), {"trajectory": points(20)}, UnsupportedScan, "got 4 dimensions"),
        ((3, 0, 9, 6), {}, CorruptScan, "empty"),
        ((3, 2, 0), {"trajectory": points(0)}, CorruptScan, "empty"),
        ((2, 2, 4, 9, 6), {"geometry": _DEEP}, ShapeError, "one volume"),
        ((3, 2, 9, 6), {"mask": None}, ShapeError, "got None"),
        ((3, 2, 9, 6), {"mask": np.ones((2, 9, 6), bool)}, ShapeError, r"got \(2, 9, 6\)"),
        ((1, 2, 4, 9, 6), {"mask": np.ones((9, 6), bool)}, ShapeError, r"got \(9, 6\)"),
        ((3, 2, 9, 6), {"mask": np.zeros((9, 6), bool)}, CorruptScan, "no k-space sample"),
        ((3, 2, 20), {"trajectory": points(19)}, ShapeError, r"got \(19, 2\)"),
        ((3, 2, 20), {"trajectory": points(2, 20)}, ShapeError, r"got \(2, 20, 2\)"),
        ((3, 2, 20), {"trajectory": points(20, size=(9,))}, ShapeError, r"got \(20, 1\)"),
        ((3, 2, 20), {"trajectory": points(20), "mask": np.ones((9, 6), bool)}, ShapeError, "a mask"),
        ((3, 2, 20), {"trajectory": points(20), "geometry": _DEEP}, ShapeError, "encoded shape of 2 sizes"),
        ((3, 2, 20), {"trajectory": points(20), "geometry": Geometry((7, 5))}, ShapeError, "got None"),
        ((3, 2, 20), {"trajectory": points(20) * 3}, CorruptScan, "unit of the trajectory"),
        ((3, 2, 20), {"trajectory": points(20) * np.float32(np.nan)}, CorruptScan, "unit of the trajectory"),
        ((3, 2, 9, 6), {"reference": np.ones((2, 7, 5))}, ShapeError, "reference with 3 slices"),
        ((1, 2, 4, 9, 6), {"geometry": _DEEP, "reference": np.ones((1, 7, 5))}, ShapeError, "reference with 3 slices"),
    ],
)
def test_refused(kspace: tuple[int, ...], fields: dict[str, Any], kind: type[MriUnrollError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        scan(kspace, **fields)
    assert type(caught.value) is kind


@pytest.mark.parametrize("shape", [(3, 2, 9, 6), (1, 2, 4, 9, 6), (3, 2, 20)])
def test_samples_that_are_no_numbers(shape: tuple[int, ...]) -> None:
    kspace = random_kspace(shape)
    kspace[-1, 1, ..., 3] = np.inf
    source = Source("test", "", 9, (4, 4 + shape[0]))
    trajectory = points(20) if len(shape) == 3 else None
    mask = None if len(shape) == 3 else np.ones(shape[2:], bool)
    with pytest.raises(CorruptScan, match=f"slice {3 + shape[0]} holds NaN"):
        Scan(kspace, mask, _FLAT, source, trajectory=trajectory)
