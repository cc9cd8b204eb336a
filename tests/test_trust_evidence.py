"""What the verdict is made from: samples left out, lines that disagree, an outside that does not fit its centre."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import detect_acs, fastmri_mask, make_mask
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.solvers.solution import Solution
from mri_unroll.trust.continuity import displacement, step
from mri_unroll.trust.evidence import CHANNELS, gather, second_opinion
from mri_unroll.trust.hold_out import at_low_resolution, left_out, low_pass_rows, with_samples
from mri_unroll.trust.lines import agreement, alternation, coil_features, lags, line_features
from mri_unroll.trust.missing import missing
from mri_unroll.trust.neighbours import predicted_from_neighbours
from mri_unroll.trust.witness import second_network

SHAPE = (120, 101)


def full_kspace(n_coils: int = 6, noise: float = 0.002) -> torch.Tensor:
    """One slice, ``(coil, ky, kx)``."""
    return torch.from_numpy(phantom_kspace(SHAPE, n_coils, n_slices=1, noise=noise)[0])


def line_mask(acceleration: float = 3, centre: float = 0.16) -> np.ndarray:
    return np.broadcast_to(fastmri_mask("random", SHAPE[1], centre, acceleration, seed=4), SHAPE).copy()


def parts_of(mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The fully sampled centre of a line mask and the rest."""
    _, columns = detect_acs(mask)
    centre = np.zeros_like(mask)
    centre[:, columns] = True
    return torch.from_numpy(centre), torch.from_numpy(mask & ~centre)


def calibrated(kspace: torch.Tensor, mask: np.ndarray) -> CalibratedSlice:
    return calibrate_slice(kspace, torch.from_numpy(mask))


@pytest.mark.parametrize("acceleration", [2, 4, 8])
def test_lines_left_out_are_measured_single_in_the_centre_and_never_zero_frequency(acceleration: int) -> None:
    mask = line_mask(acceleration, 0.32 / acceleration)
    held = left_out(mask)
    assert (held <= mask).all()
    assert (held == held[:1]).all(), "whole lines"
    lines = np.flatnonzero(held[0])
    _, columns = detect_acs(mask)
    inner = lines[(lines >= columns.start) & (lines < columns.stop)]
    outer = np.setdiff1d(lines, inner)
    assert len(inner) >= (1 if columns.stop - columns.start > 5 else 0)
    assert (np.diff(inner) > 1).all()
    assert (np.abs(inner - SHAPE[1] // 2) > 1).all()
    n_outer = mask[0].sum() - (columns.stop - columns.start)
    assert len(outer) == round(0.2 * n_outer)
    np.testing.assert_array_equal(held, left_out(mask))
    assert (held != left_out(mask, seed=1)).any()


def test_of_a_plane_of_phase_encodings_single_samples_are_left_out() -> None:
    mask = make_mask("poisson", SHAPE, 4, 0.05, seed=2)
    held = left_out(mask)
    assert (held <= mask).all()
    assert 0.1 < held.sum() / mask.sum() < 0.3
    rows, columns = detect_acs(mask)
    inner = held[rows, columns]
    assert not (inner[1:] & inner[:-1]).any()
    assert not (inner[:, 1:] & inner[:, :-1]).any()
    assert not held[SHAPE[0] // 2, SHAPE[1] // 2]


def test_a_few_lines_leave_nothing_out() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 49:52] = True
    assert not left_out(mask).any()


def test_at_low_resolution_the_same_picture_gives_the_same_data() -> None:
    problem = calibrated(full_kspace(noise=0.0), line_mask())
    low = at_low_resolution(problem)
    assert low.kspace.shape[-2] == 64
    image = problem.op.adjoint(problem.kspace)
    image = low_pass_rows(image, 24)  # smooth along the readout, where maps vary slowly enough to be resampled
    padded = torch.nn.functional.pad(
        torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image, dim=-2), dim=-2), dim=-2), (0, 0, 48, 48)
    )
    smooth = torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(padded, dim=-2), dim=-2), dim=-2) * (120 / 24)
    fine = problem.op.forward(smooth)[..., 28:92, :] * (64 / 120) ** 0.5
    coarse = low.op.forward(low_pass_rows(smooth, 64))
    assert float((fine - coarse).abs().square().sum() / fine.abs().square().sum()) < 0.01
    assert float(low_pass_rows(smooth, 64).abs().max() / smooth.abs().max()) == pytest.approx(1.0, rel=0.05)


def test_what_is_not_given_is_zero() -> None:
    problem = calibrated(full_kspace(), line_mask())
    given = problem.op.mask & ~torch.from_numpy(left_out(line_mask()))
    asked = with_samples(problem, given)
    assert bool((asked.kspace[..., ~given] == 0).all())
    assert bool((asked.op.mask == given).all())
    assert asked.sampled_fraction == pytest.approx(float(given.float().mean()))


def test_the_mask_of_an_operator_is_the_mask_it_was_made_with() -> None:
    for mask in (line_mask(), make_mask("poisson", SHAPE, 4, 0.05, seed=2)):
        assert bool((calibrated(full_kspace(), mask).op.mask.numpy() == mask).all())


@pytest.mark.parametrize("n_coils", [1, 6])
def test_lines_that_lie_one_off_are_seen(n_coils: int) -> None:
    kspace, mask = full_kspace(n_coils), line_mask()
    centre, outer = parts_of(mask)
    maps = calibrated(kspace, mask).op.sens_maps[0]
    sound = displacement(kspace, maps, centre, outer)
    moved = displacement(torch.where(outer, kspace.roll(1, -1), kspace), maps, centre, outer)
    assert sound["displaced"] < 0
    assert moved["displaced"] > sound["displaced"] + 0.5


@pytest.mark.parametrize("gain", [0.5, 2.0, 3.5])
def test_lines_that_are_scaled_make_a_step(gain: float) -> None:
    kspace, mask = full_kspace(), line_mask()
    centre, outer = parts_of(mask)
    sampled, acs = centre | outer, detect_acs(mask)
    sound = step(torch.where(sampled, kspace, 0), acs, sampled)["step"]
    scaled = torch.where(outer, gain * kspace, torch.where(centre, kspace, 0))
    assert abs(sound) < 1.5  # ellipses have no power law
    assert step(scaled, acs, sampled)["step"] - sound == pytest.approx(2 * np.log(gain), abs=0.4)


def test_neighbours_predict_a_sound_line_and_not_a_moved_one() -> None:
    kspace, mask = full_kspace(), line_mask()
    rows, columns = detect_acs(mask)
    found = predicted_from_neighbours(kspace, columns, rows)
    assert found is not None
    known = found.abs().sum(0) > 0
    sound = line_features(agreement(found, kspace, known, 0.0), known.any(0), "beside")
    moved = kspace.clone()
    ky = torch.arange(SHAPE[0]) - SHAPE[0] // 2
    line = SHAPE[1] // 2 + 3
    moved[:, :, line] *= torch.exp(-2j * np.pi * 5 * ky / SHAPE[0])
    again = predicted_from_neighbours(moved, columns, rows)
    assert again is not None
    bad = line_features(agreement(again, moved, known, 0.0), known.any(0), "beside")
    assert sound["beside_error"] < np.log(0.1)
    assert bad["beside_worst"] > sound["beside_worst"] + 0.5
    assert lags(again, moved, known, 0.0)["lag_share"] > lags(found, kspace, known, 0.0)["lag_share"]


def test_a_turned_phase_of_every_other_line_is_seen() -> None:
    kspace, mask = full_kspace(), line_mask()
    lines = torch.from_numpy(mask.any(0))
    turned = kspace.clone()
    turned[..., lines.nonzero().flatten()[::2]] *= np.exp(0.7j)
    sampled = torch.from_numpy(mask)
    sound = alternation(agreement(kspace, kspace, sampled, 0.0), lines)
    ghost = alternation(agreement(kspace, turned, sampled, 0.0), lines)
    assert ghost["alternating_turn"] == pytest.approx(np.log(0.7), abs=0.02)
    assert sound["alternating_turn"] < np.log(0.01)


def test_a_coil_in_the_place_of_another_is_seen() -> None:
    kspace, mask = full_kspace(), line_mask()
    centre, outer = parts_of(mask)
    sampled = centre | outer
    sound = coil_features(kspace, kspace, centre, sampled, 0.002)
    swapped = torch.where(outer, kspace[[1, 0, 2, 3, 4, 5]], kspace)
    found = coil_features(kspace, swapped, centre, sampled, 0.002)
    assert sound["coil_mistaken"] < 0 < found["coil_mistaken"]
    silent = kspace.clone()
    silent[2] = 0.002 * torch.randn_like(silent[2])
    assert coil_features(kspace, silent, centre, sampled, 0.002)["coil_silent"] < sound["coil_silent"] - 3
    assert all(np.isnan(value) for value in coil_features(kspace[:1], kspace[:1], centre, sampled, 0.0).values())


def test_evidence_is_the_same_twice_and_knows_no_unit() -> None:
    network = second_network(torch.device("cpu"))
    kspace, mask = full_kspace(4), line_mask()
    found = []
    with torch.inference_mode():
        for scale in (1.0, 1.0, 1e6):
            problem = calibrated(kspace * scale, mask)
            image = problem.op.adjoint(problem.kspace)
            second = second_opinion(problem, network)
            evidence, pictures = gather(problem, Solution(image, "", 1, ()), problem.op, second)
            assert pictures.shape == (len(CHANNELS), *SHAPE)
            found.append(evidence)
            moving = Solution(image, "", 3, (), on_the_way=(0 * image, 0.5 * image))
            same, more = gather(problem, moving, problem.op, second)
            assert same == evidence
            torch.testing.assert_close(more, torch.stack([*pictures, image[0].abs(), 0.5 * image[0].abs()]))
    assert found[0] == found[1]
    assert found[2].energy == pytest.approx(1e12 * found[0].energy, rel=1e-3)
    for name, value in found[0].features.items():
        if not np.isnan(value):
            assert found[2].features[name] == pytest.approx(value, rel=0.02, abs=0.05), name


def test_what_is_missing_is_what_a_zero_filled_picture_lacks() -> None:
    kspace = full_kspace(noise=0.0)
    whole = torch.ones(SHAPE, dtype=torch.bool)
    assert max(missing(kspace, whole, 0.0).values()) < np.log(1e-4)
    found = []
    for mask in (line_mask(2), line_mask(4, 0.08), line_mask(8, 0.04)):
        sampled = torch.from_numpy(mask)
        lost = torch.where(sampled, 0, kspace).abs().square().sum() / kspace.abs().square().sum()
        shares = missing(torch.where(sampled, kspace, 0), sampled, 0.0)
        assert shares["missing_1"] == pytest.approx(float(lost.log()), abs=0.7)
        assert shares["missing_7"] <= shares["missing_3"] <= shares["missing_1"]
        found.append(shares["missing_1"])
    assert found == sorted(found)
