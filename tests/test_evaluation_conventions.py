"""The conventions of scoring: equal to fastMRI's own evaluator and to scikit-image, and each what it says it is."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.evaluate.conventions import CONVENTIONS, MEASURES, convention_named, score_volume

# (slices, height, width) of the reference, and of the picture, which may be larger: odd sizes shift the crops.
SHAPES = [
    ((3, 40, 40), (3, 40, 40)),
    ((2, 41, 37), (2, 41, 37)),
    ((2, 64, 33), (2, 65, 38)),
    ((4, 47, 32), (4, 50, 47)),
    ((1, 51, 50), (1, 96, 61)),
]


def _volumes(case: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and picture number ``case`` of twenty: slices from bright to dark, in units from 1e-5 to 1e4."""
    random = np.random.default_rng(case)
    shape, larger = SHAPES[case % len(SHAPES)]
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in larger[1:]), indexing="ij")
    truth = np.stack(
        [np.exp(-3 * np.hypot(y - 0.2 * k, x) ** 2) * (0.2 + 0.8 * k / larger[0]) for k in range(shape[0])]
    )
    truth += 0.2 * random.random(larger)
    image = np.abs(truth + 0.05 * (1 + case % 4) * random.standard_normal(larger))
    top, left = ((big - small) // 2 for big, small in zip(larger[1:], shape[1:], strict=True))
    reference = truth[:, top : top + shape[1], left : left + shape[2]]
    unit = 10.0 ** random.integers(-5, 5)
    return reference * unit, image * unit


def _middle(volume: np.ndarray, side: int) -> np.ndarray:
    rows, columns = volume.shape[-2:]
    top, left = (rows - side) // 2, (columns - side) // 2
    return volume[:, top : top + side, left : left + side]


@pytest.mark.parametrize("case", range(20))
def test_fastmri_equals_scikit_image(case: int) -> None:
    reference, image = _volumes(case)
    truth, picture = (_middle(volume, reference.shape[-1]) for volume in (reference, image))
    found = score_volume(reference, image, "fastmri")
    peak = truth.max()
    planes = zip(truth, picture, strict=True)
    expected = {
        "nmse": np.linalg.norm(truth - picture) ** 2 / np.linalg.norm(truth) ** 2,
        "psnr": peak_signal_noise_ratio(truth, picture, data_range=peak),
        "ssim": np.mean([structural_similarity(a, b, data_range=peak) for a, b in planes]),
    }
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fastmri_equals_the_official_evaluator(dtype: type) -> None:
    """Twenty volumes, through the functions and the crops of the ``fastmri`` package as its evaluator calls them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that it brings along
        official = pytest.importorskip("fastmri.evaluate", reason="the fastmri package is not installed")
        crop = pytest.importorskip("fastmri.data.transforms").center_crop
    largest = dict.fromkeys(MEASURES, 0.0)
    for case in range(20):
        reference, image = (volume.astype(dtype) for volume in _volumes(case))
        target = crop(reference, (reference.shape[-1], reference.shape[-1]))
        recons = crop(image, (target.shape[-1], target.shape[-1]))
        found = score_volume(reference, image, "fastmri")
        for name in MEASURES:
            gap = abs(found[name] - float(np.squeeze(getattr(official, name)(target, recons))))
            largest[name] = max(largest[name], gap)
    print(f"largest difference to fastmri.evaluate over 20 volumes, {dtype.__name__}: {largest}")
    assert max(largest.values()) < 1e-6  # in float32, in which the evaluator then computes, it is its own rounding


@pytest.mark.parametrize("n_slices", [3, 100, 103])
def test_calgary_is_per_slice_without_the_ends(n_slices: int) -> None:
    random = np.random.default_rng(n_slices)
    reference = random.random((n_slices, 16, 14)) * np.linspace(0.1, 2, n_slices)[:, None, None]
    image = reference + 0.1 * random.standard_normal(reference.shape)
    kept = slice(50, -50) if n_slices > 100 else slice(None)
    psnr, ssim, nmse = [], [], []
    for truth, picture in zip(reference[kept], image[kept], strict=True):
        truth, picture = truth / truth.max(), picture / truth.max()
        span = max(truth.max(), picture.max()) - min(truth.min(), picture.min())
        psnr.append(peak_signal_noise_ratio(truth, picture, data_range=span))
        ssim.append(structural_similarity(truth, picture, data_range=span))
        nmse.append(((truth - picture) ** 2).sum() / (truth**2).sum())
    expected = {"nmse": np.mean(nmse), "psnr": np.mean(psnr), "ssim": np.mean(ssim)}
    assert score_volume(reference, image, "calgary") == pytest.approx(expected, abs=1e-9)


def test_slice_takes_each_slices_own_maximum() -> None:
    reference, image = _volumes(0)
    planes = list(zip(reference, image, strict=True))
    expected = {
        "nmse": np.mean([((a - b) ** 2).sum() / (a**2).sum() for a, b in planes]),
        "psnr": np.mean([peak_signal_noise_ratio(a, b, data_range=a.max()) for a, b in planes]),
        "ssim": np.mean([structural_similarity(a, b, data_range=a.max()) for a, b in planes]),
    }
    assert score_volume(reference, image, "slice") == pytest.approx(expected, abs=1e-9)


def test_conventions_differ_on_the_same_picture() -> None:
    random = np.random.default_rng(5)
    reference = random.random((5, 24, 24)) * np.linspace(0.1, 1, 5)[:, None, None]
    image = reference + 0.03 * random.standard_normal(reference.shape)
    ssim = [score_volume(reference, image, name)["ssim"] for name in CONVENTIONS]
    assert len(ssim) == 3
    assert min(abs(a - b) for a, b in zip(ssim, [*ssim[1:], ssim[0]], strict=True)) > 1e-3


@pytest.mark.parametrize("name", ["calgary", "slice"])
def test_empty_slices_have_no_range_and_are_left_out(name: str) -> None:
    reference, image = (volume.copy() for volume in _volumes(0))
    whole = score_volume(reference[1:], image[1:], name)
    reference[0] = 0
    assert score_volume(reference, image, name) == pytest.approx(whole)
    assert all(math.isnan(value) for value in score_volume(0 * reference, image, name).values())


def test_a_reference_wider_than_high_keeps_its_rows() -> None:
    random = np.random.default_rng(2)
    reference, image = random.random((2, 20, 31)), random.random((2, 24, 40))
    assert score_volume(reference, image)["nmse"] == pytest.approx(
        score_volume(reference, image[:, 2:22, 4:35])["nmse"]
    )


@pytest.mark.parametrize(
    ("reference", "image", "message"),
    [
        (np.ones((2, 9, 9)), np.ones((3, 9, 9)), "2 slices"),
        (np.ones((2, 9, 9)), np.ones((2, 8, 9)), "no larger than"),
        (np.ones((9, 9)), np.ones((9, 9)), "reference \\(slice, y, x\\)"),
        (np.ones((1, 9, 9)), np.ones((1, 9, 9), complex), "real picture"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(reference: np.ndarray, image: np.ndarray, message: str) -> None:
    for name in CONVENTIONS:
        with pytest.raises(ShapeError, match=message):
            score_volume(reference, image, name)


def test_every_convention_states_itself() -> None:
    for name, convention in CONVENTIONS.items():
        assert convention.name == name
        for word in (name, "data range", "crop", "7 × 7", "slices", "float64"):
            assert word in convention.statement, (name, word)
        for word in (
            f"{name}: ",
            "data range",
            "crop",
            "7 × 7",
            "slice" if name != "fastmri" else "volumes",
            "float64",
        ):
            assert word in convention.brief, (name, word)
        assert "\n" not in convention.statement + convention.brief
    with pytest.raises(ConfigError, match="'nature'"):
        convention_named("nature")
