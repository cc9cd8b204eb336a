"""Kill an evaluation again and again and show that it loses nothing and scores nothing twice.

First on Ray: actors are killed with SIGKILL at moments spread over the run, then the driver, and `--resume` ends it.
Then two `--shard` processes side by side, killed in turn and started again. Each time the table is held against that
of an undisturbed run: the same volumes, each once, the same scores.

    python scripts/kill_evaluation.py                    # 60 volumes, 4 actors and the driver; needs the extra cluster
    python scripts/kill_evaluation.py --crew processes   # the same with processes of this machine in place of Ray
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mri_unroll.physics.phantom import phantom_kspace

COMMAND = [sys.executable, "-c", "from mri_unroll.cli import main; main()", "evaluate"]
METHODS = ("zero-filled", "cg-sense")
WORKER_KILLS = 4


def write_volumes(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    clean = phantom_kspace((96, 87), 2, n_slices=2)
    for index in range(count):
        noise = rng.standard_normal((*clean.shape, 2)).view(np.complex128)[..., 0]
        with h5py.File(folder / f"file{index:03}.h5", "w") as file:
            file["kspace"] = (clean * (1 + index / count) + 0.05 * noise).astype(np.complex64)


def start(options: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *options, "--json"], stdout=subprocess.PIPE, text=True)


def events_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def table(out: Path) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Key and scores of every row of every table, as text."""
    found = []
    for path in sorted(out.glob("scores*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = tuple(row[name] for name in ("volume", "method", "mask", "acceleration", "seed"))
                found.append((key, tuple(row[name] for name in ("nmse", "psnr", "ssim", "body_ssim"))))
    return found


def kill_workers_and_driver(options: list[str], total: int, chance: random.Random) -> dict[str, Any]:
    """One run whose workers and, near the end, driver are killed."""
    moments = [total * (index + 1) // (WORKER_KILLS + 2) for index in range(WORKER_KILLS + 1)]
    process = start(options)
    alive: list[int] = []
    n_scores = killed = lost = 0
    for event in events_of(process):
        if event["event"] == "worker" and event["state"] == "started":
            alive.append(event["pid"])
        elif event["event"] == "worker":
            lost += 1
        n_scores += event["event"] == "score"
        if killed < WORKER_KILLS and n_scores >= moments[killed] and alive:
            os.kill(alive.pop(chance.randrange(len(alive))), signal.SIGKILL)
            killed += 1
        if killed == WORKER_KILLS and n_scores >= moments[-1]:
            process.kill()
            break
    process.wait()
    return {"workers killed": killed, "workers seen to be lost": lost, "scores when the driver was killed": n_scores}


def finish(options: list[str]) -> dict[str, Any]:
    process = start([*options, "--resume"])
    *_, last = events_of(process)
    return {"exit code of --resume": process.wait(), "scores made by --resume": last.get("new")}


def kill_shards(options: list[str], chance: random.Random) -> dict[str, Any]:
    """Two shards side by side, of which one after the other is killed and started again."""
    running = {index: start([*options, "--shard", f"{index}/2"]) for index in range(2)}
    kills = starts = 0
    while kills < WORKER_KILLS + 1:
        index = kills % 2
        wanted = chance.randrange(4, 10)
        for event in events_of(running[index]):
            wanted -= event["event"] == "score"
            if wanted == 0:
                break
        ended_before = running[index].poll() is not None
        running[index].kill()
        running[index].wait()
        kills += not ended_before
        running[index] = start([*options, "--shard", f"{index}/2", "--resume"])
        starts += 1
        if ended_before:
            break
    codes = []
    for process in running.values():
        process.communicate()
        codes.append(process.returncode)
    return {"shards killed": kills, "started again": starts, "exit codes": codes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=60)
    parser.add_argument("--crew", choices=("ray", "processes"), default="ray")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of who is killed")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    crew = ["--workers", "2", "--threads", "1", *(["--cluster", "local"] if given.crew == "ray" else [])]
    total = given.volumes * len(METHODS)
    ok = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scans"
        write_volumes(folder, given.volumes)
        common = ["--methods", ",".join(METHODS), "--accelerate", "4"]
        begun = time.perf_counter()
        calm = [str(folder), "-o", str(Path(name) / "calm"), *common]
        subprocess.run([*COMMAND, *calm, "--threads", "1"], check=True, capture_output=True)
        expected = dict(table(Path(name) / "calm"))
        print(f"undisturbed: {len(expected)} scores of {total}, {time.perf_counter() - begun:.0f} s", flush=True)
        for title in (given.crew, "shards"):
            begun = time.perf_counter()
            out = Path(name) / title
            options = [str(folder), "-o", str(out), *common]
            if title == "shards":
                told = kill_shards([*options, "--threads", "1"], chance)
            else:
                told = kill_workers_and_driver([*options, *crew], total, chance)
                told |= finish([*options, *crew])
            found = table(out)
            told |= {
                "rows": len(found),
                "different keys": len(dict(found)),
                "missing": len(set(expected) - set(dict(found))),
                "scores unlike the undisturbed run's": sum(expected.get(key) != scores for key, scores in found),
                "report": (out / "report.html").is_file(),
                "seconds": round(time.perf_counter() - begun),
            }
            ok &= len(found) == total == len(dict(found)) and told["missing"] == 0 and told["report"]
            print(f"{title}: {json.dumps(told)}", flush=True)
    print("complete, nothing twice" if ok else "FAILED", flush=True)
    sys.exit(not ok)


if __name__ == "__main__":
    main()
