"""Programs in a network of their own, where nothing but themselves can be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def alone(module: str, *arguments: Path) -> tuple[Any, str]:
    """Run a module of the repository where there is a loopback alone; gives the JSON it prints, and all it said."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network of its own needs root")
    command = 'ip link set lo up; exec "$0" -m "$@"'
    ran = subprocess.run(
        ["unshare", "-n", "bash", "-c", command, sys.executable, module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), ran.stdout + ran.stderr
