"""How much of an evaluation is reading and measuring, and what a second worker brings.

Makes a folder of volumes as large as fastMRI's knees and evaluates `zero-filled` on it with one worker and with two,
in turn, several times, one CPU thread a worker. Wall time counts from the moment that all workers are ready: to start
Python and load torch takes seconds that a folder of hundreds of volumes does not notice; it is given apart.

    python scripts/bench_evaluate.py            # an idle machine with two cores or more; 2 GB on the disk
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mri_unroll.machine import physical_cores
from mri_unroll.physics.phantom import phantom_kspace

COMMAND = [sys.executable, "-c", "from mri_unroll.cli import main; main()", "evaluate"]


def write_volumes(folder: Path, count: int, n_slices: int, n_coils: int) -> None:
    """Knees in size: 640 x 372, readout oversampled twice, reference 320 x 320."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    clean = phantom_kspace((640, 372), n_coils, n_slices=n_slices, oversampling=(2, 1))
    for index in range(count):
        noise = rng.standard_normal((*clean.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        kspace = clean * np.float32(1 + index) + np.float32(0.02) * noise
        pictures = np.empty((n_slices, 320, 320), np.float32)
        for number, planes in enumerate(kspace):
            images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(planes, (-2, -1)), norm="ortho"), (-2, -1))
            pictures[number] = np.linalg.norm(images[:, 160:480, 26:346], axis=0)
        with h5py.File(folder / f"file{index:03}.h5", "w") as file:
            file["kspace"] = kspace
            file["reconstruction_rss"] = pictures


def run(folder: Path, out: Path, workers: int, accelerate: str) -> dict[str, float]:
    """One evaluation; seconds from the first moment that all workers are ready to the last score."""
    options = ["--methods", "zero-filled", "--accelerate", accelerate, "--workers", str(workers), "--threads", "1"]
    command = [*COMMAND, str(folder), "-o", str(out), *options, "--json"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    ready = last = begun
    starts = 0
    done: dict[str, Any] = {}
    for line in process.stdout:
        event = json.loads(line)
        starts += event["event"] == "worker"
        first = event["event"] == "progress" and event["done"] == 0
        if (workers == 1 and first) or (event["event"] == "worker" and starts == workers):
            ready = time.perf_counter()
        if event["event"] == "score":
            last = time.perf_counter()
        if event["event"] == "done":
            done = event
    if process.wait():
        sys.exit(f"{' '.join(command)} failed")
    spent: dict[str, float] = done["seconds"]
    return {
        "wall": last - ready,
        "start": ready - begun,
        "waiting for the file [%]": 100 * spent["waiting"] / spent["all"],
        "measures [%]": 100 * spent["measures"] / spent["all"],
        "reading, in its thread [%]": 100 * spent["reading"] / spent["all"],
        "reconstruction [%]": 100 * spent["reconstruction"] / spent["all"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--accelerate", default="4,8")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scans"
        write_volumes(folder, given.volumes, given.slices, given.coils)
        for number in range(given.rounds):
            for workers, rounds in found.items():
                rounds.append(run(folder, Path(name) / f"out-{workers}-{number}", workers, given.accelerate))
    print(
        f"{given.volumes} volumes of {given.slices} slices, {given.coils} coils, 640 x 372, zero-filled at"
        f" {given.accelerate}; {physical_cores()} cores; medians of {given.rounds} interleaved rounds"
    )
    middle = {
        workers: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for workers, rounds in found.items()
    }
    print("| | 1 worker | 2 workers |\n|---|---|---|")
    for key in middle[1]:
        print(f"| {key}{'' if '%' in key else ' [s]'} | {middle[1][key]:.1f} | {middle[2][key]:.1f} |")
    ratios = [one["wall"] / two["wall"] for one, two in zip(found[1], found[2], strict=True)]
    print(f"| speed-up, round by round | | {', '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
