"""A folder that scans are dropped into."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.files import random_kspace, write_fastmri
from typer.testing import CliRunner, Result

from mri_unroll.cli import app


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["watch", *map(str, arguments)], env={"COLUMNS": "200"})


def test_what_is_there_is_done_once_and_failures_are_noted(tmp_path: Path) -> None:
    incoming, out = tmp_path / "incoming", tmp_path / "out"
    incoming.mkdir()
    write_fastmri(incoming / "good.h5", random_kspace((2, 2, 16, 12)))
    (incoming / "bad.h5").write_bytes(b"no scan")
    options = (incoming, "-o", out, "--method", "zero-filled", "--quiet", 0, "--once")
    done = run(*options)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == [str(out / "good.h5")]
    note = json.loads((out / "bad.error.json").read_text())
    assert "no known format" in note["message"]
    assert "bad.h5" in done.stderr
    before = (out / "good.h5").stat().st_mtime_ns
    again = run(*options)
    assert (again.exit_code, again.stdout) == (0, "")  # neither the result nor the failure again
    assert (out / "good.h5").stat().st_mtime_ns == before
    (incoming / "good.npy").write_bytes(b"of the same name")
    twin = run(*options)
    assert "would replace" in twin.stderr
    assert twin.stdout == ""
    (incoming / "good.npy").unlink()
    write_fastmri(incoming / "bad.h5", random_kspace((1, 2, 16, 12)))
    os.utime(incoming / "bad.h5")
    assert run(*options).stdout.split() == [str(out / "bad.h5")]
    assert not (out / "bad.error.json").exists()


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    for arguments in ((tmp_path / "none", "-o", tmp_path / "out"), (tmp_path, "-o", tmp_path)):
        done = run(*arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")


def test_it_waits_for_files_to_be_whole_and_stops_when_told(tmp_path: Path) -> None:
    incoming, out = tmp_path / "incoming", tmp_path / "out"
    incoming.mkdir()
    command = [
        sys.executable,
        "-m",
        "mri_unroll",
        "watch",
        incoming,
        "-o",
        out,
        "--method",
        "zero-filled",
        "--quiet",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        whole = write_fastmri(tmp_path / "scan.h5", random_kspace((2, 2, 16, 12))).read_bytes()
        with (incoming / "scan.h5").open("wb") as file:
            for first in range(0, len(whole), len(whole) // 3 + 1):
                file.write(whole[first : first + len(whole) // 3 + 1])
                file.flush()
                time.sleep(1)
                assert not (out / "scan.h5").exists()
                assert not (out / "scan.error.json").exists()
        late = time.monotonic() + 60
        while not (out / "scan.json").exists() and time.monotonic() < late:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, told
    assert said.split() == [str(out / "scan.h5")]
    assert "stopped" in told
