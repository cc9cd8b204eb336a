"""Calibration, and one contract for every reconstructor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.methods import CARTESIAN
from support.simulation import exchanged

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, DeviceError, InputError
from mri_unroll.image import Evidence
from mri_unroll.metrics import nmse
from mri_unroll.nets import ModelConfig, build
from mri_unroll.nets.model import save
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.readout import is_turned
from mri_unroll.physics.sampling import make_mask
from mri_unroll.recon.calibrate import (
    MAX_COILS,
    Problem,
    calibrate_slice,
    corner_noise_power,
    estimate_noise,
    strength_features,
)
from mri_unroll.recon.learned import REVERSALS, as_fully_sampled, fitting_precision
from mri_unroll.recon.methods import NETWORKS
from mri_unroll.recon.parts import take_apart
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.recon.slicewise import EMPTY, SlicewiseReconstructor
from mri_unroll.scan import Geometry, Scan, Source
from mri_unroll.solvers.solution import Solution


def make_scan(
    shape: tuple[int, int] = (60, 55),
    n_coils: int = 4,
    n_slices: int = 1,
    recon_shape: tuple[int, int] | None = None,
    noise: float = 0.0,
    unit: float = 1.0,
) -> Scan:
    """A fully sampled phantom scan with its own root sum of squares as reference."""
    recon_shape = recon_shape or shape
    kspace = phantom_kspace(shape, n_coils, n_slices=n_slices, noise=noise) * np.float32(unit)
    scan = Scan(
        kspace=kspace,
        mask=np.ones(shape, dtype=bool),
        geometry=Geometry(recon_shape=recon_shape),
        source=Source(format="test", digest="sha256:0", n_slices=n_slices, slices=(0, n_slices)),
    )
    return dataclasses.replace(scan, reference=make_reconstructor("zero-filled").reconstruct(scan).pixels)


@pytest.fixture(params=[*CARTESIAN, "checkpoint", "equilibrium checkpoint"])
def method(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every method by name, and fresh networks by path."""
    if "checkpoint" not in request.param:
        return str(request.param)
    torch.manual_seed(0)
    kind = "equilibrium" if "equilibrium" in request.param else "unrolled"
    config = ModelConfig(kind=kind, n_steps=1, n_cg=2, n_start_cg=4, widths=(4, 6))
    save(build(config), config, {}, tmp_path / "net.safetensors")
    return str(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("shape", "n_coils", "recon_shape"), [((60, 55), 4, (60, 55)), ((64, 41), 1, (33, 40)), ((48, 48), 14, (48, 40))]
)
def test_every_method_keeps_the_contract(
    method: str, shape: tuple[int, int], n_coils: int, recon_shape: tuple[int, int]
) -> None:
    full = make_scan(shape, n_coils, n_slices=2, recon_shape=recon_shape, noise=0.003)
    scan = undersample(full, "equispaced_fraction", 2.0, 0.2, seed=1)
    seen: list[tuple[int, int]] = []
    reconstructor = make_reconstructor(method, ReconstructionConfig(device="cpu"))
    image = reconstructor.reconstruct(scan, progress=lambda done, total: seen.append((done, total)))
    assert image.pixels.shape == (2, *recon_shape)
    assert image.pixels.dtype == np.float32
    assert np.isfinite(image.pixels).all()
    assert (image.pixels >= 0).all()
    assert seen == [(1, 2), (2, 2)]
    assert len(image.diagnostics.data_residual) == len(image.provenance.scale) == 2
    assert 0 <= max(image.diagnostics.data_residual) < 0.5
    assert full.reference is not None
    assert nmse(full.reference, image.pixels) < 0.3  # the scan's units are kept
    again = make_reconstructor(method, ReconstructionConfig(device="cpu")).reconstruct(scan)
    np.testing.assert_array_equal(image.pixels, again.pixels)
    assert (image.provenance.weights_digest is not None) == (method in NETWORKS or "/" in method)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_units_change_nothing(method: str, unit: float) -> None:
    pictures = []
    for factor in (1.0, unit):
        scan = undersample(make_scan((48, 48), noise=0.003, unit=factor), "random", 2.0, 0.2, seed=1)
        pictures.append(make_reconstructor(method).reconstruct(scan).pixels / np.float32(factor))
    assert np.abs(pictures[1] - pictures[0]).max() < 1e-4 * pictures[0].max()


def test_dead_coil_and_empty_slice(method: str) -> None:
    scan = make_scan((48, 44), n_coils=4, n_slices=2, noise=0.003)
    kspace = scan.kspace.copy()
    kspace[0, 2] = 0
    kspace[1] = 0
    image = make_reconstructor(method).reconstruct(dataclasses.replace(scan, kspace=kspace))
    assert np.isfinite(image.pixels).all()
    assert image.pixels[0].max() > 0
    assert image.pixels[1].max() == 0
    assert image.diagnostics.status[1] == EMPTY
    assert np.isnan(image.diagnostics.data_residual[1])


def test_poisson_mask_and_no_calibration_lines(method: str) -> None:
    scan = make_scan((48, 44), noise=0.003)
    points = make_mask("poisson", (48, 44), 2.0, seed=0)
    gaps = np.broadcast_to(np.arange(44) % 2 == 1, (48, 44))  # the central line itself was not measured
    for mask, warned in ((points, False), (gaps, method != "zero-filled")):
        image = make_reconstructor(method).reconstruct(dataclasses.replace(scan, mask=mask))
        assert np.isfinite(image.pixels).all()
        assert bool(image.diagnostics.warnings) == warned


def test_partial_fourier_along_both_axes(method: str) -> None:
    """Nothing asks of a mask to be symmetric."""
    full = make_scan((48, 45), noise=0.002)
    assert full.reference is not None
    for rows, columns in ((0, 14), (13, 0), (9, 8)):
        mask = np.zeros((48, 45), bool)
        mask[rows:, columns:] = True
        image = make_reconstructor(method).reconstruct(dataclasses.replace(full, mask=mask))
        assert image.diagnostics.warnings == ()
        assert nmse(full.reference, image.pixels) < 0.1


def test_files_with_readouts_along_the_last_axis_give_the_same_picture(method: str) -> None:
    scan = undersample(make_scan(recon_shape=(50, 55), noise=0.01), "equispaced_fraction", 3.0, 0.1, seed=1)
    turned = exchanged(scan)
    found, expected = (make_reconstructor(method).reconstruct(s) for s in (turned, scan))
    np.testing.assert_array_equal(found.pixels, expected.pixels.swapaxes(-2, -1))
    assert found.diagnostics.data_residual == expected.diagnostics.data_residual
    assert [take_apart(s).take(0).turned for s in (turned, scan)] == [True, False]


def test_what_is_turned() -> None:
    lines = np.broadcast_to(np.arange(12) % 3 == 0, (10, 12)).copy()
    full, half, point = np.ones((10, 12), bool), lines.copy(), lines.copy()
    half[:4] = False  # a readout from one side
    point[0, 1] = True
    partial = full.copy()
    partial[:, :3] = False  # partial Fourier
    box = partial.copy()
    box[:2] = False
    for mask in (lines, half, partial):
        assert (is_turned(mask), is_turned(mask.T)) == (False, True)
    for mask in (full, box, point, ~full, make_mask("poisson", (24, 32), 3.0, 0.1, seed=0)):
        assert (is_turned(mask), is_turned(mask.T)) == (False, False)


def test_the_error_map_is_turned_back() -> None:
    scan = undersample(make_scan(), "equispaced_fraction", 3.0, 0.1, seed=1)
    turned = exchanged(scan)
    plain = make_reconstructor("cg-sense")
    assert isinstance(plain, SlicewiseReconstructor)
    judged = dataclasses.replace(plain, witness=lambda problem, found, op: (Evidence({}, 1.0), found.value[0].real))
    found, expected = (judged.reconstruct(s).predicted_error for s in (turned, scan))
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found, expected.swapaxes(-2, -1))


def test_zero_filled_of_full_data_is_the_root_sum_of_squares_also_when_cropped() -> None:
    full = make_scan((64, 50))
    cropped = make_scan((64, 50), recon_shape=(32, 50))
    assert full.reference is not None
    assert cropped.reference is not None
    np.testing.assert_allclose(cropped.reference, full.reference[:, 16:48], rtol=0, atol=2e-6 * full.reference.max())


@pytest.mark.parametrize("name", ["cg-sense", "l1-wavelet", "tv"])
def test_classical_methods_beat_zero_filled(name: str) -> None:
    full = make_scan((96, 90), n_coils=6, noise=0.002)
    assert full.reference is not None
    scan = undersample(full, "equispaced_fraction", 3.0, 0.12, seed=0)
    errors = [nmse(full.reference, make_reconstructor(m).reconstruct(scan).pixels) for m in ("zero-filled", name)]
    assert errors[1] < 0.5 * errors[0]


def test_shipped_network_beats_zero_filled_by_far() -> None:
    full = make_scan((120, 110), n_coils=6, noise=0.002)
    assert full.reference is not None
    scan = undersample(full, "equispaced_fraction", 4.0, 0.08, seed=0)
    errors = [nmse(full.reference, make_reconstructor(m).reconstruct(scan).pixels) for m in ("zero-filled", "unrolled")]
    assert errors[1] < 0.25 * errors[0]


def test_calibration_brings_tissue_near_one_and_compresses_coils() -> None:
    kspace = torch.from_numpy(phantom_kspace((48, 48), 20)[0]) * 1e5
    problem = calibrate_slice(kspace, torch.ones(48, 48, dtype=torch.bool))
    assert problem.kspace.shape == (1, MAX_COILS, 48, 48)
    picture = problem.op.adjoint(problem.kspace).abs()
    assert 0.5 < float(torch.quantile(picture, 0.99)) < 3
    assert problem.sampled_fraction == 1.0
    assert problem.warnings == ()


def test_noise_is_read_off_the_ends_of_the_readout() -> None:
    generator = torch.Generator().manual_seed(0)
    kspace = 0.02 * torch.randn(4, 256, 200, dtype=torch.complex64, generator=generator)
    kspace[:, 120:136] += 5  # signal in the centre only
    kspace[:, :10] = 0  # rows that were filled with zeros
    mask = torch.ones(256, 200, dtype=torch.bool)
    assert estimate_noise(kspace, mask) == pytest.approx(0.02, rel=0.03)
    assert estimate_noise(torch.zeros_like(kspace), mask) == 0.0


def test_strength_features_are_centred_and_bounded() -> None:
    torch.testing.assert_close(strength_features(0.01, 0.25), torch.zeros(1, 2))
    assert bool(torch.isfinite(strength_features(0.0, 0.0)).all())


def test_what_a_network_may_be_told() -> None:
    """Noise at the ends of the readout, sampling, the share of noise to keep, and noise in the corners."""
    mask = torch.ones(60, 55, dtype=torch.bool)
    problem = calibrate_slice(torch.from_numpy(phantom_kspace((60, 55), 4, noise=0.02)[0]), mask)
    assert 0 < problem.corner_noise < problem.noise_level  # of a phantom with sharp edges
    told = problem.conditions(4, noise_kept=0.25)
    torch.testing.assert_close(told[:, :2], problem.strength)
    assert told[0, 2] == 0.25
    torch.testing.assert_close(told[:, 3], strength_features(problem.corner_noise, 1.0)[:, 0])
    for n_strength in (2, 3):
        torch.testing.assert_close(problem.conditions(n_strength, 0.25), told[:, :n_strength])
    # Where the corners were not measured, the ends of the readout are all that is known.
    unknown = dataclasses.replace(problem, corner_noise=0.0).conditions(4)
    torch.testing.assert_close(unknown[:, 3], problem.strength[:, 0])
    assert unknown[0, 2] == 1.0


def test_undersampling_twice_is_refused() -> None:
    scan = undersample(make_scan((48, 44)), "random", 3.0, 0.1, seed=0)
    assert not scan.kspace[..., ~scan.mask].any()
    with pytest.raises(InputError, match="undersampled already"):
        undersample(scan, "random", 3.0, 0.1, seed=0)


def test_padding_columns_stay_unmeasured() -> None:
    full = make_scan((48, 44))
    mask = full.mask.copy()
    mask[:, :5] = False
    scan = undersample(dataclasses.replace(full, mask=mask), "random", 2.0, 0.1, seed=0)
    assert not scan.mask[:, :5].any()


def test_unknown_methods_and_absent_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'l1-wavelet'"):
        make_reconstructor("l1wavelet")
    with pytest.raises(ConfigError, match=r"existing \.safetensors"):
        make_reconstructor(str(tmp_path / "absent.safetensors"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="GPU"):
            make_reconstructor("tv", ReconstructionConfig(device="cuda"))


@pytest.mark.parametrize("n_strength", [3, 4])
def test_a_network_is_told_how_much_noise_to_remove(tmp_path: Path, n_strength: int) -> None:
    scan = undersample(make_scan(noise=0.02), "equispaced", 2, 0.1, seed=0)
    torch.manual_seed(0)
    told, untold = (ModelConfig(n_steps=1, n_cg=2, n_start_cg=4, widths=(4,), n_strength=n) for n in (n_strength, 2))
    network = build(told)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save(network, told, {}, tmp_path / "told.safetensors")
    kept, removed = (
        make_reconstructor(str(tmp_path / "told.safetensors"), ReconstructionConfig(denoise=share)).reconstruct(scan)
        for share in (0.0, 1.0)
    )
    assert not np.allclose(kept.pixels, removed.pixels, rtol=1e-3)
    assert removed.provenance.parameters["denoise"] == 1.0
    save(build(untold), untold, {}, tmp_path / "untold.safetensors")
    for name in (str(tmp_path / "untold.safetensors"), "l1-wavelet", "zero-filled"):
        with pytest.raises(ConfigError, match="noise"):
            make_reconstructor(name, ReconstructionConfig(denoise=0.5))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        ReconstructionConfig(denoise=1.5)


def test_best_is_the_mean_of_four_passes_and_fast_is_near_enough(tmp_path: Path) -> None:
    scan = undersample(make_scan(noise=0.02), "equispaced", 2, 0.1, seed=0)
    torch.manual_seed(0)
    config = ModelConfig(n_steps=1, n_cg=2, n_start_cg=4, widths=(4,))
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    path = tmp_path / "net.safetensors"
    save(network, config, {}, path)
    best = make_reconstructor(str(path), ReconstructionConfig(effort="best")).reconstruct(scan)
    assert best.diagnostics.status[0].startswith("Mean of 4 passes.")
    normal = make_reconstructor(str(path)).reconstruct(scan)
    assert not np.allclose(best.pixels, normal.pixels, rtol=1e-4)
    problem = take_apart(scan).take(0).calibrated()
    passes = [
        network(problem.op.adjoint(problem.kspace).flip(axes), problem.op.reversed(axes), problem.strength).value.flip(
            axes
        )
        for axes in REVERSALS
    ]
    by_hand = torch.stack(passes).mean(0)[0].abs().detach().numpy() * problem.scale
    assert nmse(by_hand, best.pixels[0]) < 1e-5  # half-precision weights, and bfloat16 where the CPU has it
    fast = make_reconstructor(str(path), ReconstructionConfig(effort="fast")).reconstruct(scan)
    assert 0 <= nmse(normal.pixels, fast.pixels) < 1e-5
    expected = "float32" if fitting_precision(torch.device("cpu")) is None else "bfloat16"
    assert fast.provenance.parameters["prior_precision"] == expected
    with pytest.raises(ConfigError, match="effort"):
        make_reconstructor("tv", ReconstructionConfig(effort="best"))


def test_fast_works_on_fewer_coils() -> None:
    scan = make_scan(n_coils=11, noise=0.001)
    normal = make_reconstructor("unrolled-small")
    fast = make_reconstructor("unrolled-small", ReconstructionConfig(effort="fast"))
    assert isinstance(normal, SlicewiseReconstructor)
    assert isinstance(fast, SlicewiseReconstructor)
    seen: list[int] = []

    def solve(problem: Problem) -> Solution:
        seen.append(problem.kspace.shape[1])
        return normal.solve(problem)

    pictures = [dataclasses.replace(one, solve=solve).reconstruct(scan).pixels for one in (normal, fast)]
    assert seen == [11, 8]
    assert 0 < nmse(*pictures) < 2e-3  # eight hold nearly everything


def test_what_was_measured_stays_in_the_picture() -> None:
    scan = undersample(make_scan(noise=0.02), "equispaced", 2, 0.1, seed=0)
    problem = take_apart(scan).take(0).calibrated()
    image = problem.op.adjoint(problem.kspace)
    assert torch.equal(as_fully_sampled(problem, image, problem.op, 0.0), image.abs())
    silent = dataclasses.replace(problem, unmeasured_noise=0.0)
    filled = centred_fft(problem.op.sens_maps * image[:, None])
    filled = centred_ifft(torch.where(torch.from_numpy(scan.mask), problem.kspace, filled))
    expected = torch.linalg.vector_norm(filled, dim=1)
    torch.testing.assert_close(as_fully_sampled(silent, image, problem.op, 1.0), expected)
    shown = as_fully_sampled(problem, image, problem.op, 1.0)
    torch.testing.assert_close(shown.square(), expected.square() + problem.unmeasured_noise)


def test_nothing_missing_is_the_root_sum_of_squares_whatever_the_network_says() -> None:
    scan = make_scan((48, 44), noise=0.02)
    problem = take_apart(scan).take(0).calibrated()
    shown = as_fully_sampled(problem, torch.zeros(1, 48, 44, dtype=torch.complex64), problem.op, 1.0)
    assert problem.unmeasured_noise == 0
    np.testing.assert_allclose(shown * problem.scale, scan.reference, rtol=1e-4, atol=1e-5)


def test_noise_power_of_corners() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 96, 90, dtype=torch.complex64, generator=generator)
    levels = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1, 0.0])[:, None, None]
    mask = torch.rand(96, 90, generator=generator) < 0.4
    found = corner_noise_power(torch.where(mask, levels * noise, 0), mask)
    assert found == pytest.approx(float(levels.square().sum()), rel=0.2)
    assert corner_noise_power(torch.where(mask, noise, 0), torch.zeros_like(mask)) == 0
