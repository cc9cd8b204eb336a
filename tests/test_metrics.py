import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mri_unroll import metrics
from mri_unroll.errors import ShapeError
from mri_unroll.physics.phantom import phantom_image


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    reference = np.abs(phantom_image((61, 48), n_slices=3)) * np.array([1.0, 0.4, 0.1])[:, None, None]
    image = np.abs(reference + 0.03 * random.standard_normal(reference.shape))
    return reference, image


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-10, 3e8])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_to_skimage_and_the_fastmri_formulas(pair: tuple, scale: float, dtype: type) -> None:
    reference, image = ((array * scale).astype(dtype) for array in pair)
    truth, picture = reference.astype(np.float64), image.astype(np.float64)
    peak = truth.max()
    nmse = np.linalg.norm(truth - picture) ** 2 / np.linalg.norm(truth) ** 2
    psnr = peak_signal_noise_ratio(truth, picture, data_range=peak)
    ssim = np.mean([structural_similarity(a, b, data_range=peak) for a, b in zip(truth, picture, strict=True)])
    assert metrics.nmse(reference, image) == pytest.approx(nmse, rel=1e-9)
    assert metrics.psnr(reference, image) == pytest.approx(psnr, abs=1e-6)
    assert metrics.ssim(reference, image) == pytest.approx(ssim, abs=1e-6)
    assert metrics.psnr(reference, image) == pytest.approx(
        10 * math.log10(peak**2 / np.mean((truth - picture) ** 2)), abs=1e-6
    )


def test_ssim_equals_the_formula_written_out(pair: tuple) -> None:
    reference, image = (array[0] for array in pair)
    peak = reference.max()
    values = []
    for y in range(reference.shape[0] - 6):
        for x in range(reference.shape[1] - 6):
            a, b = (array[y : y + 7, x : x + 7].ravel() for array in (reference, image))
            (var_a, cov), (_, var_b) = np.cov(a, b)
            c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
            luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
            values.append(luminance * (2 * cov + c2) / (var_a + var_b + c2))
    assert metrics.ssim(reference, image) == pytest.approx(np.mean(values), abs=1e-10)


def test_the_data_range_is_that_of_the_volume_unless_given(pair: tuple) -> None:
    reference, image = pair
    dark = metrics.ssim(reference[2], image[2])
    assert dark != pytest.approx(metrics.ssim(reference[2], image[2], data_range=reference.max()), abs=0.05)
    by_slice = [metrics.ssim(a, b, data_range=reference.max()) for a, b in zip(reference, image, strict=True)]
    assert metrics.ssim(reference, image) == pytest.approx(np.mean(by_slice), abs=1e-12)
    gain = metrics.psnr(reference, image, data_range=2 * reference.max()) - metrics.psnr(reference, image)
    assert gain == pytest.approx(20 * math.log10(2), abs=1e-9)


def test_known_values() -> None:
    reference = np.ones((2, 8, 8))
    assert metrics.nmse(reference, 0.9 * reference) == pytest.approx(0.01)
    assert metrics.psnr(reference, 0.9 * reference) == pytest.approx(20)
    # Flat pictures: only the luminance term is left.
    assert metrics.ssim(reference, 0.5 * reference) == pytest.approx((2 * 0.5 + 1e-4) / (1 + 0.25 + 1e-4))


def test_perfect_and_empty_pictures() -> None:
    picture, nothing = np.arange(64.0).reshape(8, 8), np.zeros((8, 8))
    assert (metrics.nmse(picture, picture), metrics.psnr(picture, picture)) == (0, math.inf)
    assert metrics.ssim(picture, picture) == pytest.approx(1)
    assert metrics.nmse(nothing, nothing) == 0
    assert metrics.psnr(nothing, nothing) == math.inf
    assert metrics.ssim(nothing, nothing) == 1
    assert metrics.nmse(nothing, picture + 1) == math.inf
    assert metrics.psnr(nothing, picture + 1) == -math.inf
    assert metrics.ssim(nothing, picture + 1) == 0
    assert metrics.nmse(picture, nothing) == 1


def test_pictures_that_do_not_fit_are_refused() -> None:
    for measure in (metrics.nmse, metrics.psnr, metrics.ssim, metrics.in_body):
        with pytest.raises(ShapeError, match=r"\(8, 8\), got \(8, 9\)"):
            measure(np.ones((8, 8)), np.ones((8, 9)))
        with pytest.raises(ShapeError, match="complex"):
            measure(np.ones((8, 8)), np.ones((8, 8), dtype=complex))
        with pytest.raises(ShapeError, match="volume"):
            measure(np.ones(8), np.ones(8))
    with pytest.raises(ShapeError, match="at least 7 x 7"):
        metrics.ssim(np.ones((6, 9)), np.ones((6, 9)))


@pytest.mark.parametrize(
    ("size", "kept", "start"),
    [(512, 213, 149), (323, 320, 1), (320, 213, 53), (322, 319, 1), (640, 320, 160), (5, 5, 0), (4, 3, 0), (5, 4, 0)],
)
def test_crops_start_where_fastmris_do(size: int, kept: int, start: int) -> None:
    rows = np.arange(size)
    assert metrics.center_crop(np.broadcast_to(rows, (3, size)), (3, kept))[0].tolist() == rows[start:][:kept].tolist()
    tall = np.broadcast_to(rows[:, None], (2, size, 3))
    assert metrics.center_crop(tall, (kept, 3))[1, :, 0].tolist() == rows[start:][:kept].tolist()


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (0, 4)])
def test_crops_larger_than_the_picture_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="no larger than"):
        metrics.center_crop(np.zeros((8, 8)), shape)


def _disc(shape: tuple[int, int], radius: float, center: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    y, x = np.indices(shape)
    return np.hypot(y - center[0] * shape[0], x - center[1] * shape[1]) <= radius


@pytest.mark.parametrize("scale", [1e-9, 1.0, 4095.0])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.25])
def test_body_of_a_noisy_disc_with_holes(noise: float, scale: float) -> None:
    shape = (128, 126)
    disc = _disc(shape, 45)
    picture = disc * 1.0
    picture[_disc(shape, 10, (0.4, 0.5))] = 0  # air inside the body belongs to it
    random = np.random.default_rng(0)
    picture = np.abs(picture + noise * (random.standard_normal(shape) + 1j * random.standard_normal(shape)))
    body = metrics.body_mask(scale * picture)
    assert body.shape == shape
    assert 2 * (body & disc).sum() / (body.sum() + disc.sum()) > 0.95
    assert body[disc & ~(picture > 0.5)].mean() > 0.9


def test_body_does_not_depend_on_a_bright_coil() -> None:
    shape = (160, 160)
    disc = _disc(shape, 60)
    coil = np.exp(-np.indices(shape)[0] / 40)  # fifty times brighter at the top of the picture than at its bottom
    body = metrics.body_mask(disc * coil)
    assert (body & disc).sum() > 0.8 * disc.sum()
    assert not body[:15].any()


def test_body_keeps_both_legs_and_drops_specks() -> None:
    shape = (128, 200)
    legs = _disc(shape, 30, (0.5, 0.25)) | _disc(shape, 35, (0.5, 0.75))
    speck = _disc(shape, 3, (0.06, 0.5))
    body = metrics.body_mask(np.stack([1.0 * (legs | speck), np.zeros(shape)]))
    assert (body[0] == legs).mean() > 0.97
    assert body[0][legs].all()
    assert not body[0][speck].any()
    assert not body[1].any()


def test_body_that_fills_the_picture_reaches_its_border() -> None:
    picture = np.ones((64, 64))
    picture[:, :10] = 0.01
    body = metrics.body_mask(picture)
    assert body[:, 12:].all()
    assert not body[:, :8].any()


def test_in_body_by_hand(pair: tuple) -> None:
    reference, image = pair
    body = metrics.body_mask(reference)
    body[2] = False  # a slice without body is left out of the mean
    figures = metrics.in_body(reference, image, body)
    error, peak = (reference - image)[body], reference.max()
    assert figures["nmse"] == pytest.approx(np.sum(error**2) / np.sum(reference[body] ** 2))
    assert figures["psnr"] == pytest.approx(10 * math.log10(peak**2 / np.mean(error**2)))
    maps = [structural_similarity(reference[i], image[i], data_range=peak, full=True)[1] for i in (0, 1)]
    assert figures["ssim"] == pytest.approx(np.mean([maps[i][body[i]].mean() for i in (0, 1)]), abs=1e-9)
    assert metrics.in_body(reference, image) == metrics.in_body(reference, image, metrics.body_mask(reference))


def test_in_body_ignores_air(pair: tuple) -> None:
    reference, image = (array[0] for array in pair)
    far_from_body = ~_disc(reference.shape, 34)
    worse = image + 0.5 * far_from_body
    assert metrics.in_body(reference, worse) == pytest.approx(metrics.in_body(reference, image))
    assert metrics.nmse(reference, worse) > 1.5 * metrics.nmse(reference, image)


def test_in_body_without_a_body() -> None:
    figures = metrics.in_body(np.zeros((2, 8, 8)), np.ones((2, 8, 8)))
    assert list(figures) == ["nmse", "psnr", "ssim"]
    assert all(math.isnan(value) for value in figures.values())
    with pytest.raises(ShapeError, match="body mask"):
        metrics.in_body(np.ones((8, 8)), np.ones((8, 8)), np.ones((9, 9), dtype=bool))


@pytest.mark.parametrize("radius", [1, 2, 5])
@pytest.mark.parametrize("outside", [False, True])
def test_the_body_is_closed_by_discs(radius: int, outside: bool) -> None:
    mask = np.random.default_rng(radius).random((23, 34)) > 0.98
    framed = np.pad(mask, radius, constant_values=outside)
    expected = ndimage.distance_transform_edt(~framed)[radius:-radius, radius:-radius] <= radius
    assert mask.any()
    np.testing.assert_array_equal(metrics._dilated(mask, radius, outside), expected)
