"""Truncated k-space and decimation: operator properties, what they do to known pictures, refusals."""

from __future__ import annotations

import pytest
import scipy.ndimage
import torch
from support.operators import check_derivatives, check_operator, random_complex

from mri_unroll.errors import ShapeError
from mri_unroll.physics import BlurOperator, DownsamplingOperator, TruncationOperator, gaussian_psf

TRUNCATIONS = [((8, 8), (4, 6)), ((9, 7), (5, 4)), ((8, 7), (8, 3)), ((4, 6, 5), (3, 4, 5))]
DECIMATIONS = [((8, 8), 2, 0), ((9, 7), (2, 3), (1, 2)), ((5, 6), (1, 4), (0, 3)), ((4, 6, 5), (1, 2, 3), (0, 1, 0))]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("shape", "kept"), TRUNCATIONS)
def test_truncation_properties(
    dtype: torch.dtype, batch: tuple[int, ...], shape: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    op = TruncationOperator(shape, kept)
    low = random_complex((*batch, *kept), dtype, 2)
    check_operator(op, random_complex((*batch, *shape), dtype, 1), low)
    torch.testing.assert_close(op.forward(op.adjoint(low)), low)  # orthonormal rows


@pytest.mark.parametrize("shape", [(12, 9), (7, 10)])
def test_a_wave_keeps_its_place_and_its_frequency(shape: tuple[int, int]) -> None:
    """A wave inside the block is the same wave on the coarse grid; one outside is gone."""
    kept = (6, 5)
    op = TruncationOperator(shape, kept)

    def wave(shape: tuple[int, int], cycles: tuple[int, int]) -> torch.Tensor:
        y, x = (((torch.arange(n, dtype=torch.float64) - n // 2) / n) for n in shape)
        return torch.exp(2j * torch.pi * (cycles[0] * y[:, None] + cycles[1] * x))

    brighter = (shape[0] * shape[1] / (kept[0] * kept[1])) ** 0.5
    torch.testing.assert_close(op.forward(wave(shape, (-3, 2))), brighter * wave(kept, (-3, 2)))
    torch.testing.assert_close(op.forward(wave(shape, (3, 0))).abs().max().item(), 0.0, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("shape", "factor", "offset"), DECIMATIONS)
def test_downsampling_properties(
    dtype: torch.dtype,
    batch: tuple[int, ...],
    shape: tuple[int, ...],
    factor: int | tuple[int, ...],
    offset: int | tuple[int, ...],
) -> None:
    op = DownsamplingOperator(shape, factor, offset)
    check_operator(op, random_complex((*batch, *shape), dtype, 1), random_complex((*batch, *op.kept_shape), dtype, 2))


def test_downsampling_keeps_the_pixels_it_says() -> None:
    image = torch.arange(35.0).reshape(5, 7).to(torch.complex64)
    kept = DownsamplingOperator((5, 7), (2, 3), (1, 2)).forward(image)
    assert kept.real.tolist() == [[9.0, 12.0], [23.0, 26.0]]


def test_composes_with_blur() -> None:
    psf = gaussian_psf((2.0, 2.0), torch.float64)
    op = DownsamplingOperator((12, 11), 2) @ BlurOperator(psf, (12, 11))
    image = random_complex((2, 12, 11), torch.complex128, 1)
    check_operator(op, image, random_complex((2, 6, 6), torch.complex128, 2))
    blurred = scipy.ndimage.convolve(image[0].numpy(), psf.numpy(), mode="reflect")
    torch.testing.assert_close(op.forward(image)[0], torch.from_numpy(blurred[::2, ::2].copy()))


@pytest.mark.parametrize(
    ("op", "low"),
    [
        (TruncationOperator((4, 5), (3, 2)), (3, 2)),
        (TruncationOperator((2, 3, 3), (2, 2, 1)), (2, 2, 1)),
        (DownsamplingOperator((4, 5), 2, 1), (2, 2)),
    ],
)
def test_derivatives(op: TruncationOperator | DownsamplingOperator, low: tuple[int, ...]) -> None:
    image = random_complex(op.image_shape, torch.complex128, 1)
    check_derivatives(op, image, random_complex(low, torch.complex128, 2))


def test_refusals_name_the_shapes() -> None:
    with pytest.raises(ShapeError, match=r"inside \(8, 7\), got \(8, 8\)"):
        TruncationOperator((8, 7), (8, 8))
    with pytest.raises(ShapeError, match=r"inside \(8, 7\), got \(8,\)"):
        TruncationOperator((8, 7), (8,))
    with pytest.raises(ShapeError, match="2 or 3 axes"):
        TruncationOperator((8,), (4,))
    for factor, offset in ((2, 2), ((2, 2, 2), 0), (0, 0), (2, -1), (9, 8)):
        with pytest.raises(ShapeError, match="0 <= offset < factor"):
            DownsamplingOperator((8, 7), factor, offset)
    truncation, downsampling = TruncationOperator((8, 7), (4, 3)), DownsamplingOperator((8, 7), 2)
    for picture in (torch.zeros(8, 6, dtype=torch.complex64), torch.zeros(8, 7)):
        for apply in (truncation.forward, truncation.normal, downsampling.forward):
            with pytest.raises(ShapeError, match=r"complex picture \(\.\.\., 8, 7\)"):
                apply(picture)
    with pytest.raises(ShapeError, match=r"\(\.\.\., 4, 3\)"):
        truncation.adjoint(torch.zeros(8, 7, dtype=torch.complex64))
    with pytest.raises(ShapeError, match=r"\(\.\.\., 4, 4\)"):
        downsampling.adjoint(torch.zeros(8, 7, dtype=torch.complex64))
