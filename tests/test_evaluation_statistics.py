"""Means, spreads and paired comparisons of scores, held against other ways to compute them."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.scores import GAINS, make_score, make_scores

from mri_unroll.evaluate import statistics
from mri_unroll.evaluate.statistics import Comparison, bootstrap_interval, compare, summarise, summary_of


def test_summary_is_the_sample_mean_and_spread() -> None:
    found = summary_of([3.0, 1.0, 2.0, 6.0, math.nan, math.inf])
    assert (found.n, found.n_missing) == (4, 2)
    assert found.mean == pytest.approx(3)
    assert found.sd == pytest.approx(np.std([3, 1, 2, 6], ddof=1))
    assert (found.least, found.quarter, found.median, found.three_quarters, found.most) == (1, 1.75, 2.5, 3.75, 6)


def test_one_volume_has_no_spread_and_none_has_nothing() -> None:
    one, none = summary_of([0.5]), summary_of([math.nan])
    assert (one.n, one.mean, one.median) == (1, 0.5, 0.5)
    assert math.isnan(one.sd)
    assert (none.n, none.n_missing) == (0, 1)
    assert all(math.isnan(value) for value in (none.mean, none.sd, none.least, none.median, none.most))


def test_groups_hold_every_method_at_every_setting() -> None:
    scores = make_scores(12)
    groups = summarise(scores, ("unrolled", "zero-filled", "absent"))
    assert [(group.acceleration, group.method) for group in groups] == [
        (R, method) for R in (4, 8) for method in ("unrolled", "zero-filled", "cg-sense", "l1-wavelet")
    ]
    for group in groups:
        mine = [s for s in scores if (s.method, s.acceleration) == (group.method, group.acceleration)]
        assert group.n_volumes == len(mine) == 12
        assert group.measures["psnr"].mean == pytest.approx(np.mean([s.psnr for s in mine]))
        assert group.measures["body_ssim"].sd == pytest.approx(np.std([s.body_ssim for s in mine], ddof=1))
        assert group.effective_acceleration == pytest.approx(np.mean([s.effective_acceleration for s in mine]))


def test_groups_by_acquisition_share_the_volumes_out() -> None:
    groups = summarise(make_scores(11, ("tv",)), by_acquisition=True)
    assert [(g.acquisition, g.acceleration, g.n_volumes) for g in groups] == [
        (name, R, n) for R in (4, 8) for name, n in (("AXT1", 4), ("AXT2", 4), ("CORPD_FBK", 3))
    ]


def test_order_of_rows_changes_nothing() -> None:
    scores = make_scores(8)
    assert summarise(scores[::-1]) == summarise(scores)
    assert compare(scores[::-1], n_resamples=100) == compare(scores, n_resamples=100)


def test_a_volume_counts_once_whatever_its_seeds() -> None:
    scores = [make_score(volume="a", seed=str(seed), psnr=30.0 + seed) for seed in range(3)]
    scores += [make_score(volume="b", seed="0", psnr=40.0), make_score(volume="b", seed="0", psnr=40.0)]
    (group,) = summarise(scores)
    assert group.n_volumes == 2
    assert group.measures["psnr"].mean == pytest.approx((31 + 40) / 2)


def test_measures_without_any_number_are_left_out() -> None:
    scores = [replace(score, body_nmse=math.nan, body_psnr=math.nan, body_ssim=math.nan) for score in make_scores(3)]
    assert statistics.measures_of(scores) == ("nmse", "psnr", "ssim")
    assert set(summarise(scores)[0].measures) == {"nmse", "psnr", "ssim"}


@pytest.mark.parametrize("n", [12, 30])  # of fewer, resampled means are few and far between
@pytest.mark.parametrize("skewed", [False, True])
def test_interval_equals_scipys_bca(n: int, skewed: bool) -> None:
    random = np.random.default_rng(n)
    values = random.lognormal(0, 1, n) if skewed else random.normal(1, 2, n)
    seed = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"  # before SciPy 1.15
    drawn = {seed: np.random.default_rng(3)}
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", **drawn)
    low, high = bootstrap_interval(values, n_resamples=40_000)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02 * width)
    assert low < values.mean() < high


def test_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = bootstrap_interval(random.normal(1, 1, 25), n_resamples=500)
        hits += low <= 1 <= high
    assert 0.90 < hits / 400 < 0.98  # bootstrap intervals of 25 values fall a little short of 95 %


def test_interval_is_seeded_and_shifts_with_its_values() -> None:
    values = np.random.default_rng(1).normal(0, 1, 20)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    moved = bootstrap_interval(10 + 3 * values)
    assert moved == pytest.approx([10 + 3 * end for end in bootstrap_interval(values)])
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("block", [1, 50, 10_000])
def test_interval_in_blocks_draws_as_many(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(statistics, "_BLOCK", block)
    values = np.random.default_rng(1).normal(0, 1, 20)
    assert len(statistics._resampled_means(values, 333, 0)) == 333
    assert bootstrap_interval(values, n_resamples=333) == pytest.approx(bootstrap_interval(values), abs=0.2)


def test_interval_of_too_few_or_equal_values() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([])) + bootstrap_interval(np.array([2.0])))
    assert bootstrap_interval(np.full(5, 2.0)) == (2, 2)
    low, high = bootstrap_interval(np.array([0.0, 0.0, 0.0, 1.0]))
    assert 0 <= low < high <= 1


def test_pairs_find_a_small_gain_among_very_different_volumes() -> None:
    scores = make_scores(30)
    pairs = compare(scores, tuple(GAINS), ("psnr",), n_resamples=2000)
    assert len(pairs) == 2 * 6
    for pair in pairs:
        gain = GAINS[pair.method] - GAINS[pair.other]
        assert gain > 0  # the later minus the earlier
        assert pair.mean_difference == pytest.approx(gain, abs=0.4)
        assert pair.low < pair.mean_difference < pair.high < pair.low + 0.8
        assert (pair.n_pairs, pair.n_unpaired, pair.ties) == (30, 0, 0)
        assert pair.wins + pair.losses == 30
        assert pair.wins > 24


def test_less_error_wins() -> None:
    scores = make_scores(9, ("zero-filled", "unrolled"), (4.0,))
    (pair,) = compare(scores, ("zero-filled", "unrolled"), ("nmse",), n_resamples=200)
    assert pair.mean_difference < 0
    assert (pair.wins, pair.losses) == (9, 0)
    (back,) = compare(scores, ("unrolled", "zero-filled"), ("nmse",), n_resamples=200)
    assert (back.wins, back.losses) == (0, 9)
    assert back.mean_difference == pytest.approx(-pair.mean_difference)


def _pair(scores: list, measure: str = "psnr") -> Comparison:
    (pair,) = compare(scores, ("zero-filled", "tv"), (measure,), n_resamples=100)
    return pair


def test_only_volumes_that_both_have_are_paired() -> None:
    scores = [make_score(volume=name, psnr=30.0) for name in "abcd"]
    scores += [
        make_score(volume=name, method="tv", psnr=value) for name, value in zip("bcde", (31, 30, 29, 50), strict=True)
    ]
    pair = _pair(scores)
    assert (pair.n_pairs, pair.n_unpaired) == (3, 2)
    assert (pair.wins, pair.ties, pair.losses) == (1, 1, 1)
    assert pair.mean_difference == pytest.approx(0)
    perfect = _pair([*scores, make_score(volume="f", psnr=math.inf), make_score(volume="f", method="tv")])
    assert (perfect.n_pairs, perfect.n_unpaired) == (3, 3)  # a difference to infinity has no mean


def test_methods_without_common_volumes_are_said_to_have_none() -> None:
    pair = _pair([make_score(volume="a"), make_score(volume="b", method="tv")])
    assert (pair.n_pairs, pair.n_unpaired, pair.wins, pair.losses, pair.ties) == (0, 2, 0, 0, 0)
    assert math.isnan(pair.mean_difference)
    assert math.isnan(pair.low)
    assert compare([make_score(mask="random"), make_score(mask="magic", method="tv")]) == []
