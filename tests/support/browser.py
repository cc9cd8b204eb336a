"""A browser without a window, for pages that tests have made."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


def chromium(folder: Path, page: Path, *options: str) -> str:
    """Open a page with a profile in a folder; what Chromium prints, nothing refused and nothing on the console."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed to open the report with")
    command = [program, *QUIET.split(), "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    assert "Refused to" not in done.stderr
    assert "CONSOLE" not in done.stderr
    return done.stdout


def script_source(script: str) -> str:
    """What a content security policy has to say to let a script run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
