"""Undoing a known blur: point spread functions, noise, methods, and the training that makes a learned one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.training import tiny, write_images

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, InputError, ModelError, UnsupportedScan
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.metrics import nmse
from mri_unroll.recon.blurred import estimate_noise, pose
from mri_unroll.recon.psf import kept_shape
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.restore import RESTORE_METHODS, PsfSpec, make_restorer, parse_psf
from mri_unroll.recon.restorer import spacing_of
from mri_unroll.scan import Geometry
from mri_unroll.training.blurring import BlurredPictures
from mri_unroll.training.dataset import find_volumes
from mri_unroll.training.loop import train

SPACING = (1.0, 1.25)  # millimetres along y and x
SHAPE = (95, 84)


def series(pixels: NDArray[np.floating], spacing: tuple[float, float] = SPACING) -> Image:
    """Pictures ``(slice, y, x)`` as a study would hold them."""
    n, height, width = pixels.shape
    fov = (height * spacing[0] / 1000, width * spacing[1] / 1000, 0.003)
    return Image(
        pixels.astype(np.float32),
        Geometry(recon_shape=(height, width), field_of_view=fov),
        Diagnostics((np.nan,) * n, ("",) * n, (1,) * n, (0.0,) * n),
        Provenance("source", "0", "cpu", "-"),
    )


def sharp(shape: tuple[int, int] = SHAPE) -> NDArray[np.float32]:
    """Two slices of discs, bars and points on a ramp; up to about 1000."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = np.hypot(y / 0.85, x / 0.8) < 1
    picture = (
        600.0 * body * (1 + 0.2 * y) + 350.0 * (np.hypot(y - 0.2, x) < 0.3) - 400.0 * (np.hypot(y + 0.3, x) < 0.15)
    )
    picture += 300.0 * body * ((np.abs(x - 0.4) < 0.25) & (np.sin(60 * y) > 0))
    return np.stack([picture, picture[::-1]]).clip(0).astype(np.float32)


def blurred(psf: PsfSpec, noise: float, seed: int = 0) -> tuple[Image, NDArray[np.float32]]:
    """What an archive would hold of `sharp`, with Rician noise, and the truth."""
    truth = sharp()
    op = psf.operator(SHAPE, SPACING)
    generator = torch.Generator().manual_seed(seed)
    field = noise * torch.complex(*torch.randn(2, *truth.shape, generator=generator))
    seen = torch.from_numpy(truth) + 0j
    if psf.kind == "kspace-truncation":
        return series((op.normal(seen + field)).abs().numpy()), truth
    return series((op.forward(seen) + field).abs().numpy()), truth


def test_a_gaussian_has_its_width_in_millimetres() -> None:
    kernel = parse_psf("gaussian:5").kernel(SHAPE, SPACING).double().numpy()
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    for axis, spacing in enumerate(SPACING):
        profile = kernel.sum(1 - axis)
        offset = (np.arange(len(profile)) - len(profile) // 2) * spacing
        sigma = np.sqrt((profile * offset**2).sum())
        assert sigma * np.sqrt(8 * np.log(2)) == pytest.approx(5, rel=0.03)  # cut at three standard deviations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gauss:1", "Expected a point spread function"),
        ("gaussian", "Expected a point spread function"),
        ("gaussian:wide", "Expected a number"),
        ("gaussian:-1", "Expected a width above 0 mm"),
        ("gaussian:nan", "Expected a width above 0 mm"),
        ("kspace-truncation:0.5", "Expected a factor above 1"),
        ("kspace-truncation:99", "at most 8"),
    ],
)
def test_a_wrong_psf_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_psf(text)


def test_a_measured_psf_is_scaled_to_one(tmp_path: Path) -> None:
    np.save(tmp_path / "psf.npy", np.outer([1.0, 2, 1], [1.0, 4, 6, 4, 1]))
    psf = parse_psf(f"measured:{tmp_path / 'psf.npy'}")
    kernel = psf.kernel(SHAPE, None)
    assert tuple(kernel.shape) == (3, 5)
    assert float(kernel.sum()) == pytest.approx(1)
    assert str(tmp_path) not in psf.text
    assert "3 x 5" in psf.sentence
    for name, array in (("even", np.ones((4, 3))), ("deep", np.ones((3, 3, 3))), ("null", np.zeros((3, 3)))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InputError, match="point spread function"):
            parse_psf(f"measured:{tmp_path / name}.npy")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(InputError, match="cannot be read"):
        parse_psf(f"measured:{tmp_path / 'broken.npy'}")


def test_a_psf_must_fit_the_picture() -> None:
    with pytest.raises(UnsupportedScan, match="size of a pixel is unknown"):
        parse_psf("gaussian:2").operator(SHAPE, None)
    with pytest.raises(UnsupportedScan, match="more than the picture"):
        parse_psf("gaussian:80").operator(SHAPE, SPACING)
    with pytest.raises(ConfigError, match="nothing to restore"):
        parse_psf("gaussian:0.05").operator(SHAPE, SPACING)
    assert kept_shape((95, 84), 2.0) == (48, 42)


def test_noise_is_found_in_tissue() -> None:
    rng = np.random.default_rng(0)
    truth = sharp((190, 168))[0] / 1000
    for level in (0.02, 0.08):
        field = rng.standard_normal((2, *truth.shape)) * level
        magnitude = np.hypot(truth + field[0], field[1])
        assert estimate_noise(magnitude, 1.0) == pytest.approx(level, rel=0.15)
        masked = np.where(truth > 0, magnitude, 0)  # many scanners set air to zero
        assert estimate_noise(masked, 1.0) == pytest.approx(level, rel=0.15)
    assert estimate_noise(np.zeros((32, 32)), 1.0) == 0


@pytest.mark.parametrize("method", list(RESTORE_METHODS))
@pytest.mark.parametrize("text", ["gaussian:2.6", "kspace-truncation:1.7"])
def test_every_method_sharpens(method: str, text: str) -> None:
    psf = parse_psf(text)
    if psf.kind == "kspace-truncation" and method in ("richardson-lucy", "wiener"):
        with pytest.raises(ConfigError, match="needs a point spread function"):
            make_restorer(method, psf)
        return
    source, truth = blurred(psf, noise=5.0)
    seen: list[tuple[int, int]] = []
    result = make_restorer(method, psf).restore(source, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert result.pixels.shape == truth.shape
    assert np.isfinite(result.pixels).all()
    assert result.pixels.min() >= 0
    assert result.geometry is source.geometry
    # A cut leaves nothing of what lay outside it: only guesses can help, and on bars and discs they need not.
    assert nmse(truth, result.pixels) < (1.1 if psf.kind == "kspace-truncation" else 0.8) * nmse(truth, source.pixels)
    assert all(0.2 < residual < 3 for residual in result.diagnostics.data_residual)
    assert result.provenance.parameters["psf"] == psf.text
    # Units are the source's own, but for the rounding that a hundred steps of a restarted solver magnify; a second run
    # is the same.
    other = make_restorer(method, psf).restore(series(source.pixels * 1e-3))
    assert nmse(1e-3 * result.pixels, other.pixels) < 1e-3
    np.testing.assert_array_equal(make_restorer(method, psf).restore(source).pixels, result.pixels)


def test_a_poor_fit_is_told() -> None:
    psf = parse_psf("gaussian:2.6")
    source, _ = blurred(psf, noise=3.0)
    result = make_restorer("tv", psf, reg_weight=200.0).restore(source)
    assert min(result.diagnostics.data_residual) > 2
    assert any("Do not trust fine detail" in warning for warning in result.diagnostics.warnings)


def test_a_cut_of_kspace_that_is_not_empty_is_told() -> None:
    psf = parse_psf("kspace-truncation:2")
    source = series(sharp())
    assert any("K-space outside the cut" in w for w in make_restorer("tv", psf).restore(source).diagnostics.warnings)
    zero_filled, _ = blurred(psf, noise=2.0)
    found = make_restorer("tv", psf).restore(zero_filled).diagnostics.warnings
    assert not any("K-space outside the cut" in w for w in found)


def test_empty_and_broken_slices() -> None:
    psf = parse_psf("gaussian:2")
    source, _ = blurred(psf, noise=5.0)
    with_hole = source.pixels.copy()
    with_hole[1] = 0
    result = make_restorer("wavelet", psf).restore(replace(source, pixels=with_hole))
    assert not result.pixels[1].any()
    assert "Empty slice" in result.diagnostics.status[1]
    with_hole[0, 3, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        make_restorer("wavelet", psf).restore(replace(source, pixels=with_hole))


def test_settings_belong_to_methods() -> None:
    psf = parse_psf("gaussian:2")
    with pytest.raises(ConfigError, match="no method of restoration"):
        make_restorer("sharpen", psf)
    with pytest.raises(ConfigError, match="no weight"):
        make_restorer("richardson-lucy", psf, reg_weight=1.0)
    with pytest.raises(ConfigError, match="no number of iterations"):
        make_restorer("wiener", psf, n_iterations=3)
    assert make_restorer("tv", psf, n_iterations=3).parameters["n_iterations"] == 3


def test_nothing_in_nothing_out() -> None:
    """In a picture of noise alone the network makes no blob above four standard deviations of that noise."""
    generator = np.random.default_rng(3)
    psf = parse_psf("gaussian:2")
    source, _ = blurred(psf, noise=8.0)
    noise = np.hypot(*generator.standard_normal((2, 1, *SHAPE))) * 8.0
    result = make_restorer("restore", psf).restore(series(np.concatenate([source.pixels, noise])))
    assert result.pixels[2].max() < 4 * 8.0


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_images(tmp_path / "truth")


def test_simulated_blur_is_that_of_its_operator(pictures: Path) -> None:
    volumes, _ = find_volumes(pictures, "b:[12]|c")
    examples = BlurredPictures(volumes, 0, 20, empty_share=0.3)
    again = BlurredPictures(volumes, 0, 20, empty_share=0.3)
    empties = 0
    for index in range(12):
        example = examples[index]
        assert example.adjoint_kspace.equal(again[index].adjoint_kspace)
        empties += not bool(example.coil_combined.abs().any())
        error = example.op.normal(example.coil_combined) - example.adjoint_kspace
        assert float(error.abs().square().mean().sqrt()) < 0.7  # noise, and the floor of magnitudes in air
        assert example.strength.shape == (1, 2)
    assert 1 <= empties <= 8


def test_a_network_learns_to_restore_and_only_that(pictures: Path, tmp_path: Path) -> None:
    weights = train(tiny(pictures, tmp_path / "run", task="restore"), lambda event: None)
    psf = parse_psf("gaussian:2.6")
    source, truth = blurred(psf, noise=5.0)
    result = make_restorer(str(weights), psf).restore(source)
    assert result.pixels.shape == truth.shape
    assert result.provenance.weights_digest is not None
    with pytest.raises(ConfigError, match="restores finished pictures"):
        make_reconstructor(str(weights), ReconstructionConfig())
    other = train(tiny(pictures, tmp_path / "other"), lambda event: None)
    with pytest.raises(ModelError, match="trained to reconstruct k-space"):
        make_restorer(str(other), psf)
    with pytest.raises(ConfigError, match="no coils, no k-space"):
        tiny(pictures, tmp_path / "third", task="restore", loss="kspace")


def test_the_scale_of_a_series_and_its_spacing() -> None:
    source = series(sharp())
    assert spacing_of(source) == pytest.approx(SPACING)
    problem = pose(source.pixels[0], parse_psf("gaussian:2").operator(SHAPE, SPACING), scale=800.0, noise=8.0)
    assert problem.noise_level == pytest.approx(0.01)
    assert 0 < problem.sampled_fraction < 0.5
    assert problem.lipschitz == pytest.approx(1, abs=0.1)
