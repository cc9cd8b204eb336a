import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.physics.poisson import EDGE_SLOPE
from mri_unroll.physics.sampling import (
    LINE_RULES,
    MASK_KINDS,
    detect_acs,
    effective_acceleration,
    fastmri_mask,
    make_mask,
    poisson_mask,
    varies_along,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "fastmri_masks.json").read_text())["cases"]


def test_the_golden_cases_cover_every_kind() -> None:
    assert len(GOLDEN) == 150
    assert min(Counter(case[0] for case in GOLDEN)[kind] for kind in LINE_RULES) >= 25


@pytest.mark.parametrize("kind", LINE_RULES)
def test_masks_equal_fastmri_bit_for_bit(kind: str) -> None:
    for case_kind, width, fraction, acceleration, file_name, n_lines, digest in GOLDEN:
        if case_kind == kind:
            mask = fastmri_mask(kind, width, fraction, acceleration, file_name=file_name)
            assert mask.shape == (width,)
            assert mask.dtype == np.bool_
            assert mask.sum() == n_lines
            assert hashlib.sha256(mask.astype(np.uint8).tobytes()).hexdigest() == digest, (width, file_name)


def test_known_example() -> None:
    mask = fastmri_mask("random", 368, 0.08, 4, file_name="file1000000.h5")
    assert mask.sum() == 88
    assert mask[170:199].all()
    assert hashlib.sha256(mask.astype(np.uint8).tobytes()).hexdigest().startswith("c814b1134c27")


def test_a_number_seeds_like_numpys_random_state() -> None:
    random = np.random.RandomState(7)
    random.randint(1)
    expected = random.uniform(size=100) < (100 / 4 - 8) / (100 - 8)
    expected[46:54] = True
    np.testing.assert_array_equal(fastmri_mask("random", 100, 0.08, 4, seed=7), expected)


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must not change is the legacy one
    for kind in MASK_KINDS:
        make_mask(kind, (32, 40), 4, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("width", [101, 128, 213, 372])
@pytest.mark.parametrize("acceleration", [3, 4, 6, 8])
def test_equispaced_fraction_reaches_the_acceleration(width: int, acceleration: int) -> None:
    for seed in range(10):
        mask = make_mask("equispaced_fraction", (4, width), acceleration, seed=seed)
        # Whole lines only, and the first of them falls up to one spacing in: two lines of slack.
        assert abs(mask[0].sum() - width / acceleration) <= 2


def test_random_reaches_the_acceleration_on_average() -> None:
    counts = [make_mask("random", (1, 320), 4, seed=seed).sum() for seed in range(200)]
    assert np.mean(counts) == pytest.approx(80, abs=1.5)  # a standard error is 0.5


def test_unknown_kinds_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"equispaced_fractoin.*Did you mean 'equispaced_fraction'"):
        make_mask("equispaced_fractoin", (8, 8), 2, seed=0)
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        fastmri_mask("Random", 8, 0.1, 2, seed=0)
    with pytest.raises(ConfigError, match="Unknown mask kind 'poisson'"):  # not one of fastMRI's
        fastmri_mask("poisson", 8, 0.1, 2, seed=0)


@pytest.mark.parametrize("acceleration", [0.99, 0, -4, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_accelerations_below_one_are_refused(kind: str, acceleration: float) -> None:
    with pytest.raises(ConfigError, match="acceleration of 1 or more"):
        make_mask(kind, (16, 16), acceleration, seed=0)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_fractions_out_of_range_are_refused(kind: str, fraction: float) -> None:
    with pytest.raises(ConfigError, match="center fraction"):
        make_mask(kind, (16, 16), 4, fraction, seed=0)


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction", "magic_fraction", "poisson"])
def test_a_centre_that_uses_up_all_lines_is_refused(kind: str) -> None:  # fastMRI issue 344: division by zero
    with pytest.raises(ConfigError, match="smaller"):
        make_mask(kind, (64, 64), 4, 0.3, seed=0)


@pytest.mark.parametrize("seeds", [{}, {"seed": 1, "file_name": "a.h5"}])
def test_exactly_one_seed_is_taken(seeds: dict) -> None:
    for kind in MASK_KINDS:
        with pytest.raises(ConfigError, match="exactly one"):
            make_mask(kind, (16, 16), 2, **seeds)
    with pytest.raises(ConfigError, match="exactly one"):
        fastmri_mask("random", 16, 0.1, 2, **seeds)


def test_seeds_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="seed from 0"):
        make_mask("random", (16, 16), 2, seed=-1)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_make_mask_is_a_plane_that_follows_its_seed(kind: str) -> None:
    mask = make_mask(kind, (64, 91), 4, seed=3)
    assert mask.shape == (64, 91)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, make_mask(kind, (64, 91), 4, seed=3))
    assert any((mask != make_mask(kind, (64, 91), 4, seed=seed)).any() for seed in range(8))
    assert varies_along(mask) == (kind == "poisson")
    assert varies_along(mask, axis=-1)
    named = make_mask(kind, (64, 91), 4, file_name="file1.h5")
    np.testing.assert_array_equal(named, make_mask(kind, (64, 91), 4, file_name="file1.h5"))


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_acceleration_one_keeps_everything(kind: str) -> None:
    assert make_mask(kind, (9, 12), 1, seed=0).all()


def test_make_mask_takes_fastmris_centre_by_default() -> None:
    for acceleration, fraction in ((4, 0.08), (8, 0.04)):
        mask = make_mask("random", (5, 368), acceleration, file_name="file1000000.h5")
        lines = fastmri_mask("random", 368, fraction, acceleration, file_name="file1000000.h5")
        np.testing.assert_array_equal(mask, np.broadcast_to(lines, (5, 368)))


def test_unmeasured_columns_are_taken_away() -> None:
    measured = np.zeros(126, dtype=bool)
    measured[5:121] = True
    whole = make_mask("equispaced", (20, 126), 2, seed=1)
    mask = make_mask("equispaced", (20, 126), 2, seed=1, measured=measured)
    assert not mask[:, ~measured].any()
    np.testing.assert_array_equal(mask[:, measured], whole[:, measured])
    np.testing.assert_array_equal(
        mask, make_mask("equispaced", (20, 126), 2, seed=1, measured=np.broadcast_to(measured, (20, 126)))
    )
    stack = make_mask("equispaced", (20, 126), 2, seed=1, measured=np.broadcast_to(measured, (3, 20, 126)))
    assert stack.shape == (3, 20, 126)
    np.testing.assert_array_equal(stack[2], mask)
    assert effective_acceleration(mask, measured) == pytest.approx(116 / mask[0].sum())
    with pytest.raises(ShapeError, match=r"\(20, 126\), got \(125,\)"):
        make_mask("equispaced", (20, 126), 2, seed=1, measured=measured[1:])


@pytest.mark.parametrize("shape", [(96, 96), (75, 128)])
@pytest.mark.parametrize("acceleration", [1.3, 2, 4, 8, 12])
def test_poisson_hits_the_acceleration(shape: tuple[int, int], acceleration: float) -> None:
    mask = poisson_mask(shape, acceleration, (9, 12), seed=5)
    assert mask.shape == shape
    assert effective_acceleration(mask) == pytest.approx(acceleration, rel=0.01)
    top, left = shape[0] // 2 - 4, shape[1] // 2 - 6
    assert mask[top : top + 9, left : left + 12].all()


def test_poisson_samples_keep_their_distance_and_thin_out() -> None:
    shape = (128, 128)
    mask = poisson_mask(shape, 8, 0, seed=2)
    points = np.argwhere(mask)
    rho = np.hypot(*((points - 64) / 64).T)
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    # No two samples lie closer than the smaller of their spacings, and the spacing at the centre is the smallest.
    scaled = nearest / (1 + EDGE_SLOPE * rho)
    assert scaled.min() > 0.6 * np.median(scaled)
    assert nearest[rho > 0.8].min() >= 2
    random = np.random.default_rng(0).random(shape) < 1 / 8
    scattered = cKDTree(np.argwhere(random)).query(np.argwhere(random), k=2)[0][:, 1]
    assert scattered.min() == 1  # what independent samples do
    inner, outer = mask[48:80, 48:80].mean(), mask[:16].mean()
    assert inner > 3 * outer > 0


def test_poisson_refuses_a_block_beyond_the_budget() -> None:
    with pytest.raises(ConfigError, match="400 samples is more than the 128"):
        poisson_mask((32, 32), 8, 20, seed=0)
    with pytest.raises(ConfigError, match="0 or more"):
        poisson_mask((32, 32), 8, -1, seed=0)


@pytest.mark.parametrize("width", [213, 320, 322, 368, 372, 396])
@pytest.mark.parametrize("kind", LINE_RULES)
def test_acs_of_line_masks(kind: str, width: int) -> None:
    for acceleration in (4, 8):
        lines = fastmri_mask(kind, width, 0.32 / acceleration, acceleration, file_name="file1.h5")
        readout, columns = detect_acs(np.broadcast_to(lines, (40, width)))
        assert readout == slice(0, 40)
        assert lines[columns].all()
        n_center = round(width * 0.32 / acceleration)
        if kind != "magic_fraction":  # there the centre may be cut down
            # Lines that the pattern puts next to the centre make it wider.
            assert columns.stop - columns.start >= n_center
        grown = columns.stop - columns.start + 1
        start = width // 2 - grown // 2
        assert not lines[start : start + grown].all()


def test_acs_by_hand() -> None:
    full = np.ones((5, 8), dtype=bool)
    assert detect_acs(full) == (slice(0, 5), slice(0, 8))
    padded = full.copy()
    padded[:, [0, 7]] = False  # around column 4 a block of six starts at 4 - 3
    assert detect_acs(padded) == (slice(0, 5), slice(1, 7))
    padded[:, 1] = False
    assert detect_acs(padded) == (slice(0, 5), slice(2, 7))
    block = np.zeros((9, 9), dtype=bool)
    block[3:6, 2:7] = True
    assert detect_acs(block) == (slice(3, 6), slice(2, 7))
    block[4, 4] = False
    assert detect_acs(block) == (slice(4, 4), slice(4, 4))


def test_acs_prefers_a_block_to_a_sliver() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[32] = True
    mask[28:36, 28:36] = True
    mask[31:33] = True  # 2 x 64 holds more samples than 8 x 8
    assert detect_acs(mask) == (slice(28, 36), slice(28, 36))


def test_acs_common_to_all_slices() -> None:
    stack = np.ones((2, 6, 10), dtype=bool)
    stack[1, :, 8:] = False
    assert detect_acs(stack) == (slice(0, 6), slice(2, 8))
    with pytest.raises(ShapeError, match="mask"):
        detect_acs(np.ones(4, dtype=bool))


def test_acs_of_poisson_is_its_block() -> None:
    mask = poisson_mask((120, 100), 6, (18, 14), seed=1)
    rows, columns = detect_acs(mask)
    assert mask[rows, columns].all()
    assert rows.stop - rows.start >= 14
    assert columns.stop - columns.start >= 14


def test_effective_acceleration_by_hand() -> None:
    mask = np.array([[True, False, False, True], [False, False, False, False]])
    assert effective_acceleration(mask) == 4
    assert effective_acceleration(mask, np.array([True, True, False, True])) == 3
    assert effective_acceleration(np.zeros((2, 2), dtype=bool)) == float("inf")


def test_varies_along_by_hand() -> None:
    lines = np.array([True, False, True])
    assert not varies_along(lines)
    assert not varies_along(np.broadcast_to(lines, (2, 4, 3)))
    assert varies_along(np.broadcast_to(lines, (2, 4, 3)), axis=-1)
    assert varies_along(np.eye(3, dtype=bool))
