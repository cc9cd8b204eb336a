"""Broken DICOM files: one sentence of ours for each, soon, in little memory, and nobody's name in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from support.dicom import CANARIES, Made, objects, packed, save  # noqa: E402

N_MUTATIONS = 1500  # in all
PROGRAM = Path(__file__).parent / "support" / "dicom_mutations.py"


def _enhanced() -> Dataset:
    """A multi-frame object of three slices."""
    made = Made(count=3)
    slices = objects(made)
    one = slices[0]
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    one.NumberOfFrames = 3
    one.PixelData = made.pixels().astype("<u2").tobytes()
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = one.PixelSpacing, one.SliceThickness
    direction = Dataset()
    direction.ImageOrientationPatient = one.ImageOrientationPatient
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    one.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame in slices:
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = frame.ImagePositionPatient
        group.PlanePositionSequence = [place]
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = groups
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del one[keyword]
    return one


def _files(folder: Path) -> Path:
    """A series of each encoding, in folders."""
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        made = objects(Made(count=2))
        if syntax == ExplicitVRBigEndian:
            for one in made:
                one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        save(made, folder / syntax.rsplit(".", 1)[-1], syntax)
    save([_enhanced()], folder / "enhanced")
    plain = save(objects(Made(count=2, shape=(32, 40))), folder.parent / "unpacked")
    for kind in ("RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1"):
        (folder / kind).mkdir()
        for path in plain:
            packed(path, folder / kind / path.name, kind)
    return folder


@pytest.mark.slow
def test_mutated_files_are_refused_or_read(tmp_path: Path) -> None:
    folder = _files(tmp_path / "files")
    run = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(N_MUTATIONS), "11"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["wrong"] == []
    assert found["read"] + found["refused"] == N_MUTATIONS
    assert min(found["read"], found["refused"]) > 200, found  # both happen, else the mutations would show nothing
    assert found["slowest_s"] < 10
    assert found["peak_kb"] < 2_000_000
    said = run.stderr + "\n".join(found["told"])
    assert [canary for canary in CANARIES if canary in said] == []
