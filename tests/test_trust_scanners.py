"""The simulated scans that the verdict is calibrated with: consistent, and as varied as is said."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from mri_unroll.physics.sampling import varies_along
from mri_unroll.training.simulate import Acquisition, centred_fft2, centred_ifft2


@pytest.fixture
def scanners(trust_script: Callable[[str], ModuleType]) -> ModuleType:
    return trust_script("scanners")


@pytest.fixture
def faults(trust_script: Callable[[str], ModuleType]) -> ModuleType:
    return trust_script("faults")


def head() -> NDArray[np.float64]:
    """A bright rim, grey inside, dark holes; air around."""
    y, x = np.mgrid[-60:60, -50:50]
    picture = np.where(np.hypot(y / 50, x / 40) < 1, 0.5, 0.0) + np.where(
        np.abs(np.hypot(y / 50, x / 40) - 1) < 0.06, 0.5, 0
    )
    return picture * np.where(np.hypot(y - 10, x) < 8, 0.2, 1.0)


def scans(scanners: ModuleType, count: int) -> list[Acquisition]:
    return [scanners.any_scan(head(), np.random.default_rng([4, seed])) for seed in range(count)]


def test_what_is_measured_is_what_the_coils_see_with_noise(scanners: ModuleType) -> None:
    for scan, again in zip(scans(scanners, 12), scans(scanners, 12), strict=True):
        np.testing.assert_array_equal(scan.kspace, again.kspace)
        assert scan.mask.shape == scan.kspace.shape[1:] == scan.body.shape
        assert scan.mask.any()
        assert np.isfinite(scan.kspace).all()
        assert scan.coil_images is not None
        assert scan.noise_images is not None
        whole = centred_fft2(scan.coil_images + scan.noise_images)
        expected = np.where(scan.mask, whole, 0)
        np.testing.assert_allclose(scan.kspace, expected, atol=1e-5 * np.abs(whole).max())


def test_scans_differ_as_scanners_do(scanners: ModuleType) -> None:
    found = scans(scanners, 120)
    coils = {len(scan.kspace) for scan in found}
    assert {1, 4, 8} <= coils
    assert max(coils) > 8
    planar = np.mean([varies_along(scan.mask) for scan in found])
    assert 0.15 < planar < 0.5
    assert any(varies_along(scan.mask) and len(scan.kspace) == 1 for scan in found)
    loud, filled, ratios = [], [], []
    for scan in found:
        assert scan.coil_images is not None
        energy = np.linalg.norm(scan.coil_images.reshape(len(scan.coil_images), -1), axis=1)
        loud.append(energy.min() / energy.max())
        rss = np.linalg.norm(scan.coil_images, axis=0)
        rim = np.concatenate([rss[0], rss[-1], rss[:, 0], rss[:, -1]])
        filled.append(np.quantile(rim, 0.8) > 0.2 * np.quantile(rss, 0.97))
        ratios.append(max(rss.shape) / min(rss.shape))
    assert min(loud) < 0.1  # 20 dB
    assert 0.1 < np.mean(filled) < 0.6  # tissue reaches the border
    assert max(ratios) > 1.4


def test_a_receiver_does_to_noise_what_it_does_to_signal(scanners: ModuleType) -> None:
    """One linear chain for both; it shapes the readout of the picture and the ends of k-space, never the middle."""
    shape, bands, tapers, uneven = (64, 48), 0, 0, 0
    for seed in range(200):
        received = scanners.receiver(shape, np.random.default_rng([7, seed]))
        impulse, flat = np.zeros((1, *shape), complex), np.ones((1, *shape), complex)
        impulse[0, 32, 24] = 1  # in the middle of k-space: even over the picture
        rows = np.abs(centred_ifft2(received.signal(impulse))[0])
        np.testing.assert_allclose(rows, rows[:, :1] * np.ones((1, 48)), rtol=1e-9)
        assert rows[32].max() > 0.5 * rows.max()
        assert rows.max() <= 1.01 / (64 * 48) ** 0.5  # a taper rounds a band off
        bands += bool(np.ptp(rows) > 1e-3 * rows.max())
        weights = np.abs(received.signal(flat)[0])
        tapers += bool(weights[0, 0] < 0.7 * weights[32, 24])
        joint = received.signal(2 * impulse + 1j * flat)
        np.testing.assert_allclose(joint, 2 * received.signal(impulse) + 1j * received.signal(flat), atol=1e-12)
        np.testing.assert_allclose(received.noise(flat / received.gains), received.signal(flat), atol=1e-12)
        uneven += bool((received.gains != 1).any())
    assert 30 < bands < 90
    assert 5 < tapers < 45
    assert 30 < uneven < 70


def test_uneven_receivers_are_added_where_asked_for(scanners: ModuleType) -> None:
    scan, other = (scanners.any_scan(head(), np.random.default_rng(6), plain=0.0, uneven=share) for share in (0.0, 1.0))
    assert scan.kspace.shape == other.kspace.shape
    assert not np.array_equal(scan.coil_images, other.coil_images)
    whole = centred_fft2(other.coil_images + other.noise_images)
    np.testing.assert_allclose(other.kspace, np.where(other.mask, whole, 0), atol=1e-5 * np.abs(whole).max())


def test_what_is_beyond_the_field_of_view_wraps_or_is_cut(scanners: ModuleType) -> None:
    coils = np.arange(10.0)[None, :, None] * np.ones((2, 1, 6))
    folded = scanners.fitted(coils, [6, 6], [True, False])
    cut = scanners.fitted(coils, [6, 6], [False, False])
    np.testing.assert_array_equal(cut[0, :, 0], [2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(folded[0, :, 0], [2 + 8, 3 + 9, 4, 5, 6 + 0, 7 + 1])
    assert folded.sum() == coils.sum()


def test_a_fault_changes_only_what_was_measured(scanners: ModuleType, faults: ModuleType) -> None:
    put_in = dict.fromkeys(faults.FAULTS, 0)
    for number, acquisition in enumerate(scans(scanners, 25)):
        scan = faults.measured(acquisition)
        for name, fault in faults.FAULTS.items():
            damaged = fault(scan, np.random.default_rng(number))
            if damaged is None:  # one coil has no other
                continue
            assert not damaged.kspace[:, ~scan.mask].any()
            put_in[name] += not np.allclose(damaged.kspace, scan.kspace)
    assert min(put_in.values()) > 8
