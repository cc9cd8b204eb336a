"""Studies for tests: classic MR series anywhere in space, with names that must show up nowhere."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

CANARIES = ("CANARYNAME", "CANARYID", "CANARYSITE", "CANARYDOCTOR", "CANARYPRIVATE", "CANARYTEXT", "19771231")
AXIAL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
needs_dcm2niix = pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")


def new_uid() -> str:
    """Short enough that a number can follow."""
    return f"2.25.{uuid.uuid4().int}"


@dataclasses.dataclass(kw_only=True)
class Made:
    """How a series is made; every field has a value that gives an ordinary one."""

    count: int = 4
    shape: tuple[int, int] = (24, 20)  # (rows, columns)
    axes: NDArray[np.float64] = dataclasses.field(default_factory=lambda: AXIAL)  # row and column direction
    origin: tuple[float, float, float] = (-40.0, -30.0, 12.0)
    spacing: tuple[float, float] = (2.0, 1.5)
    step: float = 4.0
    signed: bool = False
    study: str = dataclasses.field(default_factory=new_uid)
    series: str = dataclasses.field(default_factory=new_uid)
    frame: str = dataclasses.field(default_factory=new_uid)
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # attributes, the same in all objects

    def pixels(self) -> NDArray[np.int64]:
        """A disc on a ramp that is another in every slice."""
        rows, columns = self.shape
        y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
        disc = np.hypot(y, x) < 0.8
        return np.stack([(disc * (600 + 200 * x + 100 * y + 20 * k)).round() for k in range(self.count)]).astype(int)


def objects(made: Made) -> list[Dataset]:
    """The objects of a series, as a scanner makes them."""
    return [_object(made, index, picture) for index, picture in enumerate(made.pixels())]


def _object(made: Made, index: int, picture: NDArray[np.int64]) -> Dataset:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SpecificCharacterSet = "ISO_IR 100"
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = MRImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{made.series}.{index + 1}"
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = made.study, made.series, made.frame
    one.Modality, one.Manufacturer, one.ImageType = "MR", "Maker", ["ORIGINAL", "PRIMARY", "M"]
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = (
        "CANARYNAME^Jörg",
        "CANARYID",
        "19771231",
        "O",
    )
    one.InstitutionName, one.ReferringPhysicianName, one.StudyDescription = "CANARYSITE", "CANARYDOCTOR", "CANARYTEXT"
    one.StudyDate, one.StudyTime, one.AccessionNumber, one.StudyID = "20200102", "101112", "7", "1"
    one.SeriesNumber, one.SeriesDescription, one.InstanceNumber = 3, "t1", index + 1
    one.BodyPartExamined, one.PatientPosition, one.PositionReferenceIndicator = "BRAIN", "HFS", ""
    one.ScanningSequence, one.SequenceVariant, one.ScanOptions, one.MRAcquisitionType = "SE", "NONE", "", "2D"
    one.RepetitionTime, one.EchoTime, one.EchoTrainLength, one.MagneticFieldStrength = 500, 12, 1, 1.5
    normal = np.cross(*made.axes)
    one.ImagePositionPatient = [f"{v:.10f}"[:16] for v in np.asarray(made.origin) + index * made.step * normal]
    one.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in made.axes.ravel()]
    one.PixelSpacing, one.SliceThickness, one.SpacingBetweenSlices = list(made.spacing), made.step, made.step
    one.Rows, one.Columns = made.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, int(made.signed)
    one.SmallestImagePixelValue, one.LargestImagePixelValue = 0, int(picture.max())
    one.PixelPaddingValue = -1 if made.signed else 0
    block = one.private_block(0x0029, "CANARYPRIVATE", create=True)
    block.add_new(1, "LO", "CANARYPRIVATE")
    one.PixelData = picture.astype("<i2" if made.signed else "<u2").tobytes()
    for keyword, value in made.changes.items():
        if value is None and keyword in one:
            del one[keyword]
        else:
            setattr(one, keyword, value)
    return one


def save(datasets: list[Dataset], folder: Path, syntax: UID = ExplicitVRLittleEndian, prefix: str = "") -> list[Path]:
    """Write objects under names whose order says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(5).permutation(len(datasets))
    paths = []
    for name, one in zip(names, datasets, strict=True):
        one.file_meta.TransferSyntaxUID = syntax
        path = folder / f"{prefix}{name:03d}"
        one.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_series(folder: Path, **how: Any) -> list[Path]:
    """Make and save a series, see `Made`."""
    return save(objects(Made(**how)), folder)


def packed(path: Path, out: Path, kind: str) -> Path:
    """A copy of a file whose pixels are compressed without loss; ``kind`` is a name of `gdcm.TransferSyntax`."""
    gdcm = pytest.importorskip("gdcm", reason="the extra `dicom` is not installed")
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetImage(change.GetOutput())
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(out))
    assert writer.Write()
    return out


def complaints(path: Path) -> set[str]:
    """What ``dciodvfy`` calls an error; its exit code says nothing."""
    run = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, timeout=60, check=False)
    return {line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")}


def contradictions(paths: list[Path]) -> list[str]:
    """What ``dcentvfy`` finds between the objects of a series."""
    run = subprocess.run(["dcentvfy", *map(str, paths)], capture_output=True, text=True, timeout=60, check=False)
    return (run.stdout + run.stderr).splitlines()


def converted(folder: Path, out: Path) -> list[Path]:
    """NIfTI files that ``dcm2niix`` makes of a folder of DICOM."""
    out.mkdir(parents=True, exist_ok=True)
    command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "%j_%s", "-o", str(out), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return sorted(out.glob("*.nii"))
