"""Training on raw k-space in fastMRI's layout, and on turned pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.simulation import exchanged
from support.training import tiny, write_images, write_kspace

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.io import fastmri
from mri_unroll.training.dataset import SimulatedScans, Volume, find_volumes
from mri_unroll.training.examples import prepare
from mri_unroll.training.loop import train
from mri_unroll.training.measured import MeasuredScans, strongest_coils, without_oversampling
from mri_unroll.training.simulate import centred_fft2, centred_ifft2
from mri_unroll.training.turning import random_turn


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate(("one", "two", "three")):
        write_kspace(folder / f"{name}.h5", seed, f"person {seed}")
    return folder


def test_files_are_split_by_person(scans: Path) -> None:
    training, validation = find_volumes(scans, "two")
    assert [volume.path.stem for volume in training] == ["one", "three"]
    assert [(volume.path.stem, volume.first, volume.last) for volume in validation] == [("two", 0, 2)]
    write_kspace(scans / "four.h5", 4, "person 1")  # the second scan of whom is held out
    with pytest.raises(InputError, match="of one person") as refusal:
        find_volumes(scans, "two")
    assert "person 1" not in str(refusal.value)
    assert len(find_volumes(scans, "two|four")[1]) == 2


def test_a_fully_sampled_scan_is_its_own_reference(scans: Path) -> None:
    path = scans / "one.h5"
    found = MeasuredScans([Volume(path, 0, 2)], 5, 20, needs_reference=True)
    acquired = found[3]
    again = MeasuredScans([Volume(path, 0, 2)], 5, 20, needs_reference=True)[3]
    np.testing.assert_array_equal(acquired.kspace, again.kspace)
    assert acquired.kspace.shape == (4, 72, 60)  # readout oversampling removed
    assert not acquired.kspace[:, ~acquired.mask].any()
    assert acquired.mask.mean() < 1
    full = centred_fft2(acquired.coil_images)
    np.testing.assert_allclose(full[:, acquired.mask], acquired.kspace[:, acquired.mask], atol=2e-5)
    reference = fastmri.read(path).reference
    rss = np.linalg.norm(acquired.coil_images, axis=0)
    errors = [np.abs(rss - picture)[picture > 0.5].mean() / picture[picture > 0.5].mean() for picture in reference]
    assert min(errors) < 0.05  # the file's reference is without noise
    example = prepare(acquired, None, np.random.default_rng(0), 0.3)
    assert float(example.strength[0, 2]) == 1.0  # a measured reference holds all of its noise
    assert 0.05 < float(example.body.float().mean()) < 0.9


def test_oversampling_is_cut_off_in_the_picture(scans: Path) -> None:
    scan = fastmri.read(scans / "one.h5", slice(0, 1))
    kspace, mask = without_oversampling(scan)
    whole = centred_ifft2(scan.kspace[0])
    np.testing.assert_allclose(centred_ifft2(kspace), whole[:, 36:108], atol=1e-5)
    assert mask.shape == (72, 60)


def test_lines_along_the_last_axis_are_turned(scans: Path) -> None:
    scan = fastmri.read(scans / "one.h5", slice(0, 1))
    mask = np.zeros(scan.matrix, bool)
    mask[:, ::3] = True
    lines = dataclasses.replace(scan, mask=mask)
    turned = exchanged(lines)
    for found, expected in zip(without_oversampling(turned), without_oversampling(lines), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_undersampled_scans_are_refused_where_a_reference_is_needed(scans: Path) -> None:
    path = scans / "under.h5"
    write_kspace(path, 7, "person 7", slice(0, None, 3))
    volumes = [Volume(path, 0, 2)]
    with pytest.raises(InputError, match="fold undersampled") as refusal:
        MeasuredScans(volumes, 0, 4, needs_reference=True)[0]
    assert "ssdu" in str(refusal.value)
    acquired = MeasuredScans(volumes, 0, 4, needs_reference=False)[0]
    assert acquired.coil_images is None
    assert acquired.mask[0].sum() == len(set(range(0, 60, 3)) | set(range(24, 36)))
    with pytest.raises(InputError, match="undersampled"):
        prepare(acquired, None, np.random.default_rng(0), 1.0)


def test_many_coils_are_compressed_with_their_reference(tmp_path: Path) -> None:
    path = tmp_path / "many.h5"
    write_kspace(path, 0, "", n_coils=16)
    acquired = MeasuredScans([Volume(path, 0, 2)], 0, 4, needs_reference=True)[0]
    assert len(acquired.kspace) == len(acquired.coil_images) == 12
    kspace = fastmri.read(path, slice(0, 1)).kspace[0]
    matrix = strongest_coils(kspace, 12)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(12), atol=1e-5)
    kept = np.linalg.norm(np.tensordot(matrix, kspace, 1)) / np.linalg.norm(kspace)
    assert kept > 0.99
    assert prepare(acquired, 32, np.random.default_rng(0), 1.0).op.sens_maps.shape[1] == 12


def test_training_on_raw_kspace_runs(scans: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    train(tiny(scans, tmp_path / "run", held_out="two", n_steps=2, loss="l1"), events.append)
    saved = next(event for event in events if event["event"] == "saved")
    assert np.isfinite(saved["validation_db"])
    assert saved["validation_db"] == saved["noisy_db"]


def test_a_turn_is_a_rotation_of_real_and_imaginary_part_alike() -> None:
    pytest.importorskip("torchvision")
    assert random_turn(0, 0) is None
    y, x = np.mgrid[-1:1:81j, -1:1:81j]
    picture = np.exp(-(y**2 + x**2) / 0.1) * np.exp(0.7j)
    turn = random_turn(20, 0)
    assert turn is not None
    turned = turn(np.stack([picture, 2 * picture]), np.random.default_rng(0))
    assert turned.shape == (2, 81, 81)
    np.testing.assert_allclose(turned[0], picture, atol=0.01)  # a round object looks as before
    np.testing.assert_allclose(turned[1], 2 * turned[0], atol=1e-6)
    line = ((np.abs(y) < 0.05) & (np.abs(x) < 0.8)) * (1 + 1j)
    rng = np.random.default_rng(3)
    angle = np.deg2rad(np.random.default_rng(3).uniform(-20, 20))
    moved = turn(line, rng)
    rows, columns = np.nonzero(moved.real > 0.5)
    slope = np.polyfit(columns - 40, rows - 40, 1)[0]
    assert abs(slope) == pytest.approx(abs(np.tan(angle)), abs=0.03)
    larger = random_turn(0, 0.2)
    assert larger is not None
    rng = np.random.default_rng(5)
    rng.uniform(0, 0)
    scale = 1 + rng.uniform(-0.2, 0.2)
    area = larger((np.hypot(y, x) < 0.5) + 0j, np.random.default_rng(5)).real.sum()
    assert area / (np.hypot(y, x) < 0.5).sum() == pytest.approx(scale**2, abs=0.03)


def test_turning_is_off_unless_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    training, _ = find_volumes(write_images(tmp_path), "c")
    plain, off = SimulatedScans(training, 0, 4), SimulatedScans(training, 0, 4, random_turn(0, 0))
    np.testing.assert_array_equal(plain[1].kspace, off[1].kspace)
    turned = SimulatedScans(training, 0, 4, random_turn(10, 0.1))[1]
    assert turned.kspace.shape != plain[1].kspace.shape or not np.array_equal(turned.kspace, plain[1].kspace)
    with pytest.raises(ConfigError, match="rotation"):
        tiny(tmp_path, tmp_path, rotation=90.0)


def test_real_scans_serve_as_training_data(shared_data: Path) -> None:
    folder = shared_data / "kspace"
    training, validation = find_volumes(folder, "lowfield.*")
    assert {volume.path.stem for volume in validation} >= {"lowfield_0p055T_sub1_GRE"}
    scans = MeasuredScans([v for v in training if "brain_t1_7coil" in v.path.stem], 0, 4, needs_reference=True)
    acquired = scans[0]
    example = prepare(acquired, 96, np.random.default_rng(0), 1.0)
    assert example.op.sens_maps.shape[1] == 7
    assert torch.isfinite(torch.view_as_real(example.adjoint_kspace)).all()
    assert float(example.rss.max()) > 0.5  # in units where bright tissue is near 1
