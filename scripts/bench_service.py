"""What the service costs over the command line: the same scan through both, in turns; and the memory of its parts.

    python scripts/bench_service.py                                       # 20 slices, 15 coils, 640 x 372
    python scripts/bench_service.py --slices 20 --coils 8 --matrix 320 320 --rounds 3

A round sends the scan to a running service, submits a job and waits for its end; and runs `mri-unroll recon` on the
same file, start included. Both have the same method, undersampling and threads, one worker, and the CPU. "overhead" is
the median over rounds of the service's time by the command line's, less one. On a machine that others use at the same
time look at the seconds of processors. The service also makes what the page shows and NIfTI; the command line does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench_volume import write_volume

TOKEN = "bench-" + "b" * 40


class Service:
    """A service, its one client, and what its processes have taken at the most."""

    def __init__(self, folder: Path, threads: int) -> None:
        tokens = folder / "token"
        tokens.write_text(TOKEN)
        tokens.chmod(0o600)
        command = [sys.executable, "-m", "mri_unroll", "serve", "--data-dir", str(folder / "data"), "--port", "0"]
        command += ["--token-file", str(tokens), "--device", "cpu", "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self._address = self._process.stdout.readline().split()[-1]
        self.peaks: dict[str, float] = {}  # MB, by the part that a process plays
        self.result_bytes = 0
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look)
        self._looking.start()

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json", length: int = 0) -> Any:
        """One request."""
        request = urllib.request.Request(self._address + path, body, method=method)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        request.add_header("Content-Type", kind)
        if length:
            request.add_header("Content-Length", str(length))
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def reconstruct(self, scan: Path, options: dict[str, Any]) -> tuple[float, float]:
        """Send, submit and wait; seconds for all of it, and those of sending alone."""
        began = time.monotonic()
        with scan.open("rb") as file:
            place = f"/v1/uploads?name={scan.name}"
            upload = self.ask("PUT", place, file, "application/octet-stream", scan.stat().st_size)["upload"]
        sent = time.monotonic() - began
        body = json.dumps({"upload": upload, "options": options}).encode()
        job = self.ask("POST", "/v1/jobs", body)["job"]
        while (found := self.ask("GET", f"/v1/jobs/{job}"))["state"] not in ("done", "failed"):
            time.sleep(0.1)
        if found["state"] == "failed":
            raise SystemExit(f"the job failed: {found['error']}")
        self.result_bytes = found["bytes"]
        return time.monotonic() - began, sent

    def processor_seconds(self) -> float:
        """Of all its processes so far, with those that have ended."""
        ticks = 0
        for pid in self._family():
            try:
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
            except OSError:  # it has ended meanwhile, and is counted by its parent
                continue
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._looking.join()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _family(self) -> set[int]:
        family = {self._process.pid}
        running = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        for _ in range(3):  # children, and theirs
            family |= {pid for pid in running if _parent(pid) in family}
        return family

    def _look(self) -> None:
        while not self._over.wait(0.25):
            family = self._family()
            for pid in family - {self._process.pid}:
                part, peak = _part(pid), _peak(pid)
                self.peaks[part] = max(self.peaks.get(part, 0.0), peak)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _part(pid: int) -> str:
    """What a process plays; the fork that does a job has the command line of its parent."""
    try:
        words = [Path(f"/proc/{one}/cmdline").read_text().split("\0") for one in (pid, _parent(pid))]
    except OSError:
        return "gone"
    mine, parents = (next((word.rsplit(".", 1)[1] for word in one if ".service." in word), "other") for one in words)
    return "job" if mine == parents == "task" else mine


def _peak(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def command_line(scan: Path, out: Path, options: dict[str, Any], threads: int) -> tuple[float, float]:
    """Seconds of `mri-unroll recon`, on the wall and of processors."""
    command = [sys.executable, "-m", "mri_unroll", "recon", str(scan), "-o", str(out), "--method", options["method"]]
    command += ["--accelerate", str(options["accelerate"]), "--threads", str(threads), "--device", "cpu", "--overwrite"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"the command line failed: {process.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--matrix", type=int, nargs=2, default=[640, 372], metavar=("KY", "KX"))
    parser.add_argument("--method", default="unrolled")
    parser.add_argument("--accelerate", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    options = {"method": given.method, "accelerate": given.accelerate}
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder, scan = Path(name), Path(name) / "volume.h5"
        write_volume(scan, given.slices, given.coils, (given.matrix[0], given.matrix[1]))
        service = Service(folder, given.threads)
        try:
            service.ask("GET", "/v1/methods")  # answered when the worker has loaded everything
            for number in range(given.rounds):
                turns = ["service", "command line"] if number % 2 == 0 else ["command line", "service"]
                found: dict[str, float] = {"load before": round(os.getloadavg()[0], 2)}
                for turn in turns:
                    if turn == "service":
                        before = service.processor_seconds()
                        found["service"], found["of it sending"] = service.reconstruct(scan, options)
                        found["service, processor"] = service.processor_seconds() - before
                    else:
                        done = command_line(scan, folder / "out", options, given.threads)
                        found["command line"], found["command line, processor"] = done
                found["ratio"] = found["service"] / found["command line"]
                found["ratio, processor"] = found["service, processor"] / found["command line, processor"]
                rounds.append({key: round(value, 3) for key, value in found.items()})
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        finally:
            service.stop()
        size = scan.stat().st_size
        with scan.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    overhead, of_processor = (
        f"{100 * (statistics.median(one[name] for one in rounds) - 1):.1f} %" for name in ("ratio", "ratio, processor")
    )
    shape = f"{given.slices} slices, {given.coils} coils, {given.matrix[0]} x {given.matrix[1]}"
    told = {"scan": f"{shape}, {size / 1e6:.0f} MB, {digest}", **options, "threads": given.threads, "rounds": rounds}
    peaks = {part: round(peak) for part, peak in sorted(service.peaks.items()) if part not in ("gone", "other")}
    print(
        json.dumps(
            {**told, "overhead": overhead, "overhead, processor": of_processor, "peak memory in MB": peaks}, indent=2
        )
    )


if __name__ == "__main__":
    main()
