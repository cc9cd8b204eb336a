"""Derived series: where they lie, what they say, and what judges of other houses say of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from support.dicom import (  # noqa: E402
    CANARIES,
    Made,
    complaints,
    contradictions,
    converted,
    needs_dciodvfy,
    needs_dcm2niix,
    objects,
    save,
    write_series,
)

from mri_unroll.errors import InputError, UnsupportedScan  # noqa: E402
from mri_unroll.image import Image, cropped, flipped, transposed  # noqa: E402
from mri_unroll.io.dicom.plane import stored  # noqa: E402
from mri_unroll.io.dicom.series import Series  # noqa: E402
from mri_unroll.io.dicom.study import find_series, read_pixels  # noqa: E402
from mri_unroll.io.dicom.writer import Derivation, write_derived  # noqa: E402
from mri_unroll.recon.resampling import resampled  # noqa: E402

RESTORED = Derivation(kind="restored", title="restored", description="A test.", parameters={"a": 1})


def series_in(folder: Path, **how: Any) -> Series:
    write_series(folder, **how)
    return find_series(folder).pick()


def headers(folder: Path) -> list[Any]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


# --- places

_CUBE = [
    np.array([[1.0, 0, 0], [0, 1, 0]]),  # axial
    np.array([[1.0, 0, 0], [0, 0, -1]]),  # coronal
    np.array([[0, 1.0, 0], [0, 0, -1]]),  # sagittal
]


def directions() -> list[NDArray[np.float64]]:
    """Row and column of three orthogonal and twenty oblique planes."""
    rng = np.random.default_rng(23)
    return [*_CUBE, *(np.linalg.qr(rng.standard_normal((3, 3)))[0].T[:2] for _ in range(20))]


def moved(image: Image, index: int) -> Image:
    """Cropped, zoomed, flipped and turned, in a way that differs from case to case, odd and even."""
    rng = np.random.default_rng(index)
    top, left = rng.integers(0, 4, 2)
    image = cropped(image, slice(top, 30 + top - index % 2), slice(left, 27 + left - index % 3))
    height, width = image.pixels.shape[1:]
    image = resampled(image, ((1 + index % 3) * height, (1 + (index + 1) % 3) * width))
    for axis in range(3):
        if rng.random() < 0.5:
            image = flipped(image, axis)
    return transposed(image) if index % 4 == 1 else image


@needs_dcm2niix
@pytest.mark.parametrize("index", range(23))
def test_markers_stay_where_they_are(tmp_path: Path, index: int) -> None:
    """Three unequal points, through all that moves pixels, and through dcm2niix: at home to 1e-3 mm."""
    axes = directions()[index]
    made = Made(count=5, shape=(33, 31), axes=axes, origin=(-31.5, 17.25, 40.125), spacing=(1.25, 0.875), step=3.5)
    source = _with_markers(tmp_path / "source", made)
    write_derived(moved(read_pixels(source), index), source, tmp_path / "out", RESTORED)
    (path,) = converted(tmp_path / "out", tmp_path / "nifti")
    volume = nibabel.load(path)
    data = np.asarray(volume.get_fdata())
    found = []
    for k in range(5):
        if data[:, :, k].max() > 0.05 * data.max():
            i, j = np.unravel_index(data[:, :, k].argmax(), data.shape[:2])
            found.append((data[i, j, k], (volume.affine @ [i, j, k, 1])[:3] * [-1, -1, 1]))
    found.sort(key=lambda pair: -pair[0])
    assert len(found) == 3
    for (_, place), (z, row, column) in zip(found, MARKERS, strict=True):
        expected = (
            np.array(made.origin)
            + z * made.step * np.cross(*axes)
            + row * made.spacing[0] * axes[1]
            + column * made.spacing[1] * axes[0]
        )
        np.testing.assert_allclose(place, expected, atol=1e-3)


MARKERS = ((1, 7, 9), (2, 20, 14), (3, 13, 21))  # slice, row, column; the first is the brightest


def _with_markers(folder: Path, made: Made) -> Series:
    datasets = objects(made)
    for index, one in enumerate(datasets):
        picture = np.zeros(made.shape, "<u2")
        for (z, row, column), height in zip(MARKERS, (3000, 2000, 1000), strict=True):
            picture[row, column] = height * (z == index)
        one.PixelData = picture.tobytes()
    save(datasets, folder)
    return find_series(folder).pick()


def test_what_moves_pixels_moves_nothing_twice(tmp_path: Path) -> None:
    image = read_pixels(series_in(tmp_path))
    for axis in range(3):
        again = flipped(flipped(image, axis), axis)
        np.testing.assert_array_equal(again.pixels, image.pixels)
        np.testing.assert_allclose(again.geometry.position, image.geometry.position, atol=1e-12)
        np.testing.assert_array_equal(again.geometry.orientation, image.geometry.orientation)
    np.testing.assert_array_equal(transposed(transposed(image)).pixels, image.pixels)
    whole = cropped(image, slice(None), slice(None))
    np.testing.assert_allclose(whole.geometry.position, image.geometry.position, atol=1e-12)
    with pytest.raises(Exception, match="Expected rows and columns"):
        cropped(image, slice(5, 5), slice(None))
    y, x = np.meshgrid(np.arange(24) / 24, np.arange(20) / 20, indexing="ij")
    waves = 500 + 200 * np.cos(2 * np.pi * 3 * y) + 100 * np.sin(2 * np.pi * (2 * x + y))  # never negative when between
    smooth = dataclasses.replace(image, pixels=np.stack([waves] * 4).astype(np.float32))
    for larger in ((49, 40), (48, 20), (33, 61)):
        there = resampled(smooth, larger)
        assert there.pixels.shape == (4, *larger)
        np.testing.assert_allclose(resampled(there, (24, 20)).pixels, smooth.pixels, rtol=1e-4)


def test_flipped_slices_keep_their_own_sources(tmp_path: Path) -> None:
    source = series_in(tmp_path / "source")
    write_derived(flipped(read_pixels(source), 0), source, tmp_path / "out", RESTORED)
    for one in headers(tmp_path / "out"):
        of = one.SourceImageSequence[0].ReferencedSOPInstanceUID
        (frame,) = (f for f in source.frames if str(f.header.SOPInstanceUID) == of)
        np.testing.assert_allclose(one.ImagePositionPatient, frame.position, atol=1e-6)


def test_a_picture_without_a_place_is_refused(tmp_path: Path) -> None:
    source = series_in(tmp_path / "source")
    image = read_pixels(source)
    lost = dataclasses.replace(image, geometry=dataclasses.replace(image.geometry, position=None))
    with pytest.raises(UnsupportedScan, match="does not say where it lies"):
        write_derived(lost, source, tmp_path / "out", RESTORED)
    skewed = dataclasses.replace(image.geometry, orientation=np.eye(3) + 0.1)
    with pytest.raises(UnsupportedScan, match="no right-angled axes"):
        write_derived(dataclasses.replace(image, geometry=skewed), source, tmp_path / "out", RESTORED)
    assert not (tmp_path / "out").exists()


# --- what objects say


def test_a_derived_object_says_what_it_is(tmp_path: Path) -> None:
    source = series_in(tmp_path / "source", changes={"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]})
    weights = Derivation(
        kind="restored", title="restored", description="By a net.", weights_digest="sha256:" + 64 * "a"
    )
    image = read_pixels(source)
    written = write_derived(image, source, tmp_path / "out", weights)
    first = pydicom.dcmread(written.files[0])
    before = pydicom.dcmread(source.frames[0].path)
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "M", "MRI_UNROLL"]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "StudyDate", "AccessionNumber", "EchoTime"):
        assert first[keyword].value == before[keyword].value
    assert first.PatientName == "CANARYNAME^Jörg"
    assert first.SpecificCharacterSet == "ISO_IR 192"
    assert first.SeriesInstanceUID != before.SeriesInstanceUID
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID != before.SOPInstanceUID
    assert first.SeriesDescription.startswith("[RESEARCH]")
    assert "RESEARCH USE ONLY" in first.ImageComments
    assert "aaaaaaaa" in first.DerivationDescription
    assert first.SeriesNumber == 9003
    assert first.Manufacturer == "Maker"
    equipment = first.ContributingEquipmentSequence[-1]
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert list(equipment.SoftwareVersions)[1] == 16 * "a"
    for keyword in ("PixelPaddingValue", "SmallestImagePixelValue", "LargestImagePixelValue"):
        assert keyword not in first
    assert not [element for element in first.iterall() if element.tag.is_private]
    assert all(len(str(e.value)) <= 64 for e in first.iterall() if e.VR in ("UI", "LO"))
    np.testing.assert_array_equal(np.stack([pydicom.dcmread(path).pixel_array for path in written.files]), image.pixels)


def test_a_retry_gives_the_same_objects_and_other_parameters_others(tmp_path: Path) -> None:
    source = series_in(tmp_path / "source")
    image = read_pixels(source)
    identifiers = []
    for name, how in (("a", RESTORED), ("b", RESTORED), ("c", dataclasses.replace(RESTORED, parameters={"a": 2}))):
        write_derived(image, source, tmp_path / name, how)
        identifiers.append([one.SOPInstanceUID for one in headers(tmp_path / name)])
    assert identifiers[0] == identifiers[1]
    assert not set(identifiers[0]) & set(identifiers[2])
    assert len(set(identifiers[0])) == 4


@pytest.mark.parametrize("signed", [False, True])
def test_values_of_a_signed_source_fit(tmp_path: Path, signed: bool) -> None:
    source = series_in(tmp_path / "source", signed=signed)
    image = read_pixels(source)
    bright = dataclasses.replace(image, pixels=(image.pixels * 70).astype(np.float32))  # up to 65,000
    written = write_derived(bright, source, tmp_path / "out", RESTORED)
    first = headers(tmp_path / "out")[0]
    assert (first.PixelRepresentation, first.BitsStored, first.HighBit) == (0, 16, 15)
    back = read_pixels(find_series(tmp_path / "out").pick())
    np.testing.assert_allclose(back.pixels, bright.pixels, atol=0.5 * written.slope)


def test_one_scale_for_the_series_and_only_where_it_is_needed() -> None:
    rng = np.random.default_rng(0)
    small = rng.random((3, 8, 8)).astype(np.float32) * np.array([1e-5, 1e-4, 1e-3], np.float32)[:, None, None]
    volume = stored(small)
    assert volume.slope != 1
    np.testing.assert_allclose(volume.values * volume.slope, small, atol=0.51 * volume.slope)
    assert stored(small * 1e6).slope == 1
    broken = small.copy()
    broken[0, 0, 0], broken[0, 0, 1] = np.nan, -1
    assert stored(broken).warnings == (
        "1 pixels are not finite; they were written as zero.",
        "1 pixels are negative; they were written as zero.",
    )
    assert stored(np.zeros((1, 4, 4), np.float32)).values.max() == 0


def test_loss_is_never_forgotten(tmp_path: Path) -> None:
    source = series_in(tmp_path / "source", changes={"LossyImageCompression": "01", "BurnedInAnnotation": "YES"})
    write_derived(read_pixels(source), source, tmp_path / "out", RESTORED)
    assert headers(tmp_path / "out")[0].LossyImageCompression == "01"
    assert headers(tmp_path / "out")[0].BurnedInAnnotation == "YES"


def test_overlays_and_private_elements(tmp_path: Path) -> None:
    datasets = objects(Made())
    for one in datasets:
        one.add_new(0x60000010, "US", 4)
        one.add_new(0x50000005, "US", 1)
        one.IconImageSequence = []
    save(datasets, tmp_path / "source")
    source = find_series(tmp_path / "source").pick()
    write_derived(read_pixels(source), source, tmp_path / "out", RESTORED, keep_private=True)
    first = headers(tmp_path / "out")[0]
    assert not [e for e in first if e.tag.group in (0x5000, 0x6000) or e.keyword == "IconImageSequence"]
    assert [e for e in first if e.tag.is_private]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = series_in(tmp_path / "source")
    image = read_pixels(source)
    write_derived(image, source, tmp_path / "out", RESTORED)
    before = (tmp_path / "out" / "0001.dcm").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_derived(image, source, tmp_path / "out", RESTORED)
    assert (tmp_path / "out" / "0001.dcm").read_bytes() == before
    write_derived(image, source, tmp_path / "out", RESTORED, overwrite=True)
    fewer = dataclasses.replace(
        image,
        pixels=image.pixels[:2],
        geometry=dataclasses.replace(image.geometry, position=image.geometry.position[:2]),  # type: ignore[index]
    )
    with pytest.raises(InputError, match=r"holds 0003\.dcm"):  # it would stay there and be taken for a part
        write_derived(fewer, source, tmp_path / "out", RESTORED, overwrite=True)


@needs_dciodvfy
@pytest.mark.parametrize("how", [{}, {"signed": True}, {"changes": {"BodyPartExamined": None}}])
def test_the_judges_find_no_error(tmp_path: Path, how: dict[str, Any]) -> None:
    source = series_in(tmp_path / "source", **how)
    allowed = set().union(*(complaints(Path(frame.path)) for frame in source.frames))
    written = write_derived(resampled(read_pixels(source), (48, 40)), source, tmp_path / "out", RESTORED)
    for path in written.files:
        assert complaints(path) <= allowed
    assert contradictions(list(written.files)) == []


@needs_dciodvfy
def test_small_units_are_valid(tmp_path: Path) -> None:
    """Raw data come in units of 1e-6: their window is narrower than 1."""
    source = series_in(tmp_path / "source")
    image = read_pixels(source)
    faint = dataclasses.replace(image, pixels=image.pixels * np.float32(1e-9))
    written = write_derived(faint, source, tmp_path / "out", RESTORED)
    allowed = set().union(*(complaints(Path(frame.path)) for frame in source.frames))
    assert set().union(*map(complaints, written.files)) <= allowed
    back = read_pixels(find_series(tmp_path / "out").pick())
    np.testing.assert_allclose(back.pixels, faint.pixels, atol=0.51 * written.slope)


# --- without a name


def test_deidentified_objects_name_nobody(tmp_path: Path) -> None:
    pytest.importorskip("dicognito", reason="the extra `dicom` is not installed")
    from mri_unroll.io.dicom.deidentify import Deidentifier

    source = series_in(tmp_path / "source")
    image = read_pixels(source)
    write_derived(image, source, tmp_path / "out", RESTORED, change=Deidentifier("key"))
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes().decode("latin-1")
        assert [canary for canary in CANARIES if canary in content] == []
    first, second = headers(tmp_path / "out")[:2]
    assert first.PatientIdentityRemoved == "YES"
    assert {item.CodeValue for item in first.DeidentificationMethodCodeSequence} >= {"113100"}
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"
    assert first.StudyInstanceUID == second.StudyInstanceUID != source.frames[0].header.StudyInstanceUID
    assert first.SeriesDescription.startswith("[RESEARCH]")
    again = tmp_path / "again"
    write_derived(image, source, again, RESTORED, change=Deidentifier("key"))
    assert headers(again)[0].PatientID == first.PatientID
    assert headers(again)[0].SOPInstanceUID == first.SOPInstanceUID
    other = tmp_path / "other"
    write_derived(image, source, other, RESTORED, change=Deidentifier("another key"))
    assert headers(other)[0].PatientID != first.PatientID
