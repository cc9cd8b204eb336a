"""Reading studies: order, grouping, encodings, places, and what is refused and why."""

from __future__ import annotations

import gc
import re
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.fileset import FileSet  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from support.dicom import AXIAL, Made, new_uid, objects, packed, save, write_series  # noqa: E402

from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan  # noqa: E402
from mri_unroll.io.dicom.apart import Apart  # noqa: E402
from mri_unroll.io.dicom.study import Study, find_series, read_pixels  # noqa: E402

ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"


def write_disc(files: list[Path], folder: Path) -> None:
    """Copies of files with a DICOMDIR."""
    listed = FileSet()
    for path in files:
        listed.add(path)
    listed.write(folder)
    with warnings.catch_warnings():  # its temporary folder is cleaned up when it is collected, with a warning
        warnings.simplefilter("ignore", ResourceWarning)
        del listed
        gc.collect()


def only(study: Study) -> str:
    """The reason for which the one series of a study is refused."""
    assert not study.eligible
    (series,) = study.series
    (reason,) = series.refusals
    return reason


def test_slices_are_ordered_by_where_they_lie(tmp_path: Path) -> None:
    made = Made(count=5, origin=(-40, -30, 12))
    save(objects(made), tmp_path)
    image = read_pixels(find_series(tmp_path).pick())
    np.testing.assert_array_equal(image.pixels, made.pixels())
    assert image.geometry.field_of_view == pytest.approx((0.048, 0.030, 0.004))
    np.testing.assert_allclose(image.geometry.orientation, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    # the centre of pixel (12, 10), where the Fourier transform puts the origin
    np.testing.assert_allclose(image.geometry.position[0], [-0.025, -0.006, 0.012])  # type: ignore[index]
    assert image.patient is None


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
    ids=lambda uid: uid.name,
)
def test_encodings(tmp_path: Path, syntax: UID, signed: bool) -> None:
    made = Made(signed=signed)
    datasets = objects(made)
    if syntax == RLELossless:
        for one in datasets:
            one.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        for one in datasets:
            one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
            one["PixelData"].VR = "OW"
    save(datasets, tmp_path, syntax)
    np.testing.assert_array_equal(read_pixels(find_series(tmp_path).pick()).pixels, made.pixels())


def test_a_file_without_a_preamble(tmp_path: Path) -> None:
    made = Made(count=2)
    for index, one in enumerate(objects(made)):
        one.SOPClassUID = str(one.SOPClassUID)
        del one.file_meta
        one.save_as(tmp_path / f"{index}.ima", implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read_pixels(find_series(tmp_path).pick()).pixels, made.pixels())


def test_values_get_the_units_of_the_modality(tmp_path: Path) -> None:
    made = Made(count=2, changes={"RescaleSlope": "0.5", "RescaleIntercept": "-3", "PixelPaddingValue": 0})
    save(objects(made), tmp_path)
    stored = made.pixels()
    expected = np.where(stored == 0, 0, 0.5 * stored - 3)  # padding is no measurement
    np.testing.assert_allclose(read_pixels(find_series(tmp_path).pick()).pixels, expected)


def test_bits_above_the_value_are_not_the_value(tmp_path: Path) -> None:
    made = Made(count=2, changes={"PixelPaddingValue": None})
    datasets = objects(made)
    for one in datasets:  # overlays of old, in bits 12 to 15
        one.PixelData = (np.frombuffer(one.PixelData, "<u2") | 0x9000).astype("<u2").tobytes()
    save(datasets, tmp_path)
    np.testing.assert_array_equal(read_pixels(find_series(tmp_path).pick()).pixels, made.pixels())


def test_dark_on_white_is_turned(tmp_path: Path) -> None:
    made = Made(count=2, changes={"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": None})
    save(objects(made), tmp_path)
    stored = made.pixels()
    expected = stored.max(axis=(1, 2), keepdims=True) - stored
    np.testing.assert_array_equal(read_pixels(find_series(tmp_path).pick()).pixels, expected)


def test_a_zip_a_directory_file_and_a_folder_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    files = write_series(folder, count=3)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("readme.txt", "not DICOM")
        for path in files:
            archive.write(path, f"deep/down/{path.name}")
    write_disc(files, tmp_path / "disc")
    names = set()
    for place in (folder, tmp_path / "study.zip", tmp_path / "disc" / "DICOMDIR", tmp_path / "disc"):
        study = find_series(place)
        names.add(study.pick().name)
        assert read_pixels(study.pick()).pixels.shape == (3, 24, 20)
    assert len(names) == 1
    unlisted = find_series(tmp_path / "study.zip").unreadable
    assert [name for name, _ in unlisted] == ["readme.txt"]


def test_a_directory_file_that_points_elsewhere(tmp_path: Path) -> None:
    outside = write_series(tmp_path / "outside", count=2)
    write_disc(outside, tmp_path / "disc")
    directory = pydicom.dcmread(tmp_path / "disc" / "DICOMDIR")
    with pydicom.config.disable_value_validation():
        directory.DirectoryRecordSequence[-1].ReferencedFileID = ["..", "outside", outside[0].name]
    directory.save_as(tmp_path / "disc" / "DICOMDIR")
    with pytest.raises(CorruptScan, match="outside its folder"):
        find_series(tmp_path / "disc" / "DICOMDIR")


def test_copies_are_left_out_and_impostors_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, count=3)
    shutil.copy(files[0], tmp_path / "zz_copy")
    study = find_series(tmp_path)
    assert len(study.pick().frames) == 3
    assert study.warnings == ("1 files are copies of others and were left out.",)
    other = pydicom.dcmread(files[0])
    other.EchoTime = 99
    other.save_as(tmp_path / "zz_copy")
    (refused,) = find_series(tmp_path).unreadable
    assert "claim to be the same object" in refused[1]


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", (12, 30)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "OTHER"])),
        ("DiffusionBValue", (0.0, 1000.0)),
    ],
)
def test_volumes_of_one_series_are_told_apart(tmp_path: Path, keyword: str, values: tuple[Any, ...]) -> None:
    series = new_uid()
    for index, value in enumerate(values):
        datasets = objects(Made(series=series, changes={keyword: value}))
        for one in datasets:
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = new_uid()
            one.InstanceNumber = 10 * index + int(one.InstanceNumber)
        save(datasets, tmp_path, prefix=f"{index}_")
    study = find_series(tmp_path)
    assert [len(found.frames) for found in study.eligible] == [4, 4]
    assert len({found.name for found in study.series}) == 2
    with pytest.raises(InputError, match="more than one series"):
        study.pick()
    assert study.pick(study.series[1].name) is study.series[1]


def test_repetitions_that_only_their_number_tells_apart(tmp_path: Path) -> None:
    series = new_uid()
    for turn in range(3):
        datasets = objects(Made(series=series))
        for one in datasets:
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = new_uid()
            one.InstanceNumber = 4 * turn + int(one.InstanceNumber)
        save(datasets, tmp_path, prefix=f"{turn}_")
    assert [len(found.frames) for found in find_series(tmp_path).eligible] == [4, 4, 4]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"count": 1}, "a single slice"),
        ({"changes": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "count": 2}, "mosaics"),
        ({"changes": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}}, "localiser"),
        ({"changes": {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}}, "phase parts"),
        ({"changes": {"ComplexImageComponent": "IMAGINARY"}}, "imaginary parts"),
    ],
)
def test_series_that_are_refused(tmp_path: Path, how: dict[str, Any], reason: str) -> None:
    write_series(tmp_path, **how)
    study = find_series(tmp_path)
    assert reason in only(study)
    with pytest.raises(UnsupportedScan, match=reason):
        study.pick()


def test_places_that_are_refused(tmp_path: Path) -> None:
    datasets = objects(Made(count=6))
    save(datasets[:2] + datasets[3:], tmp_path / "missing")
    assert "8 mm between slices 2 and 3, 4 mm elsewhere" in only(find_series(tmp_path / "missing"))

    datasets = objects(Made(count=6))
    for index, one in enumerate(datasets):
        one.ImagePositionPatient = [-40, -30 + 0.5 * index, 12 + 4 * index]
    save(datasets, tmp_path / "sheared")
    assert "gantry tilt" in only(find_series(tmp_path / "sheared"))

    datasets = objects(Made(count=6))
    datasets[3].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    save(datasets, tmp_path / "mixed")
    assert "orientation" in only(find_series(tmp_path / "mixed")).lower()

    datasets = objects(Made(count=2))
    for one in datasets:
        one.ImagePositionPatient = [0, 0, 0]
        del one.InstanceNumber
    save(datasets, tmp_path / "same")
    assert "same place" in only(find_series(tmp_path / "same"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "CT"}, "of modality CT, not MR"),
        ({"Modality": "SEG"}, "of modality SEG"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "no MR image object"),
        ({"ImageOrientationPatient": None}, "does not say its orientation"),
        ({"PixelSpacing": None}, "does not say its pixel spacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angle"),
        ({"Rows": 0}, "0 x 20 pixels"),
        ({"NumberOfFrames": 3}, "several frames"),
    ],
)
def test_objects_that_are_left_out(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    datasets = objects(Made(count=2, changes=changes))
    save(datasets, tmp_path)
    study = find_series(tmp_path)
    assert not study.series
    assert all(reason in said for _, said in study.unreadable)
    with pytest.raises(UnsupportedScan, match="No series can be used"):
        study.pick()


def test_files_of_other_kinds_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path, count=2)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    study = find_series(tmp_path)
    assert len(study.eligible) == 1
    assert dict(study.unreadable)["notes.txt"] == "notes.txt is no DICOM file."
    assert "empty" in dict(study.unreadable)["empty"]


# --- multi-frame


def enhanced(made: Made, order: list[int]) -> Dataset:
    """The same series as one object, its frames in any order."""
    first, pictures = objects(made)[0], made.pixels()
    normal = np.cross(*made.axes)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "SliceThickness"):
        del first[keyword]
    first.SOPClassUID = first.file_meta.MediaStorageSOPClassUID = ENHANCED
    first.NumberOfFrames = len(order)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(made.spacing), made.step
    orientation.ImageOrientationPatient = list(made.axes.ravel())
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    first.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for index in order:
        group, place, echo = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = list(np.asarray(made.origin) + index * made.step * normal)
        echo.EffectiveEchoTime = 12.5
        group.PlanePositionSequence = Sequence([place])
        group.MREchoSequence = Sequence([echo])
        groups.append(group)
    first.PerFrameFunctionalGroupsSequence = Sequence(groups)
    first.PixelData = pictures[order].astype("<u2").tobytes()
    return first


def test_frames_of_one_object_are_a_series(tmp_path: Path) -> None:
    made = Made()
    save([enhanced(made, [2, 0, 3, 1])], tmp_path)
    series = find_series(tmp_path).pick()
    assert [frame.number for frame in series.frames] == [2, 4, 1, 3]
    assert float(series.frames[0].header.EchoTime) == 12.5
    np.testing.assert_array_equal(read_pixels(series).pixels, made.pixels())


def test_frames_that_are_not_described(tmp_path: Path) -> None:
    one = enhanced(Made(), [0, 1, 2, 3])
    del one.PerFrameFunctionalGroupsSequence
    save([one], tmp_path)
    ((_, reason),) = find_series(tmp_path).unreadable
    assert "holds 4 frames and describes 0" in reason


# --- what other people's scanners and programs made


@pytest.mark.parametrize(
    ("folder", "eligible", "refused"),
    [
        ("brain_t1_siemens", 1, ()),
        ("patient_positions", 4, ()),
        ("enhanced_philips", 16, ("phase parts",)),
        ("enhanced_siemens_xa30", 2, ()),
        ("syntaxes", 0, ("single slice",)),
    ],
)
def test_real_studies(shared_data: Path, folder: str, eligible: int, refused: tuple[str, ...]) -> None:
    study = find_series(shared_data / "dicom" / folder)
    assert len(study.eligible) == eligible
    reasons = " ".join(reason for series in study.series for reason in series.refusals)
    assert all(reason in reasons for reason in refused)
    for series in study.eligible[:2]:
        image = read_pixels(series)
        assert np.isfinite(image.pixels).all()
        assert image.pixels.max() > 0


@pytest.mark.parametrize("name", ["MR2_J2KR.dcm", "MR2_UNCR.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm"])
def test_real_encodings_decode(shared_data: Path, name: str) -> None:
    from mri_unroll.io.dicom.pixels import Decoder

    frames = [f for s in find_series(shared_data / "dicom" / "syntaxes" / name).series for f in s.frames]
    picture = Decoder().picture(frames[0])
    assert picture.shape == frames[0].shape
    assert picture.max() > picture.min()
    if name == "MR2_J2KR.dcm":  # without loss: as the uncompressed one
        other = find_series(shared_data / "dicom" / "syntaxes" / "MR2_UNCR.dcm").series[0].frames[0]
        np.testing.assert_array_equal(picture, Decoder().picture(other))


@pytest.mark.parametrize(
    ("syntax", "kind"),
    [
        ("1.2.840.10008.1.2.4.80", "JPEGLSLossless"),
        ("1.2.840.10008.1.2.4.90", "JPEG2000Lossless"),
        ("1.2.840.10008.1.2.4.70", "JPEGLosslessProcess14_1"),
    ],
)
def test_lossless_jpegs(tmp_path: Path, syntax: str, kind: str) -> None:
    made = Made(count=2, shape=(32, 40), changes={"PixelPaddingValue": None})
    (tmp_path / "packed").mkdir()
    for path in save(objects(made), tmp_path / "plain"):
        copy = packed(path, tmp_path / "packed" / path.name, kind)
        assert pydicom.dcmread(copy).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_pixels(find_series(tmp_path / "packed").pick()).pixels, made.pixels())


def test_a_decoder_that_dies_is_replaced(tmp_path: Path) -> None:
    made = Made(count=1, shape=(32, 40))
    (plain,) = save(objects(made), tmp_path / "plain")
    content = packed(plain, tmp_path / "packed", "JPEGLosslessProcess14_1").read_bytes()
    apart = Apart()
    np.testing.assert_array_equal(apart.decode(content, 2560), made.pixels()[0])
    with pytest.raises(ValueError, match="could not decode"):
        apart.decode(b"no picture", 2560)
    np.testing.assert_array_equal(apart.decode(content, 2560), made.pixels()[0])
    assert apart._child is not None
    apart._child.kill()
    with pytest.raises(ValueError, match="died"):
        apart.decode(content, 2560)
    np.testing.assert_array_equal(apart.decode(content, 2560), made.pixels()[0])


def _jpeg_ls(folder: Path, change: Callable[[bytearray], None]) -> Path:
    """A study of one JPEG-LS slice whose codestream is changed within its length."""
    (plain,) = save(objects(Made(count=1, shape=(32, 40))), folder / "plain")
    (folder / "broken").mkdir()
    path = packed(plain, folder / "broken" / "1.dcm", "JPEGLSLossless")
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xd8\xff\xf7")
    stream = content[at:]
    change(stream)
    path.write_bytes(content[:at] + stream)
    return path


def test_a_codec_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # CharLS looks for the end of a code among four thousand million zeros that it makes up itself. A fast processor
    # gets there in five seconds, which is all the patience there is: so less of it here.
    monkeypatch.setattr("mri_unroll.io.dicom.apart._PATIENCE", 1.0)

    def without_end(stream: bytearray) -> None:
        end = stream.rindex(b"\xff\xd9") + 2
        head = bytes.fromhex("ffd8 fff7000b100020002801011100 fff8000d01ffff0012004301140040 ffda0008010100000000")
        stream[:end] = head + b"\x55" * (end - len(head) - 1) + b"\x00"

    content = _jpeg_ls(tmp_path, without_end).read_bytes()
    apart = Apart()
    started = time.monotonic()
    with pytest.raises(ValueError, match="took too long"):
        apart.decode(content, 2560)
    assert time.monotonic() - started < 9.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_a_codestream_larger_than_its_header_takes_no_memory(tmp_path: Path) -> None:
    def four_gigabytes(stream: bytearray) -> None:
        stream[7:11] = b"\xff\xff\x40\x00"  # rows, columns

    content = _jpeg_ls(tmp_path, four_gigabytes).read_bytes()
    apart = Apart()
    with pytest.raises(ValueError, match="decode"):
        apart.decode(content, 2560)
    assert apart._child is not None
    status = Path(f"/proc/{apart._child.pid}/status").read_text()
    peak_kb = int(re.search(r"VmHWM:\s*(\d+)", status)[1])  # type: ignore[index]
    assert peak_kb < 300_000


def test_a_large_object_may_follow_a_small_one(tmp_path: Path) -> None:
    """What bounds the memory for one does not bind the next."""
    made = Made(count=1, shape=(32, 40))
    (plain,) = save(objects(made), tmp_path / "plain")
    path = packed(plain, tmp_path / "packed", "JPEGLSLossless")
    small, large = path.read_bytes(), pydicom.dcmread(path)
    large.add_new(0x00091001, "OB", bytes(300 * 2**20))
    large.save_as(tmp_path / "large")
    apart = Apart()
    for content in (small, (tmp_path / "large").read_bytes()):
        np.testing.assert_array_equal(apart.decode(content, 2560), made.pixels()[0])


def test_names_tell_nothing(tmp_path: Path) -> None:
    write_series(tmp_path, axes=AXIAL, changes={"SeriesDescription": "CANARYDESCRIPTION"})
    study = find_series(tmp_path)
    assert "CANARY" not in repr(study) + repr(study.series) + study.pick().name
    assert find_series(tmp_path).pick().name == study.pick().name
    assert ExplicitVRLittleEndian in str(pydicom.dcmread(next(tmp_path.iterdir())).file_meta.TransferSyntaxUID)


def test_doctor_says_which_decoders_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from mri_unroll import doctor
    from mri_unroll.io.dicom import pixels

    pytest.importorskip("gdcm", reason="the extra `dicom` is not installed")
    found = doctor.examine()["dicom_decoders"]
    assert found["JPEG"] == "gdcm"
    assert found["JPEG-LS"] == "pyjpegls"
    assert found["JPEG 2000"] == "pylibjpeg"
    assert found["RLE"]
    monkeypatch.setattr(pixels, "PLUGINS", dict.fromkeys(pixels.PLUGINS, "one that nobody has"))
    found = doctor.examine()["dicom_decoders"]
    assert found["JPEG-LS"].startswith("not installed: pip install")
    assert found["JPEG"] == "gdcm"
