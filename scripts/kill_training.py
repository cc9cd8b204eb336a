"""Kill a training again and again, and show that it ends with the same weights as one that was left alone.

    python scripts/kill_training.py --kills 10

A small network is trained twice on simulated acquisitions of discs: once straight through, once with SIGKILL to the
whole process group, data workers included, at random moments; every second kill waits for the checkpoint to be half
written. Each time the same command is run again. At the end every tensor of the checkpoint (weights, their average, the
optimiser's moments), the exported file and the log, but for its column of seconds, must be the same bit for bit. Exit
code 1 if they are not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

ENDED = "the run ended before it could be killed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, help="of the training; four for each kill if not given")
    parser.add_argument("--width", type=int, default=128, help="of the network: the checkpoint takes a while to write")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    steps = arguments.steps or 4 * arguments.kills + 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_discs(root / "images")
        settings = root / "run.toml"
        settings.write_text(
            'data = "images"\nout = "straight"\nheld_out = "c"\nwarm_up = 2\n'
            f"n_steps = {steps}\ncool_down = {steps // 2}\n"
            "strip = 32\nn_workers = 1\nsave_every = 2\nn_validation = 1\nn_pictures = 1\n"
            f"[model]\nn_steps = 2\nn_cg = 2\nn_start_cg = 2\nwidths = [{arguments.width}]\n"
        )
        subprocess.run(command(settings, root / "straight"), check=True, stdout=subprocess.DEVNULL)
        kill_again_and_again(settings, root / "killed", arguments.kills, steps, np.random.default_rng(arguments.seed))
        differences = compare(root / "straight", root / "killed")
    print("\n".join(differences) or f"identical after {arguments.kills} kills")
    return 1 if differences else 0


def command(settings: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "mri_unroll", "train", str(settings), "--out", str(out), "--json"]


def kill_again_and_again(settings: Path, out: Path, kills: int, steps: int, rng: np.random.Generator) -> None:
    """Run with ``kills`` kills at moments spread over the run, then to its end."""
    moments = [1 + int((steps - 2) * (index + rng.random()) / kills) for index in range(kills)]
    for index, moment in enumerate(moments):
        run = subprocess.Popen(command(settings, out), stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            done, in_writing = wait_for(run, moment, out, rng, in_writing=index % 2 == 1)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        left = "half a checkpoint" if (out / "checkpoint.part").exists() else "no half checkpoint"
        aim = "while a checkpoint was written" if in_writing else "in between"
        print(f"kill {index + 1}: after step {done}, {aim}; it left {left}", flush=True)
    subprocess.run(command(settings, out), check=True, stdout=subprocess.DEVNULL)


def wait_for(
    run: subprocess.Popen[str], moment: int, out: Path, rng: np.random.Generator, in_writing: bool
) -> tuple[int, bool]:
    """Wait until a step is done, and then for a random while or until a checkpoint is being written."""
    done = 0
    assert run.stdout is not None
    for line in run.stdout:
        event = json.loads(line)
        done = event["done"] if event["event"] == "progress" else done
        if done >= moment or event["event"] == "error":
            break
    if run.poll() is not None:
        raise SystemExit(f"{ENDED}; use more --steps")
    if not in_writing:
        time.sleep(rng.uniform(0, 0.5))
        return done, False
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.part").exists():
        if run.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{ENDED}; use more --steps")
        time.sleep(0.0002)
    return done, True


def compare(straight: Path, killed: Path) -> list[str]:
    """What differs between two runs, in words."""
    differences = []
    one, other = (torch.load(out / "checkpoint.pt", weights_only=True) for out in (straight, killed))
    for part in ("network", "average", "optimiser"):
        tensors, others = flat(one[part]), flat(other[part])
        if tensors.keys() != others.keys():
            differences.append(f"{part}: other names")
        differences += [
            f"{part} {name} differs" for name, tensor in tensors.items() if not torch.equal(tensor, others[name])
        ]
    if exported(straight) != exported(killed):
        differences.append("model.safetensors differs")
    tables = [list(csv.DictReader((out / "log.csv").open(newline=""))) for out in (straight, killed)]
    for table in tables:
        for row in table:
            del row["seconds_per_step"]
    if tables[0] != tables[1]:
        differences.append("log.csv differs")
    return differences


def exported(out: Path) -> dict[str, bytes | str]:
    """Weights and metadata of the exported file; the order of its metadata is left to chance by safetensors."""
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()} | file.metadata()


def flat(state: object, name: str = "") -> dict[str, torch.Tensor]:
    """All numbers of a nested state by their place."""
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{name}.{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for key, value in enumerate(state) for k, v in flat(value, f"{name}.{key}").items()}
    return {name: torch.as_tensor(state)} if isinstance(state, torch.Tensor | int | float) else {}


def write_discs(folder: Path) -> None:
    """Three people's images with the index that training reads."""
    folder.mkdir()
    y, x = np.mgrid[-1:1:120j, -1:1:110j]
    for name, radius in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
        disc = (np.hypot(y, x / 0.8) < radius) * (2000 + 1500 * (np.hypot(y - 0.2, x) < 0.2))
        np.savez(folder / f"{name}.npz", images=disc[None].astype(np.uint16))
    entries = [{"file": f"{name}.npz", "shape": [1, 120, 110]} for name in "abc"]
    (folder / "index.json").write_text(json.dumps(entries))


if __name__ == "__main__":
    sys.exit(main())
