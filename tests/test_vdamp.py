"""Variable-density message passing: wavelets, thresholds, probabilities, its predictions, and the method ``vdamp``."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.operators import random_complex
from support.scattered import bernoulli, density, phantom_scan
from support.simulation import make_scan
from torch import Tensor

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, ShapeError, UnsupportedScan
from mri_unroll.metrics import nmse
from mri_unroll.physics.density import ORDERED, regularity, sampling_probability
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import make_mask
from mri_unroll.physics.trajectory import radial
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.solvers.shrinkage import soft_threshold
from mri_unroll.solvers.solution import CONVERGED
from mri_unroll.solvers.sure import denoise_band, sure_threshold
from mri_unroll.solvers.vdamp import DIVERGED, UNBELIEVED, VdampIterate, VdampSolution, vdamp, vdamp_iterates
from mri_unroll.solvers.wavelet import wavelet_bands

SHAPE, NOISE_VAR = (144, 140), 1e-4


def gauss(*shape: int, seed: int = 0) -> Tensor:
    return random_complex(shape, torch.complex128, seed)


class Problem:
    """The analytic head, and what a single coil measured of it at random places, with noise 40 dB below."""

    def __init__(self, mask: NDArray[np.bool_], seed: int = 0) -> None:
        shape = (mask.shape[0], mask.shape[1])
        kspace = torch.from_numpy(phantom_kspace(shape, 1)[0, 0]).to(torch.complex128)
        kspace = kspace / kspace.abs().square().mean().sqrt()
        self.bands = wavelet_bands(shape, dtype=torch.float64)
        self.truth, self.mask = centred_ifft(kspace), torch.from_numpy(mask)
        self.kspace = ((kspace + NOISE_VAR**0.5 * gauss(*shape, seed=seed)) * self.mask)[None]

    def arguments(self, probability: NDArray[np.float64]) -> tuple:
        return (
            lambda image: (centred_fft(image) * self.mask)[None],
            lambda kspace: centred_ifft(kspace[0] * self.mask),
            self.kspace,
            self.mask,
            torch.from_numpy(probability),
            torch.ones_like(self.kspace),
            NOISE_VAR,
            self.bands,
        )

    def nmse(self, image: Tensor) -> float:
        return float((image - self.truth).abs().square().sum() / self.truth.abs().square().sum())

    def gaps(self, iterate: VdampIterate) -> tuple[float, list[float]]:
        """Believed over true error of the noisy picture in dB: in all, and by band."""
        true = [
            float((noisy - x).abs().square().sum())
            for noisy, x in zip(iterate.noisy, self.bands.analyse(self.truth), strict=True)
        ]
        by_band = [10 * math.log10(float(v.sum()) / t) for v, t in zip(iterate.noise_vars, true, strict=True)]
        return 10 * math.log10(iterate.believed / sum(true)), by_band


@pytest.mark.parametrize("wavelet", ["haar", "db4"])
@pytest.mark.parametrize("shape", [(64, 48), (37, 50), (16, 9)])
def test_wavelets_keep_lengths_and_are_undone_by_their_adjoint(wavelet: str, shape: tuple[int, int]) -> None:
    bands = wavelet_bands(shape, wavelet, dtype=torch.float64)
    image = gauss(*shape)
    coefficients = bands.analyse(image)
    torch.testing.assert_close(bands.synthesise(coefficients), image)
    norm = sum(float(band.abs().square().sum()) for band in coefficients)
    assert norm == pytest.approx(float(image.abs().square().sum()), rel=1e-12)
    others = [gauss(*band.shape, seed=7) for band in coefficients]
    one = sum((a.conj() * b).sum() for a, b in zip(others, coefficients, strict=True))
    torch.testing.assert_close(one, (bands.synthesise(others).conj() * image).sum())
    if shape == (64, 48):  # nothing is filled up: orthogonal, the other way round too
        for there, back in zip(others, bands.analyse(bands.synthesise(others)), strict=True):
            torch.testing.assert_close(back, there)


@pytest.mark.parametrize("shape", [(64, 48), (37, 50)])
def test_spectra_predict_the_variance_of_coloured_noise_in_each_band(shape: tuple[int, int]) -> None:
    bands = wavelet_bands(shape, dtype=torch.float64)
    power = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 4
    for band, (along_y, along_x) in enumerate(bands.spectra):
        spectrum = along_y[:, None] * along_x
        assert float(spectrum.sum()) == pytest.approx(1.0)
        left, right = bands.rows[band].to(torch.complex128), bands.columns[band].to(torch.complex128)
        # Exactly, by the adjoint: the sum over coefficients of |F^H psi_j|^2 against the spectrum of the noise.
        exact = 0.0
        for row in left:
            wavelets = row[:, None, None] * right.mT[None]  # (y, x, coefficient) of one row of coefficients
            exact += float((centred_fft(wavelets.movedim(-1, 0)).abs().square() * power).sum())
        predicted = bands.spread(torch.full(shape, float((spectrum * power).sum()), dtype=torch.float64), band)
        assert float(predicted.sum()) == pytest.approx(exact, rel=1e-9)


def test_the_threshold_is_where_the_estimated_risk_is_least() -> None:
    generator = torch.Generator().manual_seed(1)
    noise_var = 0.5 + torch.rand(4000, dtype=torch.float64, generator=generator)
    signal = 6 * gauss(4000) * (torch.rand(4000, generator=generator) < 0.2)
    noisy = signal + noise_var.sqrt() * gauss(4000, seed=2) / gauss(4000, seed=2).abs().square().mean().sqrt()
    threshold, risk = sure_threshold(noisy, noise_var)

    def estimated(t: float) -> float:
        level, size = t * noise_var.sqrt(), noisy.abs()
        change = (soft_threshold(noisy, level) - noisy).abs().square()
        slope = torch.where(size > level, 1 - level / (2 * size), 0)
        return float((change - noise_var + 2 * noise_var * slope).sum())

    assert estimated(threshold) == pytest.approx(risk, rel=1e-9)
    assert risk <= min(estimated(t) for t in np.linspace(0, 8, 4001)) + 1e-9
    true = float((soft_threshold(noisy, threshold * noise_var.sqrt()) - signal).abs().square().sum())
    assert risk == pytest.approx(true, rel=0.2)


def test_the_message_of_a_band_does_not_know_its_noise() -> None:
    signal = 5 * gauss(200, 200) * (torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) < 0.1)
    noise = torch.randn(200, 200, dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
    noise_var = torch.ones(200, 200, dtype=torch.float64)

    def correlation(message: Tensor) -> float:
        error = message - signal
        return float((noise.conj() * error).real.sum() / (noise.norm() * error.norm()))

    band = denoise_band(signal + noise, noise_var)
    assert abs(correlation(band.message)) < 0.02 < 0.1 < correlation(band.estimate)
    nothing = denoise_band(0.1 * noise, noise_var)  # all is below the threshold
    assert not nothing.message.any()
    assert not nothing.estimate.any()


@pytest.mark.parametrize("acceleration", [4.0, 8.0])
def test_probabilities_are_found_from_the_mask(acceleration: float) -> None:
    for shape, limit in (((256, 216), 0.1), (SHAPE, 0.17)):
        truth, mask = density(shape, acceleration), bernoulli(shape, acceleration, seed=0)
        found = sampling_probability(mask)
        ratio = (found / truth)[mask & (truth < 1)]
        assert abs(ratio.mean() - 1) < 0.05
        assert ratio.std() < limit
        assert found[mask].min() > 0
        assert (found[sampling_probability(mask) == 1] == 1).all()
    padded = np.zeros((40, 30), bool)
    padded[4:, 2:28] = bernoulli((36, 26), 3.0, seed=0)
    assert not sampling_probability(padded)[:4].any()
    assert not sampling_probability(np.zeros((8, 8), bool)).any()
    with pytest.raises(ShapeError, match="ky, kx"):
        sampling_probability(mask[None])


@pytest.mark.parametrize("shape", [(40, 36), (128, 126)])
def test_lines_and_lattices_are_told_from_random_samples(shape: tuple[int, int]) -> None:
    def order(mask: NDArray[np.bool_]) -> float:
        return regularity(mask, sampling_probability(mask))

    for acceleration in (2.0, 4.0, 8.0):
        assert order(bernoulli(shape, acceleration, seed=1)) < 2
        assert order(make_mask("poisson", shape, acceleration, seed=0)) < 8 < ORDERED
        for kind in ("random", "equispaced", "magic"):
            lines = make_mask(kind, shape, acceleration, 0.04, seed=0)
            assert min(order(lines), order(lines.T)) > 1.5 * ORDERED
    lattice = np.zeros(shape, bool)
    lattice[::2, ::2] = True
    lattice[shape[0] // 2 - 5 : shape[0] // 2 + 5, shape[1] // 2 - 5 : shape[1] // 2 + 5] = True
    assert order(lattice) > 1.5 * ORDERED
    assert order(np.ones(shape, bool)) == 0


@cache
def runs(onsager: bool) -> tuple[list[Problem], list[list[VdampIterate]]]:
    problems, iterates = [], []
    for seed in range(3):
        problems.append(Problem(bernoulli(SHAPE, 4.0, seed), seed))
        found = vdamp_iterates(*problems[-1].arguments(density(SHAPE, 4.0)), onsager=onsager)
        iterates.append([next(found) for _ in range(7)])
    return problems, iterates


def test_state_evolution_predicts_the_error_of_every_band_at_every_iteration() -> None:
    problems, iterates = runs(True)
    gaps = np.array([[p.gaps(i)[0] for i in found] for p, found in zip(problems, iterates, strict=True)])
    by_band = np.array([[p.gaps(i)[1] for i in found] for p, found in zip(problems, iterates, strict=True)])
    assert np.abs(gaps.mean(0)).max() < 0.15
    assert np.abs(by_band.mean(0)).mean() < 0.5
    errors = [[p.nmse(i.image) for i in found] for p, found in zip(problems, iterates, strict=True)]
    assert np.mean(errors, axis=0)[-1] < 0.5 * np.mean(errors, axis=0)[0]


def test_without_the_onsager_term_beliefs_and_pictures_are_worse() -> None:
    problems, kept = runs(True)
    _, left_out = runs(False)
    for problem, good, bad in zip(problems, kept, left_out, strict=True):
        assert problem.gaps(bad[1])[0] < -1 < abs(problem.gaps(good[1])[0]) + 0.5
        assert problem.nmse(bad[-1].image) > 1.2 * problem.nmse(good[-1].image)


def test_a_run_ends_by_itself_and_its_prediction_holds() -> None:
    problem = Problem(bernoulli(SHAPE, 4.0, 5), 5)
    probability = sampling_probability(problem.mask.numpy())
    fixed, shifted = (vdamp(*problem.arguments(probability), n_shifts=n) for n in (1, 4))
    for solution in (fixed, shifted):
        assert isinstance(solution, VdampSolution)
        assert solution.status == CONVERGED
        assert solution.n_iterations < 20
        assert len(solution.residuals) == solution.n_iterations
        assert solution.kurtosis == pytest.approx(3.0, abs=0.4)
        assert abs(solution.gap) < 1.0
        assert sum(solution.band_errors) == pytest.approx(solution.predicted_nmse)
        assert abs(10 * math.log10(solution.predicted_nmse / problem.nmse(solution.value))) < 1.5
    assert vdamp(*problem.arguments(probability), n_iterations=2).n_iterations == 2


def test_lines_make_it_diverge_and_it_says_so() -> None:
    problem = Problem(make_mask("random", SHAPE, 4.0, 0.08, seed=1))
    probability = np.where(np.abs(np.arange(SHAPE[1]) - SHAPE[1] // 2) < 4, 1.0, 0.2) * np.ones(SHAPE)
    solution = vdamp(*problem.arguments(probability))
    assert solution.status in (DIVERGED, UNBELIEVED)
    assert math.isnan(solution.predicted_nmse)
    assert bool(torch.isfinite(solution.value.abs()).all())


@pytest.mark.parametrize("n_coils", [1, 5])
def test_the_method_recovers_a_scan_and_foretells_its_error(n_coils: int) -> None:
    scan, truth = phantom_scan(bernoulli((92, 81), 3.0, 0), n_coils, n_slices=2)
    images = [make_reconstructor(name).reconstruct(scan) for name in ("vdamp", "zero-filled")]
    error, zero_filled = (nmse(truth, image.pixels) for image in images)
    assert error < 0.3 * zero_filled
    assert images[0].provenance.parameters["n_shifts"] == 4
    for status in images[0].diagnostics.status:
        assert "Predicted NMSE -" in status
        assert len(status.split("fine: ")[1].split(", ")) == 5  # four levels, and the coarse picture
        predicted = float(status.split("Predicted NMSE ")[1].split(" dB")[0])
        assert abs(predicted - 10 * math.log10(error)) < 3
    # Thresholds jump with the last digit; a power of two leaves all digits as they are.
    in_other_units = make_reconstructor("vdamp").reconstruct(dataclasses.replace(scan, kspace=scan.kspace * 2**20))
    np.testing.assert_allclose(in_other_units.pixels, images[0].pixels * 2**20, rtol=1e-5)


def test_several_coils_with_samples_that_keep_their_distance_are_recovered_but_not_foretold() -> None:
    scan, truth = phantom_scan(make_mask("poisson", (92, 81), 4.0, seed=0), 6)
    image = make_reconstructor("vdamp").reconstruct(scan)
    zero_filled = make_reconstructor("zero-filled").reconstruct(scan)
    assert image.diagnostics.status == (UNBELIEVED,)
    assert nmse(truth, image.pixels) < 0.3 * nmse(truth, zero_filled.pixels)


def test_planes_of_a_volume_are_recovered_one_by_one() -> None:
    plane = bernoulli((40, 36), 2.0, 0)  # (kz, kx); the readout ky is whole
    planar = phantom_kspace((40, 36), 1, n_slices=1, noise=0.0)[0, 0]
    mask = np.repeat(plane[:, None], 6, axis=1)
    kspace = np.where(mask, planar[:, None] * np.array([0, 0, 1, 1.5, 0.5, 0])[None, :, None], 0)
    scan = make_scan(kspace[None, None].astype(np.complex64), (6, 36), mask=mask, n_partitions=40)
    image = make_reconstructor("vdamp").reconstruct(scan)
    assert image.pixels.shape == (40, 6, 36)
    assert np.isfinite(image.pixels).all()
    assert "wavelet level" not in image.diagnostics.status[0]


def test_scans_that_it_cannot_solve_are_refused() -> None:
    reconstructor = make_reconstructor("vdamp")
    lines, _ = phantom_scan(make_mask("equispaced", (48, 44), 3.0, 0.1, seed=0), 2)
    with pytest.raises(UnsupportedScan, match=r"lines or a lattice.*l1-wavelet"):
        reconstructor.reconstruct(lines)
    full, _ = phantom_scan(np.ones((48, 44), bool), 2)
    with pytest.raises(UnsupportedScan, match=r"left out at random.*cg-sense"):
        reconstructor.reconstruct(full)
    spokes = make_scan(
        gauss(1, 2, 20 * 48).numpy().astype(np.complex64),
        (48, 44),
        trajectory=radial(20, 48, (48, 44)).reshape(-1, 2),
        encoded_shape=(48, 44),
    )
    with pytest.raises(UnsupportedScan, match=r"not Cartesian.*l1-wavelet"):
        reconstructor.reconstruct(spokes)
    coupled = bernoulli((16, 96), 3.0, 0).reshape(16, 12, 8)
    volume = make_scan(np.zeros((1, 2, 16, 12, 8), np.complex64), (12, 8), mask=coupled, n_partitions=16)
    with pytest.raises(UnsupportedScan, match="couples all three"):
        reconstructor.reconstruct(volume)


@pytest.mark.parametrize("setting", [{"reg_weight": 0.01}, {"n_iterations": 5}, {"denoise": 0.5}, {"effort": "best"}])
def test_there_is_nothing_to_set(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="'vdamp' has no"):
        make_reconstructor("vdamp", ReconstructionConfig(**setting))
