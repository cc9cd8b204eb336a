"""Reading the fastMRI layout: real files, and files written here in odd sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.files import SHAPE, advice, header_xml, random_kspace, write_fastmri

from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan
from mri_unroll.io import content, describe, fastmri, read_scan
from mri_unroll.scan import Scan

HEIGHT, WIDTH = SHAPE[2:]


def centred_image(scan: Scan) -> np.ndarray:
    """Root sum of squares of the centred unitary inverse FFT, cropped as fastMRI crops."""
    shifted = np.fft.ifftshift(scan.kspace.astype(np.complex128), axes=(-2, -1))
    coils = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    top, left = ((n - k) // 2 for n, k in zip(scan.matrix, scan.geometry.recon_shape, strict=True))
    height, width = scan.geometry.recon_shape
    return np.sqrt((np.abs(coils) ** 2).sum(axis=1))[:, top : top + height, left : left + width]


REAL = [
    "brain_t1_7coil.h5",
    "brain_t1_sag_1coil_noheader.h5",
    "knee_fatsat_1coil_readout640.h5",
    "lowfield_0p055T_sub1_FLAIR.h5",
    "lowfield_0p055T_sub1_FSE.h5",
    "lowfield_0p055T_sub1_GRE.h5",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files_give_their_own_reference(shared_data: Path, name: str) -> None:
    scan = read_scan(shared_data / "kspace" / name)
    assert scan.reference is not None
    assert scan.reference.shape[1:] == scan.geometry.recon_shape
    error = ((centred_image(scan) - scan.reference) ** 2).sum() / (scan.reference.astype(np.float64) ** 2).sum()
    assert error < 1e-10
    assert describe(shared_data / "kspace" / name)["sampling"] == "fully sampled"


def test_real_padding_and_oversampling(shared_data: Path) -> None:
    flair = describe(shared_data / "kspace" / "lowfield_0p055T_sub1_FLAIR.h5")
    assert flair["padding_columns"] == [5, 4]
    assert flair["effective_acceleration"] == 1.0
    assert flair["n_acs_lines"] == 117
    mask = read_scan(shared_data / "kspace" / "lowfield_0p055T_sub1_FLAIR.h5").mask
    assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(5, 122))
    knee = describe(shared_data / "kspace" / "knee_fatsat_1coil_readout640.h5")
    assert knee["readout_oversampling"] == 2.0
    assert knee["field_of_view_mm"] == [220.0, 220.0, 5.0]
    assert knee["recon_shape"] == [320, 320]


def test_sizes_units_and_provenance(tmp_path: Path) -> None:
    kspace = random_kspace()
    path = write_fastmri(tmp_path / "a.h5", kspace, {"acquisition": "AXT2", "max": 3.5}, ismrmrd_header=header_xml())
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.kspace, kspace)
    assert scan.kspace.dtype == np.complex64
    assert scan.mask.shape == (HEIGHT, WIDTH)
    assert scan.mask.all()
    assert scan.geometry.recon_shape == (7, 9)
    # a pixel is encoded field of view / k-space size: 260/13 = 20 mm along readout, 220/11 = 20 mm along phase
    np.testing.assert_allclose(scan.geometry.field_of_view, (0.140, 0.180, 0.005))
    np.testing.assert_allclose(scan.geometry.encoded_field_of_view, (0.260, 0.220, 0.005))
    assert scan.geometry.orientation is None
    assert scan.source.notes["acquisition"] == "AXT2"
    assert scan.source.format == "fastmri"
    assert scan.source.digest.startswith("sha256:")
    assert scan.source.n_slices == SHAPE[0]
    assert any("nominal" in warning for warning in scan.source.warnings)


def test_single_coil_gets_a_coil_axis_and_its_own_reference(tmp_path: Path) -> None:
    kspace = random_kspace(SHAPE)[:, 0]
    esc, rss = np.full((3, 5, 7), 2, np.float32), np.ones((3, 5, 7), np.float32)
    scan = read_scan(write_fastmri(tmp_path / "a.h5", kspace, reconstruction_esc=esc, reconstruction_rss=rss))
    np.testing.assert_array_equal(scan.kspace, kspace[:, None])
    np.testing.assert_array_equal(scan.reference, esc)
    assert scan.geometry.recon_shape == (5, 7)


def test_reference_shape_goes_before_the_header(tmp_path: Path) -> None:
    more = {"ismrmrd_header": header_xml(), "reconstruction_rss": np.ones((3, 5, 3), np.float32)}
    scan = read_scan(write_fastmri(tmp_path / "a.h5", **more))
    assert scan.geometry.recon_shape == (5, 3)
    np.testing.assert_allclose(scan.geometry.field_of_view, (0.100, 0.060, 0.005))


@pytest.mark.parametrize(
    ("recon", "expected"),
    [((7, 9), (7, 9)), ((7, 12), (11, 11)), ((13, 11), (13, 11)), ((40, 5), (13, 5)), ((40, 40), (11, 11))],
)
def test_crop_rules(tmp_path: Path, recon: tuple[int, int], expected: tuple[int, int]) -> None:
    scan = read_scan(write_fastmri(tmp_path / "a.h5", ismrmrd_header=header_xml(recon=recon)))
    assert scan.geometry.recon_shape == expected


def test_no_header_is_said(tmp_path: Path) -> None:
    scan = read_scan(write_fastmri(tmp_path / "a.h5"))
    assert scan.geometry.recon_shape == (HEIGHT, WIDTH)
    assert scan.geometry.field_of_view is None
    assert any("ismrmrd_header" in warning for warning in scan.source.warnings)
    found = describe(tmp_path / "a.h5")
    assert "field of view" in found["missing"]
    assert "reference (reconstruction_rss or reconstruction_esc)" in found["missing"]


def test_padding_columns_are_not_measured(tmp_path: Path) -> None:
    # left = 11 // 2 - 3 = 2, right = 2 + 6 + 1 = 9
    kspace = random_kspace()
    path = write_fastmri(tmp_path / "a.h5", kspace, mask=np.ones(WIDTH), ismrmrd_header=header_xml(limits=(3, 6)))
    scan = read_scan(path)
    assert np.flatnonzero(scan.mask[0]).tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert not scan.kspace[..., :2].any()
    assert not scan.kspace[..., 9:].any()
    np.testing.assert_array_equal(scan.kspace[..., 2:9], kspace[..., 2:9])
    assert any("left out" in warning for warning in scan.source.warnings)
    found = describe(path)
    assert found["padding_columns"] == [2, 2]
    assert found["sampling"] == "fully sampled"
    assert found["n_acs_lines"] == 7


@pytest.mark.parametrize("limits", [(0, 0), (9, 3)])
def test_useless_limits_are_ignored_and_said(tmp_path: Path, limits: tuple[int, int]) -> None:
    scan = read_scan(write_fastmri(tmp_path / "a.h5", ismrmrd_header=header_xml(limits=limits)))
    assert scan.mask.all()
    assert any("limits" in warning for warning in scan.source.warnings)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_masks_of_any_number_type(tmp_path: Path, dtype: type) -> None:
    columns = np.isin(np.arange(WIDTH), [0, 4, 5, 6, 9])
    kspace = random_kspace()
    scan = read_scan(write_fastmri(tmp_path / "a.h5", kspace, mask=columns.astype(dtype)))
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(columns, (HEIGHT, WIDTH)))
    np.testing.assert_array_equal(scan.kspace, np.where(columns, kspace, 0))
    assert not np.signbit(scan.kspace.real[..., ~columns]).any()
    found = describe(tmp_path / "a.h5")
    assert found["sampling"] == "undersampled 1-D"
    assert found["effective_acceleration"] == pytest.approx(WIDTH / 5, abs=1e-4)
    assert found["n_acs_lines"] == 2  # 4 | 5 6: one to the left of column 5


def test_two_dimensional_mask(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.5
    scan = read_scan(write_fastmri(tmp_path / "a.h5", mask=mask))
    np.testing.assert_array_equal(scan.mask, mask)
    assert describe(tmp_path / "a.h5")["sampling"] == "undersampled 2-D"


def test_test_set_attributes_are_kept(tmp_path: Path) -> None:
    attrs = {"acceleration": 4, "num_low_frequency": 3, "patient_id": "0d3f", "acquisition": b"CORPD_FBK"}
    columns = np.isin(np.arange(WIDTH), [0, 4, 5, 6, 10])
    path = write_fastmri(tmp_path / "a.h5", None, attrs, mask=columns)
    scan = read_scan(path)
    assert scan.source.notes == {"acceleration": "4", "num_low_frequency": "3", "acquisition": "CORPD_FBK"}
    assert describe(path)["n_acs_lines"] == 3
    assert scan.patient is not None
    assert scan.patient.patient_id == "0d3f"


def test_without_mask_zero_columns_were_not_measured(tmp_path: Path) -> None:
    kspace = random_kspace()
    kspace[..., [1, 2, 8]] = 0
    kspace[1, ..., 3] = 0  # in one slice only
    kspace[:, 0, :, 9] = 0  # in one coil only: measured
    scan = read_scan(write_fastmri(tmp_path / "a.h5", kspace))
    assert scan.mask.shape == (3, HEIGHT, WIDTH)
    assert np.flatnonzero(~scan.mask[0, 0]).tolist() == [1, 2, 8]
    assert np.flatnonzero(~scan.mask[1, 0]).tolist() == [1, 2, 3, 8]
    alone = read_scan(tmp_path / "a.h5", slices=slice(1, 2))
    np.testing.assert_array_equal(alone.mask, scan.mask[1])


def test_single_zeros_are_values_many_are_a_pattern(tmp_path: Path) -> None:
    kspace = random_kspace()
    kspace[:, :, 4, 4] = 0  # 1 of 143: quantised to zero
    assert read_scan(write_fastmri(tmp_path / "a.h5", kspace)).mask.all()
    pattern = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.6
    kspace = random_kspace() * pattern
    np.testing.assert_array_equal(read_scan(write_fastmri(tmp_path / "b.h5", kspace)).mask, pattern)


def test_an_empty_slice_is_told_not_refused(tmp_path: Path) -> None:
    kspace = random_kspace()
    kspace[1] = 0
    path = write_fastmri(tmp_path / "a.h5", kspace=kspace)
    for slices in (None, slice(1, 2)):
        scan = read_scan(path, slices)
        assert "Slice 1 holds only zeros; its picture is zero." in scan.source.warnings
        assert scan.mask.all()


def test_one_sided_zeros_are_partial_fourier(tmp_path: Path) -> None:
    kspace = random_kspace()
    kspace[..., 8:] = 0
    found = describe(write_fastmri(tmp_path / "a.h5", kspace))
    assert found["sampling"] == "partial Fourier"
    assert found["n_acs_lines"] == 8


@pytest.mark.parametrize(
    "slices",
    [slice(0, 1), slice(1, 3), slice(-1, None), slice(None, 2), slice(0, 99)],
)
def test_slices(tmp_path: Path, slices: slice) -> None:
    kspace, reference = random_kspace(), np.arange(3, dtype=np.float32)[:, None, None] + np.ones((3, 5, 7), np.float32)
    path = write_fastmri(tmp_path / "a.h5", kspace, reconstruction_rss=reference)
    scan = read_scan(path, slices=slices)
    np.testing.assert_array_equal(scan.kspace, kspace[slices])
    np.testing.assert_array_equal(scan.reference, reference[slices])
    first, last, _ = slices.indices(3)
    assert scan.source.slices == (first, last)
    assert scan.source.n_slices == 3


@pytest.mark.parametrize("slices", [slice(3, 4), slice(2, 1), slice(0, 3, 2), slice("a", 2), slice(0, 0)])
def test_impossible_slices(tmp_path: Path, slices: slice) -> None:
    path = write_fastmri(tmp_path / "a.h5")
    with pytest.raises(InputError) as caught:
        read_scan(path, slices=slices)
    advice(caught.value)


def test_only_the_asked_slices_are_read_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fastmri(tmp_path / "a.h5", random_kspace((6, 2, 9, 7)))
    asked = []
    load = fastmri.load_slice
    monkeypatch.setattr(fastmri, "load_slice", lambda raw, index, title: asked.append(index) or load(raw, index, title))
    read_scan(path, slices=slice(2, 4))
    assert asked == [2, 3]
    asked.clear()
    describe(path)
    assert asked == [3]


def test_digest_is_computed_once_and_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fastmri(tmp_path / "a.h5")
    calls = []
    hashing = content.hashlib.sha256
    monkeypatch.setattr(content.hashlib, "sha256", lambda *args: calls.append(1) or hashing(*args))
    first = read_scan(path, slices=slice(0, 1)).source.digest
    assert read_scan(path, slices=slice(1, 2)).source.digest == first
    assert len(calls) == 1
    assert first == f"sha256:{hashing(path.read_bytes()).hexdigest()}"
    write_fastmri(path, random_kspace((4, 2, 13, 11)))
    assert read_scan(path).source.digest != first


@pytest.mark.parametrize("dtype", ["c16", ">c8", "f8,f8", "f4,f4", ">f4,>f4"])
def test_other_complex_types(tmp_path: Path, dtype: str) -> None:
    kspace = random_kspace()
    stored: np.ndarray
    if "," in dtype:
        one = np.dtype(dtype.split(",")[0])
        stored = np.empty(kspace.shape, np.dtype([("real", one), ("imag", one)]))
        stored["real"], stored["imag"] = kspace.real, kspace.imag
    else:
        stored = kspace.astype(dtype)
    scan = read_scan(write_fastmri(tmp_path / "a.h5", stored))
    np.testing.assert_array_equal(scan.kspace, kspace)
    assert scan.kspace.dtype == np.dtype(np.complex64)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}]
)
def test_usual_filters(tmp_path: Path, options: dict) -> None:
    kspace = random_kspace()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", data=kspace, **options)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.h5").kspace, kspace)


def test_vlen_and_fixed_headers_and_extra_objects(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", ismrmrd_header=np.bytes_(header_xml().encode()))
    with h5py.File(path, "a") as file:
        file.create_group("more/inside")["calibration_data"] = np.ones((2, 3))
        file["nothing"] = h5py.Empty("f4")
        file["again"] = file["kspace"]  # a second hard link, harmless
        file["more/up"] = file["/"]  # a circle
        file["weird"] = np.zeros(3, np.dtype([("a", "f4"), ("b", "i4"), ("c", "S3")]))
    fixed = read_scan(path)
    text = read_scan(write_fastmri(tmp_path / "b.h5", ismrmrd_header=header_xml()))
    assert fixed.geometry == text.geometry


def test_header_contrast_without_identity(tmp_path: Path) -> None:
    extra = (
        "<subjectInformation><patientName>CANARY^NAME</patientName><patientID>CANARY1</patientID>"
        "<patientBirthdate>1970-01-01</patientBirthdate><patientGender>F</patientGender></subjectInformation>"
        "<measurementInformation><protocolName>CANARY protocol</protocolName></measurementInformation>"
        "<acquisitionSystemInformation><systemFieldStrength_T>2.89</systemFieldStrength_T>"
        "</acquisitionSystemInformation><sequenceParameters><TR>500</TR></sequenceParameters>"
    )
    path = write_fastmri(tmp_path / "a.h5", ismrmrd_header=header_xml(extra=extra))
    scan = read_scan(path)
    assert scan.patient is not None
    assert scan.patient.name == "CANARY^NAME"
    assert scan.source.notes == {"field_strength_T": "2.89", "TR_ms": "500"}
    assert "CANARY" not in repr(scan)
    assert "CANARY" not in json.dumps(describe(path))


def test_second_encoding_does_not_mix_in(tmp_path: Path) -> None:
    first = header_xml().removesuffix("</ismrmrdHeader>")
    second = header_xml(encoded=(99, 98), limits=(1, 2))
    path = write_fastmri(
        tmp_path / "a.h5",
        ismrmrd_header=first + second[second.index("<encoding>") : second.index("</ismrmrd")] + "</ismrmrdHeader>",
    )
    scan = read_scan(path)
    assert scan.mask.all()
    assert scan.geometry.recon_shape == (7, 9)
    assert any("2 encodings" in warning for warning in scan.source.warnings)


def test_oversampling_removed_before_storing(tmp_path: Path) -> None:
    xml = header_xml(encoded=(26, 11), recon=(13, 11), encoded_fov=(520, 220, 5), recon_fov=(260, 220, 5))
    path = write_fastmri(tmp_path / "a.h5", ismrmrd_header=xml)
    np.testing.assert_allclose(read_scan(path).geometry.field_of_view, (0.260, 0.220, 0.005))
    assert describe(path)["readout_oversampling"] == 1.0


def test_swapped_axes_are_refused(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", random_kspace((2, 2, 11, 13)), ismrmrd_header=header_xml())
    with pytest.raises(CorruptScan, match="swapped") as caught:
        read_scan(path)
    advice(caught.value)


def test_reference_larger_than_kspace_is_not_used(tmp_path: Path) -> None:
    scan = read_scan(write_fastmri(tmp_path / "a.h5", reconstruction_rss=np.ones((3, 26, 11), np.float32)))
    assert scan.reference is None
    assert any("not used" in warning for warning in scan.source.warnings)


def test_non_cartesian_is_refused(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", ismrmrd_header=header_xml(trajectory="spiral"))
    with pytest.raises(UnsupportedScan, match="spiral") as caught:
        read_scan(path)
    advice(caught.value)


def test_real_and_imaginary_parts_on_an_axis_of_their_own_are_named(tmp_path: Path) -> None:
    path = tmp_path / "parts.h5"
    kspace = random_kspace()
    with h5py.File(path, "w") as file:
        file["kspace"] = np.stack([kspace.real, kspace.imag], axis=-1)
    with pytest.raises(UnsupportedScan, match="has shape") as caught:
        read_scan(path)
    advice(caught.value)
    assert "kspace[..., 0] + 1j * kspace[..., 1]" in caught.value.hint


def test_layout_is_refused_for_fastmri(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5")
    for function in (read_scan, describe):
        with pytest.raises(InputError, match="layout"):
            function(path, layout="slice,coil,ky,kx")


def test_describe_is_json_with_the_same_keys(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", random_kspace())
    first = describe(write_fastmri(tmp_path / "a.h5", ismrmrd_header=header_xml()))
    second = describe(tmp_path / "b.npy", layout="slice,coil,ky,kx")
    assert set(first) == set(second)
    json.dumps([first, second], allow_nan=False)
    assert first["file"] == "a.h5"
    assert first["file_bytes"] == (tmp_path / "a.h5").stat().st_size


def test_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, mri_unroll.io.registry; "
        "print([name for name in ('h5py', 'torch', 'nibabel', 'PIL', 'matplotlib', 'sigpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
