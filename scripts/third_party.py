"""Write THIRD_PARTY.md: every package that mri_unroll asks for at run time, extras included, and its licence.

    python scripts/third_party.py            # from a .venv that `make` made
    python scripts/third_party.py --check    # write nothing; exit code 1 if the file would change

Licences are what the installed packages say of themselves; what is not installed or says nothing stands in `SAID`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "THIRD_PARTY.md"
TOOLS = ("dev", "docs")  # extras for working on mri_unroll: nobody needs them to run it
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
SAID = {  # looked up where the package is published
    "cuda-toolkit": NVIDIA,  # a package of requirements alone
    "cufinufft": "Apache Software License",
    "cupy-cuda13x": "MIT",
    "nvidia-cuda-runtime-cu12": NVIDIA,
    "nvidia-cufft-cu12": NVIDIA,
}
REMARKS = {
    "finufft": "its wheels carry FFTW (GPL-2.0-or-later)",
    "psycopg": "LGPL; with the extra `postgres` alone",
    "sigpy": "3-clause",
    "torch": "its CUDA build asks for NVIDIA's libraries, which are proprietary",
}
INTRODUCTION = """\
# Licences of third parties

None of these packages is part of mri_unroll or of its wheel; installing mri_unroll installs them. Each has its own
licence, given here as the package itself states it, and brings its licence text along. Tools that only work on
mri_unroll (extras `dev` and `docs`) are left out. `python scripts/third_party.py` writes this file.

## What mri_unroll asks for

| package | extra | licence | remark |
|---|---|---|---|
"""
BROUGHT = """
## What these bring along

On Linux, x86-64, in the environment that `make` sets up.

| package | licence |
|---|---|
"""


def asked_for() -> dict[str, tuple[Requirement, list[str]]]:
    """Direct dependencies by name: the requirement, and the extras that ask for it (none: always)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for extra, lines in groups.items():
        if extra in TOOLS:
            continue
        for requirement in map(Requirement, lines):
            extras = found.setdefault(canonicalize_name(requirement.name), (requirement, []))[1]
            extras.extend([extra] if extra else [])
    return dict(sorted(found.items()))


def installed(name: str) -> Distribution | None:
    """The package as it is installed here."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def licence(name: str) -> str:
    """What a package says of its licence: an SPDX expression, else its classifiers, else one line of text."""
    found = installed(name)
    if found is None or name in SAID:
        return SAID.get(name, "")
    classifiers = found.metadata.get_all("Classifier") or []
    named = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: OSI Approved :: ")]
    text = (found.metadata.get("License") or "").strip()
    return found.metadata.get("License-Expression") or " or ".join(named) or ("" if "\n" in text else text)


def brought(direct: dict[str, tuple[Requirement, list[str]]]) -> set[str]:
    """Names of everything that the direct dependencies need here, themselves left out."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, frozenset(requirement.extras)) for name, (requirement, _) in direct.items()]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        waiting.extend(_needs(name, extras))
    return {name for name, _ in seen if installed(name)} - set(direct)


def _needs(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    found = installed(name)
    for requirement in map(Requirement, (found.requires or []) if found else []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def text() -> str:
    """The whole file."""
    direct = asked_for()
    others = sorted(brought(direct))
    silent = [name for name in (*direct, *others) if not licence(name)]
    if silent:
        sys.exit(f"No licence is known of {', '.join(silent)}: install them, or look it up and write it into SAID.")
    rows = [
        f"| {name} | {', '.join(extras)} | {_cell(licence(name))} | {REMARKS.get(name, '')} |"
        for name, (_, extras) in direct.items()
    ]
    return INTRODUCTION + "\n".join(rows) + "\n" + BROUGHT + "".join(f"| {n} | {_cell(licence(n))} |\n" for n in others)


def _cell(value: str) -> str:
    return re.sub(r"\s+", " ", value).replace("|", "/")


def main() -> None:
    """Write the file, or say whether it is what would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file would change")
    check = parser.parse_args().check
    new = text()
    if not check:
        FILE.write_text(new, encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != new:
        sys.exit(f"{FILE.name} is out of date: run `python scripts/third_party.py`.")


if __name__ == "__main__":
    main()
