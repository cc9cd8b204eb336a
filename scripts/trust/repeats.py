"""How well can places of errors be told at all: a map against a witness who saw the same body scanned many times.

    python scripts/trust/repeats.py --count 12 --repeats 16

A scan of a test person is repeated with other lines and other noise; body, coils, contrast and strength of the noise
stay. Where errors usually are, over the other repeats, is what nobody knows who has one scan only; still it does not
rank pixels of this repeat perfectly, because noise of samples that were not measured lies anywhere. Both are scored as
`scripts/trust/table.py` scores the map.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from collect import COARSE, HERE, calibrated, coarser, people, slice_of
from faults import Measured, measured
from numpy.random import Generator
from scanners import any_scan
from table import auroc

from mri_unroll.config import load_toml
from mri_unroll.nets.model import Network
from mri_unroll.nets.refinement import RefinedSolution
from mri_unroll.physics.sampling import make_mask
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.reconstructor import make_reconstructor, weights_folder
from mri_unroll.recon.slicewise import SlicewiseReconstructor
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import Acquisition, centred_fft2, centred_ifft2, complex_normal
from mri_unroll.trust import heads as calibrations
from mri_unroll.trust.evidence import gather, second_opinion
from mri_unroll.trust.heads import Heads
from mri_unroll.trust.prediction import error_map
from mri_unroll.trust.witness import SUFFIX, second_network

ACCELERATIONS = (2, 4, 6, 8)


def repeated(first: Acquisition, acceleration: float, rng: Generator, count: int) -> Iterator[Measured]:
    """The same scan with other lines and other noise of the same covariance."""
    scan = measured(first)
    clean = centred_fft2(scan.coil_images)
    variances, directions = np.linalg.eigh(scan.noise_cov)
    mixing = directions * np.sqrt(np.clip(variances, 0, None))
    for _ in range(count):
        noise = np.einsum("cd,dyx->cyx", mixing, complex_normal(clean.shape, rng))
        shape = (clean.shape[-2], clean.shape[-1])
        mask = make_mask("random", shape, acceleration, seed=int(rng.integers(2**31)))
        full = (clean + noise).astype(np.complex64)
        yield dataclasses.replace(scan, kspace=np.where(mask, full, 0), mask=mask, full=full)


def seen(
    scan: Measured, method: SlicewiseReconstructor, network: Network, heads: Heads
) -> tuple[np.ndarray, np.ndarray]:
    """True error of each pixel, and the error map, both ``(y, x)`` in units of the problem's scale."""
    problem = calibrated(scan)
    solution = method.solve(problem)
    op = solution.op if isinstance(solution, RefinedSolution) else problem.op
    assert isinstance(op, SenseOperator)
    evidence, pictures = gather(problem, solution, op, second_opinion(problem, network))
    expected = error_map(pictures, heads.standard([evidence.features]), heads)
    truth = np.linalg.norm(centred_ifft2(scan.full), axis=0)
    shown = method.magnitude(problem, solution.value, op)[0].numpy() * problem.scale
    return np.abs(shown - truth) / problem.scale, expected.numpy()


def main() -> None:
    """Scan, rank and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="scans at each acceleration")
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    volumes = people("test", arguments.data / "truth", config.held_out)
    method, network = make_reconstructor("unrolled"), second_network(torch.device("cpu"))
    assert isinstance(method, SlicewiseReconstructor)
    heads = calibrations.load(weights_folder() / "trust" / f"unrolled{SUFFIX}")
    print("| acceleration | witness of the other repeats | error map |\n|---|---|---|")
    for acceleration in ACCELERATIONS:
        found = []
        for index in range(arguments.count):
            rng = np.random.default_rng([47, index])
            first = any_scan(coarser(slice_of(volumes, rng)[0], COARSE), rng)
            with torch.inference_mode():
                results = [
                    seen(scan, method, network, heads) for scan in repeated(first, acceleration, rng, arguments.repeats)
                ]
            errors = np.array([error for error, _ in results])
            power = np.square(errors).sum(0)
            for error, expected in results:
                found.append((auroc(power - np.square(error), error), auroc(expected, error)))
        witness, ours = np.mean(found, axis=0)
        print(f"| {acceleration} | {witness:.3f} | {ours:.3f} |", flush=True)


if __name__ == "__main__":
    main()
