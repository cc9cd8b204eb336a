"""Writing: volumes, previews, and that a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
import PIL.Image
import pytest
from support.files import advice

from mri_unroll.errors import DeviceError, InputError
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.io import registry, write_image
from mri_unroll.io.atomic import atomic_path
from mri_unroll.io.preview import shown_slices, windowed, write_preview
from mri_unroll.scan import Geometry

SHAPE = (3, 7, 5)  # (slice, y, x)


def make_image(geometry: Geometry | None = None, shape: tuple[int, int, int] = SHAPE) -> Image:
    pixels = np.random.default_rng(0).random(shape, np.float32)
    n_slices = shape[0]
    return Image(
        pixels=pixels,
        geometry=geometry or Geometry(recon_shape=shape[1:]),
        diagnostics=Diagnostics((0.1,) * n_slices, ("done",) * n_slices, (1,) * n_slices, (0.5,) * n_slices),
        provenance=Provenance(
            "unrolled", "0.1.0", "cpu", "sigpy/numpy", {}, input_digest="sha256:in", weights_digest="sha256:w"
        ),
    )


def placed() -> Geometry:
    """An oblique orthonormal frame, and three slices 6 mm apart."""
    y, x = np.array([0.6, 0.8, 0.0]), np.array([-0.8, 0.6, 0.0])
    frame = np.stack([y, x, np.cross(y, x)])
    centres = np.array([0.01, -0.02, 0.03]) + 0.006 * np.arange(3)[:, None] * frame[2]
    return Geometry((7, 5), (0.070, 0.040, 0.005), orientation=frame, position=centres)


def test_h5(tmp_path: Path) -> None:
    image = make_image()
    write_image(image, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(file["reconstruction"][()], image.pixels)
        assert dict(file.attrs) == {
            "method": "unrolled",
            "version": "0.1.0",
            "weights_digest": "sha256:w",
            "input_digest": "sha256:in",
        }


def test_npy(tmp_path: Path) -> None:
    image = make_image()
    write_image(image, str(tmp_path / "a.npy"), format="auto")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), image.pixels)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti_without_place(tmp_path: Path, name: str) -> None:
    image = make_image(Geometry(SHAPE[1:], (0.070, 0.040, 0.005)))
    write_image(image, tmp_path / name, format="nifti")
    found = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(found.dataobj), image.pixels.transpose(2, 1, 0))
    assert int(found.header["sform_code"]) == 0
    assert int(found.header["qform_code"]) == 0
    np.testing.assert_allclose(found.header.get_zooms(), (8, 10, 5))
    assert found.header.get_xyzt_units()[0] == "mm"
    assert found.header.get_data_dtype() == np.float32


def test_nifti_without_sizes_claims_none(tmp_path: Path) -> None:
    write_image(make_image(), tmp_path / "a.nii")
    header = nibabel.load(tmp_path / "a.nii").header
    assert header.get_xyzt_units()[0] == "unknown"
    assert int(header["sform_code"]) == 0


def test_nifti_affine(tmp_path: Path) -> None:
    geometry = placed()
    assert geometry.position is not None
    assert geometry.orientation is not None
    write_image(make_image(geometry), tmp_path / "a.nii.gz")
    found = nibabel.load(tmp_path / "a.nii.gz")
    assert int(found.header["sform_code"]) == 1
    lps = np.array([-1000, -1000, 1000])
    for index in range(3):  # the centre lies at pixel n // 2 of each slice
        np.testing.assert_allclose(found.affine @ [2, 3, index, 1], [*(lps * geometry.position[index]), 1], atol=1e-4)
    one_down = geometry.position[0] + geometry.orientation[0] * 0.070 / 7
    np.testing.assert_allclose((found.affine @ [2, 4, 0, 1])[:3], lps * one_down, atol=1e-4)
    np.testing.assert_allclose(found.header.get_zooms(), (8, 10, 6), rtol=1e-5)
    np.testing.assert_allclose(found.header.get_qform(), found.affine, atol=1e-4)


def test_nifti_uneven_slices_get_no_affine(tmp_path: Path) -> None:
    geometry = placed()
    assert geometry.position is not None
    geometry.position[2] += 0.01
    write_image(make_image(geometry), tmp_path / "a.nii")
    assert int(nibabel.load(tmp_path / "a.nii").header["sform_code"]) == 0


@pytest.mark.parametrize("name", ["a.h5", "a.npy", "a.nii.gz", "a.png"])
def test_same_picture_same_bytes(tmp_path: Path, name: str) -> None:
    write = write_preview if name.endswith("png") else write_image
    write(make_image(placed()), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    time.sleep(0.01)
    (tmp_path / name).unlink()
    write(make_image(placed()), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.txt", None), ("a", None), (".h5", None), ("a.h5", "nifti"), ("a.nii.gz", "h5"), ("a.h5", "mat"), ("a", "npy")],
)
def test_formats_that_do_not_fit(tmp_path: Path, name: str, format: str | None) -> None:
    with pytest.raises(InputError) as caught:
        write_image(make_image(), tmp_path / name, format=format)
    advice(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.h5", "a.npy", "a.nii.gz", "a.png"])
def test_nothing_is_overwritten_unasked(tmp_path: Path, name: str) -> None:
    write = write_preview if name.endswith("png") else write_image
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="exists already") as caught:
        write(make_image(), tmp_path / name)
    assert "--overwrite" in caught.value.hint
    advice(caught.value)
    assert (tmp_path / name).read_text() == "precious"
    write(make_image(), tmp_path / name, overwrite=True)
    assert (tmp_path / name).read_bytes()[:8] != b"precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a.html") as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not list(tmp_path.iterdir())


def test_one_who_was_faster_wins(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a") as part:
            part.write_text("mine")
            (tmp_path / "a").write_text("theirs")

    with pytest.raises(InputError, match="exists already"):
        write()
    assert (tmp_path / "a").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", refuse)
    with atomic_path(tmp_path / "a") as part:
        part.write_text("mine")
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, DeviceError), (errno.EACCES, InputError)])
def test_disk_errors(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, atomic_path(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    advice(caught.value)


def test_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "a.h5"):
        with pytest.raises(InputError, match="folder") as caught, atomic_path(path):
            pytest.fail("must not get here")
        advice(caught.value)
    with pytest.raises(InputError), atomic_path(tmp_path / ("x" * 250)) as part:
        part.write_text("")


def test_a_kill_leaves_no_half_file(tmp_path: Path) -> None:
    code = (
        "import sys, time; from mri_unroll.io.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as part:\n"
        "    part.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [f".a.{process.pid}.part"]


@pytest.mark.parametrize("n_slices", [1, 2, 9, 10, 11, 40, 255])
def test_shown_slices(n_slices: int) -> None:
    shown = shown_slices(n_slices)
    assert shown == sorted(set(shown))
    assert len(shown) == min(n_slices, 9)
    assert n_slices // 2 in shown
    assert {0, n_slices - 1} <= set(shown)


def test_preview(tmp_path: Path) -> None:
    image = make_image(shape=(4, 13, 11))
    image.pixels[3] = np.nan
    write_preview(image, tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "L"
        assert picture.size == (2 * 11 + 2, 2 * 13 + 2)
        grey = np.asarray(picture)
    assert grey.max() == 255
    assert not grey[15:, 13:].any()
    np.testing.assert_array_equal(grey[:13, :11], windowed(image.pixels[:3])[0])


def test_preview_in_true_proportion(tmp_path: Path) -> None:
    write_preview(make_image(Geometry((7, 5), (0.140, 0.050, 0.005)), (1, 7, 5)), tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (5, 14)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, np.inf])
def test_flat_pictures(tmp_path: Path, value: float) -> None:
    image = make_image()
    image.pixels[...] = value
    write_preview(image, tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert not np.asarray(picture).any()


def test_few_bright_pixels_are_seen() -> None:
    pixels = np.zeros((1, 100, 100), np.float32)
    pixels[0, 5, 5] = 1
    assert windowed(pixels)[0, 5, 5] == 255


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.h5", "h5"), ("a.HDF5", "h5"), ("a.b.nii.gz", "nifti"), ("a.npy", "npy"), ("a.gz", None), ("h5", None)],
)
def test_volume_format(name: str, format: str | None) -> None:
    assert registry.volume_format(name) == format
