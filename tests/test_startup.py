"""Starting up is cheap: `import mri_unroll` loads nothing, and help is there at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mri_unroll

HEAVY = ("torch", "sigpy", "numba", "pydicom")
ARRAYS = ("numpy", "scipy", "h5py", "matplotlib", "skimage", "nibabel")
SECONDS = 0.5
ATTEMPTS = 5  # the best counts: what else the machine does is not ours

LOADED_BY_HELP = """
import json, sys
sys.argv = ["mri-unroll", "--help"]
from mri_unroll.cli import main
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def _loaded(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    loaded = _loaded("import json, sys, mri_unroll; print(json.dumps(sorted(sys.modules)), file=sys.stderr)")
    assert "mri_unroll" in loaded
    assert loaded.isdisjoint(HEAVY + ARRAYS)


def test_help_loads_nothing_heavy() -> None:
    loaded = _loaded(LOADED_BY_HELP)
    assert "mri_unroll.cli" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_help_is_there_at_once() -> None:
    command = Path(sys.executable).with_name("mri-unroll")
    if not command.exists():
        pytest.skip("the command mri-unroll is not installed beside this Python")
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        assert "recon" in done.stdout
    assert min(seconds) < SECONDS, f"best of {ATTEMPTS}: {min(seconds):.2f} s"


def test_public_names_are_listed() -> None:
    for name in mri_unroll.__all__:
        assert name in dir(mri_unroll)
    assert {"read_scan", "write_image", "make_reconstructor", "metrics", "physics", "solvers", "nets"} < set(
        mri_unroll.__all__
    )


@pytest.mark.parametrize(
    "name", ["read_scan", "write_image", "make_reconstructor", "metrics", "physics", "solvers", "nets"]
)
def test_public_names_are_handed_on(name: str) -> None:
    assert getattr(mri_unroll, name).__name__.endswith(name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mri_unroll.nonsense
