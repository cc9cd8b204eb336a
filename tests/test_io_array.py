"""Plain NumPy k-space, its axes named by the user."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.files import SHAPE, advice, random_kspace

from mri_unroll.errors import CorruptScan, InputError, MriUnrollError, UnknownFormat, UnsupportedScan
from mri_unroll.io import array, describe, read_scan

AXES = ("slice", "coil", "ky", "kx")
LAYOUT = ",".join(AXES)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_any_order_of_four_axes(tmp_path: Path, order: tuple[int, ...], suffix: str) -> None:
    kspace = random_kspace()
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, kspace.transpose(order))
    else:
        np.savez(path, kspace=kspace.transpose(order))
    scan = read_scan(path, slices=slice(1, 3), layout=", ".join(AXES[axis] for axis in order))
    np.testing.assert_array_equal(scan.kspace, kspace[1:3])
    assert scan.kspace.flags.c_contiguous
    assert scan.source.format == suffix
    assert scan.source.slices == (1, 3)
    assert scan.geometry.recon_shape == SHAPE[2:]


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("ky,kx", (13, 11), (1, 1, 13, 11)),
        ("kx,ky", (11, 13), (1, 1, 13, 11)),
        ("coil,ky,kx", (5, 13, 11), (1, 5, 13, 11)),
        ("ky,kx,coil", (13, 11, 5), (1, 5, 13, 11)),
        ("slice,ky,kx", (5, 13, 11), (5, 1, 13, 11)),
        ("ky,slice,kx", (13, 5, 11), (5, 1, 13, 11)),
    ],
)
def test_fewer_axes(tmp_path: Path, layout: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    kspace = random_kspace(shape)
    np.save(tmp_path / "a.npy", kspace)
    scan = read_scan(tmp_path / "a.npy", layout=layout)
    assert scan.kspace.shape == expected
    assert scan.kspace[-1, -1, 5, 3] == kspace[tuple({"ky": 5, "kx": 3}.get(name, -1) for name in layout.split(","))]


@pytest.mark.parametrize("n_axes", [2, 3, 4])
def test_without_layout_the_hint_shows_one(tmp_path: Path, n_axes: int) -> None:
    np.save(tmp_path / "a.npy", random_kspace(SHAPE[4 - n_axes :]))
    for function in (read_scan, describe):
        with pytest.raises(InputError, match="which axis is which") as caught:
            function(tmp_path / "a.npy")
        advice(caught.value)
        assert f"--layout {','.join(AXES[4 - n_axes :])}" in caught.value.hint


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("slice,coil,ky", "must name ky and kx"),
        ("slice,coil,ky,ky", "must name ky and kx"),
        ("slice,slice,ky,kx", "no axis twice"),
        ("slice,coil,row,kx", "'row'"),
        ("", "''"),
        ("coil,ky,kx", "names 3 axes"),
    ],
)
def test_wrong_layouts(tmp_path: Path, layout: str, words: str) -> None:
    np.save(tmp_path / "a.npy", random_kspace())
    with pytest.raises(InputError, match=words) as caught:
        read_scan(tmp_path / "a.npy", layout=layout)
    assert type(caught.value) is InputError
    advice(caught.value)


def test_archive_with_mask_and_reference(tmp_path: Path) -> None:
    kspace, reference = random_kspace(), np.ones((3, 7, 5))
    mask = np.arange(SHAPE[3]) % 2 == 0
    np.savez_compressed(tmp_path / "a.npz", kspace=kspace, mask=mask, reference=reference)
    scan = read_scan(tmp_path / "a.npz", slices=slice(2, 3), layout=LAYOUT)
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(mask, SHAPE[2:]))
    np.testing.assert_array_equal(scan.kspace, np.where(mask, kspace[2:], 0))
    assert scan.reference is not None
    assert scan.reference.shape == (1, 7, 5)
    assert scan.reference.dtype == np.float32
    assert scan.geometry.recon_shape == (7, 5)
    found = describe(tmp_path / "a.npz", layout=LAYOUT)
    assert found["sampling"] == "undersampled 1-D"
    assert found["reference_shape"] == [3, 7, 5]


def test_mask_for_each_slice(tmp_path: Path) -> None:
    mask = np.random.default_rng(2).random((3, 13, 11)) < 0.7
    np.savez(tmp_path / "a.npz", kspace=random_kspace(), mask=mask)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.npz", slice(1, 3), LAYOUT).mask, mask[1:])


def test_the_only_array_needs_no_name(tmp_path: Path) -> None:
    kspace = random_kspace()
    np.savez(tmp_path / "a.npz", kspace)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.npz", layout=LAYOUT).kspace, kspace)


def test_zero_samples_were_not_measured(tmp_path: Path) -> None:
    pattern = np.random.default_rng(3).random(SHAPE[2:]) < 0.4
    np.save(tmp_path / "a.npy", random_kspace() * pattern)
    scan = read_scan(tmp_path / "a.npy", layout=LAYOUT)
    np.testing.assert_array_equal(scan.mask, pattern)
    found = describe(tmp_path / "a.npy", layout=LAYOUT)
    assert found["sampling"] == "undersampled 2-D"
    assert found["effective_acceleration"] == pytest.approx(pattern.size / pattern.sum(), abs=1e-4)


@pytest.mark.parametrize("dtype", ["c16", ">c8", "c8"])
def test_complex_types_and_memory_order(tmp_path: Path, dtype: str) -> None:
    kspace = random_kspace()
    np.save(tmp_path / "a.npy", np.asfortranarray(kspace.astype(dtype)))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.npy", layout=LAYOUT).kspace, kspace)


def test_a_mapped_file_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", random_kspace((6, 2, 9, 7)))
    asked = []
    load = array.load_slice

    def spy(raw: np.ndarray, index: int, title: str) -> np.ndarray:
        assert isinstance(raw, np.memmap)
        asked.append(index)
        return load(raw, index, title)

    monkeypatch.setattr(array, "load_slice", spy)
    read_scan(tmp_path / "a.npy", slices=slice(2, 4), layout=LAYOUT)
    assert asked == [2, 3]


def _nan() -> np.ndarray:
    kspace = random_kspace()
    kspace[2, 1, 3, 4] = np.nan
    return kspace


@pytest.mark.parametrize(
    ("arrays", "kind", "words"),
    [
        ({"kspace": _nan()}, CorruptScan, "slice 2 holds NaN"),
        ({"kspace": np.ones(SHAPE)}, UnsupportedScan, "must be complex"),
        ({"kspace": np.ones(SHAPE, int)}, UnsupportedScan, "must be complex"),
        ({"kspace": np.full(SHAPE, "text")}, UnsupportedScan, "must be complex"),
        ({"kspace": np.full(SHAPE, None)}, CorruptScan, "objects|does not hold"),
        ({"kspace": random_kspace((5,))}, UnsupportedScan, "expected 2 to 5 axes"),
        ({"kspace": random_kspace((1, 1, 1, 2, 3, 4))}, UnsupportedScan, "expected 2 to 5 axes"),
        ({"kspace": random_kspace((2, 300, 3, 4))}, UnsupportedScan, "300 coils"),
        ({"kspace": random_kspace((3, 0, 13, 11))}, CorruptScan, "empty|cannot read"),
        ({"kspace": np.zeros(SHAPE, np.complex64)}, CorruptScan, "only zeros"),
        ({"mask": np.ones(13)}, CorruptScan, "mask has shape"),
        ({"mask": np.zeros(11)}, CorruptScan, "no sample"),
        ({"mask": np.full(11, 2)}, CorruptScan, "other than 0 and 1"),
        ({"mask": np.full(11, None)}, CorruptScan, "objects|does not hold"),
        ({"reference": np.ones((2, 7, 5))}, CorruptScan, "expected 3 real pictures"),
        ({"reference": np.ones((3, 14, 5))}, CorruptScan, "expected 3 real pictures"),
        ({"reference": np.full((3, 7, 5), np.inf)}, CorruptScan, "NaN or infinite"),
        ({"reference": np.ones((3, 7, 5), np.complex64)}, CorruptScan, "expected 3 real pictures"),
    ],
)
def test_content(tmp_path: Path, arrays: dict, kind: type[MriUnrollError], words: str) -> None:
    everything = {"kspace": random_kspace(), **arrays}
    np.savez(tmp_path / "a.npz", allow_pickle=True, **everything)
    if list(arrays) == ["kspace"]:
        np.save(tmp_path / "a.npy", arrays["kspace"], allow_pickle=True)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(kind, match=words) as caught:
            read_scan(path, layout=LAYOUT)
        assert type(caught.value) is kind
        advice(caught.value)


def _header(shape: tuple[int, ...], text: str = "") -> bytes:
    body = (text or f"{{'descr': '<c8', 'fortran_order': False, 'shape': {shape}, }}").ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body.encode()


@pytest.mark.parametrize(
    "content",
    [
        _header((10**6, 64, 640, 372)) + bytes(64),  # declares 122 TB
        _header((2**40, 2**40, 2**40, 2**40)),
        _header((-3, 2, 13, 11)) + bytes(64),
        _header((), "{'descr': '<c8', 'fortran_order': False, 'shape': __import__('os').getcwd()}"),
        _header((), "{" * 100),
        b"\x93NUMPY\x09\x00\x10\x00" + bytes(64),
        b"\x93NUMPY",
    ],
)
def test_lying_headers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("kspace.npy", content)
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        with pytest.raises(CorruptScan) as caught:
            read_scan(path, layout=LAYOUT)
        advice(caught.value)


def test_packed_bomb(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("kspace.npy", "w") as stream,
    ):
        stream.write(_header((20, 1, 2048, 1024)))
        for _ in range(20):
            stream.write(bytes(2048 * 1024 * 8))
    packed = (tmp_path / "a.npz").stat().st_size
    assert packed < 2**21
    # deflate reaches just about 1000 to 1; say it stored less, as an attacker would
    content = bytearray((tmp_path / "a.npz").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 24] = (1000).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UnsupportedScan, match="no measured data") as caught:
        read_scan(tmp_path / "a.npz", layout=LAYOUT)
    advice(caught.value)


def test_archive_without_kspace_names_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=random_kspace(), more=np.ones(3))
    with pytest.raises(UnknownFormat, match="it holds 'data', 'more'") as caught:
        read_scan(tmp_path / "a.npz", layout=LAYOUT)
    advice(caught.value)


# --- three dimensions, and trajectories


@pytest.mark.parametrize("layout", ["slice,coil,kz,ky,kx", "coil,kz,ky,kx", "kz,ky,kx", "kx,ky,kz,coil"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_volumes(tmp_path: Path, layout: str, with_mask: bool) -> None:
    names = layout.split(",")
    full = random_kspace((1, 2 if "coil" in names else 1, 5, 9, 7))
    pattern = np.random.default_rng(2).random((5, 1, 7)) < 0.6  # phase and partition encoding
    stored = full.copy()
    if with_mask:
        arrays = {"mask": np.broadcast_to(pattern, (5, 9, 7))}
    else:
        stored *= pattern
        arrays = {}
    order = [names.index(name) for name in ("slice", "coil", "kz", "ky", "kx") if name in names]
    axes = tuple(index for index, name in enumerate(("slice", "coil", "kz", "ky", "kx")) if name not in names)
    np.savez(tmp_path / "a.npz", kspace=stored.squeeze(axes).transpose(np.argsort(order)), **arrays)
    scan = read_scan(tmp_path / "a.npz", layout=layout)
    np.testing.assert_array_equal(scan.kspace, full * pattern)
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(pattern, (5, 9, 7)))
    assert (scan.ndim, scan.n_slices, scan.geometry.recon_shape, scan.geometry.n_partitions) == (3, 1, (9, 7), 5)
    found = describe(tmp_path / "a.npz", layout=layout)
    assert (found["matrix"], found["recon_shape"], found["n_slices"]) == ([5, 9, 7], [5, 9, 7], 1)
    assert found["sampling"] == "undersampled 2-D"
    assert found["effective_acceleration"] == pytest.approx(pattern.size / pattern.sum(), abs=1e-4)


def test_several_volumes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_kspace((2, 2, 5, 9, 7)))
    with pytest.raises(UnsupportedScan, match="2 volumes") as caught:
        read_scan(tmp_path / "a.npy", layout="slice,coil,kz,ky,kx")
    advice(caught.value)


def _points(size: tuple[int, ...], *shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (*shape, len(size))) * size


@pytest.mark.parametrize("name", ["trajectory", "coordinates"])
@pytest.mark.parametrize("size", [(9, 7), (4, 9, 7)])
@pytest.mark.parametrize("each", [False, True])
def test_trajectories(tmp_path: Path, name: str, size: tuple[int, ...], each: bool) -> None:
    kspace = random_kspace((3, 2, 40))
    points = _points(size, *((3, 40) if each else (40,)))
    np.savez(tmp_path / "a.npz", kspace=kspace, image_shape=size, **{name: points})
    scan = read_scan(tmp_path / "a.npz", slice(1, 3))
    np.testing.assert_array_equal(scan.kspace, kspace[1:])
    np.testing.assert_array_equal(scan.trajectory, (points[1:] if each else points).astype(np.float32))
    assert scan.mask is None
    assert (scan.ndim, scan.geometry.encoded_shape, scan.geometry.recon_shape) == (len(size), size, (9, 7))
    assert scan.geometry.n_partitions == (4 if len(size) == 3 else 1)
    found = describe(tmp_path / "a.npz")
    assert (found["sampling"], found["matrix"], found["n_coils"]) == ("non-Cartesian", list(size), 2)
    np.save(tmp_path / "c.npy", random_kspace((2, 9, 7)))
    assert set(found) == set(describe(tmp_path / "c.npy", layout="coil,ky,kx"))


def test_trajectory_of_a_single_slice(tmp_path: Path) -> None:
    kspace = random_kspace((2, 40))
    np.savez(tmp_path / "a.npz", kspace=kspace, trajectory=_points((9, 7), 40), image_shape=(9, 7))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.npz").kspace, kspace[None])
    with pytest.raises(InputError, match="a layout was given") as caught:
        read_scan(tmp_path / "a.npz", layout="coil,kx,ky")
    advice(caught.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"kspace": random_kspace((2, 39))}, "do not fit"),
        ({"kspace": random_kspace((3, 2, 9, 7))}, "do not fit"),
        ({"kspace": random_kspace((2, 0)), "trajectory": np.zeros((0, 2))}, "do not fit"),
        ({"trajectory": _points((9, 7, 3, 3), 40)}, "do not fit"),
        ({"trajectory": np.zeros(())}, "do not fit"),
        ({"trajectory": _points((9, 7), 40) / 9}, "expected cycles per field of view"),
        ({"trajectory": _points((9, 7), 40) * 3}, "expected cycles per field of view"),
        ({"trajectory": np.full((40, 2), np.nan)}, "finite real"),
        ({"trajectory": _points((9, 7), 40).astype(complex)}, "finite real"),
        ({"image_shape": (9, 7, 1)}, "`image_shape` must be 2 positive"),
        ({"image_shape": (9, -7)}, "`image_shape` must be"),
        ({"image_shape": (9.5, 7)}, "`image_shape` must be"),
        ({"image_shape": 9}, "`image_shape` must be"),
        ({"image_shape": ()}, "`image_shape` must be"),
        ({"kspace": random_kspace((2, 40)) * np.nan}, "NaN"),
    ],
)
def test_wrong_trajectories(tmp_path: Path, arrays: dict, words: str) -> None:
    sound = {"kspace": random_kspace((2, 40)), "trajectory": _points((9, 7), 40), "image_shape": (9, 7)}
    np.savez(tmp_path / "a.npz", **{**sound, **arrays})
    with pytest.raises(CorruptScan, match=words) as caught:
        read_scan(tmp_path / "a.npz")
    assert type(caught.value) is CorruptScan
    advice(caught.value)
