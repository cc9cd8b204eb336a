"""Pages of the documentation as programs: their blocks, and a folder in which they run one after the other.

An HTML comment in the lines above a block says what the reader need not know:

===============================================  ===================================================================
``<!-- not run: REASON -->``                     it is only looked at: its options must exist
``<!-- exit N -->``                              it is meant to fail
``<!-- file: NAME -->``                          it is the content of a file
``<!-- needs: PROGRAM -->``                      the page is skipped where the program is missing
``<!-- in the background until URL -->``         it goes on while the next ones run, once the address answers
===============================================  ===================================================================
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.preloaded import preloaded

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
SECONDS = 280.0  # for one block

_BLOCK = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (not run|exit|file|needs|in the background until):? (.*?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str  # "sh", "python", "toml", ...; "" where none is said
    text: str
    line: int  # of the page, from 1
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether it is executed, or makes what is executed."""
        return "not run" not in self.marks and (self.language in ("sh", "python", "diff") or "file" in self.marks)


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        above, language, content = match.groups()
        marks = dict(_MARK.findall(above))
        assert above.count("<!--") == len(marks), f"{page.name}: a comment above a block that says nothing: {above}"
        found.append(Block(language, content, text[: match.start(2)].count("\n") + 1, marks))
    return found


def run_page(page: Path, folder: Path, environment: dict[str, str]) -> int:
    """Do what a page says, in a folder; what goes on in the background is ended at last. Gives the number of blocks."""
    done_so_far = 0
    with ExitStack() as background:
        for number, block in enumerate(blocks(page)):
            where = f"{page.name}, line {block.line}"
            if not block.runs:
                continue
            done_so_far += 1
            if name := block.marks.get("file"):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
                continue
            if block.language == "diff":
                command = ["git", "apply", "-"]
            elif block.language == "python":
                script = folder / f"block_{number}.py"
                script.write_text(block.text, encoding="utf-8")
                command = [sys.executable, str(script)]
            else:
                command = ["bash", "-euo", "pipefail", "-c", block.text]
            if address := block.marks.get("in the background until"):
                background.enter_context(_in_the_background(command, folder, environment, address, where))
                continue
            given = block.text if block.language == "diff" else None
            done = subprocess.run(
                command, cwd=folder, env=environment, input=given, capture_output=True, text=True, timeout=SECONDS
            )
            told = f"{where} ended with {done.returncode}:\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            assert done.returncode == int(block.marks.get("exit", 0)), told
    return done_so_far


@contextmanager
def place(folder: Path, stack: ExitStack) -> Iterator[dict[str, str]]:
    """Make a folder look like the checkout to whoever reads its pages; gives the environment for their commands.

    ``mri-unroll`` there is the real command line, in processes that are forked where everything is imported already.
    """
    programs = folder / ".programs"
    programs.mkdir()
    for name in ("sample_data", "scripts"):
        (folder / name).symlink_to(REPOSITORY / name)
    for name in ("python", "python3"):
        (programs / name).symlink_to(sys.executable)
    stack.enter_context(preloaded(programs / "mri-unroll", folder / ".socket"))
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(programs)
    yield os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}


def require(page: Path) -> None:
    """Skip where a program is missing that a page needs."""
    missing = {name for block in blocks(page) if (name := block.marks.get("needs")) and not shutil.which(name)}
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


@contextmanager
def _in_the_background(
    command: list[str], folder: Path, environment: dict[str, str], address: str, where: str
) -> Iterator[None]:
    log = folder / ".background.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            late = time.monotonic() + 60
            while not _answers(address):
                assert process.poll() is None, f"{where} has ended:\n{log.read_text()}"
                assert time.monotonic() < late, f"{where}: {address} does not answer:\n{log.read_text()}"
                time.sleep(0.2)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
