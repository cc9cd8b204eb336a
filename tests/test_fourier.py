"""The Fourier transform: convention, engines held together, derivatives."""

from __future__ import annotations

from collections.abc import Callable

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
    conjugate_filter,
    consume,
    engine_name,
    fft,
    filter_,
    ifft,
    padded_ifft,
    use_engine,
)

SHAPES = [(8, 8), (7, 9), (6, 5), (1, 4), (17, 6)]  # 17: torch has no kernel of its own, scipy takes it
ENGINES = ["torch+scipy", "torch", "scipy", "sigpy/numpy"]


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1), (-3, -1), (-3, -2, -1)])
@pytest.mark.parametrize("shape", [(3, 8, 10), (2, 7, 17), (2, 3, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_engines_agree_with_sigpy(
    engine: str, axes: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = random_complex(shape, dtype, 2)
    with use_engine("sigpy/numpy"):
        forward, inverse = fft(x, axes), ifft(x, axes)
    with use_engine(engine):
        ours = fft(x, axes)
        torch.testing.assert_close(ours, forward)
        torch.testing.assert_close(ifft(x, axes), inverse)
        torch.testing.assert_close(consume(x.clone(), axes), forward)
        torch.testing.assert_close(consume(x.clone(), axes, inverse=True), inverse)
    assert ours.dtype == dtype


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axes", [(), (-1,), (-2, -1)])
def test_filter_is_transform_multiply_transform_back(engine: str, axes: tuple[int, ...]) -> None:
    x, response = random_complex((3, 7, 10), torch.complex128, 2), torch.rand(7, 10, dtype=torch.float64)
    expected = ifft(response * fft(x, axes), axes) if axes else response * x
    with use_engine(engine):
        torch.testing.assert_close(filter_(x.clone(), response, axes), expected)
        conjugate = conjugate_filter(x, axes, response)(x.clone())
        torch.testing.assert_close(conjugate.conj().resolve_conj(), expected)


def test_a_workspace_under_autograd_is_refused() -> None:
    with pytest.raises(ConfigError, match="overwritten"):
        consume(random_complex((4, 4), torch.complex64, 1).requires_grad_(), (-1,))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("transform", [fft, ifft])
def test_derivatives_of_every_order(engine: str, transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = random_complex((3, 4), torch.complex128, 3).requires_grad_()
    with use_engine(engine):
        assert torch.autograd.gradcheck(transform, (x,), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda t: transform(t).abs().square(), (x,))


def test_engine_of_the_cpu_is_named() -> None:
    assert engine_name("cpu") == "torch+scipy"
    with use_engine("scipy"):
        assert engine_name("cpu") == "scipy"
    assert engine_name("cpu") == "torch+scipy"


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


@pytest.mark.parametrize(("block", "shape"), [((5, 4), (9, 12)), ((4, 5), (8, 5)), ((3, 2, 4), (4, 7, 6))])
def test_zero_padding_by_products(block: tuple[int, ...], shape: tuple[int, ...]) -> None:
    small = random_complex((2, *block), torch.complex128, 0)
    padded = torch.zeros(2, *shape, dtype=small.dtype)
    padded[:, *(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for m, n in zip(block, shape, strict=True))] = small
    axes = tuple(range(-len(shape), 0))
    torch.testing.assert_close(padded_ifft(small, shape), centred_ifft(padded, axes))


def test_real_tensors_are_refused() -> None:
    with pytest.raises(ShapeError, match="complex"):
        apply_linear(torch.ones(3), lambda t: t, lambda t: t)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["sigpy/cupy", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_gpu_engines_agree_with_the_cpu(engine: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if engine == "sigpy/cupy":
        pytest.importorskip("cupy")
    x = random_complex((3, *shape), dtype, 6)
    with use_engine("sigpy/numpy"):
        expected = fft(x)
    with use_engine(engine):
        torch.testing.assert_close(fft(x.cuda()).cpu(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ifft(fft(x.cuda())).cpu(), x, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_gpu_derivatives_of_every_order() -> None:
    x = random_complex((3, 4), torch.complex128, 3).cuda().requires_grad_()
    assert torch.autograd.gradcheck(fft, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda t: ifft(t).abs().square(), (x,))


@pytest.mark.gpu
def test_gpu_streams_do_not_race() -> None:
    """Transforms queued on a side stream, forward and backward, see what was written there just before."""
    stream = torch.cuda.Stream()
    x = random_complex((16, 256, 256), torch.complex64, 7).cuda()
    expected = torch.fft.ifftn(torch.fft.fftn(x, dim=(-2, -1)) * 3, dim=(-2, -1))
    torch.cuda.synchronize()
    for _ in range(1000):
        with torch.cuda.stream(stream):
            late = torch.zeros_like(x).copy_(x).requires_grad_()  # still being written when the transform is queued
            back = ifft(fft(late) * 3)
            (gradient,) = torch.autograd.grad(back, late, x)
        stream.synchronize()
        torch.testing.assert_close(back.detach(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_gpu_transforms_copy_nothing_to_the_host() -> None:
    x = random_complex((4, 64, 64), torch.complex64, 8).cuda()
    ifft(fft(x))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ifft(fft(x))
        torch.cuda.synchronize()
    names = [event.key for event in profile.key_averages()]
    assert names, "the profile saw no kernel"
    assert not [name for name in names if "DtoH" in name or "HtoD" in name]
