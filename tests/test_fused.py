"""The compiled normal operator: its transforms, every shape of problem, and where it steps aside."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from support.operators import random_complex

from mri_unroll.errors import ShapeError
from mri_unroll.physics import SenseOperator, compiled, fused
from mri_unroll.physics.fourier import use_engine
from mri_unroll.physics.lanes import LANE_ORDER, N_LANES
from mri_unroll.physics.tile_fft import LARGEST_PRIME, WIDTH, forward, has_plan, inverse, make_plan

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 71, 127)


def as_tile(signals: np.ndarray) -> np.ndarray:
    """``(sample, lane)`` complex to a tile."""
    return np.ascontiguousarray(np.stack([signals.real, signals.imag], 1), np.float32).ravel()


def from_tile(tile: np.ndarray) -> np.ndarray:
    real, imag = tile.reshape(-1, 2, N_LANES).swapaxes(0, 1)
    return real + 1j * imag


@pytest.mark.parametrize("n", [1, 4, 6, 8, 9, 12, 16, 20, 25, 49, 64, 77, 120, 218, 243, 320, 372, 640, 1001, *PRIMES])
def test_tiles_transform_as_numpy_does(n: int) -> None:
    random, plan, spare = np.random.default_rng(n), make_plan(n), np.zeros(LARGEST_PRIME * WIDTH, np.float32)
    signals = random.standard_normal((n, N_LANES)) + 1j * random.standard_normal((n, N_LANES))
    tile = as_tile(signals)
    forward(tile, plan, spare)
    right = np.fft.fft(signals, axis=0)[plan.order]
    assert np.linalg.norm(from_tile(tile) - right) <= 4e-7 * np.linalg.norm(right)
    inverse(tile, plan, spare)
    assert np.linalg.norm(from_tile(tile) / n - signals) <= 4e-7 * np.linalg.norm(signals)


def test_lengths_with_a_plan() -> None:
    assert sorted(LANE_ORDER) == list(range(N_LANES))
    assert all(map(has_plan, (1, 372, 2 * LARGEST_PRIME)))
    assert not any(map(has_plan, (0, 131, 2 * 131, 131 * 131)))


def check_against_double(
    shape: tuple[int, ...], axes: tuple[int, ...], batch: tuple[int, ...], mask_batch: tuple[int, ...], soft: bool
) -> None:
    """A random problem through the compiled kernels and, in double precision, through the FFT library."""
    maps = random_complex((*batch, *((2,) if soft else ()), 3, *shape), torch.complex128, 0)
    sides = [n if axis in axes else 1 for axis, n in zip(range(-len(shape), 0), shape, strict=True)]
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(*mask_batch, *((1,) if mask_batch else ()), *sides, generator=generator, dtype=torch.float64)
    exact = SenseOperator(maps, mask, ndim=len(shape), soft=soft)
    ours = SenseOperator(maps.to(torch.complex64), mask, ndim=len(shape), soft=soft)
    assert exact._fused is None
    assert ours._fused is not None
    image = random_complex(exact.image_shape, torch.complex128, 2)
    right = random_complex(exact.image_shape, torch.complex128, 3).mT.contiguous().mT
    for a, b in (
        (ours.normal(image.to(torch.complex64)), exact.normal(image)),
        (ours.gradient(image.to(torch.complex64), right.to(torch.complex64)), exact.gradient(image, right)),
        (ours.normal(image.conj().to(torch.complex64)), exact.normal(image.conj())),
    ):
        assert a.dtype == torch.complex64
        assert torch.linalg.vector_norm(a - b) <= 5e-7 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
@pytest.mark.parametrize("shape", [(12, 10), (33, 70), (5, 7), (17, 19), (40, 64), (2, 31)])
@pytest.mark.parametrize(
    ("batch", "mask_batch"), [((), ()), ((2,), ()), ((2,), (2,)), ((3, 2), (3, 2)), ((3, 2), (1, 2)), ((2,), (1,))]
)
@pytest.mark.parametrize("soft", [False, True])
def test_slices(
    shape: tuple[int, ...], axes: tuple[int, ...], batch: tuple[int, ...], mask_batch: tuple[int, ...], soft: bool
) -> None:
    check_against_double(shape, axes, batch, mask_batch, soft)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        *itertools.product([(5, 12, 10), (9, 6, 11), (16, 17, 18)], [(-1,), (-2,), (-3,), (-2, -1), (-3, -1)]),
        *itertools.product([(3, 1, 9)], [(-1,), (-3,), (-3, -1)]),
    ],
)
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("soft", [False, True])
def test_volumes(shape: tuple[int, ...], axes: tuple[int, ...], batch: tuple[int, ...], soft: bool) -> None:
    check_against_double(shape, axes, batch, (), soft)


@pytest.mark.parametrize("n_threads", [2, 3, 5])
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
@pytest.mark.parametrize("batch", [(), (2,), (7,)])
def test_threads_share_lines_planes_or_coils(
    n_threads: int, axes: tuple[int, ...], batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_THREADED_BYTES", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        check_against_double((33, 22), axes, batch, (), soft=False)
    finally:
        torch.set_num_threads(before)


def test_lines_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_THREADED_BYTES", 0)
    op = SenseOperator(random_complex((4, 37, 30), torch.complex64, 0), torch.rand(1, 30) < 0.5)
    image, before, results = random_complex((37, 30), torch.complex64, 1), torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            results.append(op.normal(image))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("worked_before", [False, True])
def test_a_forked_process_does_not_wait_for_threads_it_has_not(worked_before: bool) -> None:
    """OpenMP's threads do not survive a fork; a child has threads only where its parent had not started any."""
    code = f"""
import os, threading, warnings, torch
from mri_unroll.physics import SenseOperator, compiled, fused
warnings.simplefilter("ignore")  # newer Pythons warn of every fork beside threads
fused._THREADED_BYTES = 0
torch.set_num_threads(2)
op = SenseOperator(torch.randn(4, 30, 20, dtype=torch.complex64), torch.rand(1, 20) < 0.5)
image = torch.randn(30, 20, dtype=torch.complex64)
assert compiled._parallel is not None
if {worked_before}:
    op.normal(image)
child = os.fork()
if child == 0:
    result, alone = op.normal(image), compiled._parallel is None
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(op.normal(image), result) and alone == {worked_before} else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_share_tasks_and_hand_on_errors() -> None:
    meeting, seen = threading.Barrier(3, timeout=30), set()

    def together(task: int) -> None:
        meeting.wait()  # three at a time or never
        seen.add((task, threading.get_ident()))

    compiled.in_threads(together, range(6), 3)
    assert sorted(task for task, _ in seen) == list(range(6))
    assert len({thread for _, thread in seen}) == 3

    def refuse(task: int) -> None:
        raise LookupError(f"task {task}")

    for n_threads in (1, 2):
        with pytest.raises(LookupError, match="task"):
            compiled.in_threads(refuse, range(4), n_threads)


def test_only_listed_sources_are_compiled() -> None:
    """What numba keeps is named by the sources that are listed: a function from elsewhere could outlive its own."""
    with pytest.raises(ValueError, match="fused_kernels"):
        compiled.compiled(check_against_double)


@pytest.mark.parametrize(
    ("why", "shape", "axes", "dtype", "engine"),
    [
        ("double precision", (6, 8), (-1,), torch.complex128, None),
        ("another engine was asked for", (6, 8), (-1,), torch.complex64, "scipy"),
        ("a large prime", (6, 131), (-1,), torch.complex64, None),
        ("all three axes", (4, 5, 6), (-3, -2, -1), torch.complex64, None),
        ("the last axis is the readout", (4, 5, 6), (-3, -2), torch.complex64, None),
        ("nothing to transform", (6, 8), (), torch.complex64, None),
    ],
)
def test_it_steps_aside(
    why: str, shape: tuple[int, ...], axes: tuple[int, ...], dtype: torch.dtype, engine: str | None
) -> None:
    maps = random_complex((3, *shape), dtype, 0)
    sides = [n if axis in axes else 1 for axis, n in zip(range(-len(shape), 0), shape, strict=True)]
    mask, image = torch.rand(sides) < 0.7, random_complex(shape, dtype, 1)
    if engine is None:
        op = SenseOperator(maps, mask, ndim=len(shape))
    else:
        with use_engine(engine):
            op = SenseOperator(maps, mask, ndim=len(shape))
    assert op._fused is None, why
    pair = op.adjoint(op.forward(image))
    assert torch.linalg.vector_norm(op.normal(image) - pair) <= 1e-6 * torch.linalg.vector_norm(pair)


def test_maps_in_another_order_of_memory() -> None:
    maps = random_complex((30, 20, 4), torch.complex64, 0).permute(2, 0, 1)
    mask, image = torch.rand(1, 20) < 0.5, random_complex((30, 20), torch.complex64, 1)
    right = SenseOperator(maps.contiguous(), mask).normal(image)
    result = SenseOperator(maps, mask).normal(image)
    assert torch.linalg.vector_norm(result - right) <= 1e-6 * torch.linalg.vector_norm(right)
    turned = SenseOperator(maps.contiguous(), mask).with_maps(maps.contiguous().conj())
    exact = SenseOperator(maps.conj().resolve_conj().contiguous(), mask)
    assert torch.equal(turned.normal(image), exact.normal(image))


def test_maps_of_another_precision() -> None:
    maps = random_complex((3, 12, 10), torch.complex64, 0)
    mask, image = torch.rand(1, 10) < 0.5, random_complex((12, 10), torch.complex128, 1)
    op = SenseOperator(maps, mask).with_maps(maps.to(torch.complex128))
    torch.testing.assert_close(op.normal(image), SenseOperator(maps.to(torch.complex128), mask).normal(image))
    with pytest.raises(ShapeError, match="complex64"):
        compiled.numbers(image)


@pytest.mark.parametrize(("axes", "room"), [((-1,), 2**17), ((-2, -1), 2**17 + 256 * 256 * 8)])
def test_room_does_not_grow_with_coils(axes: tuple[int, ...], room: int) -> None:
    """Lines need tiles, planes one plane more; threads have their own, so that one is asked."""
    image = random_complex((256, 256), torch.complex64, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for n_coils in (4, 16):
            mask = torch.rand(*(256 if axis in axes else 1 for axis in (-2, -1))) < 0.5
            op = SenseOperator(random_complex((n_coils, 256, 256), torch.complex64, 0), mask)
            op.normal(image)
            tracemalloc.start()
            op.normal(image)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert 0.5 * room < peak < room
    finally:
        torch.set_num_threads(before)
