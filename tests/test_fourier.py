"""The Fourier transform: convention, engines held together, derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.operators import random_complex

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.physics.bridge import apply_linear, to_array, to_tensor
from mri_unroll.physics.fourier import (
    centred_fft,
    centred_ifft,
    centring_phases,
    engine_name,
    fft,
    ifft,
    use_engine,
)

SHAPES = [(8, 8), (7, 9), (6, 5), (1, 4)]
ENGINES = ["sigpy/numpy", "torch"]


def written_out(x: torch.Tensor) -> torch.Tensor:
    """The centred unitary transform as its defining sum, both axes."""
    for axis in (-2, -1):
        n = x.shape[axis]
        index = torch.arange(n, dtype=torch.float64) - n // 2
        matrix = torch.exp(-2j * torch.pi * index[:, None] * index / n) / n**0.5
        x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.to(x.dtype).T, -1, axis)
    return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", SHAPES)
def test_centred_transform_is_its_defining_sum(engine: str, shape: tuple[int, int]) -> None:
    x = random_complex((2, *shape), torch.complex128, 0)
    with use_engine(engine):
        torch.testing.assert_close(centred_fft(x), written_out(x))
        torch.testing.assert_close(centred_ifft(centred_fft(x)), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_phases_replace_shifts(shape: tuple[int, int]) -> None:
    x = random_complex(shape, torch.complex128, 1)
    pre, post = centring_phases(shape, x.device, x.dtype)
    torch.testing.assert_close(post * fft(pre * x), centred_fft(x))
    torch.testing.assert_close(pre.conj() * ifft(post.conj() * x), centred_ifft(x))


def test_even_phases_are_exact_checkerboards() -> None:
    pre, _ = centring_phases((6, 8), torch.device("cpu"))
    torch.testing.assert_close(pre.abs(), torch.ones(6, 8), rtol=0, atol=1e-7)
    assert float(pre.imag.abs().max()) < 1e-7


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_engines_agree(axes: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random_complex((3, 7, 10), dtype, 2)
    with use_engine("sigpy/numpy"):
        ours, back = fft(x, axes), ifft(x, axes)
    with use_engine("torch"):
        torch.testing.assert_close(ours, fft(x, axes))
        torch.testing.assert_close(back, ifft(x, axes))
    assert ours.dtype == dtype


def test_derivatives_of_every_order() -> None:
    x = random_complex((3, 4), torch.complex128, 3).requires_grad_()
    assert engine_name() == "sigpy/numpy"
    assert torch.autograd.gradcheck(fft, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda t: ifft(t).abs().square(), (x,))


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="engine"), use_engine("fftw"):
        raise AssertionError("an unknown engine was accepted")


def test_bridge_shares_memory() -> None:
    x = random_complex((4, 4), torch.complex64, 4)
    array = to_array(x)
    array[0, 0] = 7
    assert x[0, 0] == 7
    assert to_tensor(array).data_ptr() == x.data_ptr()


def test_bridge_resolves_conjugation_and_negation() -> None:
    x = random_complex((4, 4), torch.complex64, 5)
    np.testing.assert_array_equal(to_array(x.conj()), x.numpy().conj())
    np.testing.assert_array_equal(to_array(x.conj().imag), -x.numpy().imag)


def test_bridge_copies_what_torch_cannot_view() -> None:
    array = np.arange(6.0)[::-1]
    np.testing.assert_array_equal(to_tensor(array).numpy(), array)


def test_real_tensors_are_refused() -> None:
    with pytest.raises(ShapeError, match="complex"):
        apply_linear(torch.ones(3), lambda t: t, lambda t: t)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_with_cpu() -> None:
    x = random_complex((3, 7, 10), torch.complex64, 6)
    torch.testing.assert_close(fft(x.cuda()).cpu(), fft(x), rtol=1e-5, atol=1e-6)
