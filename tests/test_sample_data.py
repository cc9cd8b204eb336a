import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import h5py
import numpy as np
import pydicom
import pytest

from mri_unroll.metrics import body_mask, nmse

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "make_sample_data.py"
SAMPLE = ROOT / "sample_data"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_sample_data", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study() -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted((SAMPLE / "dicom_study").glob("*.dcm"))]


def test_help(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    text = capsys.readouterr().out
    assert "--output" in text
    assert "no person was scanned" in text


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 3 * 2**20


def test_the_scan_is_laid_out_as_fastmri_does() -> None:
    with h5py.File(SAMPLE / "phantom_multicoil.h5") as file:
        kspace, rss = file["kspace"][:], file["reconstruction_rss"][:]
        header = ElementTree.fromstring(file["ismrmrd_header"][()])
        attributes = dict(file.attrs)
    assert kspace.dtype == np.complex64
    assert rss.dtype == np.float32
    n_slices, n_coils, readout, phase = kspace.shape
    assert rss.shape == (n_slices, readout // 2, phase)
    assert np.isfinite(kspace.view(np.float32)).all()
    number = {
        place: float(header.findtext("/".join(f"{{*}}{part}" for part in place.split("/"))) or "nan")
        for place in (
            "encoding/encodedSpace/matrixSize/x",
            "encoding/encodedSpace/matrixSize/y",
            "encoding/reconSpace/matrixSize/x",
            "encoding/reconSpace/matrixSize/y",
            "encoding/encodingLimits/kspace_encoding_step_1/center",
            "encoding/encodingLimits/kspace_encoding_step_1/maximum",
        )
    }
    assert list(number.values()) == [readout, phase, *rss.shape[1:], phase // 2, phase - 1]
    field = [
        float(header.findtext(f"{{*}}encoding/{{*}}{s}/{{*}}fieldOfView_mm/{{*}}x"))
        for s in ("encodedSpace", "reconSpace")
    ]
    assert field[0] == 2 * field[1]
    assert attributes["max"] == rss.max()
    assert attributes["norm"] == pytest.approx(np.linalg.norm(rss), rel=1e-5)
    assert "acceleration" not in attributes  # only fastMRI's test files have it

    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    crop = np.sqrt((np.abs(images) ** 2).sum(axis=1))[:, readout // 4 : readout // 4 + readout // 2]
    assert nmse(rss, crop) < 1e-10
    body = body_mask(rss)
    assert 0.3 < body.mean() < 0.6
    edge = np.s_[:, :, :8]  # the oversampled part holds nothing but noise
    noise = images[:, :, :40].real.std()
    assert 0.01 < noise * np.sqrt(n_coils) / np.median(rss[body]) < 0.3
    assert kspace[edge].real.std() == pytest.approx(noise, rel=0.3)


def test_the_script_gives_what_lies_there(script: ModuleType, tmp_path: Path) -> None:
    script.write_kspace(tmp_path / "whole.h5")
    with h5py.File(tmp_path / "whole.h5") as new, h5py.File(SAMPLE / "phantom_multicoil.h5") as old:
        # Another processor may round the odd sample to the converter's neighbouring step.
        step = script.STEP * script.SCALE
        differs = new["kspace"][:] - old["kspace"][:]
        assert np.abs(differs).max() <= 1.5 * step
        assert np.count_nonzero(differs) < 1e-4 * differs.size
        assert new["ismrmrd_header"][()] == old["ismrmrd_header"][()]
    for name in ("once.h5", "twice.h5"):
        script.write_kspace(tmp_path / name, n_slices=1)
    assert (tmp_path / "once.h5").read_bytes() == (tmp_path / "twice.h5").read_bytes()


def test_the_study_is_the_same_each_time(script: ModuleType, tmp_path: Path) -> None:
    script.write_dicom_study(tmp_path / "once")
    script.write_dicom_study(tmp_path / "twice")
    names = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert names == sorted(path.name for path in (SAMPLE / "dicom_study").iterdir())
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
        new, old = (pydicom.dcmread(folder / name) for folder in (tmp_path / "once", SAMPLE / "dicom_study"))
        assert new.SOPInstanceUID == old.SOPInstanceUID
        assert np.abs(new.pixel_array.astype(int) - old.pixel_array.astype(int)).max() <= 1


def test_the_study_is_one_series_of_mr_images(study: list[pydicom.Dataset]) -> None:
    assert len(study) == 6
    first = study[0]
    for dataset in study:
        assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == pydicom.uid.MRImageStorage
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            assert dataset[keyword].value == first[keyword].value
            assert dataset[keyword].value.is_valid
            assert len(dataset[keyword].value) <= 64
        assert (dataset.Modality, dataset.PatientID, str(dataset.PatientName)) == (
            "MR",
            "PHANTOM-1",
            "Phantom^Analytic",
        )
        assert dataset.pixel_array.shape == (96, 80)
        assert dataset.pixel_array.max() < 2**dataset.BitsStored
    assert len({dataset.SOPInstanceUID for dataset in study}) == 6
    assert [dataset.InstanceNumber for dataset in study] == [1, 2, 3, 4, 5, 6]


def test_the_study_is_oblique_and_its_slices_stack(study: list[pydicom.Dataset]) -> None:
    orientation = np.array(study[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    np.testing.assert_allclose(orientation @ orientation.T, np.eye(2), atol=1e-8)
    assert (np.abs(orientation).max(axis=1) < 0.999).all()  # along no axis of the patient
    normal = np.cross(*orientation)
    positions = np.array([dataset.ImagePositionPatient for dataset in study], dtype=float)
    gaps = np.diff(positions, axis=0)
    np.testing.assert_allclose(gaps, np.tile(6.0 * normal, (5, 1)), atol=1e-6)
    assert float(study[0].SpacingBetweenSlices) == 6
    for dataset, position in zip(study, positions, strict=True):
        assert list(dataset.ImageOrientationPatient) == list(study[0].ImageOrientationPatient)
        assert float(dataset.SliceLocation) == pytest.approx(position @ normal, abs=1e-6)
    # The phantom's origin, pixel (48, 40), is the scanner's isocentre in the middle of the stack.
    origin = positions + 2.5 * (40 * orientation[0] + 48 * orientation[1])
    np.testing.assert_allclose(origin.mean(axis=0), 0, atol=1e-6)
