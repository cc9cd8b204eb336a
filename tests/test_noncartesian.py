"""Scans off the grid: held against the analytic head, and through the road as a user walks it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.methods import ANY_SAMPLING
from support.simulation import head_truth, make_scan, sampled_head

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError, UnsupportedScan
from mri_unroll.metrics import nmse
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.trajectory import radial, spiral
from mri_unroll.pipeline import reconstruct_file
from mri_unroll.recon.calibrate import ACS_LIMIT, calibrate_slice
from mri_unroll.recon.noncartesian import calibrate_samples, calibration_block, sampled_trajectory
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.recon.slicewise import EMPTY
from mri_unroll.scan import Scan

SHAPE, N_COILS = (64, 60), 5
METHODS = ANY_SAMPLING


def radial_scan(n_spokes: int, shape: tuple[int, int] = SHAPE, noise: float = 0.002, n_coils: int = N_COILS) -> Scan:
    """One slice of the head along golden-angle spokes, read twofold oversampled."""
    trajectory = radial(n_spokes, 2 * max(shape), shape)
    kspace = sampled_head(trajectory, shape, n_coils, noise)[None]
    return make_scan(kspace, shape, trajectory=trajectory, encoded_shape=shape)


@pytest.fixture(scope="module")
def full() -> Scan:
    return radial_scan(101)


@pytest.fixture(scope="module")
def sparse() -> Scan:
    return radial_scan(16)


@pytest.mark.parametrize("method", METHODS)
def test_full_radial_scans_give_the_truth_in_the_scans_own_units(method: str, full: Scan) -> None:
    truth = head_truth(SHAPE, N_COILS)[None]
    image = make_reconstructor(method).reconstruct(full)
    assert image.pixels.shape == truth.shape
    assert nmse(truth, image.pixels) < 0.01
    tissue = truth > 0.1
    assert np.median(image.pixels[tissue] / truth[tissue]) == pytest.approx(1, abs=0.02)
    assert image.diagnostics.warnings == ()
    assert 0 < image.diagnostics.data_residual[0] < 0.05
    again = make_reconstructor(method).reconstruct(full)
    np.testing.assert_array_equal(image.pixels, again.pixels)


def test_full_radial_scans_are_as_good_as_full_grids(full: Scan) -> None:
    """What is left is the detail finer than a pixel, the same on the grid."""
    truth = head_truth(SHAPE, N_COILS)[None]
    on_grid = make_scan(phantom_kspace(SHAPE, N_COILS, noise=0.002), SHAPE)
    errors = [nmse(truth, make_reconstructor("cg-sense").reconstruct(scan).pixels) for scan in (full, on_grid)]
    assert errors[0] < 1.5 * errors[1]


def test_every_method_beats_zero_filled_on_few_spokes(sparse: Scan) -> None:
    truth = head_truth(SHAPE, N_COILS)[None]
    errors = {method: nmse(truth, make_reconstructor(method).reconstruct(sparse).pixels) for method in METHODS}
    assert errors["cg-sense"] < 0.35 * errors["zero-filled"]
    for method in ("l1-wavelet", "tv", "unrolled"):
        assert errors[method] < 0.25 * errors["zero-filled"]
    assert errors["tv"] < errors["cg-sense"]


def test_spirals_of_odd_sizes_and_a_field_of_view_twice_the_picture() -> None:
    shape, encoded = (45, 41), (90, 82)
    trajectory = spiral(24, 800, encoded)
    kspace = sampled_head(trajectory, encoded, 4, 0.002, oversampling=2)[None]
    scan = make_scan(kspace, shape, trajectory=trajectory, encoded_shape=encoded)
    whole = head_truth(encoded, 4, oversampling=2)
    truth = whole[22 : 22 + 45, 20 : 20 + 41][None]
    for method in ("cg-sense", "l1-wavelet"):
        assert nmse(truth, make_reconstructor(method).reconstruct(scan).pixels) < 0.02


def test_a_grid_given_as_samples_is_the_grid() -> None:
    """Every number of the calibration, and the picture, are those of the Cartesian road."""
    shape = (40, 37)
    kspace = phantom_kspace(shape, 4, noise=0.002)
    trajectory = (
        np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1)
        .reshape(-1, 2)
        .astype(float)
    )
    scan = make_scan(kspace.reshape(1, 4, -1), shape, trajectory=trajectory, encoded_shape=shape)
    facts = sampled_trajectory(trajectory.astype(np.float32), shape)
    assert facts.weights.numpy() == pytest.approx(1, abs=0.02)
    assert facts.sampled_fraction == pytest.approx(1, abs=0.02)
    assert facts.acceleration == pytest.approx(1, abs=0.05)
    assert facts.lipschitz == pytest.approx(1, abs=0.1)
    assert facts.dense_side == ACS_LIMIT
    samples = calibrate_samples(torch.from_numpy(scan.kspace[0]), facts)
    grid = calibrate_slice(torch.from_numpy(kspace[0]), torch.ones(shape, dtype=torch.bool))
    assert samples.scale == pytest.approx(grid.scale, rel=0.02)
    torch.testing.assert_close(samples.strength[:, 1], grid.strength[:, 1], atol=0.05, rtol=0)
    overlap = (samples.op.sens_maps * grid.op.sens_maps.conj()).sum(1).abs()
    assert float(overlap[0][torch.from_numpy(head_truth(shape, 4) > 0.1)].min()) > 0.99
    pictures = [make_reconstructor("cg-sense").reconstruct(each).pixels for each in (scan, make_scan(kspace, shape))]
    assert nmse(pictures[1], pictures[0]) < 1e-4


def test_calibration_blocks_are_grid_samples(full: Scan) -> None:
    """The fitted centre of k-space is the phantom's own, which is known on the grid."""
    assert full.trajectory is not None
    facts = sampled_trajectory(full.trajectory, SHAPE)
    noiseless = sampled_head(full.trajectory, SHAPE, N_COILS)
    block = calibration_block(torch.from_numpy(noiseless), facts, 12).numpy()
    exact = phantom_kspace(SHAPE, N_COILS)[0, :, 26:38, 24:36]
    assert np.linalg.norm(block - exact) < 0.01 * np.linalg.norm(exact)


@pytest.mark.parametrize("n_spokes", [200, 101, 50, 25])
def test_undersampling_is_told_against_nyquist(n_spokes: int) -> None:
    r"""Spokes are dense up to :math:`r = m / \pi`, beyond that their density is :math:`r / |k|`."""
    n = 64
    found = sampled_trajectory(radial(n_spokes, 2 * n, (n, n), angle="uniform").astype(np.float32), (n, n))
    dense = min(n_spokes / np.pi, n / 2)
    measured = dense**2 + 2 * dense * (n / 2 - dense)  # over pi
    assert found.acceleration == pytest.approx((n / 2) ** 2 / measured, rel=0.06)
    assert found.sampled_fraction == pytest.approx(np.pi * measured / n**2, rel=0.06)
    assert found.dense_side == pytest.approx(min(2 * dense, ACS_LIMIT), abs=2)


def test_sparse_centres_are_warned_of() -> None:
    scan = radial_scan(5)
    image = make_reconstructor("cg-sense").reconstruct(scan)
    assert np.isfinite(image.pixels).all()
    assert len(image.diagnostics.warnings) == 1
    assert "coil maps" in image.diagnostics.warnings[0]
    single = radial_scan(5, n_coils=1)
    assert make_reconstructor("cg-sense").reconstruct(single).diagnostics.warnings == ()


@pytest.mark.parametrize("method", METHODS)
def test_units_noise_covariance_dead_coils_and_empty_slices(method: str, sparse: Scan) -> None:
    kspace = np.concatenate([sparse.kspace, sparse.kspace * np.float32(1e-7), np.zeros_like(sparse.kspace)])
    kspace[:, 2] = 0
    source = dataclasses.replace(sparse.source, n_slices=3, slices=(0, 3))
    scan = dataclasses.replace(sparse, kspace=kspace, source=source, noise_cov=4 * np.eye(N_COILS, dtype=np.complex64))
    image = make_reconstructor(method).reconstruct(scan)
    assert np.isfinite(image.pixels).all()
    assert np.abs(image.pixels[1] * 1e7 - image.pixels[0]).max() < 1e-3 * image.pixels[0].max()
    assert image.pixels[2].max() == 0
    assert image.diagnostics.status[2] == EMPTY
    alone = make_reconstructor(method).reconstruct(dataclasses.replace(scan, noise_cov=None)).pixels
    np.testing.assert_allclose(image.pixels[0], alone[0], atol=2e-3 * alone[0].max())


def test_each_slice_may_have_its_own_trajectory(sparse: Scan) -> None:
    assert sparse.trajectory is not None
    other = radial(16, 128, SHAPE, angle="uniform").astype(np.float32)
    kspace = np.concatenate([sparse.kspace, sampled_head(other, SHAPE, N_COILS, 0.002)[None]])
    scan = make_scan(kspace, SHAPE, trajectory=np.stack([sparse.trajectory, other]), encoded_shape=SHAPE)
    image = make_reconstructor("l1-wavelet").reconstruct(scan)
    alone = make_reconstructor("l1-wavelet").reconstruct(sparse)
    np.testing.assert_array_equal(image.pixels[0], alone.pixels[0])
    assert nmse(head_truth(SHAPE, N_COILS), image.pixels[1]) < 0.1


def test_many_coils_are_compressed() -> None:
    scan = radial_scan(60, shape=(40, 40), n_coils=14)
    assert nmse(head_truth((40, 40), 14)[None], make_reconstructor("cg-sense").reconstruct(scan).pixels) < 0.02


def test_what_cannot_be_done_is_said(sparse: Scan) -> None:
    with pytest.raises(UnsupportedScan, match="non-Cartesian scans is not implemented"):
        undersample(sparse, "random", 2.0, 0.1, seed=0)
    assert sparse.trajectory is not None
    line = sparse.trajectory * np.array([0, 1], np.float32)
    with pytest.raises(UnsupportedScan, match="2 dimensions"):
        make_reconstructor("zero-filled").reconstruct(dataclasses.replace(sparse, trajectory=line))


@pytest.mark.parametrize("method", ["zero-filled", "cg-sense", "unrolled"])
def test_the_road_from_file_to_report(method: str, sparse: Scan, tmp_path: Path) -> None:
    path = tmp_path / "spokes.npz"
    assert sparse.trajectory is not None
    kspace = np.repeat(sparse.kspace, 3, axis=0)
    np.savez(path, kspace=kspace, trajectory=sparse.trajectory, image_shape=SHAPE)
    outcome = reconstruct_file(path, tmp_path / "out", ReconstructionConfig(method=method, device="cpu"))
    assert outcome.summary["shape"] == [3, *SHAPE]
    assert outcome.summary["effective_acceleration"] == pytest.approx(
        sampled_trajectory(sparse.trajectory, SHAPE).acceleration
    )
    assert len(outcome.summary["data_residual"]) == 3
    page = outcome.report.read_text()
    assert f"{sparse.kspace.shape[-1]} samples off the grid" in page
    assert "Nyquist" in page
    part = ReconstructionConfig(method=method, slices=(1, 2), format="npy")
    some = np.load(reconstruct_file(path, tmp_path / "some.npy", part).volume)
    assert some.shape == (1, *SHAPE)
    with pytest.raises(InputError, match="not implemented"):
        reconstruct_file(path, tmp_path / "never", ReconstructionConfig(method=method, accelerate=2.0))
