"""What the benchmark scripts share: fair timing, agreement, memory, tables, and the machine they ran on.

Candidates of one case run in turns, so that whatever else the machine does meets all of them alike; a ratio is the
median over rounds of one candidate's time by ours *in the same round*. Before anything is timed, results are compared:
a candidate that computes something else stops the script.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OURS = "mri_unroll"
# Seconds below which a call is made once untimed before the timed one: in an iteration the call before was the
# candidate's own, and its memory and caches are as it left them, not as another package did.
_WARM_BELOW = 1.0
PACKAGES = ("numpy", "scipy", "torch", "sigpy", "fastmri", "deepinv", "mrpro", "finufft", "torchkbnufft", "mri-nufft")


@dataclass(frozen=True)
class Candidate:
    """One way to compute a case."""

    name: str
    run: Callable[[], Any]
    difference: Callable[[Any], float] | None = None  # of the result of `run` from the truth; None: not comparable
    allowed: float = 1e-6  # difference beyond which the script refuses
    in_process: bool = True  # False: a program of its own, whose memory is not measured


@dataclass
class Row:
    """What came of one candidate."""

    name: str
    milliseconds: float
    ratio: float  # median over rounds of its time by ours
    difference: float | None
    peak_mb: float | None  # resident memory at its highest during a call, above what was there before it


@dataclass
class Case:
    """A case and its rows, with free numbers beside."""

    title: str
    rows: list[Row]
    notes: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Rows as a Markdown table, the fastest first."""
        lines = [f"| {self.title} | ms | time / ours | difference | peak MB |", "|---|--:|--:|--:|--:|"]
        for row in sorted(self.rows, key=lambda r: r.milliseconds):
            difference = "" if row.difference is None else f"{row.difference:.1e}"
            peak = "" if row.peak_mb is None else f"{row.peak_mb:.1f}"
            lines.append(f"| {row.name} | {row.milliseconds:.1f} | {row.ratio:.2f} | {difference} | {peak} |")
        lines += ["", *(f"{name}: {value}" for name, value in self.notes.items()), ""]
        return "\n".join(lines)

    def ratio(self, name: str) -> float | None:
        """Time of a candidate by ours; None if it did not run."""
        return next((row.ratio for row in self.rows if row.name == name), None)


def arguments(description: str, parser_options: Callable[[argparse.ArgumentParser], None] | None = None) -> Any:
    """Parse what all benchmarks understand, and set the threads before any library starts its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there as well")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables between this script's marks there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all?")
    parser.add_argument("--rounds", type=int, default=15, help="at most this many, at least 3")
    parser.add_argument("--seconds", type=float, default=40.0, help="time to spend on one case, about")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a machine that others use")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their title")
    if parser_options is not None:
        parser_options(parser)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    return options


def has(module: str) -> bool:
    """Whether a peer is installed and starts."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def relative(value: NDArray[Any], truth: NDArray[Any]) -> float:
    """Relative difference in the Euclidean norm."""
    return float(np.linalg.norm(value - truth) / np.linalg.norm(truth))


def differs_from(truth: NDArray[Any]) -> Callable[[Any], float]:
    """Relative difference of any array or tensor from ``truth``, singleton axes aside."""
    return lambda value: relative(np.asarray(value).reshape(truth.shape), truth)


class Bench:
    """Runs cases, prints their tables as they come and keeps them."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.cases: list[Case] = []

    def wants(self, title: str) -> bool:
        """Whether ``--only`` lets this case through."""
        return bool(self.options.only.lower() in title.lower())

    def compare(self, title: str, candidates: Sequence[Candidate], **notes: Any) -> Case:
        """Check, time and measure all candidates; the one whose name begins with `OURS` comes first."""
        differences, peaks, first = [], [], []
        for candidate in candidates:
            start = time.perf_counter()
            value = candidate.run()
            first.append(time.perf_counter() - start)
            difference = None if candidate.difference is None else candidate.difference(value)
            if difference is not None and not difference <= candidate.allowed:
                raise SystemExit(
                    f"{title}: {candidate.name} differs by {difference:.1e}, more than {candidate.allowed:.0e}. "
                    "Times of different results are not compared."
                )
            differences.append(difference)
            del value
            peaks.append(peak_mb(candidate.run) if candidate.in_process else None)
        n_rounds = (
            2 if self.options.quick else int(np.clip(self.options.seconds / (2 * sum(first)), 3, self.options.rounds))
        )
        clock = wall_clock if self.options.clock == "wall" else cpu_clock
        seconds = np.empty((n_rounds, len(candidates)))
        for turn in range(n_rounds):
            for index, candidate in enumerate(candidates):
                if first[index] < _WARM_BELOW:
                    candidate.run()
                start = clock()
                candidate.run()
                seconds[turn, index] = clock() - start
        ratios = np.median(seconds / seconds[:, :1], axis=0)
        medians = np.median(seconds, axis=0)
        rows = [
            Row(candidate.name, 1e3 * float(medians[i]), float(ratios[i]), differences[i], peaks[i])
            for i, candidate in enumerate(candidates)
        ]
        case = Case(title, rows, {**notes, "rounds": n_rounds})
        self.cases.append(case)
        print(case.table(), flush=True)
        return case

    def finish(self) -> None:
        """Write the JSON and the tables of a page, if asked for."""
        about = machine(self.options)
        if self.options.json is not None:
            report = {"machine": about, "cases": [asdict(case) for case in self.cases]}
            self.options.json.write_text(json.dumps(report, indent=1) + "\n")
        if self.options.page is not None:
            versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
            lines = [
                f"`python {' '.join(['scripts/' + Path(sys.argv[0]).name, *_settings(self.options)])}` on "
                f"{about['processor']}; Python {about['python']}, {versions}.",
                "",
                *(case.table() for case in self.cases),
            ]
            replace_between(self.options.page, Path(sys.argv[0]).stem, "\n".join(lines))


def _settings(options: Any) -> list[str]:
    """The options that change the numbers."""
    words = ["--threads", str(options.threads), "--clock", options.clock]
    return [*words, *(["--quick"] if options.quick else []), *(["--only", options.only] if options.only else [])]


def replace_between(page: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- end of mark -->`` in a page."""
    start, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, _, rest = page.read_text().partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"Expected the lines {start} and {end} in {page}.")
    page.write_text(f"{before}{start}\n{text}{end}{after}")


def wall_clock() -> float:
    """Seconds as a user waits for them."""
    return time.perf_counter()


def cpu_clock() -> float:
    """Seconds of processor time, of this process and of the programs it has run."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_mb(run: Callable[[], Any]) -> float | None:
    """Resident memory at its highest during a call above what was resident before it; None where the kernel won't tell.

    The call has run before, so that tables and plans that stay are not counted; memory that the allocator keeps for
    later is handed back first, or else it would hide what the call needs. Pages count as they are touched.
    """
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        clear.write_text("5")  # resets the high-water mark
        before = _kilobytes(status, "VmRSS")
        run()
        return max(0.0, (_kilobytes(status, "VmHWM") - before) / 1e3)
    except (OSError, AttributeError):
        return None


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


def machine(options: Any) -> dict[str, Any]:
    """What the numbers belong to."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if shutil.which("bart"):
        versions["bart"] = subprocess.run(["bart", "version"], capture_output=True, text=True).stdout.strip()
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "threads": options.threads,
        "clock": options.clock,
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name where the system tells, else its kind."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
