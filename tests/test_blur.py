"""Blur: operator properties, SciPy's convolution, dense matrices, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from support.operators import check_derivatives, check_operator, random_complex
from torch import Tensor

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.physics import BlurOperator, gaussian_psf
from mri_unroll.physics import blur as module

SCIPY_MODES = {"periodic": "wrap", "reflect": "reflect", "zero": "constant"}
CASES = [((8, 8), (3, 3)), ((7, 9), (4, 5)), ((12, 5), (1, 5)), ((6, 6), (6, 6)), ((5, 4, 7), (3, 2, 4))]


def random_psf(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    """Without any symmetry, sum of moduli 1."""
    psf = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return psf / psf.abs().sum()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("boundary", module.BOUNDARIES)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("shape", "psf_shape"), CASES)
def test_operator_properties(
    dtype: torch.dtype, boundary: str, batch: tuple[int, ...], shape: tuple[int, ...], psf_shape: tuple[int, ...]
) -> None:
    psf = random_psf(psf_shape, dtype.to_real())
    # The most that reflection can add to the norm of a PSF without symmetry, as the docstring says.
    op = BlurOperator(psf / 2 ** (len(shape) / 2 * (boundary == "reflect")), shape, boundary)
    check_operator(op, random_complex((*batch, *shape), dtype, 1), random_complex((*batch, *shape), dtype, 2))


@pytest.mark.parametrize("boundary", module.BOUNDARIES)
def test_norm_of_a_symmetric_psf(boundary: str) -> None:
    op = BlurOperator(gaussian_psf((2.0, 3.0), torch.float64), (16, 15), boundary)
    check_operator(op, random_complex((16, 15), torch.complex128, 1), random_complex((16, 15), torch.complex128, 2))


@pytest.mark.parametrize("boundary", module.BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES)
def test_equals_scipy(boundary: str, shape: tuple[int, ...], psf_shape: tuple[int, ...]) -> None:
    psf, image = random_psf(psf_shape), random_complex(shape, torch.complex128, 1)
    expected = scipy.ndimage.convolve(image.numpy(), psf.numpy(), mode=SCIPY_MODES[boundary])
    assert np.allclose(BlurOperator(psf, shape, boundary).forward(image).numpy(), expected, atol=1e-13)


def test_reflect_is_numpys_symmetric() -> None:
    image = random_complex((6, 7), torch.complex128, 1)
    psf = random_psf((5, 5))
    margin = np.pad(image.numpy(), 2, mode="symmetric")
    expected = scipy.ndimage.convolve(margin, psf.numpy())[2:-2, 2:-2]
    assert np.allclose(BlurOperator(psf, (6, 7)).forward(image).numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("boundary", module.BOUNDARIES)
@pytest.mark.parametrize("psf_shape", [(3, 4), (5, 2)])
def test_adjoint_is_the_transposed_matrix(boundary: str, psf_shape: tuple[int, int]) -> None:
    shape = (5, 6)
    psf = torch.complex(random_psf(psf_shape), random_psf(psf_shape, seed=6))
    op = BlurOperator(psf, shape, boundary)
    units = torch.eye(30, dtype=torch.complex128).reshape(30, *shape)
    matrix = op.forward(units).reshape(30, 30).T  # column j is A e_j
    torch.testing.assert_close(op.adjoint(units).reshape(30, 30).T, matrix.mH, atol=1e-13, rtol=0)
    torch.testing.assert_close(op.normal(units).reshape(30, 30).T, matrix.mH @ matrix, atol=1e-13, rtol=0)


@pytest.mark.parametrize("boundary", module.BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), [((2, 3), (2, 3)), ((2, 2, 2), (1, 2, 2))])
def test_derivatives(boundary: str, shape: tuple[int, ...], psf_shape: tuple[int, ...]) -> None:
    op = BlurOperator(random_psf(psf_shape), shape, boundary)
    check_derivatives(op, random_complex(shape, torch.complex128, 1), random_complex(shape, torch.complex128, 2))


@pytest.mark.parametrize("boundary", module.BOUNDARIES)
def test_gradient_reaches_the_psf(boundary: str) -> None:
    psf = random_psf((3, 2)).requires_grad_()
    image = random_complex((4, 3), torch.complex128, 1)
    for name in ("forward", "adjoint", "normal"):
        assert torch.autograd.gradcheck(lambda h, n=name: getattr(BlurOperator(h, (4, 3), boundary), n)(image), (psf,))


@pytest.mark.parametrize("boundary", module.BOUNDARIES)
def test_one_psf_for_each_picture(boundary: str) -> None:
    psfs = torch.stack([random_psf((3, 4), seed=seed) for seed in (0, 1)])
    images = random_complex((2, 6, 5), torch.complex128, 1)
    together = BlurOperator(psfs, (6, 5), boundary).forward(images)
    for i in range(2):
        torch.testing.assert_close(together[i], BlurOperator(psfs[i], (6, 5), boundary).forward(images[i]))


def test_periodic_applications_cost_one_transform_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    op = BlurOperator(random_psf((3, 3)), (8, 8), "periodic")
    calls: list[str] = []
    for name in ("fft", "ifft"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda x, axes, n=name, f=original: (calls.append(n), f(x, axes))[1])
    image = random_complex((8, 8), torch.complex128, 1)
    for apply in (op.forward, op.adjoint, op.normal):
        calls.clear()
        apply(image)
        assert calls == ["fft", "ifft"]


def test_gaussian_psf_has_its_width() -> None:
    psf = gaussian_psf((4.0, 6.0), torch.float64)
    assert psf.shape == (13, 17)
    assert float(psf.sum()) == pytest.approx(1)
    middle = psf[6, 8]
    assert float(psf[4, 8] / middle) == pytest.approx(0.5)  # two pixels off: half of 4
    assert float(psf[6, 5] / middle) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="above 0"):
        gaussian_psf((2.0, 0.0))


def test_refusals_name_what_was_expected() -> None:
    psf = random_psf((3, 3), torch.float32)
    with pytest.raises(ConfigError, match="periodic, reflect, zero, got 'mirror'"):
        BlurOperator(psf, (8, 8), "mirror")
    with pytest.raises(ShapeError, match=r"no larger than the picture \(8, 2\), got \(3, 3\)"):
        BlurOperator(psf, (8, 2))
    with pytest.raises(ShapeError, match="2 or 3 axes"):
        BlurOperator(psf, (8, 8, 8))
    with pytest.raises(ShapeError, match="2 or 3 axes"):
        BlurOperator(psf, (8,))
    op = BlurOperator(psf, (8, 7))
    with pytest.raises(ShapeError, match=r"\(\.\.\., 8, 7\) torch.complex64, got \(8, 8\)"):
        op.forward(torch.zeros(8, 8, dtype=torch.complex64))
    for picture in (torch.zeros(8, 7), torch.zeros(8, 7, dtype=torch.complex128)):
        for apply in (op.forward, op.adjoint, op.normal):
            with pytest.raises(ShapeError, match="complex64, got"):
                apply(picture)
