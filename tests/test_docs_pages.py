"""What README and documentation tell a reader to type, typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.pages import PAGES, REPOSITORY, blocks, place, require, run_page

ADDING = REPOSITORY / "docs" / "adding.md"
RUNNING = [page for page in PAGES if page != ADDING and any(block.runs for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    require(page)
    with ExitStack() as stack:
        environment = stack.enter_context(place(tmp_path, stack))
        assert run_page(page, tmp_path, environment) == sum(block.runs for block in blocks(page))


@pytest.mark.slow
def test_what_adding_md_adds_passes_the_contracts(tmp_path: Path) -> None:
    """In a copy of the repository, which the page changes."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "mri_unroll", "tests", "sample_data", "pyproject.toml"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, tracked):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    programs = tmp_path / ".programs"
    programs.mkdir()
    for name, options in (("python", ""), ("mri-unroll", "-m mri_unroll")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {options} "$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    assert run_page(ADDING, tmp_path, environment | {"OMP_NUM_THREADS": "1"}) > 10
