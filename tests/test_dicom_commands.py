"""The two roads of a DICOM study, and raw k-space to DICOM, as a user takes them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: E402
from support.dicom import (  # noqa: E402
    CANARIES,
    complaints,
    contradictions,
    converted,
    needs_dciodvfy,
    needs_dcm2niix,
    write_series,
)
from support.files import write_fastmri  # noqa: E402
from typer.testing import CliRunner, Result  # noqa: E402

import mri_unroll  # noqa: E402
from mri_unroll.cli import app  # noqa: E402
from mri_unroll.config import StudyConfig  # noqa: E402
from mri_unroll.errors import UnsupportedScan  # noqa: E402

FAST = ("--method", "wiener", "--psf", "gaussian:2")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_series(tmp_path / "study", count=3, shape=(48, 40))
    return tmp_path / "study"


def written(out: Path) -> list[Path]:
    return sorted(out.glob("*/*.dcm"))


def test_without_a_mode_the_two_are_explained(study: Path, tmp_path: Path) -> None:
    done = run("recon", study, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "--mode restore" in done.stderr
    assert "--mode retrospective" in done.stderr
    assert "no k-space" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_study_is_told_by_its_content(study: Path, tmp_path: Path) -> None:
    """In a zip behind a text, and of old files that begin without a preamble."""
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("README.txt", "Exported by an archive.")
        for path in sorted(study.iterdir()):
            archive.write(path, f"DATA/{path.name}")
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        folder = tmp_path / syntax.name.replace(" ", "")
        folder.mkdir()
        for path in study.iterdir():
            bare = pydicom.Dataset()  # without file_meta and preamble
            bare.update(pydicom.dcmread(path))
            if syntax == ExplicitVRBigEndian:
                bare.PixelData = np.frombuffer(bare.PixelData, "<u2").astype(">u2").tobytes()
            bare.save_as(folder / path.name, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
            assert (folder / path.name).read_bytes()[128:132] != b"DICM"
    pictures = mri_unroll.read_pixels(mri_unroll.find_series(study).pick()).pixels
    for place in sorted(set(tmp_path.iterdir()) - {study}):
        assert "--mode restore" in run("recon", place, "-o", tmp_path / "out").stderr, place.name
        np.testing.assert_array_equal(mri_unroll.read_pixels(mri_unroll.find_series(place).pick()).pixels, pictures)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mode", "restore"), "--psf"),
        (("--mode", "restore", "--psf", "cubic:2"), "gaussian"),
        (("--mode", "restore", "--psf", "gaussian:0"), "0"),
        (("--mode", "retrospective"), "--accelerate"),
        (("--mode", "restore", "--psf", "gaussian:2", "--series", "77"), "77"),
        (("--mode", "restore", "--psf", "gaussian:2", "--method", "magic"), "magic"),
    ],
)
def test_wrong_usage_is_explained(study: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run("recon", study, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_restore_writes_pictures_report_and_sidecar_without_a_name(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("recon", study, "-o", out, "--mode", "restore", *FAST)
    assert done.exit_code == 0, done.stderr
    files = written(out)
    assert len(files) == 3
    (report,), (sidecar,), (preview,) = out.glob("*.html"), out.glob("*.json"), out.glob("*.png")
    for path in (report, sidecar, preview):
        assert str(path) in done.stdout
        content = path.read_bytes().decode("latin-1")
        assert [canary for canary in CANARIES if canary in content] == []
    assert [canary for canary in CANARIES if canary in done.stdout + done.stderr] == []
    summary = json.loads(sidecar.read_text())
    assert summary["data_residual_median"] is None or 0 < summary["data_residual_median"] < 3
    acquired = ("RepetitionTime", "EchoTime", "MagneticFieldStrength", "MRAcquisitionType", "ScanningSequence")
    assert [summary[name] for name in acquired] == [0.5, 0.012, 1.5, "2D", "SE"]  # as BIDS has them, in seconds
    before = mri_unroll.read_pixels(mri_unroll.find_series(study).pick())
    after = mri_unroll.read_pixels(mri_unroll.find_series(files[0].parent).pick())
    np.testing.assert_allclose(after.geometry.position, before.geometry.position, atol=1e-6)  # type: ignore[arg-type]
    assert after.pixels.mean() == pytest.approx(before.pixels.mean(), rel=0.05)  # in the source's units
    again = run("recon", study, "-o", out, "--mode", "restore", *FAST)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_a_retry_writes_the_same_objects(study: Path, tmp_path: Path) -> None:
    identifiers = []
    for name in ("a", "b"):
        assert run("recon", study, "-o", tmp_path / name, "--mode", "restore", *FAST).exit_code == 0
        identifiers.append([pydicom.dcmread(path).SOPInstanceUID for path in written(tmp_path / name)])
    assert identifiers[0] == identifiers[1]


def test_a_simulation_says_so_everywhere(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--mode", "retrospective", "--accelerate", 3, "--method", "zero-filled", "--seed", 4)
    done = run("recon", study, "-o", out, *arguments, "--i-understand-simulated")
    assert done.exit_code == 0, done.stderr
    for path in written(out):
        one = pydicom.dcmread(path)
        assert "SIMULATED" in one.SeriesDescription
        assert "SIMULATED" in one.DerivationDescription
    (report,), (sidecar,) = out.glob("*.html"), out.glob("*.json")
    assert "SIMULATED" in report.read_text()
    summary = json.loads(sidecar.read_text())
    assert "SIMULATED" in json.dumps(summary)
    assert '"seed": 4' in json.dumps(summary)


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "M"]},
        {"LossyImageCompression": "01"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D", "FIL"]},
        {"AcquisitionMatrix": [0, 16, 12, 0]},
    ],
)
def test_processed_pictures_are_refused_until_insisted(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_series(tmp_path / "study", count=2, shape=(48, 40), changes=changes)
    arguments = ("--mode", "retrospective", "--accelerate", 3, "--method", "zero-filled")
    done = run("recon", tmp_path / "study", "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert "--i-understand-simulated" in done.stderr
    assert not written(tmp_path / "out")
    assert (
        run("recon", tmp_path / "study", "-o", tmp_path / "out", *arguments, "--i-understand-simulated").exit_code == 0
    )


def test_deidentified_results_name_nobody(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dicognito", reason="the extra `dicom` is not installed")
    monkeypatch.setenv("MRI_UNROLL_DEIDENTIFY_KEY", "secret")
    done = run("recon", study, "-o", tmp_path / "out", "--mode", "restore", *FAST, "--deidentify")
    assert done.exit_code == 0, done.stderr
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes().decode("latin-1")
            assert [canary for canary in CANARIES if canary in content] == [], path.name


def test_nifti_lies_where_the_series_lies(study: Path, tmp_path: Path) -> None:
    import nibabel

    done = run("recon", study, "-o", tmp_path / "out", "--mode", "restore", *FAST, "--format", "nifti")
    assert done.exit_code == 0, done.stderr
    (volume,) = (tmp_path / "out").glob("*.nii.gz")
    position = mri_unroll.find_series(study).pick().frames[0].position
    header = nibabel.load(volume)
    corners = [header.affine @ [i, j, 0, 1] for i in (0, header.shape[0] - 1) for j in (0, header.shape[1] - 1)]
    distances = [np.abs(corner[:3] * [-1, -1, 1] - position).max() for corner in corners]
    assert min(distances) < 1e-3  # LPS to RAS; which corner comes first is the format's


# --- raw k-space to DICOM


def test_raw_data_without_a_place_are_refused_as_dicom(tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5")
    done = run("recon", scan, "-o", tmp_path / "out", "--method", "zero-filled", "--format", "dicom")
    assert done.exit_code == 2
    assert "slice 1" not in done.stderr  # before the work, not after it
    assert "--like" in done.stderr
    assert "--allow-synthetic-geometry" in done.stderr
    done = run(
        *("recon", scan, "-o", tmp_path / "made", "--method", "zero-filled", "--format", "dicom"),
        "--allow-synthetic-geometry",
    )
    assert done.exit_code == 0, done.stderr
    files = sorted((tmp_path / "made").rglob("*.dcm"))
    assert files
    assert "SYNTHETIC" in str(pydicom.dcmread(files[0])).upper()


def test_deidentification_bears_what_is_empty(tmp_path: Path) -> None:
    """Empty and missing identifiers, as of raw data and of many a study."""
    pytest.importorskip("dicognito", reason="the extra `dicom` is not installed")
    scan = write_fastmri(tmp_path / "scan.h5")
    arguments = ("--method", "zero-filled", "--format", "dicom", "--allow-synthetic-geometry", "--deidentify")
    done = run("recon", scan, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 0, done.stderr
    empty = {"StudyID": None, "AccessionNumber": "", "PatientID": "", "PatientName": "", "ReferringPhysicianName": None}
    write_series(tmp_path / "study", count=2, shape=(48, 40), changes=empty)
    done = run("recon", tmp_path / "study", "-o", tmp_path / "better", "--mode", "restore", *FAST, "--deidentify")
    assert done.exit_code == 0, done.stderr
    for path in [*(tmp_path / "out").rglob("*.dcm"), *(tmp_path / "better").rglob("*.dcm")]:
        assert pydicom.dcmread(path).PatientIdentityRemoved == "YES"


@needs_dciodvfy
def test_made_objects_are_valid(tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5")
    arguments = ("--method", "zero-filled", "--format", "dicom", "--allow-synthetic-geometry")
    assert run("recon", scan, "-o", tmp_path / "out", *arguments).exit_code == 0
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    assert set().union(*map(complaints, files)) == set()
    assert contradictions(files) == []


# --- the example


def test_the_worked_example(study: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "reconstruct_study.py"
    assert len(script.read_text().splitlines()) < 60
    command = [sys.executable, str(script), str(study), str(tmp_path / "out"), "--psf", "gaussian:2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "data residual" in done.stdout
    assert len(written(tmp_path / "out")) == 3
    assert [canary for canary in CANARIES if canary in done.stdout + done.stderr] == []
    wrong = subprocess.run([*command[:2], str(tmp_path / "none"), *command[3:]], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")


# --- real studies


REFUSED = {
    "brain_mixed_series": ("missing or unevenly spaced", "mosaics"),
    "enhanced_misc": ("real parts",),
    "enhanced_philips": ("phase parts",),
    "syntaxes": ("single slice", "modality CT", "modality SEG", "holds 10 frames and describes 0"),
    **{f"vendor_matrix/failing/{name}/001": ("modality CT",) for name in ("gantrytilting", "notavolume")},
    **{f"vendor_matrix/failing/sliceincrement/{name}": ("modality CT",) for name in ("001", "002")},
    "vendor_matrix/ge/anatomical/001_single_slice": ("single slice",),
    "vendor_matrix/generic/rgb/001": ("colour",),
    **{f"vendor_matrix/siemens/fmri/{name}": ("mosaics",) for name in ("001", "001_implicit")},
}  # what cannot be restored of the shared studies, by folder; all else can


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_dciodvfy
@needs_dcm2niix
def test_every_series_that_can_goes_through(shared_data: Path, tmp_path: Path) -> None:
    """No error that the source did not have, and the source's affine. The rest is refused with the right reason."""
    import nibabel

    root = shared_data / "dicom"
    config = StudyConfig(mode="restore", psf="gaussian:1.5", method="wiener")
    done: list[tuple[Any, Any]] = []
    for folder in sorted({path.parent for path in root.rglob("*") if path.is_file()}):
        name = folder.relative_to(root).as_posix()
        study = mri_unroll.find_series(folder)
        reasons = {reason for series in study.series for reason in series.refusals}
        reasons |= {reason for _, reason in study.unreadable}
        expected = REFUSED.get(name, ())
        assert {word for word in expected if any(word in reason for reason in reasons)} == set(expected), name
        assert [reason for reason in reasons if not any(word in reason for word in expected)] == [], name
        if not study.eligible:
            with pytest.raises(UnsupportedScan):
                mri_unroll.restore_study(folder, tmp_path / "out" / name, config)
            continue
        outcome = mri_unroll.restore_study(folder, tmp_path / "out" / name, config)
        sources = {series.name: series for series in study.eligible}
        assert [result.name for result in outcome.results] == list(sources)
        done += [(result, sources[result.name]) for result in outcome.results]
    assert len(done) > 70
    for number, (result, source) in enumerate(done):
        before = set().union(*(complaints(Path(path)) for path in {frame.path for frame in source.frames}))
        after = set().union(*map(complaints, result.files))
        assert after <= before, (result.name, after - before)
        assert contradictions(list(result.files)) == [], result.name
        (path,) = converted(result.pictures, tmp_path / "nifti" / str(number))
        volume = nibabel.load(path)
        ends = [(0, n - 1) for n in volume.shape[:3]]
        found = np.array([(volume.affine @ [i, j, k, 1])[:3] for i in ends[0] for j in ends[1] for k in ends[2]])
        apart = np.abs(_corners(source)[:, None] - found[None]).max(axis=2)  # dcm2niix may turn the volume
        assert apart.min(axis=0).max() < 1e-3, result.name
        assert apart.min(axis=1).max() < 1e-3, result.name


def _corners(source: Any) -> np.ndarray:
    """RAS places of the corner pixels of the first and the last slice, ``(8, 3)``."""
    places = []
    for frame in (source.frames[0], source.frames[-1]):
        for row in (0, frame.shape[0] - 1):
            for column in (0, frame.shape[1] - 1):
                place = frame.position + row * frame.spacing[0] * frame.column + column * frame.spacing[1] * frame.row
                places.append(place * [-1, -1, 1])
    return np.array(places)
