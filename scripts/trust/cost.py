"""What the verdict costs: the same volume with and without it, in turn, in one process.

python scripts/trust/cost.py --method unrolled --shape 320 320 --coils 8 --slices 4 --rounds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import torch

from mri_unroll.config import ReconstructionConfig
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.pipeline import reconstruct_file


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="unrolled")
    parser.add_argument("--shape", type=int, nargs=2, default=(320, 320))
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = ReconstructionConfig(method=arguments.method, accelerate=4, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = phantom_kspace(
                tuple(arguments.shape), arguments.coils, n_slices=arguments.slices, noise=0.004
            )
        ratios = []
        for number in range(-1, arguments.rounds):  # the first round warms up
            seconds = []
            for verdict in (False, True) if number % 2 else (True, False):
                # Processor time of this process: a busy machine does not count.
                started = time.process_time()
                outcome = reconstruct_file(path, Path(folder) / "out", dataclasses.replace(config, verdict=verdict))
                seconds.append((verdict, time.process_time() - started, outcome.summary["seconds"]))
            without, with_verdict = (next(s for v, s, _ in seconds if v == wanted) for wanted in (False, True))
            if number >= 0:
                ratios.append(with_verdict / without - 1)
                print(f"round {number}: {without:.2f} s without, {with_verdict:.2f} s with: {100 * ratios[-1]:+.0f} %")
    print(f"median {100 * statistics.median(ratios):+.0f} %")


if __name__ == "__main__":
    main()
