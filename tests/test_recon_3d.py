"""Volumes: taken apart along the readout or the partitions where that is exact, kept whole where it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.methods import ANY_SAMPLING, CARTESIAN
from support.simulation import blobs, exchanged, grid_volume, make_scan, sampled_volume

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError, ShapeError, UnsupportedScan
from mri_unroll.metrics import nmse
from mri_unroll.physics.sampling import make_mask
from mri_unroll.physics.trajectory import koosh_ball, stack_of_stars
from mri_unroll.pipeline import reconstruct_file
from mri_unroll.recon.parts import sampling_of, take_apart
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan

SHAPE, N_COILS = (11, 18, 16), 3  # (z, y, x)
WHOLE_METHODS = ["zero-filled", "cg-sense", "l1-wavelet", "tv"]


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.complex128]:
    return blobs(SHAPE, N_COILS)


@pytest.fixture(scope="module")
def truth(pictures: NDArray[np.complex128]) -> NDArray[np.float32]:
    return np.linalg.norm(pictures, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def full(pictures: NDArray[np.complex128]) -> Scan:
    kspace = grid_volume(pictures)
    random = np.random.default_rng(0)
    noise = random.standard_normal((*kspace.shape, 2)).astype(np.float32).view(np.complex64)[..., 0]
    return make_scan(kspace + np.float32(0.002) * noise, SHAPE[1:], n_partitions=SHAPE[0])


def sampled(pictures: NDArray[np.complex128], trajectory: NDArray[np.float64]) -> Scan:
    kspace = sampled_volume(pictures, trajectory)[None]
    return make_scan(kspace, SHAPE[1:], trajectory=trajectory, encoded_shape=SHAPE, n_partitions=SHAPE[0])


@pytest.mark.parametrize("method", CARTESIAN)
@pytest.mark.parametrize("kind", ["poisson", "equispaced_fraction"])
def test_undersampled_grids(method: str, kind: str, full: Scan, truth: NDArray[np.float32]) -> None:
    scan = undersample(full, kind, 2.0, 0.2, seed=1)
    seen: list[tuple[int, int]] = []
    image = make_reconstructor(method).reconstruct(scan, progress=lambda done, total: seen.append((done, total)))
    assert image.pixels.shape == SHAPE
    assert image.pixels.dtype == np.float32
    assert np.isfinite(image.pixels).all()
    assert nmse(truth, image.pixels) < (0.2 if method == "zero-filled" else 0.02)
    assert seen[-1] == (SHAPE[1], SHAPE[1])
    found = image.diagnostics  # one entry for the whole volume: its planes cut across the partitions
    assert len(found.data_residual) == len(found.status) == len(found.seconds) == len(image.provenance.scale) == 1
    assert 0 <= found.data_residual[0] < 0.3
    if kind == "poisson":
        np.testing.assert_array_equal(image.pixels, make_reconstructor(method).reconstruct(scan).pixels)


def test_full_grids_are_the_inverse_transform(full: Scan, truth: NDArray[np.float32]) -> None:
    image = make_reconstructor("zero-filled").reconstruct(full)
    axes = (-3, -2, -1)
    shifted = np.fft.ifftn(np.fft.ifftshift(full.kspace[0], axes), axes=axes, norm="ortho")
    expected = np.linalg.norm(np.fft.fftshift(shifted, axes), axis=0)
    np.testing.assert_allclose(image.pixels, expected, atol=1e-5 * expected.max())
    assert nmse(truth, image.pixels) < 1e-3


def test_oversampling_is_cut_off_along_all_axes(full: Scan, truth: NDArray[np.float32]) -> None:
    geometry = dataclasses.replace(full.geometry, recon_shape=(12, 13), n_partitions=8)
    scan = dataclasses.replace(full, geometry=geometry)
    for method in ("zero-filled", "cg-sense"):
        image = make_reconstructor(method).reconstruct(scan)
        assert image.pixels.shape == (8, 12, 13)
        assert nmse(truth[1:9, 3:15, 1:14], image.pixels) < 2e-3
    assert take_apart(scan).count == 12
    for wrong in ({"n_partitions": 12}, {"recon_shape": (19, 16)}, {"recon_shape": (18, 17)}):
        with pytest.raises(ShapeError, match="larger"):
            make_reconstructor("zero-filled").reconstruct(
                dataclasses.replace(full, geometry=dataclasses.replace(full.geometry, **wrong))
            )


def test_taking_apart_is_exact(full: Scan) -> None:
    """CG on the planes and CG on the volume solve the same problem; a mask without order keeps it whole."""
    plane = make_mask("poisson", (SHAPE[0], SHAPE[2]), 2.0, 0.2, seed=0)
    mask = np.broadcast_to(plane[:, None], SHAPE).copy()
    corner = mask.copy()
    corner[0, 0, 0] ^= True
    config = ReconstructionConfig(device="cpu", reg_weight=0.1)
    for n_coils, tolerance in ((1, 1e-5), (N_COILS, 1e-3)):  # of several coils the maps differ a little
        scans = [dataclasses.replace(full, kspace=full.kspace[:, :n_coils], mask=m) for m in (mask, corner)]
        assert [take_apart(scan).count for scan in scans] == [SHAPE[1], 1]
        apart, whole = (make_reconstructor("cg-sense", config).reconstruct(scan) for scan in scans)
        assert nmse(whole.pixels, apart.pixels) < tolerance
        assert apart.provenance.scale[0] == pytest.approx(whole.provenance.scale[0], rel=0.3)
        residuals = apart.diagnostics.data_residual[0], whole.diagnostics.data_residual[0]
        assert residuals[0] == pytest.approx(residuals[1], rel=0.05)


@pytest.mark.parametrize("method", CARTESIAN)
@pytest.mark.parametrize("kind", ["poisson", "equispaced_fraction"])
def test_volumes_with_readouts_along_the_last_axis_give_the_same_picture(method: str, kind: str, full: Scan) -> None:
    full = dataclasses.replace(full, geometry=dataclasses.replace(full.geometry, recon_shape=(12, 16)))
    scan = undersample(full, kind, 2.0, 0.2, seed=1)
    turned = exchanged(scan)
    found, expected = (make_reconstructor(method).reconstruct(s) for s in (turned, scan))
    np.testing.assert_array_equal(found.pixels, expected.pixels.swapaxes(-2, -1))
    np.testing.assert_array_equal(sampling_of(turned), sampling_of(scan))


def test_partitions_left_out_are_undersampled_lines(full: Scan) -> None:
    """The other phase encoding is whole: each plane has lines along it, and is turned."""
    mask = np.zeros(SHAPE, bool)
    mask[[0, 3, 4, 5, 6, 7, 9]] = True
    part = take_apart(dataclasses.replace(full, mask=mask)).take(0)
    assert part.turned
    assert part.picture_shape == (SHAPE[2], SHAPE[0])
    image = make_reconstructor("cg-sense").reconstruct(dataclasses.replace(full, mask=mask))
    assert image.pixels.shape == SHAPE


@pytest.mark.parametrize("method", WHOLE_METHODS)
def test_grids_sampled_without_order(method: str, full: Scan, truth: NDArray[np.float32]) -> None:
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    mask[2:9, 5:13, 4:12] = True
    image = make_reconstructor(method).reconstruct(dataclasses.replace(full, mask=mask))
    assert nmse(truth, image.pixels) < (0.2 if method == "zero-filled" else 0.02)
    assert image.diagnostics.warnings == ()
    mask[5, 9, 8] = False
    image = make_reconstructor(method).reconstruct(dataclasses.replace(full, mask=mask))
    assert np.isfinite(image.pixels).all()
    assert bool(image.diagnostics.warnings) == (method != "zero-filled")


@pytest.mark.parametrize("method", CARTESIAN)
def test_partial_fourier_along_every_axis(method: str, full: Scan, truth: NDArray[np.float32]) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2:, 4:, 3:] = True
    image = make_reconstructor(method).reconstruct(dataclasses.replace(full, mask=mask))
    assert nmse(truth, image.pixels) < 0.02
    assert any("one side" in warning for warning in image.diagnostics.warnings)


@pytest.mark.parametrize("method", ANY_SAMPLING)
def test_stacks_of_stars_fall_apart_into_slices(
    method: str, pictures: NDArray[np.complex128], truth: NDArray[np.float32]
) -> None:
    scan = sampled(pictures, stack_of_stars(15, 36, SHAPE))
    assert take_apart(scan).count == SHAPE[0]
    image = make_reconstructor(method).reconstruct(scan)
    assert nmse(truth, image.pixels) < (0.1 if method == "zero-filled" else 0.02)
    assert len(image.diagnostics.data_residual) == SHAPE[0]


@pytest.mark.parametrize("method", WHOLE_METHODS)
def test_koosh_balls_stay_whole(method: str, pictures: NDArray[np.complex128], truth: NDArray[np.float32]) -> None:
    scan = sampled(pictures, koosh_ball(150, 30, SHAPE))
    geometry = dataclasses.replace(scan.geometry, n_partitions=8, recon_shape=(14, 13))
    image = make_reconstructor(method).reconstruct(dataclasses.replace(scan, geometry=geometry))
    assert image.pixels.shape == (8, 14, 13)
    assert nmse(truth[1:9, 2:16, 1:14], image.pixels) < (0.1 if method == "zero-filled" else 0.01)
    assert len(image.diagnostics.status) == 1


def test_networks_refuse_volumes_that_stay_whole(pictures: NDArray[np.complex128]) -> None:
    stars = stack_of_stars(10, 36, SHAPE)
    turned = stars.copy()  # each partition turned by its own angle: no common plane
    turn = stars[:, 0] * 0.3
    turned[:, 1] = np.cos(turn) * stars[:, 1] + np.sin(turn) * stars[:, 2]
    turned[:, 2] = np.cos(turn) * stars[:, 2] - np.sin(turn) * stars[:, 1]
    turned = turned.clip(-np.array(SHAPE) / 2, np.array(SHAPE) / 2)
    for trajectory in (koosh_ball(50, 40, SHAPE), turned, stars[stars[:, 0] > -4]):
        scan = sampled(pictures, trajectory)
        assert take_apart(scan).count == 1
        with pytest.raises(UnsupportedScan, match="couples all three"):
            make_reconstructor("unrolled").reconstruct(scan)


def test_empty_volumes(full: Scan) -> None:
    scan = dataclasses.replace(full, kspace=np.zeros_like(full.kspace))
    image = make_reconstructor("tv").reconstruct(scan)
    assert not image.pixels.any()
    assert np.isnan(image.diagnostics.data_residual[0])


def test_noise_is_whitened(full: Scan) -> None:
    covariance = np.diag([1, 4, 9]).astype(np.complex64)
    coloured = full.kspace * np.sqrt(np.diag(covariance)).astype(np.complex64)[:, None, None, None]
    one = make_reconstructor("cg-sense").reconstruct(full).pixels
    other = make_reconstructor("cg-sense").reconstruct(dataclasses.replace(full, kspace=coloured, noise_cov=covariance))
    np.testing.assert_allclose(other.pixels / np.sqrt(14 / 3), one, atol=1e-4 * one.max())  # units of the mean coil


def test_undersampling_keeps_whole_readouts_and_padding(full: Scan) -> None:
    mask = full.mask.copy()  # type: ignore[union-attr]
    mask[:2] = mask[:, :, -3:] = False
    padded = dataclasses.replace(full, mask=mask)
    scan = undersample(padded, "poisson", 3.0, 0.1, seed=0)
    assert scan.mask is not None
    assert (scan.mask == scan.mask[:, :1]).all()
    assert not (scan.mask & ~mask).any()
    assert not scan.kspace[..., ~scan.mask].any()
    assert 2.5 < SHAPE[0] * SHAPE[2] / scan.mask[:, 0].sum() < 5
    with pytest.raises(InputError, match="already"):
        undersample(scan, "poisson", 3.0, 0.1, seed=0)


def test_the_road_from_file_to_report(full: Scan, tmp_path: Path) -> None:
    path = tmp_path / "volume.npy"
    np.save(path, full.kspace[0])
    layout = "coil,kz,ky,kx"
    config = ReconstructionConfig(method="cg-sense", accelerate=2.0, mask="poisson", center_fraction=0.2, device="cpu")
    events: list[dict[str, object]] = []
    outcome = reconstruct_file(path, tmp_path / "out", config, layout=layout, events=events.append)
    summary = json.loads(outcome.sidecar.read_text())
    assert summary["shape"] == list(SHAPE)
    assert summary["slices"] == [0, SHAPE[0]]
    assert summary["metrics"]["nmse"] < 0.01
    assert summary["effective_acceleration"] == pytest.approx(2, rel=0.2)
    assert [event["total"] for event in events if event["event"] == "progress"][1:] == [SHAPE[1]] * SHAPE[1]
    page = outcome.report.read_text()
    assert "plane of both phase encodings" in page
    assert "through the middle of the readout" in page
    assert "The volume in numbers" in page
    sliced = ReconstructionConfig(method="cg-sense", slices=(0, 1))
    with pytest.raises(UnsupportedScan, match="as a whole"):
        reconstruct_file(path, tmp_path / "part", sliced, layout=layout)


def test_the_road_of_a_koosh_ball(pictures: NDArray[np.complex128], tmp_path: Path) -> None:
    scan = sampled(pictures, koosh_ball(150, 30, SHAPE))
    path = tmp_path / "ball.npz"
    assert scan.trajectory is not None
    np.savez(path, kspace=scan.kspace, trajectory=scan.trajectory, image_shape=SHAPE)
    outcome = reconstruct_file(path, tmp_path / "ball.nii.gz", ReconstructionConfig(method="cg-sense", device="cpu"))
    assert outcome.summary["shape"] == list(SHAPE)
    page = outcome.report.read_text()
    assert "4500 samples off the grid" in page
    assert "Coil maps" not in page
