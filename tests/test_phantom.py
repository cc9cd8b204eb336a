import numpy as np
import pytest

from mri_unroll.errors import ConfigError
from mri_unroll.physics.phantom import Ellipse, ellipse_kspace, head_slice, phantom_image, phantom_kspace, phantom_maps

SHAPES = [(96, 96), (97, 96), (96, 95), (97, 99), (128, 70)]


def _fft(image: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Centred unitary FFT of the last two axes, written out here so that the package's own is not trusted."""
    transform = np.fft.ifft2 if inverse else np.fft.fft2
    shifted = np.fft.ifftshift(image, axes=(-2, -1))
    return np.fft.fftshift(transform(shifted, norm="ortho"), axes=(-2, -1))


def _centroid(weight: np.ndarray) -> tuple[float, float]:
    y, x = np.indices(weight.shape)
    return float((weight * y).sum() / weight.sum()), float((weight * x).sum() / weight.sum())


def test_transform_of_a_disc_by_quadrature() -> None:
    disc = Ellipse((0.11, -0.07), (0.3, 0.12), 0.7, 1.5)
    angle, radius = np.meshgrid(
        2 * np.pi * np.arange(400) / 400, (np.arange(400) + 0.5) / 400, indexing="ij"
    )  # polar midpoint rule on the unit disc
    first, second = 0.3 * radius * np.cos(angle), 0.12 * radius * np.sin(angle)
    y = 0.11 + np.cos(0.7) * first - np.sin(0.7) * second
    x = -0.07 + np.sin(0.7) * first + np.cos(0.7) * second
    weight = 1.5 * 0.3 * 0.12 * radius * (2 * np.pi / 400) / 400
    for ky, kx in ((0.0, 0.0), (1.0, 0.0), (0.0, -2.5), (3.3, 4.1), (-7.0, 2.0)):
        expected = (weight * np.exp(-2j * np.pi * (ky * y + kx * x))).sum()
        value = ellipse_kspace((disc,), np.array(ky), np.array(kx))
        assert value == pytest.approx(expected, abs=1e-6)
    assert ellipse_kspace((disc,), np.zeros(1), np.zeros(1))[0] == pytest.approx(1.5 * np.pi * 0.3 * 0.12, rel=1e-12)


def test_a_shift_is_a_linear_phase() -> None:
    ky, kx = np.meshgrid(np.linspace(-9, 9, 13), np.linspace(-7, 7, 11), indexing="ij")
    here = ellipse_kspace((Ellipse((0, 0), (0.2, 0.1), 0.3, 1),), ky, kx)
    there = ellipse_kspace((Ellipse((0.125, -0.25), (0.2, 0.1), 0.3, 1),), ky, kx)
    np.testing.assert_allclose(there, here * np.exp(-2j * np.pi * (0.125 * ky - 0.25 * kx)), atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_kspace_is_that_of_the_raster_in_its_place(shape: tuple[int, int]) -> None:
    kspace = phantom_kspace(shape, 1)[0, 0]
    raster = phantom_image(shape)[0]
    image = _fft(kspace, inverse=True)
    assert np.sum(np.abs(image - raster) ** 2) < 0.01 * np.sum(np.abs(raster) ** 2)  # Gibbs ringing is what is left
    expected, found = _centroid(np.abs(raster)), _centroid(np.abs(image))
    assert found == pytest.approx(expected, abs=0.05)
    # A half or whole pixel off must not pass: every other placement by half pixels is far worse.
    y, x = (np.arange(n) - n // 2 for n in shape)
    residual = {}
    for dy in (-1, -0.5, 0, 0.5, 1):
        for dx in (-1, -0.5, 0, 0.5, 1):
            wave = np.exp(-2j * np.pi * (dy * y[:, None] / shape[0] + dx * x[None, :] / shape[1]))
            residual[dy, dx] = np.linalg.norm(_fft(wave * kspace, inverse=True) - raster)
    correct = residual.pop((0, 0))
    assert correct < 0.5 * min(residual.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_low_frequencies_equal_those_of_the_raster(shape: tuple[int, int]) -> None:
    n_coils = 5
    kspace = phantom_kspace(shape, n_coils)[0]
    from_raster = _fft(phantom_maps(shape, n_coils) * phantom_image(shape)[0])
    middle = np.s_[:, shape[0] // 2 - 4 : shape[0] // 2 + 5, shape[1] // 2 - 4 : shape[1] // 2 + 5]
    assert np.abs(kspace[middle] - from_raster[middle]).max() < 2e-3 * np.abs(kspace).max()
    peak = np.unravel_index(np.argmax((np.abs(kspace) ** 2).sum(axis=0)), shape)
    assert np.abs(np.array(peak) - np.array(shape) // 2).max() <= 1  # the object's phase and the coils move it a little


@pytest.mark.parametrize("n_coils", [1, 4, 12])
def test_coil_images_are_maps_times_image(n_coils: int) -> None:
    shape = (150, 121)
    expected = phantom_maps(shape, n_coils) * phantom_image(shape)[0]
    found = _fft(phantom_kspace(shape, n_coils)[0], inverse=True)
    for coil in range(n_coils):
        error = np.sum(np.abs(found[coil] - expected[coil]) ** 2) / np.sum(np.abs(expected[coil]) ** 2)
        assert error < 0.01, coil


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_oversampling_only_widens_the_field_of_view(size: tuple[int, int]) -> None:
    plain = phantom_kspace(size, 3)
    wide = phantom_kspace((2 * size[0], size[1]), 3, oversampling=(2, 1))
    # Twice the field of view along y: every second sample, from zero frequency outwards, is the plain scan. The unitary
    # norm over twice the pixels makes it smaller by the square root of 2.
    first = size[0] - 2 * (size[0] // 2)
    np.testing.assert_allclose(wide[:, :, first::2] * np.sqrt(2), plain, rtol=1e-5, atol=1e-6)
    image = np.abs(phantom_image((2 * size[0], size[1]), oversampling=(2, 1))[0])
    shift = size[0] - size[0] // 2
    np.testing.assert_allclose(image[shift : shift + size[0]], np.abs(phantom_image(size)[0]), atol=1e-12)
    assert image[: shift - 1].max() == 0


def test_raster_keeps_area_and_centre() -> None:
    image = np.abs(phantom_image((81, 64))[0])
    total = sum(e.intensity * np.pi * e.semi_axes[0] * e.semi_axes[1] for e in head_slice())
    assert image.mean() == pytest.approx(total, rel=2e-3)  # the picture's side is 1; the phase series costs 1e-3


def test_maps_are_smooth_complex_and_distinct() -> None:
    maps = phantom_maps((64, 64), 8)
    assert np.abs(maps).max() == pytest.approx(1, abs=0.1)
    assert max(np.abs(np.diff(maps, axis=axis)).max() for axis in (1, 2)) < 0.08
    phase = np.angle(maps[:, 16:48, 16:48] / maps[:, 32:33, 32:33])
    assert (np.ptp(phase, axis=(1, 2)) > 0.1).all()
    singular = np.linalg.svd(maps.reshape(8, -1), compute_uv=False)
    assert singular[-1] > 1e-3 * singular[0]
    rss = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    body = np.abs(phantom_image((64, 64))[0]) > 0.05
    assert rss[body].max() < 2 * rss[body].min()


def test_the_object_has_a_smooth_phase() -> None:
    image = phantom_image((64, 64))[0]
    phase = np.angle(image[np.abs(image) > 0.1])
    assert 0.5 < np.ptp(phase) < 2


def test_slices_differ() -> None:
    image = np.abs(phantom_image((64, 64), n_slices=3))
    kspace = phantom_kspace((64, 64), 2, n_slices=3)
    assert kspace.shape == (3, 2, 64, 64)
    assert kspace.dtype == np.complex64
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for volume in (image, kspace):
            assert np.linalg.norm(volume[first] - volume[second]) > 0.1 * np.linalg.norm(volume[first])


def test_noise_has_the_given_level_and_seed() -> None:
    exact = phantom_kspace((64, 80), 4)
    noisy = phantom_kspace((64, 80), 4, noise=0.1, seed=3)
    noise = noisy - exact
    assert noise.real.std() == pytest.approx(0.1, rel=0.03)
    assert noise.imag.std() == pytest.approx(0.1, rel=0.03)
    flat = noise.reshape(4, -1)
    covariance = flat @ flat.conj().T / flat.shape[1]
    np.testing.assert_allclose(covariance, 0.02 * np.eye(4), atol=1e-3)
    np.testing.assert_array_equal(noisy, phantom_kspace((64, 80), 4, noise=0.1, seed=3))
    assert (noisy != phantom_kspace((64, 80), 4, noise=0.1, seed=4)).all()


def test_senseless_sizes_are_refused() -> None:
    for call in (
        lambda: phantom_kspace((0, 8), 1),
        lambda: phantom_kspace((8, 8), 0),
        lambda: phantom_kspace((8, 8), 1, n_slices=0),
        lambda: phantom_kspace((8, 8), 1, noise=-1),
    ):
        with pytest.raises(ConfigError, match="1 or more"):
            call()
