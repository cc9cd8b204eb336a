"""Write the sample data: an analytic phantom as a fastMRI file, and as a small DICOM study.

    python scripts/make_sample_data.py [--output sample_data]

``phantom_multicoil.h5`` holds noisy k-space of an analytic head (no person was scanned), fully sampled, readout twofold
oversampled. ``dicom_study/`` holds a series of oblique MR images of the same head. The same call writes the same bytes.
"""

from __future__ import annotations

import argparse
import math
import sys
import uuid
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from mri_unroll.metrics import center_crop
from mri_unroll.physics.phantom import phantom_image, phantom_kspace

SEED = 20240229
N_SLICES, N_COILS, PICTURE = 4, 8, (160, 160)  # (readout, phase)
NOISE = 0.03  # tissue is 0.1 to 0.9
SCALE = 2.0**-13  # fastMRI's files are of this order; code that adds a constant to avoid a division by zero shows it
STEP = 2.0**-6  # of the simulated converter, half the noise: a power of two leaves most bits zero, which compress well
FIELD_OF_VIEW_MM, THICKNESS_MM = 220.0, 5.0

DICOM_SHAPE, DICOM_SLICES = (96, 80), 6  # rows, columns
DICOM_SPACING_MM, DICOM_GAP_MM = 2.5, 6.0  # pixel side, distance of neighbouring slices
DICOM_TILT = (20.0, -8.0)  # degrees about the left-right and the head-foot axis


def write_kspace(path: Path, n_slices: int = N_SLICES) -> None:
    """Write the multi-coil scan in fastMRI's layout."""
    readout, phase = 2 * PICTURE[0], PICTURE[1]
    kspace = phantom_kspace((readout, phase), N_COILS, noise=NOISE, seed=SEED, n_slices=n_slices, oversampling=(2, 1))
    # `+ 0.0` turns -0.0 into 0.0, whose sign would otherwise be stored; scaling by a power of two is exact.
    steps = np.round(kspace.view(np.float32) / np.float32(STEP)) + np.float32(0.0)
    kspace = (steps * np.float32(STEP * SCALE)).view(np.complex64)
    shifted = np.fft.ifftshift(kspace.astype(np.complex128), axes=(-2, -1))
    coil_images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    rss = center_crop(np.sqrt((np.abs(coil_images) ** 2).sum(axis=1)), PICTURE).astype(np.float32)
    with h5py.File(path, "w", track_order=False) as file:
        file.create_dataset("kspace", data=kspace, chunks=(1, 1, readout, phase), compression=6, shuffle=True)
        file.create_dataset("reconstruction_rss", data=rss, chunks=(1, *PICTURE), compression=6, shuffle=True)
        file.create_dataset("ismrmrd_header", data=np.bytes_(_header(readout, phase)))
        file.attrs["acquisition"] = "AXT1"
        file.attrs["max"] = float(rss.max())
        # Summed exactly: the last bit of NumPy's norm changes with where the array happens to lie in memory.
        file.attrs["norm"] = math.sqrt(math.fsum((rss.astype(np.float64) ** 2).ravel()))
        file.attrs["patient_id"] = "phantom"


def write_dicom_study(folder: Path) -> None:
    """Write the DICOM series; slices are files ``000.dcm`` onwards, in order along the slice normal."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = DICOM_SHAPE
    side = max(DICOM_SHAPE)
    volume = center_crop(phantom_image((side, side), n_slices=DICOM_SLICES), DICOM_SHAPE)
    random = np.random.RandomState(SEED)
    noise = 0.015 * (random.standard_normal(volume.shape) + 1j * random.standard_normal(volume.shape))
    pixels = np.round(1000 * np.abs(volume + noise)).astype(np.uint16)
    row_direction, column_direction = _oblique_axes()
    normal = np.cross(row_direction, column_direction)
    for index in range(DICOM_SLICES):
        center = normal * DICOM_GAP_MM * (index - (DICOM_SLICES - 1) / 2)
        # DICOM gives the centre of the first pixel; the origin of the phantom is pixel n // 2.
        corner = center - DICOM_SPACING_MM * (columns // 2 * row_direction + rows // 2 * column_direction)
        dataset = _mr_image(index, pixels[index])
        dataset.ImageOrientationPatient = [f"{v:.10g}" for v in (*row_direction, *column_direction)]
        dataset.ImagePositionPatient = [f"{v:.10g}" for v in corner]
        dataset.SliceLocation = f"{corner @ normal:.10g}"
        dataset.save_as(folder / f"{index:03d}.dcm", enforce_file_format=True)


def _header(readout: int, phase: int) -> str:
    def space(name: str, matrix: tuple[int, int], field_of_view: tuple[float, float]) -> str:
        return (
            f"<{name}><matrixSize><x>{matrix[0]}</x><y>{matrix[1]}</y><z>1</z></matrixSize>"
            f"<fieldOfView_mm><x>{field_of_view[0]}</x><y>{field_of_view[1]}</y><z>{THICKNESS_MM}</z></fieldOfView_mm>"
            f"</{name}>"
        )

    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<measurementInformation><patientPosition>HFS</patientPosition><protocolName>analytic phantom</protocolName>"
        "</measurementInformation>"
        f"<acquisitionSystemInformation><receiverChannels>{N_COILS}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        "<encoding>"
        + space("encodedSpace", (readout, phase), (2 * FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM))
        + space("reconSpace", PICTURE, (FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM))
        + "<trajectory>cartesian</trajectory><encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
        f"<maximum>{phase - 1}</maximum><center>{phase // 2}</center></kspace_encoding_step_1></encodingLimits>"
        "</encoding></ismrmrdHeader>"
    )


def _oblique_axes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the directions of rows and columns in patient coordinates (LPS): axial, tilted about two axes."""
    about_x, about_z = np.deg2rad(DICOM_TILT)
    tilt = np.array([[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]])
    turn = np.array([[np.cos(about_z), -np.sin(about_z), 0], [np.sin(about_z), np.cos(about_z), 0], [0, 0, 1]])
    rotation = turn @ tilt
    return rotation[:, 0], rotation[:, 1]


def _uid(name: str) -> UID:
    """Return a UID that depends on the name alone, under the root that DICOM keeps for UUIDs (PS3.5, B.2)."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'mri_unroll/sample_data/' + name).int}")


def _mr_image(index: int, pixels: NDArray[np.uint16]) -> FileDataset:
    """Return an MR Image Storage object with all attributes of types 1 and 2, but for its place in the patient."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(f"image/{index}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid(
        "implementation"
    )  # else pydicom writes its own, and bytes change with its version
    meta.ImplementationVersionName = "MRI_UNROLL"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    low, high = np.percentile(pixels, [1, 99.5])
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": _uid(f"image/{index}"),
        "StudyDate": "20240229",
        "SeriesDate": "20240229",
        "AcquisitionDate": "20240229",
        "ContentDate": "20240229",
        "StudyTime": "120000",
        "ContentTime": "120000",
        "AccessionNumber": "",
        "Modality": "MR",
        "Manufacturer": "mri_unroll",
        "ManufacturerModelName": "analytic phantom",
        "ReferringPhysicianName": "",
        "StudyDescription": "Sample data, nobody was scanned",
        "SeriesDescription": "Oblique phantom",
        "PatientName": "Phantom^Analytic",
        "PatientID": "PHANTOM-1",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "BodyPartExamined": "HEAD",
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "SliceThickness": "5",
        "RepetitionTime": "500",
        "EchoTime": "10",
        "EchoTrainLength": "1",
        "MagneticFieldStrength": "3",
        "SpacingBetweenSlices": f"{DICOM_GAP_MM:g}",
        "PatientPosition": "HFS",
        "StudyInstanceUID": _uid("study"),
        "SeriesInstanceUID": _uid("series"),
        "StudyID": "1",
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
        "InstanceNumber": index + 1,
        "FrameOfReferenceUID": _uid("frame"),
        "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "PixelSpacing": [f"{DICOM_SPACING_MM:g}", f"{DICOM_SPACING_MM:g}"],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": f"{(low + high) / 2:.0f}",
        "WindowWidth": f"{high - low:.0f}",
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def main() -> None:
    """Run the command line."""
    default = Path(__file__).resolve().parent.parent / "sample_data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=default, help="folder to write into (default: %(default)s)")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    write_kspace(folder / "phantom_multicoil.h5")
    write_dicom_study(folder / "dicom_study")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"Wrote {folder}, {total / 2**20:.2f} MiB.", file=sys.stderr)


if __name__ == "__main__":
    main()
