"""Raw k-space as DICOM: where it says it lies, or where a study of the same scan does, checked and not trusted."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from support import dicom as studies  # noqa: E402
from support.mrd import mrd_header, readout, write_mrd  # noqa: E402
from typer.testing import CliRunner, Result  # noqa: E402

from mri_unroll.cli import app  # noqa: E402

SHAPE = (22, 17)  # pixels of the picture (y, x), even and odd
FOV = (176.0, 119.0)  # millimetres
ACQUIRED = (
    "<acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor><systemFieldStrength_T>1.41"
    "</systemFieldStrength_T></acquisitionSystemInformation><sequenceParameters><TR>2500</TR><TE>30.5</TE>"
    "<flipAngle_deg>15</flipAngle_deg></sequenceParameters>"
)
PERSON = (
    "<subjectInformation><patientName>CANARYNAME</patientName><patientID>CANARYID</patientID>"
    "<patientBirthdate>1977-12-31</patientBirthdate><patientGender>F</patientGender></subjectInformation>"
)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def made_of(scan: Path, out: Path, *more: Any) -> list[Path]:
    done = run("recon", scan, "-o", out, "--method", "zero-filled", "--format", "dicom", *more)
    assert done.exit_code == 0, done.stderr
    assert [canary for canary in studies.CANARIES if canary in done.stdout + done.stderr] == []
    return sorted(out.rglob("*.dcm"))


def kspace_of(pictures: NDArray[Any]) -> NDArray[np.complex64]:
    """``(slice, coil, ky, kx)`` of one coil."""
    shifted = np.fft.ifftshift(pictures, (-2, -1))
    spectrum = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), (-2, -1))
    return spectrum[:, None].astype(np.complex64)


def pictures(count: int = 3) -> NDArray[np.float64]:
    """Nothing about them is symmetric: a ramp in an off-centre disc, another one in every slice."""
    y, x = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    disc = np.hypot(y - 0.2, (x + 0.15) * 1.3) < 0.7
    spot = np.hypot(y + 0.1, x - 0.25) < 0.2
    return np.stack([disc * (2 + x + 0.6 * y) + (k + 1) * spot for k in range(count)])


def write_scan(
    path: Path,
    shown: NDArray[np.float64],
    axes: NDArray[np.float64] | None = None,
    positions: NDArray[np.float64] | None = None,
    extra: str = "",
) -> Path:
    """A scan whose reconstruction shows ``shown``; ``axes`` are read, phase and slice direction."""
    place: dict[str, Any] = {}
    if axes is not None:
        place = dict(zip(("read_dir", "phase_dir", "slice_dir"), axes, strict=True))
    readouts = [
        readout(
            plane[:, :, line],
            slice=index,
            kspace_encode_step_1=line,
            **place,
            **({} if positions is None else {"position": positions[index]}),
        )
        for index, plane in enumerate(kspace_of(shown))
        for line in range(shown.shape[2])
    ]
    sizes = {"encoded": (*SHAPE, 1), "recon": (*SHAPE, 1)}
    views = {"encoded_fov": (*FOV, 4.0), "recon_fov": (*FOV, 4.0)}
    return write_mrd(path, readouts, mrd_header(**sizes, **views, extra=extra))  # type: ignore[arg-type]


# --- where the raw data says it lies


@studies.needs_dcm2niix
@pytest.mark.parametrize("seed", range(5))
def test_markers_land_where_the_raw_data_says(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    axes[2] = np.cross(axes[0], axes[1]) * (1 if seed % 2 else -1)  # either hand
    positions = rng.uniform(-40, 40, 3) + 4.0 * np.arange(3)[:, None] * axes[2]
    markers = np.zeros((3, *SHAPE))
    pixels = [(0, 3, 4), (1, 11, 8), (2, 18, 13)]
    for number, (index, y, x) in enumerate(pixels):
        markers[index, y, x] = 1.0 + number
    scan = write_scan(tmp_path / "scan.h5", markers, axes, positions)
    files = made_of(scan, tmp_path / "out")
    (path,) = studies.converted(files[0].parent, tmp_path / "nifti")
    done = run("recon", scan, "-o", tmp_path / "own.nii.gz", "--method", "zero-filled")
    assert done.exit_code == 0, done.stderr
    for volume in (nibabel.load(path), nibabel.load(tmp_path / "own.nii.gz")):
        values = np.asarray(volume.dataobj)
        found = np.argwhere(values > 0.5 * values.max() / 3)
        assert len(found) == 3
        places = sorted((values[tuple(voxel)], *(volume.affine @ [*voxel, 1])[:3]) for voxel in found)
        for (index, y, x), (_, *place) in zip(pixels, places, strict=True):
            steps = np.array([y - SHAPE[0] // 2, x - SHAPE[1] // 2]) * np.array(FOV) / SHAPE
            expected = positions[index] + steps @ axes[:2]
            np.testing.assert_allclose(np.array(place) * [-1, -1, 1], expected, atol=1e-3)


@studies.needs_dciodvfy
def test_objects_say_how_the_scan_was_made(tmp_path: Path) -> None:
    axes = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
    positions = np.array([[0.0, 0, -4 * k] for k in range(3)])
    scan = write_scan(tmp_path / "scan.h5", pictures(), axes, positions, PERSON + ACQUIRED)
    files = made_of(scan, tmp_path / "out")
    one = pydicom.dcmread(files[0])
    assert (one.RepetitionTime, one.EchoTime, one.FlipAngle) == (2500, 30.5, 15)
    assert float(one.MagneticFieldStrength) == pytest.approx(1.41)
    assert (str(one.PatientName), one.PatientID) == ("CANARYNAME", "CANARYID")
    assert "Verdict check. " in one.DerivationDescription
    assert set().union(*map(studies.complaints, files)) == set()
    assert studies.contradictions(files) == []
    (sidecar,) = (tmp_path / "out").glob("*.json")
    said = json.loads(sidecar.read_text())
    assert (said["RepetitionTime"], said["EchoTime"], said["FlipAngle"]) == (2.5, 0.0305, 15)
    assert said["Manufacturer"] == "Siemens"
    for path in (tmp_path / "out").iterdir():
        if path.is_file():
            content = path.read_bytes().decode("latin-1")
            assert [canary for canary in studies.CANARIES if canary in content] == [], path.name


# --- where a study of the same scan says it lies


@dataclasses.dataclass(kw_only=True)
class Shown(studies.Made):
    """A series of given pictures."""

    shown: NDArray[np.float64]

    def pixels(self) -> NDArray[np.int64]:
        return (400 * self.shown).round().astype(int)


def write_study(folder: Path, shown: NDArray[np.float64], **how: Any) -> Path:
    spacing = (FOV[0] / SHAPE[0], FOV[1] / SHAPE[1])
    if shown.shape[1:] != SHAPE:
        spacing = (spacing[1], spacing[0])
    how = {"spacing": spacing, **how}
    studies.save(studies.objects(Shown(shown=shown, count=len(shown), shape=shown.shape[1:], **how)), folder)
    return folder


def turned(shown: NDArray[Any], way: tuple[bool, bool, bool, bool]) -> NDArray[Any]:
    exchange, *reverse = way
    shown = shown.transpose(0, 2, 1) if exchange else shown
    return np.flip(shown, [axis for axis, wanted in enumerate(reverse) if wanted])


@pytest.mark.parametrize("way", list(itertools.product((False, True), repeat=4)))
def test_a_study_of_the_same_scan_gives_person_and_place(way: tuple[bool, bool, bool, bool], tmp_path: Path) -> None:
    """Whichever way round the raw data lies, the objects show what the study shows, at its place."""
    scan = write_scan(tmp_path / "scan.h5", pictures())
    study = write_study(tmp_path / "study", turned(pictures(), way))
    files = made_of(scan, tmp_path / "out", "--like", study)
    before = sorted(map(pydicom.dcmread, study.iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))
    after = sorted(map(pydicom.dcmread, files), key=lambda one: float(one.ImagePositionPatient[2]))
    assert len(after) == len(before) == 3
    for old, new in zip(before, after, strict=True):
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "PatientBirthDate"):
            assert new[keyword].value == old[keyword].value
        assert new.SeriesInstanceUID != old.SeriesInstanceUID
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(new[keyword].value, old[keyword].value, atol=1e-6)
        values = new.pixel_array * float(new.RescaleSlope)
        assert np.corrcoef(values.ravel(), old.pixel_array.ravel())[0, 1] > 0.999


def test_a_study_of_another_scan_is_refused(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.h5", pictures())
    noise = np.random.default_rng(2).uniform(0, 2, pictures().shape)
    refused = {
        "slices": write_study(tmp_path / "a", pictures(4)),
        "covers": write_study(tmp_path / "b", pictures(), spacing=(7.0, 7.0)),
        "does not show": write_study(tmp_path / "c", noise),
    }
    for words, study in refused.items():
        done = run(
            *("recon", scan, "-o", tmp_path / "out", "--method", "zero-filled", "--format", "dicom", "--like", study)
        )
        assert done.exit_code == 2, words
        assert words in done.stderr
        assert [canary for canary in studies.CANARIES if canary in done.stdout + done.stderr] == []
        assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_round_bottle_cannot_be_placed(tmp_path: Path) -> None:
    y, x = np.meshgrid(np.arange(SHAPE[0]) - 10.5, np.arange(SHAPE[1]) - 8.0, indexing="ij")
    bottle = np.stack([(np.hypot(y, x) < 7) * (1.0 + k) for k in range(3)])
    scan = write_scan(tmp_path / "scan.h5", bottle)
    study = write_study(tmp_path / "study", bottle)
    done = run("recon", scan, "-o", tmp_path / "out", "--format", "dicom", "--method", "zero-filled", "--like", study)
    assert done.exit_code == 2
    assert "two orientations" in done.stderr
