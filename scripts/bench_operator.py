"""Time and memory of the forward operators against other packages, the bare FFTs, and the number of coils and slices.

    python scripts/bench_operator.py                                   # what is installed, one thread
    python scripts/bench_operator.py --json operator.json --figure docs/performance.png
    python scripts/bench_operator.py --quick                           # small, a minute: does it run?

A^H A and the gradient step at 320 x 320 x 16 coils, 640 x 372 x 15 and 160^3 x 8, undersampled four times along the
phase encodings; the NUFFT of 200 golden-angle spokes at 320 x 320 x 16. Every result is held against sigpy's (the
NUFFT's against exact sums) before it is timed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import benchmark
import numpy as np
from benchmark import OURS, Bench, Candidate, differs_from, relative

AXES = {2: (-1,), 3: (-3, -1)}  # along which A^H A needs a transform: the phase encodings; readout is the axis -2


def problem(n_coils: int, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Random maps ``(coil, [z,] y, x)`` of unit norm, a mask of phase encodings ``([z,] 1, x)``, a random picture."""
    import torch

    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(n_coils, *shape, dtype=torch.complex64, generator=generator)
    maps /= torch.linalg.vector_norm(maps, dim=0)
    encodes = (*shape[:-2], 1, shape[-1])
    mask = torch.rand(encodes, generator=generator) < 0.2
    centre = tuple(slice(n // 2 - min(12, n // 4), n // 2 + min(12, n // 4)) if n > 1 else slice(None) for n in encodes)
    mask[centre] = True
    return maps, mask, torch.randn(shape, dtype=torch.complex64, generator=generator)


def bare_ffts(n_coils: int, shape: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The transforms that `A^H A` cannot do without, and nothing else: one pair per coil, by each library and order."""
    import scipy.fft
    import torch

    axes, threads = AXES[len(shape)], torch.get_num_threads()
    stack = torch.randn(n_coils, *shape, dtype=torch.complex64)
    arrays = stack.numpy()

    def by_torch(x: Any) -> Any:
        return torch.fft.ifftn(torch.fft.fftn(x, dim=axes, norm="ortho"), dim=axes, norm="ortho")

    def by_scipy(x: Any) -> Any:
        options = {"axes": axes, "norm": "ortho", "overwrite_x": True, "workers": threads}
        return scipy.fft.ifftn(scipy.fft.fftn(x, **options), **options)

    yield "torch, all coils", lambda: by_torch(stack)
    yield "torch, coil by coil", lambda: _each(by_torch, stack)
    yield "scipy, all coils", lambda: by_scipy(arrays)
    yield "scipy, coil by coil", lambda: _each(by_scipy, arrays)


def _each(transform: Callable[[Any], Any], coils: Any) -> None:
    for coil in coils:
        transform(coil)


def normal_and_gradient(bench: Bench, n_coils: int, shape: tuple[int, ...]) -> None:
    """Both cases of one size."""
    from bench_peers import normal_operators

    from mri_unroll.physics import SenseOperator

    size = f"{' x '.join(map(str, shape))} x {n_coils} coils"
    titles = f"A^H A, {size}", f"gradient step, {size}"
    if not any(map(bench.wants, titles)):
        return
    maps, mask, image = problem(n_coils, shape)
    operator = SenseOperator(maps, mask, ndim=len(shape))
    peers = normal_operators(maps, mask, image)
    right = operator.adjoint(operator.forward(0.5 * image))
    truth = np.asarray(peers["sigpy"](image))
    if bench.wants(titles[0]):
        candidates = [Candidate(OURS, lambda: operator.normal(image), differs_from(truth))]
        candidates += [Candidate(n, lambda f=f: f(image), differs_from(truth)) for n, f in peers.items()]
        candidates += [Candidate(f"bare FFTs: {name}", run) for name, run in bare_ffts(n_coils, shape)]
        case = bench.compare(titles[0], candidates)
        limit = min(row.ratio for row in case.rows if row.name.startswith("bare"))
        case.notes["ours / bare FFTs"] = round(1 / limit, 2)
        print(f"ours / fastest bare FFTs: {1 / limit:.2f}\n", flush=True)
    if bench.wants(titles[1]):
        truth = truth - right.numpy()
        candidates = [Candidate(OURS, lambda: operator.gradient(image, right), differs_from(truth))]
        for name, normal in peers.items():
            other = right.numpy() if name == "sigpy" else right
            run = lambda f=normal, b=other: f(image) - b  # noqa: E731
            candidates.append(Candidate(name, run, differs_from(truth)))
        bench.compare(titles[1], candidates)


def scaling(bench: Bench) -> None:
    """Our `A^H A` over the number of coils, and of slices at 8 coils, 320 x 320."""
    from mri_unroll.physics import SenseOperator

    shape = (96, 96) if bench.options.quick else (320, 320)
    counts = (1, 2, 4) if bench.options.quick else (1, 2, 4, 8, 16, 32, 64)
    for what in ("coils", "slices"):
        title = f"scaling over {what}, {shape[0]} x {shape[1]}"
        if not bench.wants(title):
            continue
        candidates = []
        for count in counts:
            maps, mask, image = problem(count if what == "coils" else 8, shape)
            if what == "slices":
                maps, image = (t.expand(count, *t.shape).contiguous() for t in (maps, image))
                mask = mask[None, None]
            operator = SenseOperator(maps, mask)
            candidates.append(Candidate(f"{OURS}, {count} {what}", lambda op=operator, x=image: op.normal(x)))
        case = bench.compare(title, candidates)
        times = np.array([row.milliseconds for row in case.rows])
        case.notes |= {"counts": counts, "slope": round(float(np.polyfit(np.log(counts), np.log(times), 1)[0]), 3)}
        case.notes["picture_mb"] = math.prod(shape) * 8e-6
        print(f"time grows with the number of {what} to the power {case.notes['slope']}\n", flush=True)


def awkward_lengths(bench: Bench) -> None:
    """Our `A^H A` of 8 coils along an axis whose length has a large prime, compiled and with an FFT library."""
    import torch

    from mri_unroll.physics import SenseOperator
    from mri_unroll.physics.fourier import use_engine

    for n in (34,) if bench.options.quick else (213, 218, 254, 322, 372):
        for shape in ((n, 400), (400, n)):
            title = f"a length of {n}, A^H A, {shape[0]} x {shape[1]} x 8 coils"
            if not bench.wants(title):
                continue
            maps, _, image = problem(8, shape)
            mask = torch.from_numpy((np.arange(n) % 4 == 0).reshape((1, n) if shape[1] == n else (n, 1)))
            compiled = SenseOperator(maps, mask)
            with use_engine("scipy"):
                transforms = SenseOperator(maps, mask)
                differs = differs_from(transforms.normal(image).numpy())
            bench.compare(
                title,
                [
                    Candidate(OURS, lambda op=compiled, x=image: op.normal(x), differs),
                    Candidate(f"{OURS}, by scipy's FFTs", lambda op=transforms, x=image: by_scipy(op, x), differs),
                ],
            )


def by_scipy(operator: Any, image: Any) -> Any:
    """Apply a normal operator that was made for scipy's FFTs."""
    from mri_unroll.physics.fourier import use_engine

    with use_engine("scipy"):
        return operator.normal(image)


def nufft(bench: Bench, n_coils: int, shape: tuple[int, int], n_spokes: int) -> None:
    """Forward, adjoint and normal of the NUFFT; differences are from exact sums at some samples and pixels."""
    title = f"NUFFT, {shape[0]} x {shape[1]} x {n_coils} coils, {n_spokes} x {2 * shape[1]} radial"
    if not any(bench.wants(f"{title}, {part}") for part in ("forward", "adjoint", "normal")):
        return
    import torch
    from bench_peers import nuffts

    from mri_unroll.physics import NufftOperator
    from mri_unroll.physics.trajectory import radial

    maps, _, image = problem(n_coils, shape)
    coordinates = torch.from_numpy(radial(n_spokes, 2 * shape[1], shape)).float()
    operator = NufftOperator(maps, coordinates)
    pair = NufftOperator(maps, coordinates, toeplitz=False)
    kspace = operator.forward(image)
    peers = {
        f"{OURS} ({operator.engine})": {
            "forward": lambda: operator.forward(image),
            "adjoint": lambda: operator.adjoint(kspace),
            "normal": lambda: operator.normal(image),
        },
        f"{OURS}, forward and adjoint": {"normal": lambda: pair.normal(image)},
        **nuffts(maps, coordinates, image, kspace),
    }
    errors = exact_sums(maps.numpy(), coordinates.numpy(), image.numpy(), kspace.numpy())
    for part, error in errors.items():
        if bench.wants(f"{title}, {part}"):
            candidates = [Candidate(n, c[part], error, allowed=0.02) for n, c in peers.items() if part in c]
            bench.compare(f"{title}, {part}", candidates)


def exact_sums(maps: Any, coordinates: Any, image: Any, kspace: Any) -> dict[str, Callable[[Any], float]]:
    """Relative error of forward and adjoint, at 400 samples and 16 x 16 pixels, against the sums in double precision.

    The normal's error is taken at the same pixels, from the exact adjoint of our k-space.
    """
    random = np.random.default_rng(0)
    some = np.sort(random.choice(len(coordinates), 400, replace=False))
    rows, columns = (np.sort(random.choice(n, 16, replace=False)) for n in image.shape)

    def waves(samples: Any, axis: int, pixels: Any) -> Any:
        n = image.shape[axis]
        return np.exp(-2j * np.pi / n * np.outer(coordinates[samples, axis].astype(float), pixels - n // 2))

    everywhere = [np.arange(n) for n in image.shape]
    along_y, along_x = (waves(some, axis, everywhere[axis]) for axis in (0, 1))
    root = math.sqrt(image.size)
    coils = (maps * image).astype(np.complex128)
    samples = np.stack([np.einsum("sy,sy->s", along_y, along_x @ coil.T) for coil in coils]) / root
    along_y, along_x = (waves(slice(None), axis, p).conj() for axis, p in enumerate((rows, columns)))
    pixels = np.stack([(along_y * y[:, None]).T @ along_x for y in kspace.astype(np.complex128)]) / root
    at = np.ix_(rows, columns)
    picture = (maps[(slice(None), *at)].conj() * pixels).sum(0)

    def forward_error(value: Any) -> float:
        return relative(np.asarray(value).reshape(len(maps), -1)[:, some], samples)

    def adjoint_error(value: Any) -> float:
        return relative(np.asarray(value).reshape(image.shape)[at], picture)

    return {"forward": forward_error, "adjoint": adjoint_error, "normal": adjoint_error}


def draw(bench: Bench, path: Path) -> None:
    """Bars of every size and package; time and memory over coils and slices."""
    import matplotlib.ticker

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    normals = [case for case in bench.cases if case.title.startswith("A^H A")]
    growth = [case for case in bench.cases if case.title.startswith("scaling")]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    names = [row.name for case in normals for row in case.rows if not row.name.startswith("bare")]
    names = [name for name in dict.fromkeys(names) if name != OURS]
    for index, name in enumerate(names):
        heights = [case.ratio(name) or 0 for case in normals]
        bars = axes[0].bar(
            np.arange(len(normals)) + index / (len(names) + 1), heights, 1 / (len(names) + 1), label=name
        )
        axes[0].bar_label(bars, [f"{h:.1f}" if h else "" for h in heights], fontsize=7)
    axes[0].axhline(1, color="black", linewidth=0.8)
    middle = np.arange(len(normals)) + (len(names) - 1) / 2 / (len(names) + 1)
    labels = [case.title.removeprefix("A^H A, ").replace(" x ", "×").replace(" coils", "") for case in normals]
    axes[0].set_xticks(middle, labels, fontsize=8)
    axes[0].set(title="$A^H A$: time relative to ours", ylabel="times ours")
    axes[0].legend(fontsize=8)
    for case in growth:
        counts = np.array(case.notes["counts"])
        times = np.array([row.milliseconds for row in case.rows])
        line = axes[1].loglog(counts, times, "o-", label=case.title.split(",")[0].removeprefix("scaling "))[0]
        axes[1].loglog(counts, times[-1] * counts / counts[-1], ":", color=line.get_color(), linewidth=0.8)
        if all(row.peak_mb is not None for row in case.rows):
            peaks = np.array([row.peak_mb for row in case.rows]) / case.notes["picture_mb"]
            axes[2].loglog(counts, np.maximum(peaks, 0.1), "o-", color=line.get_color())
    axes[1].set(title="$A^H A$: time (dotted: proportional)", xlabel="coils; slices of 8 coils", ylabel="ms")
    axes[1].legend(fontsize=8)
    axes[2].set(title="$A^H A$: peak memory of one call", xlabel="coils; slices of 8 coils", ylabel="pictures")
    for axis in (axes[1].xaxis, axes[2].xaxis, axes[2].yaxis):
        ticks = [2**power for power in range(7)]
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all cases."""

    def figure_option(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--figure", type=Path, metavar="FILE", help="draw ratios and scaling there")

    options = benchmark.arguments(__doc__ or "", figure_option)
    bench = Bench(options)
    if options.quick:
        sizes: list[tuple[int, tuple[int, ...]]] = [(4, (96, 80)), (3, (24, 28, 26))]
        radial_size: tuple[int, tuple[int, int], int] = (3, (48, 48), 20)
    else:
        sizes = [(16, (320, 320)), (15, (640, 372)), (8, (160, 160, 160))]
        radial_size = (16, (320, 320), 200)
    for n_coils, shape in sizes:
        normal_and_gradient(bench, n_coils, shape)
    awkward_lengths(bench)
    scaling(bench)
    nufft(bench, *radial_size)
    if options.figure is not None:
        draw(bench, options.figure)
    bench.finish()


if __name__ == "__main__":
    main()
