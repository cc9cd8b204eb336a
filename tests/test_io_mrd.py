"""ISMRMRD raw data: every readout where it was measured, and a sentence for all that is left out."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.files import advice, random_kspace, write_fastmri
from support.mrd import (
    CALIBRATION,
    CALIBRATION_AND_IMAGING,
    NAVIGATION,
    NOISE,
    RECORD,
    REVERSE,
    cartesian,
    mrd_header,
    readout,
    volume,
    write_mrd,
)

from mri_unroll.errors import CorruptScan, InputError, UnsupportedScan
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.io import describe, read_scan
from mri_unroll.io.volume import ras_affine
from mri_unroll.scan import Scan


def said(scan: Scan, words: str) -> bool:
    return any(words in warning for warning in scan.source.warnings)


# --- Cartesian: where the samples go


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("group", ["dataset", "img", "/"])
def test_every_sample_is_where_it_was_measured(tmp_path: Path, chunk: int | None, group: str) -> None:
    full = volume()
    path = write_mrd(tmp_path / "a.h5", cartesian(full)[::-1], group=group, chunk=chunk)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.kspace, full[:, :, 0])
    assert scan.mask is not None
    assert scan.mask.shape == (13, 11)
    assert scan.mask.all()
    assert (scan.is_cartesian, scan.ndim, scan.n_slices, scan.n_coils, scan.matrix) == (True, 2, 3, 2, (13, 11))
    assert scan.source.format == "ismrmrd"
    assert scan.geometry.recon_shape == (7, 9)
    np.testing.assert_allclose(scan.geometry.field_of_view, (0.140, 0.180, 0.005))
    np.testing.assert_allclose(scan.geometry.encoded_field_of_view, (0.260, 0.220, 0.005))
    assert scan.noise_cov is None


def test_a_volume_streams(tmp_path: Path) -> None:
    full = volume()
    lines = [one for one in cartesian(full, position=(1, 2, 3)) if one["head"]["idx"]["kspace_encode_step_1"] % 2]
    noise = readout(random_kspace((2, 100)), [NOISE])
    path = write_mrd(tmp_path / "a.h5", [noise, *lines, *lines])
    whole = read_scan(path)
    for index in range(3):
        part = read_scan(path, slice(index, index + 1))
        np.testing.assert_array_equal(part.kspace[0], whole.kspace[index])
        np.testing.assert_array_equal(part.mask, whole.mask)
        np.testing.assert_array_equal(part.noise_cov, whole.noise_cov)
        assert part.source.slices == (index, index + 1)
        assert part.source.warnings == whole.source.warnings
    with pytest.raises(InputError, match="slices 0 to 2"):
        read_scan(path, slice(5, 6))


@pytest.mark.parametrize("shape", [(1, 2, 5, 13, 11), (1, 3, 4, 8, 6)])
def test_three_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    full = volume(shape)
    _, n_coils, *grid = shape
    directions = {"read_dir": (0, 1, 0), "phase_dir": (1, 0, 0), "slice_dir": (0, 0, 1), "position": (1, 2, 3)}
    sizes = (grid[1], grid[2], grid[0])
    header = mrd_header(sizes, (grid[1], grid[2], 3), (260.0, 220.0, 10.0 * grid[0]), (260.0, 220.0, 30.0))
    scan = read_scan(write_mrd(tmp_path / "a.h5", cartesian(full, **directions), header))
    np.testing.assert_array_equal(scan.kspace, full[:, :])
    assert scan.mask is not None
    assert scan.mask.shape == tuple(grid)
    assert (scan.ndim, scan.n_slices, scan.n_coils, scan.geometry.n_partitions) == (3, 1, n_coils, 3)
    assert scan.geometry.field_of_view == pytest.approx((0.26, 0.22, 0.01))
    kept = (grid[0] - 3) // 2 + np.arange(3)  # the crop's partitions, counted in what was encoded
    heights = 0.003 + 0.01 * (kept - grid[0] // 2)
    np.testing.assert_allclose(scan.geometry.position, [[0.001, 0.002, z] for z in heights], atol=1e-7)
    assert said(scan, "which partition encoding step is the centre")
    found = describe(tmp_path / "a.h5")
    assert found["matrix"] == grid
    assert found["recon_shape"] == [3, grid[1], grid[2]]
    assert found["sampling"] == "fully sampled"


def test_partial_fourier_and_asymmetric_echo(tmp_path: Path) -> None:
    full = volume((2, 2, 1, 16, 12))
    header = mrd_header(
        (16, 12, 1), (16, 12, 1), (320.0, 240.0, 5.0), (320.0, 240.0, 5.0), {"kspace_encoding_step_1": (2, 7)}
    )
    # 8 lines from index 4 of 12 on (centre 6), 11 samples from index 5 of 16 on (centre 8), one more each to discard
    lines = [
        readout(
            np.pad(full[index, :, 0, 5:, line], ((0, 0), (2, 1)), constant_values=99),
            slice=index,
            kspace_encode_step_1=line - 4,
            center_sample=3 + 2,
            discard_pre=2,
            discard_post=1,
        )
        for index in range(2)
        for line in range(4, 12)
    ]
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, header))
    expected = np.zeros((16, 12), bool)
    expected[5:, 4:] = True
    np.testing.assert_array_equal(scan.mask, expected)
    np.testing.assert_array_equal(scan.kspace, np.where(expected, full[:, :, 0], 0))
    assert describe(tmp_path / "a.h5")["padding_columns"] == [4, 0]


@pytest.mark.parametrize("n_samples", [12, 13])
@pytest.mark.parametrize("n_before", [6, 4])
def test_reversed_readouts(tmp_path: Path, n_samples: int, n_before: int) -> None:
    full = volume((1, 2, 1, n_samples, 8))
    start = n_samples // 2 - n_before
    header = mrd_header((n_samples, 8, 1), None, None, None)
    lines = []
    for line in range(8):
        samples = full[0, :, 0, start:, line]
        backwards = line % 2 == 1
        lines.append(
            readout(
                samples[:, ::-1] if backwards else samples,
                [REVERSE] if backwards else [],
                kspace_encode_step_1=line,
                center_sample=samples.shape[1] - n_before if backwards else n_before,
            )
        )
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, header))
    np.testing.assert_array_equal(scan.kspace[0][:, start:], full[0, :, 0, start:])
    assert scan.geometry.recon_shape == (n_samples, 8)
    assert scan.geometry.field_of_view is None


def test_calibration_lines_fill_what_imaging_left_out(tmp_path: Path) -> None:
    full = volume((1, 2, 1, 13, 11))
    lines = []
    for line in range(0, 11, 3):  # 6 is imaged
        flags = [CALIBRATION_AND_IMAGING] if line == 6 else []
        lines.append(readout(full[0, :, 0, :, line], flags, kspace_encode_step_1=line))
    lines += [  # the separate measurement of line 6 is another one
        readout(full[0, :, 0, :, line] * (1 + (line == 6)), [CALIBRATION], kspace_encode_step_1=line)
        for line in (4, 5, 6)
    ]
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines))
    measured = np.isin(np.arange(11), (0, 3, 4, 5, 6, 9))
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(measured, (13, 11)))
    np.testing.assert_array_equal(scan.kspace[0], np.where(measured, full[0, :, 0], 0))
    only = write_mrd(tmp_path / "b.h5", [readout(full[0, :, 0, :, 5], [CALIBRATION], kspace_encode_step_1=5)])
    assert read_scan(only).mask.sum() == 13  # type: ignore[union-attr]


def test_slices_may_be_sampled_differently(tmp_path: Path) -> None:
    lines = [
        one
        for one in cartesian(volume())
        if (one["head"]["idx"]["kspace_encode_step_1"] + one["head"]["idx"]["slice"]) % 2 == 0
    ]
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines))
    assert scan.mask is not None
    assert scan.mask.shape == (3, 13, 11)
    np.testing.assert_array_equal(scan.mask[1], ~scan.mask[0])


def test_oversampling_that_was_taken_off_before(tmp_path: Path) -> None:
    full = volume((1, 2, 1, 7, 11))
    scan = read_scan(write_mrd(tmp_path / "a.h5", cartesian(full), mrd_header((14, 11, 1), (7, 11, 1))))
    np.testing.assert_array_equal(scan.kspace, full[:, :, 0])
    assert scan.geometry.encoded_field_of_view == pytest.approx((0.14, 0.22, 0.005))
    assert said(scan, "taken off before")


def test_zeros_stored_as_readouts_were_not_measured(tmp_path: Path) -> None:
    full = volume()
    full[:2, :, :, :, 1::2] = 0
    full[2] = 0
    scan = read_scan(write_mrd(tmp_path / "a.h5", cartesian(full)))
    assert scan.mask is not None
    assert scan.mask[0].any(axis=0).tolist() == [True, False] * 5 + [True]
    assert scan.mask[2].all()
    assert said(scan, "10 readouts hold only zeros")
    assert said(scan, "Slice 2 holds only zeros")


# --- which readouts


def test_averages_are_averaged(tmp_path: Path) -> None:
    full, other = volume(), volume(seed=1)
    scan = read_scan(write_mrd(tmp_path / "a.h5", [*cartesian(full), *cartesian(other, average=1)]))
    np.testing.assert_allclose(scan.kspace, (full + other)[:, :, 0] / 2, rtol=1e-6)


def test_lines_measured_twice_under_one_number_are_told(tmp_path: Path) -> None:
    full = volume()
    scan = read_scan(write_mrd(tmp_path / "a.h5", [*cartesian(full), *cartesian(full * 3)[4:5]]))
    expected = full[:, :, 0].copy()
    expected[0, ..., 4] *= 2
    np.testing.assert_allclose(scan.kspace, expected, rtol=1e-6)
    assert said(scan, "measured up to 2 times under the same counters")


def test_what_is_no_picture_is_skipped(tmp_path: Path) -> None:
    full = volume()
    odd = [readout(random_kspace((2, 13)) * 1e6, [flag]) for flag in (NAVIGATION, 24, 27, 27, 29)]
    odd.append(readout(random_kspace((5, 30)), [NAVIGATION]))
    scan = read_scan(write_mrd(tmp_path / "a.h5", [*odd, *cartesian(full)]))
    np.testing.assert_array_equal(scan.kspace, full[:, :, 0])
    expected = "2 navigation, 1 phase correction, 2 dummy, 1 surface coil correction"
    assert scan.source.notes["skipped_readouts"] == expected


@pytest.mark.parametrize("name", ["repetition", "contrast", "phase", "set"])
def test_one_of_several_is_chosen_and_the_others_are_named(tmp_path: Path, name: str) -> None:
    turns = [volume(seed=seed) for seed in range(3)]
    lines = [one for turn, full in enumerate(turns) for one in cartesian(full, **{name: turn + 4})]
    path = write_mrd(tmp_path / "a.h5", lines)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.kspace, turns[0][:, :, 0])
    assert said(scan, f"3 {name}s: {name} 4 is used, 5, 6 left out (choose with `--layout {name}=5`)")
    chosen = read_scan(path, layout=f" {name} = 6 ")
    np.testing.assert_array_equal(chosen.kspace, turns[2][:, :, 0])
    assert not said(chosen, "left out")
    with pytest.raises(InputError, match=f"has no {name} 3; it has 4 to 6") as caught:
        read_scan(path, layout=f"{name}=3")
    advice(caught.value)


def test_calibration_measured_once_serves_every_repetition(tmp_path: Path) -> None:
    full = volume((1, 2, 1, 13, 11))
    lines = [readout(full[0, :, 0, :, 5], [CALIBRATION], kspace_encode_step_1=5)]
    imaged = [one for turn in (0, 1) for one in cartesian(full, repetition=turn)]
    lines += [one for one in imaged if one["head"]["idx"]["kspace_encode_step_1"] % 2 == 0]
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines), layout="repetition=1")
    np.testing.assert_array_equal(scan.kspace[..., 5], full[:, :, 0, :, 5])


def test_a_further_encoding_is_left_out(tmp_path: Path) -> None:
    full = volume()
    extra = [readout(random_kspace((2, 40)), encoding_space_ref=1, kspace_encode_step_1=300)]
    scan = read_scan(write_mrd(tmp_path / "a.h5", [*extra, *cartesian(full)]))
    np.testing.assert_array_equal(scan.kspace, full[:, :, 0])
    assert said(scan, "1 readouts belong to a further encoding")


def test_slabs(tmp_path: Path) -> None:
    full = volume((2, 2, 5, 13, 11))
    header = mrd_header((13, 11, 5), (13, 11, 5), limits={"kspace_encoding_step_1": (5, 10)})
    path = write_mrd(tmp_path / "a.h5", cartesian(full), header)
    np.testing.assert_array_equal(read_scan(path, layout="slab=1").kspace, full[1:])
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.kspace, full[:1])
    assert said(scan, "slab 0 is used, 1 left out")


def test_several_groups(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "a.h5", group="dataset")
    other = volume(seed=1)
    write_mrd(path, cartesian(other), group="dataset_2")
    for function in (read_scan, describe):
        with pytest.raises(InputError, match=r"2 groups \(dataset, dataset_2\)") as caught:
            function(path)
        advice(caught.value)
    np.testing.assert_array_equal(read_scan(path, layout="group=dataset_2").kspace, other[:, :, 0])
    with pytest.raises(InputError, match="none is named third"):
        read_scan(path, layout="group=third")


@pytest.mark.parametrize("layout", ["coil,ky,kx", "", "repetition", "repetition=", "repetition=-1", "colour=1"])
def test_wrong_choices(tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError) as caught:
        read_scan(write_mrd(tmp_path / "a.h5"), layout=layout)
    assert type(caught.value) is InputError
    advice(caught.value)


# --- noise


def _noise(n_samples: int, mixing: np.ndarray, seed: int = 5) -> np.ndarray:
    return mixing @ random_kspace((mixing.shape[1], n_samples), seed)


def test_noise_covariance(tmp_path: Path) -> None:
    mixing = np.array([[1.0, 0.0], [0.5j, 2.0]])
    noise = [readout(_noise(20_000, mixing, seed), [NOISE], sample_time_us=8.0) for seed in (1, 2)]
    extra = (
        "<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0.8</relativeReceiverNoiseBandwidth>"
        "</acquisitionSystemInformation>"
    )
    full = volume()
    lines = [*cartesian(full), *cartesian(full, average=1)]
    scan = read_scan(write_mrd(tmp_path / "a.h5", [*noise, *lines], mrd_header(extra=extra)))
    assert scan.noise_cov is not None
    assert scan.noise_cov.dtype == np.complex64
    expected = 2 * mixing @ mixing.conj().T * 8.0 / (5.0 * 0.8) / 2  # two averages
    np.testing.assert_allclose(scan.noise_cov, expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_array_equal(scan.kspace, full[:, :, 0])


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (random_kspace((3, 100)), "other coils"),
        (random_kspace((2, 7)), "too few"),
        (random_kspace((1, 100)).repeat(2, axis=0), "not independent"),
        (np.zeros((2, 100), np.complex64), "not independent"),
        (np.full((2, 100), np.nan, np.complex64), "NaN"),
    ],
)
def test_noise_that_cannot_be_used(tmp_path: Path, noise: np.ndarray, words: str) -> None:
    scan = read_scan(write_mrd(tmp_path / "a.h5", [readout(noise, [NOISE]), *cartesian(volume())]))
    assert scan.noise_cov is None
    assert said(scan, words)


def test_noise_without_sample_times(tmp_path: Path) -> None:
    noise = readout(_noise(1000, np.eye(2)), [NOISE], sample_time_us=0.0)
    scan = read_scan(write_mrd(tmp_path / "a.h5", [noise, *cartesian(volume())]))
    np.testing.assert_allclose(np.diagonal(scan.noise_cov), 2, rtol=0.2)  # type: ignore[arg-type]
    assert said(scan, "Sample times")


# --- geometry


def _tilted() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    axes = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0].T
    return axes, {"read_dir": axes[0], "phase_dir": axes[1], "slice_dir": axes[2]}


def _affine(scan: Scan) -> np.ndarray:
    n_slices = scan.geometry.n_partitions if scan.ndim == 3 else scan.n_slices
    pixels = np.zeros((n_slices, *scan.geometry.recon_shape), np.float32)
    made = Provenance("test", "0", "cpu", "none")
    affine = ras_affine(Image(pixels, scan.geometry, Diagnostics((), (), (), ()), made))
    assert affine is not None
    return affine


def test_slices_lie_where_the_readouts_say(tmp_path: Path) -> None:
    axes, directions = _tilted()
    centres = np.array([10.0, -20.0, 30.0]) + np.array([-6.0, 6.0, 0.0])[:, None] * axes[2]  # interleaved
    full = volume()
    lines = [
        one for index in range(3) for one in cartesian(full[index : index + 1], **directions, position=centres[index])
    ]
    for index, one in enumerate(lines):
        one["head"]["idx"]["slice"] = index // 11
    path = write_mrd(tmp_path / "a.h5", lines)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.kspace, full[[0, 2, 1], :, 0])  # sorted along the slice direction
    np.testing.assert_allclose(scan.geometry.orientation, axes, atol=1e-6)
    np.testing.assert_allclose(scan.geometry.position, centres[[0, 2, 1]] / 1000, atol=1e-7)
    affine = _affine(scan)
    np.testing.assert_allclose(affine @ [9 // 2, 7 // 2, 1, 1], [-1, -1, 1, 1] * np.append(centres[2], 1), atol=1e-4)
    step = np.array([-1, -1, 1]) * axes[0] * 140 / 7
    np.testing.assert_allclose(affine[:3, 1], step, atol=1e-4)
    one = read_scan(path, slice(1, 2))
    np.testing.assert_array_equal(one.kspace[0], full[2, :, 0])
    np.testing.assert_allclose(one.geometry.position, centres[[2]] / 1000, atol=1e-7)
    assert describe(path)["orientation"].startswith("oblique")


def test_partitions_lie_around_the_centre_of_the_slab(tmp_path: Path) -> None:
    axes, directions = _tilted()
    header = mrd_header((13, 11, 6), (13, 11, 4), (260.0, 220.0, 12.0), (260.0, 220.0, 8.0))
    lines = cartesian(volume((1, 2, 6, 13, 11)), **directions, position=(5, 6, 7))
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, header))
    assert scan.geometry.n_partitions == 4
    np.testing.assert_allclose(_affine(scan) @ [11 // 2, 13 // 2, 2, 1], [-5, -6, 7, 1], atol=1e-4)
    np.testing.assert_allclose(np.diff(scan.geometry.position, axis=0)[0], 0.002 * axes[2], atol=1e-7)  # type: ignore[arg-type]


def test_slices_without_places(tmp_path: Path) -> None:
    _, directions = _tilted()
    lines = cartesian(volume(), **directions)
    scan = read_scan(write_mrd(tmp_path / "zero.h5"))
    assert scan.geometry.orientation is None
    assert scan.geometry.position is None
    assert said(scan, "geometry is nominal")
    lines[3]["head"]["position"] = (0, 0, 1)
    scan = read_scan(write_mrd(tmp_path / "moved.h5", lines))
    assert scan.geometry.orientation is not None
    assert scan.geometry.position is None
    assert said(scan, "Positions change within a slice")
    lines[20]["head"]["read_dir"] *= -1
    scan = read_scan(write_mrd(tmp_path / "turned.h5", lines))
    assert scan.geometry.orientation is None
    assert said(scan, "at angles")


def test_picture_in_the_resolution_measured(tmp_path: Path) -> None:
    # half the phase resolution: 11 lines for 22 pixels asked for
    header = mrd_header((13, 11, 1), (7, 22, 1), (260.0, 220.0, 5.0), (140.0, 220.0, 5.0))
    scan = read_scan(write_mrd(tmp_path / "a.h5", header=header))
    assert scan.geometry.recon_shape == (7, 11)
    assert scan.geometry.field_of_view == pytest.approx((0.14, 0.22, 0.005))
    assert said(scan, "asks for 7 x 22 pixels; the picture has 7 x 11")


def test_sloppy_headers(tmp_path: Path) -> None:
    header = mrd_header((13, 11, 4), None, None, None, {"slice": (0, 6)}, extra="<x/>")
    lines = cartesian(volume(), center_sample=0)
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, header))
    np.testing.assert_array_equal(scan.kspace, volume()[:, :, 0])
    assert scan.geometry.recon_shape == (13, 11)
    for words in ("4 partitions", "7 slices; 3 were", "which phase encoding step", "middle is taken", "usable field"):
        assert said(scan, words)


# --- trajectories


def _spokes(n: tuple[int, int] = (13, 11), n_spokes: int = 8, n_samples: int = 15) -> np.ndarray:
    """Radial trajectory (spoke, sample, 2) in ISMRMRD's order (x, y), cycles per field of view."""
    angles = np.arange(n_spokes) * 2.4
    radius = np.linspace(-0.5, 0.5, n_samples)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return (radius[:, None] * directions[:, None] * np.array(n)).astype(np.float32)


def _radial(traj: np.ndarray, n_slices: int = 2, **fields: object) -> tuple[np.ndarray, list[np.void]]:
    samples = random_kspace((n_slices, len(traj), 3, traj.shape[1]))
    lines = [
        readout(samples[index, spoke], traj=traj[spoke], slice=index, kspace_encode_step_1=spoke, **fields)
        for index in range(n_slices)
        for spoke in range(len(traj))
    ]
    return samples.transpose(0, 2, 1, 3).reshape(n_slices, 3, -1), lines


@pytest.mark.parametrize(
    ("factor", "unit", "warned"),
    [
        ((1, 1), None, False),
        ((1 / 43, 1 / 31), None, False),
        ((2 * np.pi / 43, 2 * np.pi / 31), None, True),
        ((1 / 0.26, 1 / 0.22), None, True),
        ((1, 1), "cycles/fov", False),
        ((1 / 43, 1 / 31), "cycles/pixel", False),
        ((2 * np.pi / 0.26, 2 * np.pi / 0.22), "rad/m", False),
    ],
)
def test_trajectories_in_any_unit(tmp_path: Path, factor: tuple[float, float], unit: str | None, warned: bool) -> None:
    spokes = _spokes((43, 31))
    samples, lines = _radial((spokes * np.array(factor)).astype(np.float32))
    path = write_mrd(tmp_path / "a.h5", lines, mrd_header((43, 31, 1), None, recon_fov=None, trajectory="radial"))
    scan = read_scan(path, layout=None if unit is None else f"unit={unit}")
    np.testing.assert_array_equal(scan.kspace, samples)
    assert scan.mask is None
    assert scan.trajectory is not None
    np.testing.assert_allclose(scan.trajectory, spokes.reshape(-1, 2), atol=1e-5)  # x is the readout, our first axis
    assert (scan.is_cartesian, scan.ndim, scan.n_slices, scan.matrix) == (False, 2, 2, (43, 31))
    assert scan.geometry.encoded_shape == (43, 31)
    assert scan.geometry.recon_shape == (43, 31)
    assert said(scan, "its unit is taken to be") is warned
    found = describe(path)
    assert found["sampling"] == "radial"
    assert found["effective_acceleration"] is None
    part = read_scan(path, slice(1, 2), None if unit is None else f"unit={unit}")
    np.testing.assert_array_equal(part.kspace[0], samples[1])


@pytest.mark.parametrize("factor", [0.1, 100.0])
def test_a_trajectory_of_unknown_unit_is_refused(tmp_path: Path, factor: float) -> None:
    _, lines = _radial(_spokes() * np.float32(factor))
    path = write_mrd(tmp_path / "a.h5", lines, mrd_header((13, 11, 1), trajectory="spiral", encoded_fov=None))
    with pytest.raises(UnsupportedScan, match="its unit cannot be told") as caught:
        read_scan(path)
    advice(caught.value)
    with pytest.raises(InputError, match="not known for this file"):
        read_scan(path, layout="unit=1/m")


def test_a_trajectory_for_each_slice(tmp_path: Path) -> None:
    spokes = _spokes()
    first, lines = _radial(spokes, 1)
    second, more = _radial(spokes[:, :, ::-1] * np.array([13 / 11, 11 / 13], np.float32), 1, average=1)
    for one in more:
        one["head"]["idx"]["slice"] = 1
    scan = read_scan(write_mrd(tmp_path / "a.h5", [*lines, *more], mrd_header(trajectory="other")))
    np.testing.assert_array_equal(scan.kspace, np.concatenate([first, second]))
    assert scan.trajectory is not None
    assert scan.trajectory.shape == (2, 8 * 15, 2)
    path = write_mrd(tmp_path / "b.h5", [*lines, *more[1:]], mrd_header(trajectory="other"))
    with pytest.raises(UnsupportedScan, match="from 105 to 120 samples") as caught:
        read_scan(path)
    advice(caught.value)


def test_discarded_and_far_samples_are_left_out(tmp_path: Path) -> None:
    spokes = _spokes()
    spokes[0, 4] *= 1.04 * 7 / 3  # from 3/7 of the half to just beyond it
    samples, lines = _radial(spokes, 1, discard_pre=2, discard_post=1)
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, mrd_header(trajectory="radial")))
    kept = np.ones((8, 15), bool)
    kept[:, :2] = kept[:, 14:] = kept[0, 4] = False
    np.testing.assert_array_equal(scan.kspace, samples[:, :, kept.ravel()])
    assert said(scan, "1.0% of the samples lie beyond")


def test_three_dimensional_trajectories(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    traj = (rng.uniform(-0.5, 0.5, (6, 9, 3)) * (13, 11, 5)).astype(np.float32)
    traj[0, 0, 0] = 6.5
    samples, lines = _radial(traj, 1)
    header = mrd_header((13, 11, 5), (13, 11, 5), trajectory="other")
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, header))
    np.testing.assert_array_equal(scan.kspace, samples)
    np.testing.assert_allclose(scan.trajectory, traj.reshape(-1, 3)[:, [2, 0, 1]], atol=1e-5)  # (z, y, x)
    assert (scan.ndim, scan.geometry.encoded_shape, scan.geometry.n_partitions) == (3, (5, 13, 11), 5)
    assert describe(tmp_path / "a.h5")["matrix"] == [5, 13, 11]


def test_stack_of_stars(tmp_path: Path) -> None:
    spokes = _spokes()
    lines = [
        readout(random_kspace((3, 15)), traj=spoke, kspace_encode_step_2=step) for step in range(5) for spoke in spokes
    ]
    limits = {"kspace_encoding_step_2": (2, 4)}
    header = mrd_header((13, 11, 5), (13, 11, 5), limits=limits, trajectory="goldenangle")
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, header))
    assert scan.trajectory is not None
    np.testing.assert_array_equal(scan.trajectory[:, 0], np.repeat(np.arange(5) - 2, 8 * 15))
    np.testing.assert_allclose(scan.trajectory[:120, 1:], spokes.reshape(-1, 2), atol=1e-5)


def test_slices_of_three_dimensional_coordinates_stay_flat(tmp_path: Path) -> None:
    spokes = _spokes()
    deep = np.concatenate([spokes, np.full((8, 15, 1), 1e-6, np.float32)], axis=2)
    samples, lines = _radial(deep)
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines, mrd_header(trajectory="radial")))
    np.testing.assert_array_equal(scan.kspace, samples)
    assert scan.trajectory is not None
    assert scan.trajectory.shape == (120, 2)
    deep[..., 2] = 1
    path = write_mrd(tmp_path / "b.h5", _radial(deep)[1], mrd_header(trajectory="radial"))
    with pytest.raises(UnsupportedScan, match="one partition") as caught:
        read_scan(path)
    advice(caught.value)


def test_a_cartesian_scan_may_carry_its_trajectory(tmp_path: Path) -> None:
    lines = cartesian(volume())
    for one in lines:
        one["head"]["trajectory_dimensions"] = 2
        one["traj"] = np.zeros(26, np.float32)
    scan = read_scan(write_mrd(tmp_path / "a.h5", lines))
    np.testing.assert_array_equal(scan.kspace, volume()[:, :, 0])


# --- describe


def test_describe_has_the_keys_of_every_format_and_no_name(tmp_path: Path) -> None:
    person = "<subjectInformation><patientName>Ada Canary</patientName><patientID>X77</patientID></subjectInformation>"
    path = write_mrd(tmp_path / "a.h5", header=mrd_header(extra=person))
    found = describe(path)
    assert set(found) == set(describe(write_fastmri(tmp_path / "b.h5")))
    text = json.dumps(found)
    assert "Canary" not in text
    assert "X77" not in text
    scan = read_scan(path)
    assert scan.patient is not None
    assert scan.patient.name == "Ada Canary"
    assert "Canary" not in repr(scan)
    assert found["format"] == "ismrmrd"
    assert (found["n_slices"], found["n_coils"], found["matrix"], found["recon_shape"]) == (3, 2, [13, 11], [7, 9])
    assert found["readout_oversampling"] == pytest.approx(13 / 7, abs=1e-4)
    assert found["sampling"] == "fully sampled"
    assert found["warnings"] == list(scan.source.warnings)
    with h5py.File(path) as file:
        assert "dataset" in file


# --- files that other programs wrote


@pytest.mark.parametrize("options", [[], ["-a", "3", "-w", "12"], ["-k", "-C", "-n", "0.1", "-r", "2"]])
def test_the_phantom_of_the_reference_tools(tmp_path: Path, options: list[str]) -> None:
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    if tool is None:
        pytest.skip("needs ismrmrd_generate_cartesian_shepp_logan (Debian: ismrmrd-tools)")
    path = tmp_path / "phantom.h5"
    command = [tool, "-o", str(path), "-c", "4", "-m", "48", "-O", "2", *options]
    subprocess.run(command, check=True, capture_output=True)
    scan = read_scan(path)
    with h5py.File(path) as file:
        coils = file["dataset/coil_images"][0]
    images = (coils["real"] + 1j * coils["imag"]).transpose(0, 2, 1)  # they come as (coil, phase, readout)
    shifted = np.fft.fftn(np.fft.ifftshift(images, axes=(1, 2)), axes=(1, 2), norm="ortho")
    truth = np.fft.fftshift(shifted, axes=(1, 2)).astype(np.complex64)
    assert scan.kspace.shape == (1, 4, 96, 48)
    assert scan.mask is not None
    assert scan.geometry.recon_shape == (48, 48)
    error = (scan.kspace[0] - truth)[:, scan.mask]
    level = 0.1 if "-n" in options else 0.05
    assert np.mean(np.abs(error) ** 2) == pytest.approx(2 * level**2, rel=0.1)  # nothing but the noise it adds
    lines = scan.mask.any(axis=0)
    assert scan.mask.all(axis=0).sum() == lines.sum()
    if "-a" in options:
        assert 16 <= lines.sum() < 28
        assert lines[18:30].all()
    else:
        assert lines.all()
    if "-C" in options:
        assert scan.noise_cov is not None
        np.testing.assert_allclose(scan.noise_cov, 2 * level**2 * np.eye(4), atol=0.5 * level**2)
        assert said(scan, "2 repetitions")


# --- what is refused


def _wrong(number: int, **fields: object) -> list[np.void]:
    lines = cartesian(volume())
    for name, value in fields.items():
        place = lines[number]["head"]
        (place["idx"] if name in place["idx"].dtype.names else place)[name] = value
    return lines


def _bent() -> np.void:
    return readout(random_kspace((3, 15)), traj=_spokes()[0], trajectory_dimensions=3)


@pytest.mark.parametrize(
    ("lines", "header", "kind", "words"),
    [
        (_wrong(3, number_of_samples=20), None, CorruptScan, "readout 3 should hold 20 samples of 2 coils"),
        (_wrong(4, active_channels=3), None, CorruptScan, "readout 4 should hold 13 samples of 3 coils"),
        (_wrong(0, kspace_encode_step_1=11), None, CorruptScan, "phase encoding step 11 lies outside"),
        (_wrong(0, kspace_encode_step_2=1), None, CorruptScan, "partition encoding step 1 lies outside"),
        (_wrong(0, center_sample=9), None, CorruptScan, "a readout of 13 samples around its sample 9"),
        (_wrong(7, discard_pre=9, discard_post=5), None, CorruptScan, "readout 7 discards more"),
        (_wrong(7, discard_pre=9, discard_post=4), None, CorruptScan, "a readout of 0 samples"),
        (_radial(_spokes())[1] + [_bent()], None, CorruptScan, "stores 30 numbers of a 3-dimensional trajectory"),
        ([*cartesian(volume()), readout(random_kspace((3, 13)))], None, UnsupportedScan, "2 or 3 coils"),
        ([readout(random_kspace((2, 13)), [NOISE])], None, UnsupportedScan, "no imaging readout"),
        (cartesian(volume((1, 300, 1, 13, 2))), None, UnsupportedScan, "300 coils"),
        (cartesian(volume() * np.nan), None, CorruptScan, "NaN"),
        (cartesian(volume() * 0), None, CorruptScan, "only zeros"),
        ([], None, CorruptScan, "no readout"),
        (None, "<ismrmrdHeader/>", CorruptScan, "no size of the encoded matrix"),
        (None, "", CorruptScan, "not XML"),
        (None, "<!DOCTYPE r [<!ENTITY a 'x'>]><r>&a;</r>", CorruptScan, "document type"),
        (None, mrd_header((65535, 65535, 1)), UnsupportedScan, "k-space grid declares"),
        (None, mrd_header((13, 10**12, 1)), CorruptScan, "no usable number"),
        (None, mrd_header(trajectory="radial"), UnsupportedScan, "not all readouts carry"),
        (None, mrd_header((10, 11, 1)), CorruptScan, "does not fit the encoded matrix of 10"),
    ],
)
def test_refused(tmp_path: Path, lines: list | None, header: str | None, kind: type[Exception], words: str) -> None:
    path = write_mrd(tmp_path / "a.h5", lines, header)
    with pytest.raises(kind, match=words) as caught:
        read_scan(path)
    assert type(caught.value) is kind
    advice(caught.value)


def _first_place(path: Path) -> int:
    """Where the place of the first readout's samples lies in the file: behind its header and the trajectory's place."""
    with h5py.File(path) as file:
        found = file["dataset/data"]
        low = found.id.get_type()
        return int(found.id.get_chunk_info(0).byte_offset + low.get_member_offset(low.get_member_index(b"data")))


@pytest.mark.parametrize(
    ("offset", "content", "words"),
    [
        (0, 2**31, "should hold 13 samples"),  # the length
        (4, 2**40, "cut short"),  # the address of the heap
        (4, 3, "no store of values"),
        (12, 77, "claimed where 0 are stored"),  # the number of the object
    ],
)
def test_lying_places(tmp_path: Path, offset: int, content: int, words: str) -> None:
    path = write_mrd(tmp_path / "a.h5")
    place = _first_place(path)
    raw = bytearray(path.read_bytes())
    size = 8 if offset == 4 else 4
    raw[place + offset : place + offset + size] = content.to_bytes(size, "little")
    path.write_bytes(raw)
    with pytest.raises(CorruptScan, match=words) as caught:
        read_scan(path)
    advice(caught.value)


def test_readouts_that_claim_the_same_bytes_many_times(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "a.h5", [readout(random_kspace((2, 60_000)), center_sample=3)] * 2, chunk=None)
    with h5py.File(path, "a") as file:
        file["dataset/data"].id.get_offset()
        start = file["dataset/data"].id.get_offset()
        size = file["dataset/data"].id.get_type().get_size()
        del file["dataset/data"]
    raw = path.read_bytes()
    record = raw[start : start + size]
    with h5py.File(path, "a") as file:
        records = np.frombuffer(record * 40, np.dtype((np.void, size)))
        file["elsewhere"] = records
        place = file["elsewhere"].id.get_offset()
        file["dataset"].create_dataset("data", (40,), RECORD)[39] = readout(random_kspace((2, 60_000)))
        target = file["dataset/data"].id.get_offset()
    changed = bytearray(path.read_bytes())
    changed[target : target + 40 * size] = changed[place : place + 40 * size]
    path.write_bytes(changed)
    with pytest.raises(CorruptScan, match="readouts claim") as caught:
        read_scan(path)
    advice(caught.value)


def test_overlapping_heaps(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "a.h5")
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    raw[heap + 8 : heap + 16] = (len(raw) - heap + 1).to_bytes(8, "little")
    path.write_bytes(raw)
    with pytest.raises(CorruptScan, match="no store of values") as caught:
        read_scan(path)
    advice(caught.value)


def test_half_written_and_packed(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["dataset/data"].resize((40,))
    with pytest.raises(CorruptScan, match="33 of 40 readouts") as caught:
        read_scan(path)
    advice(caught.value)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["dataset/xml"] = mrd_header()
        file["dataset"].create_dataset("data", (3,), RECORD, chunks=(3,), compression="gzip")
    with pytest.raises(UnsupportedScan, match="stored packed") as caught:
        read_scan(tmp_path / "b.h5")
    advice(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("flags", "<i8"), ("position", "<f4"), ("idx", "<u2"), ("sample_time_us", "<u4"), ("missing", "")],
)
def test_strange_records(tmp_path: Path, name: str, kind: str) -> None:
    fields = {field: RECORD["head"].fields[field][0] for field in RECORD["head"].names}
    fields = {field: np.dtype(kind) if field == name else old for field, old in fields.items()}
    if name == "missing":
        del fields["read_dir"]
    records = np.zeros(2, [("head", list(fields.items())), ("traj", RECORD["traj"]), ("data", RECORD["data"])])
    for one in records:
        one["traj"] = one["data"] = np.zeros(0, np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dataset/xml"] = mrd_header()
        file["dataset/data"] = records
    with pytest.raises(UnsupportedScan, match="no usual") as caught:
        read_scan(tmp_path / "a.h5")
    advice(caught.value)


def test_fixed_length_header_and_neighbours_are_no_obstacle(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "a.h5")
    waveform = np.dtype([("head", [("version", "<u2")]), ("data", h5py.vlen_dtype(np.uint32))])
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = np.bytes_(mrd_header())
        file["dataset"].create_dataset("waveforms", (2,), waveform, maxshape=(None,), chunks=True)
        file.create_dataset("dataset/image_0/attributes", (1,), h5py.string_dtype())
    np.testing.assert_array_equal(read_scan(path).kspace, volume()[:, :, 0])
