"""Peers on our problem: the same data, maps and units, at every size; and what is said where they cannot run."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.methods import NEEDS_BART, PEER_METHODS
from support.simulation import blobs, grid_volume, make_scan, sampled_head

from mri_unroll import doctor
from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, ConvergenceError, DeviceError, UnsupportedScan
from mri_unroll.metrics import nmse
from mri_unroll.options import complete_method
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.trajectory import radial
from mri_unroll.recon import peers
from mri_unroll.recon.parts import take_apart
from mri_unroll.recon.reconstructor import described_methods, make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.scan import Scan

SHAPES = [(48, 40), (50, 46), (49, 45), (50, 33), (31, 52)]  # both remainders of even sizes by four, and odd ones


def head(shape: tuple[int, int], noise: float = 0.003) -> Scan:
    return make_scan(phantom_kspace(shape, 4, noise=noise), shape)


def pretender(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called bart, which does what the script says, before all others."""
    program = folder / "bart"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("method", PEER_METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_without_regularisation_full_data_give_the_complex_picture_of_least_squares(
    method: str, shape: tuple[int, int]
) -> None:
    """Units, centre, orientation and phase, at odd and even sizes: BART by itself errs at odd ones."""
    problem = take_apart(head(shape)).take(0).calibrated()
    solve = {"bart-pics": peers.bart_pics, "sigpy-l1wavelet": peers.sigpy_l1_wavelet}[method]
    picture = solve(problem, 1e-7, 40).value
    least_squares = problem.op.adjoint(problem.kspace)  # the maps have unit norm, and the mask is full
    assert picture.shape == least_squares.shape
    assert picture.dtype == torch.complex64
    assert float((picture - least_squares).abs().max()) < 1e-5 * float(least_squares.abs().max())


@pytest.mark.parametrize("method", PEER_METHODS)
def test_peers_are_about_as_good_as_our_wavelets_and_deterministic(method: str) -> None:
    full = make_scan(phantom_kspace((97, 90), 6, noise=0.002), (97, 90))
    truth = make_reconstructor("zero-filled").reconstruct(full).pixels
    scan = undersample(full, "equispaced_fraction", 3.0, 0.12, seed=0)
    zero_filled, ours, theirs, again = (
        make_reconstructor(name).reconstruct(scan) for name in ("zero-filled", "l1-wavelet", method, method)
    )
    errors = [nmse(truth, image.pixels) for image in (zero_filled, ours, theirs)]
    assert errors[2] < 0.3 * errors[0]
    assert errors[2] < 2 * errors[1]
    np.testing.assert_array_equal(theirs.pixels, again.pixels)
    assert theirs.provenance.parameters == {"reg_weight": 0.005, "n_iterations": 60}
    assert theirs.provenance.device == "cpu"
    assert theirs.diagnostics.n_iterations == (60,)
    assert ("BART" if method == "bart-pics" else "SigPy") in theirs.diagnostics.status[0]


@pytest.mark.parametrize("method", PEER_METHODS)
def test_settings_arrive_and_the_weight_is_in_our_units(method: str) -> None:
    """The misfit that a weight allows is between those of our method with a third and with three times the weight."""
    kspace = phantom_kspace((64, 60), 4, noise=0.05)
    scan = undersample(make_scan(kspace, (64, 60)), "equispaced_fraction", 2.0, 0.2, seed=0)
    below, theirs, above = (
        make_reconstructor(name, ReconstructionConfig(reg_weight=weight, n_iterations=30))
        .reconstruct(scan)
        .diagnostics.data_residual[0]
        for name, weight in (("l1-wavelet", 0.02 / 3), (method, 0.02), ("l1-wavelet", 0.06))
    )
    assert below < theirs < above
    image = make_reconstructor(method, ReconstructionConfig(n_iterations=3)).reconstruct(scan)
    assert image.diagnostics.n_iterations == (3,)
    with pytest.raises(ConfigError, match="noise to remove"):
        make_reconstructor(method, ReconstructionConfig(denoise=0.5))


@pytest.mark.parametrize("method", PEER_METHODS)
def test_dead_samples_inside_the_mask_count_as_measured(method: str) -> None:
    """The mask is told, not guessed from zeros: a measured zero is data."""
    scan = head((48, 44))
    kspace = scan.kspace.copy()
    kspace[..., 10:14, :] = 0
    dead = dataclasses.replace(scan, kspace=kspace)
    picture = make_reconstructor(method, ReconstructionConfig(reg_weight=1e-7)).reconstruct(dead).pixels
    ours = make_reconstructor("cg-sense", ReconstructionConfig(reg_weight=1e-7)).reconstruct(dead).pixels
    assert np.abs(picture - ours).max() < 1e-4 * ours.max()


@pytest.mark.parametrize("method", PEER_METHODS)
def test_volumes_that_stay_whole(method: str) -> None:
    shape = (15, 18, 21)
    scan = make_scan(grid_volume(blobs(shape, 3)), shape[1:], n_partitions=shape[0])
    mask = np.random.default_rng(0).random(shape) < 0.6
    mask[4:11, 6:13, 7:14] = True
    sparse = dataclasses.replace(scan, mask=mask)
    assert take_apart(sparse).shape == shape
    truth = make_reconstructor("zero-filled").reconstruct(scan).pixels
    assert nmse(truth, make_reconstructor(method).reconstruct(sparse).pixels) < 0.02


@pytest.mark.parametrize("method", PEER_METHODS)
def test_scans_off_the_grid_and_gpus_are_refused(method: str) -> None:
    trajectory = radial(31, 64, (32, 30))
    kspace = sampled_head(trajectory, (32, 30), 3)[None]
    with pytest.raises(UnsupportedScan, match="Cartesian"):
        make_reconstructor(method).reconstruct(
            make_scan(kspace, (32, 30), trajectory=trajectory, encoded_shape=(32, 30))
        )
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="runs on the CPU"):
            make_reconstructor(method, ReconstructionConfig(device="cuda"))


def test_the_mask_is_read_off_the_operator() -> None:
    mask = np.random.default_rng(0).random((31, 26)) < 0.4
    scan = dataclasses.replace(head((31, 26)), mask=mask)
    problem = take_apart(scan).take(0).calibrated()
    np.testing.assert_array_equal(peers._arrays(problem, "test")[2], mask)


def test_without_the_program_it_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ConfigError, match="not installed") as refusal:
        make_reconstructor("bart-pics")
    assert "apt-get install bart" in refusal.value.hint
    entry = next(entry for entry in described_methods() if entry["name"] == "bart-pics")
    assert not entry["installed"]
    assert "not installed here" in entry["summary"]
    assert doctor._bart() == doctor.ABSENT


def test_a_program_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretender(tmp_path, "echo first >&2; echo 'Memory allocation of 9 GB failed.' >&2; exit 1", monkeypatch)
    with pytest.raises(DeviceError, match=r"code 1 and said: Memory allocation of 9 GB failed\."):
        make_reconstructor("bart-pics").reconstruct(head((32, 32)))
    assert "does not run" in doctor._bart()


def test_a_program_that_writes_nothing_or_rubbish_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretender(tmp_path, "exit 0", monkeypatch)
    with pytest.raises(DeviceError, match="cannot be read"):
        make_reconstructor("bart-pics").reconstruct(head((32, 32)))
    pretender(tmp_path, "printf '# Dimensions\\n2 2\\n' > picture.hdr; head -c 32 /dev/zero > picture.cfl", monkeypatch)
    with pytest.raises(DeviceError, match="shape"):
        make_reconstructor("bart-pics").reconstruct(head((32, 32)))


def test_a_program_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretender(tmp_path, "exec sleep 60", monkeypatch)
    monkeypatch.setattr(peers, "TIME_LIMIT", 0.5)
    started = time.monotonic()
    with pytest.raises(ConvergenceError, match=r"stopped after 0\.5 s"):
        make_reconstructor("bart-pics").reconstruct(head((32, 32)))
    assert time.monotonic() - started < 30


@NEEDS_BART
def test_a_program_that_is_there_is_named() -> None:
    entry = next(entry for entry in described_methods() if entry["name"] == "bart-pics")
    assert entry["installed"]
    assert "found here: v" in entry["summary"]
    assert doctor._bart().startswith("v")
    assert {"bart-pics", "sigpy-l1wavelet"} <= set(complete_method(""))


@NEEDS_BART
def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_roomy", lambda folder, n_bytes: tmp_path)
    make_reconstructor("bart-pics").reconstruct(head((32, 31)))
    assert list(tmp_path.iterdir()) == []


def test_files_of_bart_go_there_and_back(tmp_path: Path) -> None:
    array = (np.arange(24).reshape(2, 3, 4) * (1 + 2j)).astype(np.complex64)
    peers.write_cfl(tmp_path / "some.name", array)
    assert {path.name for path in tmp_path.iterdir()} == {"some.name.hdr", "some.name.cfl"}
    np.testing.assert_array_equal(peers.read_cfl(tmp_path / "some.name"), array)
