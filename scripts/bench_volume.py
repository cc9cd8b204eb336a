"""Seconds per slice and peak memory of every method on a large volume, through the command line as users run it.

    python scripts/bench_volume.py                            # 40 slices, 15 coils, 640 x 372, as fastMRI's knees
    python scripts/bench_volume.py --slices 4 --methods unrolled l1-wavelet

Each method runs in a process of its own, whose peak resident memory the kernel reports. Times are of this machine, with
whatever else it was doing: compare them with each other, not with other machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from mri_unroll.physics.phantom import phantom_kspace

METHODS = ["zero-filled", "cg-sense", "l1-wavelet", "tv", "unrolled"]


def write_volume(path: Path, n_slices: int, n_coils: int, matrix: tuple[int, int]) -> None:
    """A fully sampled phantom volume, slice by slice, each with noise of its own; readout oversampled twice."""
    rng = np.random.default_rng(0)
    clean = phantom_kspace(matrix, n_coils, oversampling=(2, 1))[0]
    level = 2e-4 * float(np.abs(clean).max())
    with h5py.File(path, "w") as file:
        kspace = file.create_dataset("kspace", (n_slices, *clean.shape), np.complex64)
        rss = file.create_dataset("reconstruction_rss", (n_slices, matrix[0] // 2, matrix[1]), np.float32)
        for index in range(n_slices):
            noise = rng.standard_normal((*clean.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
            noisy = clean + np.float32(level) * noise
            shifted = np.fft.ifftshift(noisy, axes=(-2, -1))
            images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
            kspace[index] = noisy
            rss[index] = np.linalg.norm(images, axis=0)[matrix[0] // 4 : matrix[0] // 4 + matrix[0] // 2]


def run(path: Path, out: Path, method: str, threads: int) -> dict[str, float]:
    """Reconstruct at fourfold acceleration; seconds per slice, peak memory in GB, and scores."""
    command = [sys.executable, "-m", "mri_unroll.cli", "recon", str(path), "-o", str(out), "--method", method]
    command += ["--accelerate", "4", "--threads", str(threads), "--device", "cpu", "--overwrite"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{method} failed:\n{messages.decode()}")
    sidecar = json.loads((out / f"{path.stem}.json").read_text())
    return {
        "seconds_per_slice": float(np.median(sidecar["seconds_per_slice"])),
        "peak_gb": usage.ru_maxrss / 1e6,  # the kernel counts in kilobytes
        "psnr": sidecar["metrics"]["psnr"],
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--matrix", type=int, nargs=2, default=[640, 372], metavar=("KY", "KX"))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.h5"
        write_volume(path, arguments.slices, arguments.coils, (arguments.matrix[0], arguments.matrix[1]))
        if not arguments.json:
            shape = f"{arguments.slices} x {arguments.coils} x {arguments.matrix[0]} x {arguments.matrix[1]}"
            print(f"{shape}, {path.stat().st_size / 1e9:.2f} GB, {arguments.threads} threads")
            print(f"{'method':<14} {'s/slice':>8} {'peak GB':>8} {'PSNR':>6}")
        for method in arguments.methods:
            results[method] = row = run(path, Path(folder) / "out", method, arguments.threads)
            if not arguments.json:
                line = f"{method:<14} {row['seconds_per_slice']:8.2f} {row['peak_gb']:8.2f} {row['psnr']:6.2f}"
                print(line, flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
