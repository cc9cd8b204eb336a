"""Challenge files: their name, their one dataset, and the crops of fastMRI."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from support.files import advice, header_xml, random_kspace, write_fastmri

from mri_unroll.errors import CorruptScan, InputError
from mri_unroll.evaluate.predict import predict_file, prediction_path
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "reconstructions"


def _rss(kspace: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
    return np.sqrt((np.abs(coils) ** 2).sum(axis=1))


def _read(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        assert list(file) == ["reconstruction"]
        assert dict(file.attrs) == {}
        assert file["reconstruction"].dtype == np.float32
        return file["reconstruction"][()]


def test_a_prediction_is_one_dataset_under_the_scans_name(tmp_path: Path, out: Path) -> None:
    kspace = random_kspace((5, 2, 13, 11))
    path = write_fastmri(tmp_path / "file1000.h5", kspace)
    steps: list[tuple[int, int]] = []
    made = predict_file(path, out, make_reconstructor("zero-filled"), progress=lambda *step: steps.append(step))
    assert made == out / "file1000.h5"
    np.testing.assert_allclose(_read(made), _rss(kspace), rtol=1e-5)
    assert [file.name for file in out.iterdir()] == ["file1000.h5"]
    assert steps[0] == (0, 5)
    assert steps[-1] == (5, 5)


@pytest.mark.parametrize(
    ("matrix", "recon", "target", "expected"),
    [
        ((40, 22), (20, 20), None, (20, 20)),  # the header's reconstructed matrix
        ((41, 23), (19, 20), None, (19, 20)),
        ((40, 22), (20, 20), (18, 16), (18, 16)),  # the target's size goes first
        ((40, 17), (20, 20), None, (17, 17)),  # FLAIR_203: k-space is narrower than the crop
        ((40, 22), None, None, (40, 22)),  # nothing is known
    ],
)
def test_crops(
    tmp_path: Path,
    out: Path,
    matrix: tuple[int, int],
    recon: tuple[int, int] | None,
    target: tuple[int, int] | None,
    expected: tuple[int, int],
) -> None:
    kspace = random_kspace((1, 3, *matrix))
    more = {} if recon is None else {"ismrmrd_header": header_xml(matrix, recon)}
    if target is not None:
        more["reconstruction_rss"] = np.ones((1, *target), np.float32)
    path = write_fastmri(tmp_path / "a.h5", kspace, **more)
    made = _read(predict_file(path, out, make_reconstructor("zero-filled")))
    top, left = ((n - k) // 2 for n, k in zip(matrix, expected, strict=True))
    whole = _rss(kspace)
    np.testing.assert_allclose(made, whole[:, top : top + expected[0], left : left + expected[1]], rtol=1e-5)


def test_names_of_the_second_edition() -> None:
    folder = Path("p")
    assert prediction_path(Path("d/file1.h5"), folder) == folder / "file1.h5"
    assert prediction_path(Path("d/file1.h5"), folder, v2_suffix=True) == folder / "file1_v2.h5"
    assert prediction_path(Path("d/file1_v2.h5"), folder, v2_suffix=True) == folder / "file1_v2.h5"
    assert prediction_path(Path("d/scan.one.npy"), folder) == folder / "scan.one.h5"


def test_parts_can_be_undersampled_first(tmp_path: Path, out: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", random_kspace((3, 2, 12, 24)))
    seen = []

    def half(scan: Scan) -> Scan:
        seen.append(scan.n_slices)
        return undersample(scan, "equispaced", 2, 0.2, 0)

    made = _read(predict_file(path, out, make_reconstructor("zero-filled"), undersampled=half, v2_suffix=True))
    assert sum(seen) == 3
    whole = _read(predict_file(path, out, make_reconstructor("zero-filled")))
    assert (made**2).sum() < 0.8 * (whole**2).sum()
    assert sorted(file.name for file in out.iterdir()) == ["a.h5", "a_v2.h5"]


def test_nothing_is_overwritten_unasked(tmp_path: Path, out: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5")
    method = make_reconstructor("zero-filled")
    made = predict_file(path, out, method)
    made.write_text("mine")
    with pytest.raises(InputError) as caught:
        predict_file(path, out, method)
    assert "exists already" in advice(caught.value)
    assert made.read_text() == "mine"
    predict_file(path, out, method, overwrite=True)
    assert _read(made).shape == (3, 13, 11)
    before = path.read_bytes()
    with pytest.raises(InputError, match="replace the scan itself"):
        predict_file(path, tmp_path, method, overwrite=True)
    assert path.read_bytes() == before


def test_nothing_is_left_of_a_scan_that_fails(tmp_path: Path, out: Path) -> None:
    kspace = random_kspace((4, 2, 13, 11))
    kspace[3] = np.nan
    with pytest.raises(CorruptScan):
        predict_file(write_fastmri(tmp_path / "a.h5", kspace), out, make_reconstructor("zero-filled"))
    assert not out.exists() or list(out.iterdir()) == []
