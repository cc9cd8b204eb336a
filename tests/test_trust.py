"""The verdict: predicted errors with their intervals, limits with their false alarms, and what is made of both."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.files import random_kspace, write_fastmri

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.image import Evidence
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import make_mask
from mri_unroll.pipeline import reconstruct_file
from mri_unroll.recon.reconstructor import make_reconstructor, shipped_models
from mri_unroll.recon.slicewise import SlicewiseReconstructor
from mri_unroll.scan import Geometry, Scan, Source
from mri_unroll.trust import heads as calibrations
from mri_unroll.trust.acquisition import AcquisitionChecks
from mri_unroll.trust.checks import SAYS, Check, appearance_check, fault_checks
from mri_unroll.trust.heads import Discriminants, Ensemble, ErrorMap, Heads
from mri_unroll.trust.middle import MiddleChecks
from mri_unroll.trust.noise import noise_over_announced
from mri_unroll.trust.prediction import Prediction, check_coverage, deviations, error_map, predict, quantile
from mri_unroll.trust.verdict import CHECK_NMSE, NO_GO_NMSE, Verdict, judge
from mri_unroll.trust.witness import SUFFIX, Witness, calibrated_methods

SHAPE = (96, 80)


def scan_of(n_coils: int = 4, n_slices: int = 1, noise: float = 0.002, **changes: object) -> Scan:
    scan = Scan(
        kspace=phantom_kspace(SHAPE, n_coils, n_slices=n_slices, noise=noise),
        mask=np.ones(SHAPE, dtype=bool),
        geometry=Geometry(recon_shape=SHAPE),
        source=Source(format="test", digest="", n_slices=n_slices, slices=(0, n_slices)),
    )
    return dataclasses.replace(scan, **changes)  # type: ignore[arg-type]


@pytest.fixture
def heads() -> Heads:
    """Heads of two features, of which the first is the logarithm of the error."""
    torch.manual_seed(0)
    error = Ensemble(2, 2, n_members=3, width=4)
    with torch.no_grad():
        for parameter in error.parameters():
            parameter.zero_()
        error.biases[2][..., 0] = math.log(0.01)
        error.biases[2][..., 1] = math.log(0.5)
    return Heads(
        names=("noise", "size"),
        mean=torch.tensor([1.0, 0.0]),
        spread=torch.tensor([2.0, 1.0]),
        error=error,
        places=ErrorMap(),
        faults=Discriminants(2, len(SAYS)),
        fault_names=tuple(SAYS),
        usual=torch.zeros(3, len(SAYS)),  # one, noise and its square
        log_usual_spread=torch.zeros(3, len(SAYS)),
        limits=torch.stack([torch.zeros(len(SAYS)), torch.ones(len(SAYS))]),
        error_scores=torch.linspace(-3, 1, 401),
        place_scores=torch.linspace(0, 3, 301),
        about={"method": "test", "weights_digest": None},
    )


def evidence(energy: float = 1.0, **features: float) -> Evidence:
    return Evidence({"noise": 1.0, "size": 0.0} | features, energy)


def test_the_interval_is_that_of_the_calibration(heads: Heads) -> None:
    found = predict([evidence(2.0), evidence(1.0)], heads, 0.9)
    # Errors of the calibration were smaller than expected, by one spread in the median: the prediction follows.
    assert found.nmse == pytest.approx(0.01 * math.exp(-1.0 * 0.5), rel=1e-5)
    assert found.low == pytest.approx(0.01 * math.exp(-2.8 * 0.5), rel=0.01)
    assert found.high == pytest.approx(0.01 * math.exp(0.8 * 0.5), rel=0.01)
    wider = predict([evidence()], heads, 0.95)
    assert wider.low < found.low < found.high < wider.high


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_new_scores_stay_below_the_quantile_as_often_as_is_said(coverage: float) -> None:
    random = np.random.default_rng(3)
    inside = []
    for _ in range(400):
        scores = torch.from_numpy(random.standard_normal(60)).abs().sort().values
        inside.append(np.abs(random.standard_normal(50)) <= quantile(scores, coverage))
    assert coverage - 0.015 < np.mean(inside) < coverage + 0.04  # at least, and with 60 scores hardly more


def test_an_interval_is_missed_as_often_on_either_side() -> None:
    random = np.random.default_rng(4)
    below, above = [], []
    for _ in range(400):
        low, _, high = deviations(torch.from_numpy(random.gumbel(size=100)).sort().values, 0.9)
        new = random.gumbel(size=50)
        below.append(new < low)
        above.append(new > high)
    for missed in (below, above):
        assert 0.03 < np.mean(missed) < 0.055


def test_a_coverage_that_no_calibration_can_give_is_refused() -> None:
    with pytest.raises(ConfigError, match="coverage"):
        check_coverage(0.999)
    with pytest.raises(ConfigError, match="coverage"):
        ReconstructionConfig(coverage=0.2)


def test_every_fault_has_a_check_with_limits_in_order(heads: Heads) -> None:
    found = fault_checks([evidence(), evidence(3.0)], heads)
    assert len({check.name for check in found}) == len(SAYS)
    assert all(check.limit < check.hard_limit < math.inf and check.says.endswith(".") for check in found)


def test_what_is_unfamiliar_is_a_reason_to_look_and_none_to_refuse() -> None:
    parts = [dataclasses.replace(evidence(energy), unfamiliarity=score) for energy, score in ((1.0, -5.0), (3.0, 3.0))]
    check = appearance_check(parts, limit=0.5)
    assert check.score == pytest.approx(1.0)  # by energy
    assert check.verdict == "check"
    assert appearance_check(parts, limit=1.5).verdict == "go"
    assert appearance_check(parts, limit=-math.inf).verdict == "check"


def test_what_is_usual_for_such_a_scan_is_no_fault(heads: Heads) -> None:
    with torch.no_grad():
        heads.faults.line.weight[:, 0] = 2.0  # noise counts against a scan
    noisy = evidence(noise=3.0)  # one standard deviation above the mean
    before = fault_checks([noisy], heads)
    used_to_it = dataclasses.replace(heads, usual=heads.usual.index_fill(0, torch.tensor(1), 2.0))
    after = fault_checks([noisy], used_to_it)
    wide = dataclasses.replace(used_to_it, log_usual_spread=heads.log_usual_spread.index_fill(0, torch.tensor(1), 1.0))
    for plain, relative, spread in zip(before, after, fault_checks([noisy], wide), strict=True):
        assert relative.score == pytest.approx(plain.score - 2.0, abs=1e-5)
        assert spread.score == pytest.approx(relative.score / math.e, abs=1e-5)


@pytest.mark.parametrize(
    ("nmse", "scores", "answer"),
    [
        (0.001, [0.0], "go"),
        (CHECK_NMSE * 1.1, [0.0], "check"),
        (NO_GO_NMSE * 1.1, [0.0], "no-go"),
        (0.001, [0.0, 1.5], "check"),
        (0.001, [2.5, 1.5], "no-go"),
        (None, [0.0], "check"),
        (None, [2.5], "no-go"),
    ],
)
def test_the_worst_counts(nmse: float | None, scores: list[float], answer: str) -> None:
    predicted = None if nmse is None else Prediction(nmse, nmse / 2, nmse * 2, 0.9)
    checks = [Check(f"check {i}", score, 1.0, 2.0, f"Fault {i}.") for i, score in enumerate(scores)]
    verdict = judge(predicted, checks, ["Nothing is known."] if nmse is None else [])
    assert verdict.answer == answer
    assert verdict.advice
    for check, score in zip(checks, scores, strict=True):
        assert any(check.says in sentence for sentence in verdict.advice) == (score > 1)
    told = json.loads(json.dumps(verdict.summary()))
    assert told["verdict"] == answer
    assert told["checks"].keys() == {check.name for check in checks}
    assert (told["predicted"] is None) == (nmse is None)


def test_a_picture_that_is_no_number_is_no_go() -> None:
    verdict = judge(Prediction(0.001, 0.0005, 0.002, 0.9), [], finite=False)
    assert verdict.answer == "no-go"
    assert "not finite" in verdict.text


def test_a_calibration_comes_back_as_it_was_written(heads: Heads, tmp_path: Path) -> None:
    calibrations.save(heads, tmp_path / f"test{SUFFIX}")
    again = calibrations.load(tmp_path / f"test{SUFFIX}")
    assert predict([evidence(noise=3.0)], again) == predict([evidence(noise=3.0)], heads)
    pictures, features = torch.rand(4, 20, 18), heads.standard([evidence().features])
    torch.testing.assert_close(error_map(pictures, features, again), error_map(pictures, features, heads))
    assert again.about == heads.about
    deeper = dataclasses.replace(heads, places=ErrorMap(n_pictures=6, width=5, n_dilated=3))
    calibrations.save(deeper, tmp_path / f"deeper{SUFFIX}")
    again, pictures = calibrations.load(tmp_path / f"deeper{SUFFIX}"), torch.rand(7, 20, 18)
    found = error_map(pictures, features, again)
    torch.testing.assert_close(found, error_map(pictures, features, deeper))
    assert not torch.equal(found, error_map(pictures[[0, 1, 2, 3, 5, 4, 6]], features, again))
    assert torch.equal(found, error_map(pictures[:6], features, again))  # which is all that it sees
    with pytest.raises(ModelError, match="other features"):
        again.standard([{"size": 1.0, "noise": 1.0}])
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no calibration"):
        calibrations.load(tmp_path / "other.safetensors")


def test_what_is_unknown_says_nothing(heads: Heads) -> None:
    assert heads.standard([evidence(noise=math.nan).features]).tolist() == [[0.0, 0.0]]


def checks_of(scan: Scan) -> dict[str, Check]:
    seen = AcquisitionChecks()
    seen.see(scan)
    return {check.name: check for check in seen.judged()}


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "go"), (4.0, "no-go")])
def test_noise_is_held_against_the_noise_scan(factor: float, verdict: str) -> None:
    # complex noise of `noise` a component, in every coil
    told = 2 * np.float32(0.02) ** 2 * np.eye(4, dtype=np.complex64)
    check = checks_of(scan_of(noise=0.02 * factor, noise_cov=told))["noise"]
    assert check.verdict == verdict
    assert math.exp(check.score) == pytest.approx(factor, rel=0.35)


@pytest.mark.parametrize("n_coils", [1, 2, 6])
def test_signal_is_not_taken_for_noise(n_coils: int) -> None:
    y, x = torch.meshgrid(torch.arange(96) - 48, torch.arange(80) - 40, indexing="ij")
    falling = 1 / (1 + (y / 8) ** 2 + (x / 8) ** 2) ** 2
    everywhere = torch.ones(96, 80, dtype=torch.bool)
    cov = np.eye(n_coils, dtype=np.complex64)
    torch.manual_seed(5)
    signal = 1e4 * falling * torch.randn(n_coils, 96, 80, dtype=torch.complex64)
    assert noise_over_announced(signal, everywhere, 1e-9 * cov) == 0
    noise = torch.randn(n_coils, 96, 80, dtype=torch.complex64)
    assert noise_over_announced(noise, everywhere, cov) == pytest.approx(1.0, rel=0.25)
    assert noise_over_announced(4 * noise + 1e-3 * signal, everywhere, cov) == pytest.approx(16.0, rel=0.25)


def test_noise_is_found_under_signal_that_few_directions_of_coil_space_hold() -> None:
    torch.manual_seed(6)
    signal = torch.randn(8, 1, 1, dtype=torch.complex64) * torch.randn(1, 96, 80, dtype=torch.complex64)
    noise = torch.randn(8, 96, 80, dtype=torch.complex64)
    found = noise_over_announced(30 * signal + noise, torch.ones(96, 80, dtype=torch.bool), np.eye(8))
    assert found == pytest.approx(1.0, rel=0.1)


def test_empty_lines_and_silent_coils_are_counted() -> None:
    sound = checks_of(scan_of(n_slices=2))
    verdicts = {name: check.verdict for name, check in sound.items()}
    assert verdicts == dict.fromkeys(("empty_lines", "silent_coils", "origin", "wrapped"), "go")
    kspace = scan_of().kspace.copy()
    kspace[..., 10:14] = 0
    kspace[:, 2] = 0
    found = checks_of(scan_of(kspace=kspace))
    assert found["empty_lines"].verdict == "no-go"
    assert "4 of 80 lines" in found["empty_lines"].says
    assert found["silent_coils"].verdict == "check"
    assert "1 of 4 coils" in found["silent_coils"].says


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("acceleration", [1.0, 4.0])
def test_zero_frequency_and_the_body_belong_in_the_middle(axis: int, acceleration: float) -> None:
    mask = make_mask("equispaced_fraction", SHAPE, acceleration, 0.12, seed=0)
    scan = scan_of(n_slices=2, noise=0.01, mask=mask)
    sound = checks_of(scan)
    assert (sound["origin"].verdict, sound["wrapped"].verdict) == ("go", "go")
    order = {"kspace": np.fft.ifftshift(scan.kspace, axes=axis), "mask": np.fft.ifftshift(mask, axes=axis)}
    found = checks_of(dataclasses.replace(scan, **order))
    assert found["origin"].verdict == "no-go"
    assert f"along {'ky' if axis == -2 else 'kx'}" in found["origin"].says
    assert "numpy.fft.fftshift" in found["origin"].says
    assert "wrapped" not in found
    signs = np.where(np.indices(SHAPE)[axis] % 2, np.float32(-1), np.float32(1))
    found = checks_of(dataclasses.replace(scan, kspace=scan.kspace * signs))
    assert found["origin"].verdict == "go"
    assert found["wrapped"].verdict == "check"
    assert f"along {'ky' if axis == -2 else 'kx'}" in found["wrapped"].says


def test_the_middle_of_volumes_and_of_slices_without_calibration() -> None:
    kspace = (
        torch.from_numpy(phantom_kspace((64, 48), 2)[0])[:, None]
        * torch.exp(-(torch.arange(-4.0, 5.0) ** 2))[:, None, None]
    )
    volume = MiddleChecks()
    moved = kspace.roll(4, 1)
    volume.see(moved, torch.ones(kspace.shape[1:], dtype=torch.bool), moved.abs().square().sum(0))
    (check,) = volume.judged()
    assert (check.name, check.verdict) == ("origin", "no-go")
    assert "along kz" in check.says
    sparse = torch.from_numpy(make_mask("equispaced", (64, 48), 4.0, 0.0, seed=0))
    thin = MiddleChecks()
    given = torch.where(sparse, kspace[:, 4], 0)
    thin.see(given, sparse, given.abs().square().sum(0))
    assert {check.name: check.verdict for check in thin.judged()} == {"origin": "go"}
    assert MiddleChecks().judged() == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "zero-filled"}, "No error is predicted for the method 'zero-filled'"),
        ({"method": "unrolled", "denoise": 0.5}, "calibrated with its own settings only"),
        ({"method": "l1-wavelet", "reg_weight": 0.01}, "calibrated with its own settings only"),
        ({"method": "cg-sense", "n_iterations": 5}, "calibrated with its own settings only"),
        ({"method": "sigpy-l1wavelet"}, "calibrated are"),
    ],
)
def test_where_no_error_is_predicted_the_verdict_says_why(settings: dict[str, object], says: str) -> None:
    config = ReconstructionConfig(**settings)  # type: ignore[arg-type]
    witness = Witness(make_reconstructor(config.method, config), config)
    scan = scan_of()
    witness.watch(scan)
    image = make_reconstructor("zero-filled").reconstruct(scan)
    verdict = witness.verdict(image)
    assert verdict.answer == "check"
    assert verdict.predicted is None
    assert any(says in sentence for sentence in verdict.advice)


@pytest.mark.parametrize("method", sorted(calibrated_methods()))
def test_a_calibrated_method_is_judged_end_to_end(method: str, tmp_path: Path) -> None:
    file = write_fastmri(tmp_path / "head.h5", phantom_kspace(SHAPE, 4, n_slices=2, noise=0.004))
    config = ReconstructionConfig(method=method, accelerate=3)
    outcome = reconstruct_file(file, tmp_path / "out", config)
    predicted, true = outcome.summary["predicted"], outcome.summary["metrics"]["nmse"]
    assert predicted["low"] < predicted["nmse"] < predicted["high"]
    assert predicted["coverage"] == 0.9
    assert true / 10 < predicted["nmse"] < 10 * true  # a phantom is like nobody: only the order of magnitude
    names = {name for name, _ in SAYS.values()}
    assert outcome.summary["checks"].keys() >= names
    with h5py.File(outcome.volume) as stored:
        assert stored["predicted_error"].shape == stored["reconstruction"].shape
        found = stored["predicted_error"][:]
    assert np.isfinite(found).all()
    assert (found > 0).all()
    unwatched = reconstruct_file(file, tmp_path / "plain", dataclasses.replace(config, verdict=False))
    with h5py.File(outcome.volume) as one, h5py.File(unwatched.volume) as other:
        np.testing.assert_array_equal(one["reconstruction"][:], other["reconstruction"][:])
        assert "predicted_error" not in other
    assert unwatched.summary["verdict"] is None


def test_the_calibration_beside_a_checkpoint_is_used_if_it_belongs_to_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    shutil.copy(shipped_models()["unrolled-small"], checkpoint)
    calibration = calibrations.load(calibrated_methods()["unrolled-small"])

    def judged() -> Verdict:
        config = ReconstructionConfig(method=str(checkpoint))
        witness = Witness(make_reconstructor(config.method, config), config)
        scan = scan_of()
        witness.watch(scan)
        return witness.verdict(witness.reconstructor.reconstruct(scan))

    assert "calibrated are" in judged().text
    calibrations.save(calibration, tmp_path / f"mine{SUFFIX}")
    assert judged().predicted is not None
    other = dataclasses.replace(calibration, about=calibration.about | {"weights_digest": "sha256:0"})
    calibrations.save(other, tmp_path / f"mine{SUFFIX}")
    assert "belongs to other weights" in judged().text


def test_a_calibration_with_other_settings_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calibration = calibrations.load(calibrated_methods()["cg-sense"])
    about = calibration.about | {"settings": calibration.about["settings"] | {"n_iterations": 7}}
    calibrations.save(dataclasses.replace(calibration, about=about), tmp_path / f"cg-sense{SUFFIX}")
    monkeypatch.setattr(
        "mri_unroll.trust.witness.calibrated_methods", lambda: {"cg-sense": tmp_path / f"cg-sense{SUFFIX}"}
    )
    config = ReconstructionConfig(method="cg-sense")
    watcher = Witness(make_reconstructor(config.method), config)
    verdict = watcher.verdict(watcher.reconstructor.reconstruct(scan_of()))
    assert verdict.predicted is None
    assert "calibrated with other settings" in verdict.text


def test_the_default_network_has_a_calibration_that_belongs_to_it() -> None:
    assert {"unrolled", "unrolled-small", "cg-sense", "l1-wavelet", "tv"} <= calibrated_methods().keys()
    for method, path in calibrated_methods().items():
        found = calibrations.load(path)
        reconstructor = make_reconstructor(method)
        assert isinstance(reconstructor, SlicewiseReconstructor)
        assert found.about["weights_digest"] == reconstructor.weights_digest
        if reconstructor.weights_digest is None:
            assert found.about["settings"] == reconstructor.parameters
        assert bool((found.limits[0] <= found.limits[1]).all())
        assert len(found.error_scores) >= 100
        assert bool((found.error_scores.diff() >= 0).all())
        assert bool((found.place_scores.diff() >= 0).all())


@pytest.mark.parametrize("method", ["unrolled-small", "cg-sense", "l1-wavelet"])
def test_noise_alone_is_judged_too(method: str, tmp_path: Path) -> None:
    """No coil is louder than its noise, and wavelets leave nothing of it."""
    file = write_fastmri(tmp_path / "noise.h5", random_kspace((2, 2, 48, 40)))
    outcome = reconstruct_file(file, tmp_path / "out", ReconstructionConfig(method=method, accelerate=2))
    assert outcome.summary["verdict"] in ("check", "no-go")
    assert outcome.summary["predicted"]["nmse"] > 0.02
