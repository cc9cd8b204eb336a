"""What each named network costs: parameters, work, seconds per slice, peak memory; and how good it is if trained.

    python scripts/model_zoo.py                                        # all networks, 320 x 320 x 15, two threads
    python scripts/model_zoo.py --names unrolled unrolled-small --rounds 9
    python scripts/model_zoo.py --weights runs/*/model.safetensors     # quality from these cards, too

Times are of the network alone, on a simulated slice calibrated as every scan is; the line above the table says what
the calibration took. All networks run in turn, in single precision and in bfloat16 (inside the priors), round after
round, and medians are printed: what else the machine was doing then falls on all of them alike. On a machine that is
busy, ``--clock cpu --threads 1`` counts the time of the processor and not that of waiting for it. Peak memory is that
of a process which calibrates the slice and runs one network. Weights are fresh unless trained ones are found; they cost
the same. Quality is what the training wrote into the model card: NMSE in decibels inside the body, on that training's
own validation slices, of the network and in brackets of networks that are to keep the noise of a full scan.
"""

from __future__ import annotations

import argparse
import math
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mri_unroll.nets.model import PRIORS, Network, build, load
from mri_unroll.nets.zoo import ZOO
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import make_mask
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.recon.learned import run_network
from mri_unroll.recon.reconstructor import shipped_models

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def noisy_slice(matrix: tuple[int, int], n_coils: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K-space of a phantom at fourfold acceleration, and its mask."""
    rng = np.random.default_rng(0)
    clean = phantom_kspace(matrix, n_coils)[0]
    noise = rng.standard_normal((*clean.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    mask = torch.from_numpy(make_mask("equispaced_fraction", matrix, 4, 0.08, seed=0))
    return torch.from_numpy(clean + np.float32(1e-4 * np.abs(clean).max()) * noise), mask


def fresh(name: str) -> Network:
    """A network of the zoo with weights of nobody's training, the same at every call."""
    torch.manual_seed(0)
    return build(ZOO[name].config).eval()


def reconstruct(name: str, problem: CalibratedSlice, network: Network, dtype: torch.dtype | None) -> None:
    """Run a network on a calibrated slice, with its priors in some precision."""
    with torch.inference_mode():
        run_network(problem, network, 1.0, dtype)


def own_peak() -> float:
    """Peak resident memory of this process in GB, since it began; what its parent used does not count."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith("VmHWM:")) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak_memory(name: str, arguments: argparse.Namespace) -> float:
    """Peak memory, in GB, of a process that calibrates and runs one network."""
    command = [sys.executable, __file__, "--peak-of", name, "--coils", str(arguments.coils)]
    command += ["--threads", str(arguments.threads), "--matrix", *map(str, arguments.matrix)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def prior_work(name: str, matrix: tuple[int, int]) -> float:
    """Multiplications and additions in the priors of a picture, in 10^9 pairs; of an equilibrium per iteration."""
    config = ZOO[name].config
    n_evidence = 2 if config.sees_start else 1
    prior = PRIORS[config.prior](n_evidence, config.n_strength, config.widths, config.fold)
    side = prior.multiple  # every layer works at a fixed part of the padded picture, of which this is one tile
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        prior(torch.zeros(1, 1 + n_evidence, side, side, dtype=torch.complex64), torch.zeros(1, config.n_strength))
    tiles = math.prod(math.ceil(n / side) for n in matrix)
    return counter.get_total_flops() / 2e9 * tiles * (config.n_steps if config.kind == "unrolled" else config.n_in_turn)


def trained(paths: list[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Checkpoint and card of each network of the zoo that was trained; of several the last named."""
    found = {}
    for path in paths:
        _, config, card = load(path)
        found |= {name: (path, card) for name, entry in ZOO.items() if entry.config == config}
    return found


def quality(card: dict[str, Any] | None) -> tuple[str, str]:
    """Training steps and validation, as a training wrote them; dashes where there was none."""
    run = {} if card is None else card.get("run", card)
    if "validation_db" not in run:
        return "–", "–"
    noisy = f" ({run['noisy_db']:.2f})" if "noisy_db" in run else ""
    return f"{run['steps_done']}", f"{run['validation_db']:.2f}{noisy}"


def table(arguments: argparse.Namespace) -> list[str]:
    """Lines of markdown."""
    kspace, mask = noisy_slice((arguments.matrix[0], arguments.matrix[1]), arguments.coils)
    problem = calibrate_slice(kspace, mask)
    now = CLOCKS[arguments.clock]
    started = now()
    problem = calibrate_slice(kspace, mask)
    calibration = now() - started
    known = trained([*shipped_models().values(), *arguments.weights])
    networks = {name: load(known[name][0])[0] if name in known else fresh(name) for name in arguments.names}
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(arguments.rounds + 1):
        for name, network in networks.items():
            for precision, dtype in PRECISIONS.items():
                started = now()
                reconstruct(name, problem, network, dtype)
                taken = now() - started
                if turn:  # the first round warms up
                    times.setdefault((name, precision), []).append(taken)
                print(f"round {turn} of {arguments.rounds}: {name}, {precision}: {taken:.2f} s", file=sys.stderr)
    lines = [
        f"{date.today()}, {processor()}, threads: {arguments.threads}, clock: {arguments.clock}, "
        f"torch {torch.__version__}; {arguments.matrix[0]} x {arguments.matrix[1]}, {arguments.coils} coils, "
        f"compressed to {problem.kspace.shape[1]}, at 4x; calibration {calibration:.2f} s; rounds: {arguments.rounds}.",
        "",
        "| network | what it is | parameters | priors, GMAC | s, float32 | s, bfloat16 | peak GB | steps | NMSE, dB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        work = prior_work(name, (arguments.matrix[0], arguments.matrix[1]))
        single, half = (float(np.median(times[name, precision])) for precision in PRECISIONS)
        n_steps, validation = quality(known[name][1] if name in known else None)
        lines.append(
            f"| `{name}` | {ZOO[name].summary} | {count:,} | {work:.1f} | {single:.2g} | {half:.2g} "
            f"| {peak_memory(name, arguments):.2f} | {n_steps} | {validation} |"
        )
    return lines


def processor() -> str:
    """Name of the processor, as Linux gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Print the table, or the peak memory of one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=ZOO, default=list(ZOO), metavar="NAME", help="of nets/zoo.py")
    parser.add_argument(
        "--weights", nargs="+", type=Path, default=[], help="checkpoints to take weights and cards from"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--matrix", type=int, nargs=2, default=[320, 320], metavar=("KY", "KX"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="seconds that passed, or of the processor")
    parser.add_argument(
        "--peak-of", choices=ZOO, metavar="NAME", help="print the peak memory in GB of one network only"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("expected at least one round")
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of is None:
        print("\n".join(table(arguments)))
        return
    problem = calibrate_slice(*noisy_slice((arguments.matrix[0], arguments.matrix[1]), arguments.coils))
    reconstruct(arguments.peak_of, problem, fresh(arguments.peak_of), None)
    print(own_peak())


if __name__ == "__main__":
    main()
