"""The non-Cartesian operator: the exact sum, the Cartesian FFT, properties, engines, refusals."""

from __future__ import annotations

import copy
import math
import pickle
import statistics
import string
import threading
import time

import numpy as np
import pytest
import torch
from support.operators import check_derivatives, check_operator, random_complex
from torch import Tensor

from mri_unroll.errors import ConfigError, DeviceError, ShapeError, UnsupportedScan
from mri_unroll.physics import NufftOperator, operator_norm
from mri_unroll.physics.fourier import centred_fft
from mri_unroll.physics.nufft_engine import ENGINES, FinufftEngine, default_engine, make_engine
from mri_unroll.physics.trajectory import density_compensation, radial

CPU_ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not engine.installed(), reason=f"{name} is not installed"))
    for name, engine in ENGINES.items()
    if engine.device_type == "cpu"
]
CUDA_ENGINES = [name for name, engine in ENGINES.items() if engine.device_type == "cuda"]
needs_finufft = pytest.mark.skipif(not FinufftEngine.installed(), reason="finufft is not installed")


def unit_maps(shape: tuple[int, ...], dtype: torch.dtype, n_batch: int = 0) -> Tensor:
    maps = random_complex(shape, dtype, 0)
    return maps / torch.linalg.vector_norm(maps, dim=n_batch, keepdim=True)


def positions(n_samples: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((n_samples, len(shape))) - 0.5) * np.array(shape)


def exact(coils: Tensor, coordinates: np.ndarray) -> Tensor:
    """The sum itself, in double precision, axis by axis: ``(coil, [z,] y, x)`` to ``(coil, sample)``."""
    shape = coils.shape[1:]
    waves = [
        torch.from_numpy(np.exp(-2j * np.pi * np.outer(coordinates[:, axis], np.arange(n) - n // 2) / n))
        for axis, n in enumerate(shape)
    ]
    axes = string.ascii_lowercase[: len(shape)]
    terms = ",".join(f"S{axis}" for axis in axes)
    total = torch.einsum(f"{terms},C{axes}->CS", *waves, coils.to(torch.complex128))
    return total / math.sqrt(math.prod(shape))


def relative(ours: Tensor, truth: Tensor) -> float:
    return float(torch.linalg.norm(ours - truth) / torch.linalg.norm(truth))


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(64, 64), (65, 48), (31, 54), (300, 9), (12, 13, 14), (9, 8, 7)])
def test_error_against_the_exact_sum(engine: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    maps, coordinates = unit_maps((2, *shape), dtype), positions(400, shape)
    weights = np.random.default_rng(1).random(400)
    op = NufftOperator(maps, coordinates, weights, engine=engine)
    assert op.engine == engine
    image = random_complex(shape, dtype, 1)
    truth = exact(maps * image, coordinates) * torch.from_numpy(np.sqrt(weights))
    assert relative(op.forward(image), truth) <= 3e-6
    assert op.forward(image).dtype == dtype


@needs_finufft
@pytest.mark.parametrize(("tolerance", "bound"), [(1e-3, 3e-3), (1e-9, 3e-8)])
def test_tolerance_is_followed(tolerance: float, bound: float) -> None:
    shape = (40, 42)
    maps, coordinates = unit_maps((2, *shape), torch.complex128), positions(300, shape)
    image = random_complex(shape, torch.complex128, 1)
    op = NufftOperator(maps, coordinates, tolerance=tolerance, engine="finufft")
    error = relative(op.forward(image), exact(maps * image, coordinates))
    assert bound * 1e-4 < error <= bound


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("shape", [(8, 10), (9, 7), (4, 5, 6)])
def test_cartesian_points_give_the_centred_fft(engine: str, shape: tuple[int, ...]) -> None:
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1)
    maps = unit_maps((2, *shape), torch.complex64)
    image = random_complex(shape, torch.complex64, 1)
    op = NufftOperator(maps, grid.reshape(-1, len(shape)).astype(np.float32), engine=engine)
    kspace = centred_fft(maps * image, tuple(range(-len(shape), 0)))
    assert relative(op.forward(image), kspace.flatten(1)) <= 3e-6
    assert relative(op.normal(image), image) <= 3e-6  # full sampling: the identity
    assert float(operator_norm(op, image)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("toeplitz", [True, False])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    ("shape", "batch", "batched_maps"),
    [
        ((8, 8), (), False),
        ((7, 9), (2,), True),
        ((17, 6), (2, 3), False),
        ((5, 6, 7), (2,), True),
        ((6, 6, 4), (), False),
    ],
)
def test_operator_properties(
    engine: str, toeplitz: bool, dtype: torch.dtype, shape: tuple[int, ...], batch: tuple[int, ...], batched_maps: bool
) -> None:
    lead = batch if batched_maps else ()
    maps = unit_maps((*lead, 3, *shape), dtype, len(lead))
    weights = np.random.default_rng(2).random(60) / 4
    op = NufftOperator(maps, positions(60, shape), weights, toeplitz=toeplitz, engine=engine)
    assert op.image_ndim == len(shape)
    assert op.image_shape == (*lead, *shape)
    image, kspace = random_complex((*batch, *shape), dtype, 1), random_complex((*batch, 3, 60), dtype, 2)
    check_operator(op, image, kspace, tolerance=1e-6 if toeplitz else 0.0, norm=2.0)


@pytest.mark.parametrize(("shape", "toeplitz"), [((3, 2), True), ((2, 3), False), ((2, 1, 2), True)])
def test_derivatives(shape: tuple[int, ...], toeplitz: bool) -> None:
    maps = unit_maps((2, *shape), torch.complex128)
    op = NufftOperator(maps, positions(3, shape), np.arange(1.0, 4.0), toeplitz=toeplitz)
    check_derivatives(op, random_complex(shape, torch.complex128, 1), random_complex((2, 3), torch.complex128, 2))


@pytest.mark.parametrize("toeplitz", [True, False])
def test_gradient_reaches_maps_and_picture(toeplitz: bool) -> None:
    maps = unit_maps((2, 3, 2), torch.complex128).requires_grad_()
    image = random_complex((3, 2), torch.complex128, 1).requires_grad_()
    coordinates = positions(6, (3, 2))

    def normal(m: Tensor, x: Tensor) -> Tensor:
        return NufftOperator(m, coordinates, toeplitz=toeplitz).normal(x)

    assert torch.autograd.gradcheck(normal, (maps, image), check_forward_ad=True)


def test_gradient_through_a_broadcast_picture() -> None:
    maps = unit_maps((2, 3, 4, 5), torch.complex128, 1)
    op = NufftOperator(maps, positions(7, (4, 5)))
    image = random_complex((4, 5), torch.complex128, 1).requires_grad_()
    assert op.normal(image).shape == (2, 4, 5)
    assert torch.autograd.gradcheck(op.normal, (image,))


def test_batch_entries_are_independent() -> None:
    maps = unit_maps((2, 3, 9, 8), torch.complex64, 1)
    coordinates = positions(50, (9, 8))
    image = random_complex((2, 9, 8), torch.complex64, 1)
    together = NufftOperator(maps, coordinates)
    for i in range(2):
        alone = NufftOperator(maps[i], coordinates)
        torch.testing.assert_close(together.forward(image)[i], alone.forward(image[i]))
        torch.testing.assert_close(together.normal(image)[i], alone.normal(image[i]))


def test_the_upper_edge_is_the_lower_one() -> None:
    maps, image = unit_maps((2, 8, 6), torch.complex128), random_complex((8, 6), torch.complex128, 1)
    upper, lower = (NufftOperator(maps, np.array([[edge, 0.0]])) for edge in (4.0, -4.0))
    torch.testing.assert_close(upper.forward(image), lower.forward(image))


def test_copies_and_pickles_work_on() -> None:
    op = NufftOperator(unit_maps((2, 8, 9), torch.complex64), positions(30, (8, 9)))
    image = random_complex((8, 9), torch.complex64, 1)
    expected = op.forward(image), op.normal(image)
    for twin in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        torch.testing.assert_close((twin.forward(image), twin.normal(image)), expected)


def test_threads_share_an_operator() -> None:
    op = NufftOperator(unit_maps((3, 32, 33), torch.complex64), positions(2000, (32, 33)))
    images = [random_complex((32, 33), torch.complex64, seed) for seed in range(4)]
    expected = [op.forward(image) for image in images]
    found: dict[int, list[Tensor]] = {}

    def work(i: int) -> None:
        found[i] = [op.forward(images[i]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in found.items():
        for result in results:
            torch.testing.assert_close(result, expected[i])


def test_thread_count_is_followed() -> None:
    op = NufftOperator(unit_maps((4, 16, 16), torch.complex64), positions(200, (16, 16)))
    image = random_complex((16, 16), torch.complex64, 1)
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            results.append(op.forward(image))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


@pytest.mark.slow
@needs_finufft
def test_toeplitz_is_twice_as_fast_as_the_pair() -> None:
    op = NufftOperator(unit_maps((8, 192, 192), torch.complex64), radial(120, 384, (192, 192)))
    image = random_complex((192, 192), torch.complex64, 1)
    ratios = []
    op.normal(image)
    for _ in range(7):
        start = time.perf_counter()
        op.adjoint(op.forward(image))
        middle = time.perf_counter()
        op.normal(image)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    assert statistics.median(ratios) > 2


def test_without_finufft_sigpy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FinufftEngine, "installed", classmethod(lambda cls: False))
    assert default_engine() == "sigpy/numpy"
    maps, coordinates = unit_maps((1, 8, 8), torch.complex64), positions(5, (8, 8))
    assert NufftOperator(maps, coordinates).engine == "sigpy/numpy"
    with pytest.raises(DeviceError, match=r"finufft is not installed. .*mri-unroll\[nufft\]"):
        NufftOperator(maps, coordinates, engine="finufft")


def test_refused_engines_and_tolerances() -> None:
    maps, coordinates = unit_maps((1, 8, 8), torch.complex64), positions(5, (8, 8))
    with pytest.raises(ConfigError, match="got 'fftw'"):
        NufftOperator(maps, coordinates, engine="fftw")
    with pytest.raises(DeviceError, match="cufinufft runs on cuda, the data is on cpu"):
        NufftOperator(maps, coordinates, engine="cufinufft")
    with pytest.raises(ConfigError, match="errs by up to 3e-07"):
        NufftOperator(maps, coordinates, engine="sigpy/numpy", tolerance=1e-9)
    with pytest.raises(ConfigError, match="tolerance from"):
        NufftOperator(maps, coordinates, tolerance=0.0)
    with pytest.raises(DeviceError, match="device meta"):
        NufftOperator(maps.to("meta"), coordinates)


def test_refused_coordinates() -> None:
    maps, sound = unit_maps((2, 8, 6), torch.complex64), positions(5, (8, 6))
    for wrong, complaint in (
        (sound + 0j, "real floating-point coordinates .* got torch.complex128"),
        (np.zeros((5, 2), np.int64), "got torch.int64"),
        (sound.T, r"got \(2, 5\)"),
        (np.zeros((4, 5, 2)), r"got \(4, 5, 2\)"),
        (np.zeros((0, 2)), r"got \(0, 2\)"),
        (torch.from_numpy(sound).requires_grad_(), "Detach"),
    ):
        with pytest.raises(ShapeError, match=complaint):
            NufftOperator(maps, wrong)
    for value, complaint in ((math.nan, "finite"), (math.inf, "finite"), (4.1, r"'\+-4', '\+-3'.* got up to \['4.1'")):
        outside = sound.copy()
        outside[2, 0] = value
        with pytest.raises(UnsupportedScan, match=complaint):
            NufftOperator(maps, outside)


def test_refused_shapes() -> None:
    coordinates = positions(5, (8, 6))
    maps = unit_maps((2, 8, 6), torch.complex64)
    with pytest.raises(ShapeError, match="complex maps"):
        NufftOperator(maps.real, coordinates)
    with pytest.raises(ShapeError, match=r"\(\*batch, coil, y, x\), got \(8, 6\)"):
        NufftOperator(maps[0], coordinates)
    for weights, complaint in ((np.ones(4), r"\(5,\), got \(4,\)"), (np.ones(5) + 0j, "real weights")):
        with pytest.raises(ShapeError, match=complaint):
            NufftOperator(maps, coordinates, weights)
    with pytest.raises(UnsupportedScan, match="0 or more"):
        NufftOperator(maps, coordinates, -np.ones(5))
    op = NufftOperator(maps, coordinates)
    with pytest.raises(ShapeError, match=r"got \(6, 8\)"):
        op.forward(torch.ones(6, 8, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="complex picture"):
        op.normal(torch.ones(8, 6))
    with pytest.raises(ShapeError, match=r"\(..., 2, 5\), got \(2, 6\)"):
        op.adjoint(torch.ones(2, 6, dtype=torch.complex64))


@pytest.mark.gpu
@pytest.mark.parametrize("engine", CUDA_ENGINES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(32, 33), (9, 10, 11)])
def test_cuda_engines_equal_the_cpu(engine: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if not ENGINES[engine].installed():
        pytest.skip(f"{engine} is not installed")
    maps, coordinates = unit_maps((3, *shape), dtype), positions(500, shape)
    weights = density_compensation(coordinates, shape)
    here, there = (
        NufftOperator(maps, coordinates, weights),
        NufftOperator(maps.cuda(), coordinates, weights, engine=engine),
    )
    image, kspace = random_complex(shape, dtype, 1), random_complex((3, 500), dtype, 2)
    assert relative(there.forward(image.cuda()).cpu(), here.forward(image)) <= 6e-6
    assert relative(there.adjoint(kspace.cuda()).cpu(), here.adjoint(kspace)) <= 6e-6
    assert relative(there.normal(image.cuda()).cpu(), here.normal(image)) <= 6e-6
    x = image.cuda().requires_grad_()
    (gradient,) = torch.autograd.grad(there.forward(x).abs().square().sum() / 2, x)
    assert relative(gradient.cpu(), here.normal(image)) <= 1e-5


def test_engines_agree_on_stacks_of_any_shape() -> None:
    coordinates = torch.from_numpy(positions(20, (6, 5)))
    stack = random_complex((2, 1, 3, 6, 5), torch.complex128, 1)
    names = [name for name, engine in ENGINES.items() if engine.device_type == "cpu" and engine.installed()]
    results = [make_engine(coordinates, (6, 5), 1e-6, name).forward(stack) for name in names]
    assert results[0].shape == (2, 1, 3, 20)
    for result in results[1:]:
        assert relative(result, results[0]) <= 6e-6
