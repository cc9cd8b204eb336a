"""What is handed out: wheel and source distribution, files of the project, and an installation with no network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mri_unroll
from mri_unroll.checkpoints import find_checkpoint, shipped_names, summarise

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LICENCES = ("LICENSE", "NOTICE", "THIRD_PARTY.md", "mri_unroll/weights/LICENCE.md")


@dataclass
class Parcels:
    """The two files that are handed out."""

    sdist: Path
    unpacked: Path  # of the sdist
    wheel: Path  # built from the sdist, as installers do


def build(target: str, source: Path, out: Path) -> Path:
    """Build with the backend that is installed here; nothing is fetched."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, timeout=120)
    (found,) = out.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return found


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the packages, is not installed")
    folder = tmp_path_factory.mktemp("parcels")
    sdist = build("sdist", ROOT, folder / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Parcels(sdist, unpacked, build("wheel", unpacked, folder / "dist"))


def files_under(folder: Path) -> set[str]:
    """Names of files relative to where the folder lies, without what Python leaves behind."""
    found = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_holds_the_package_and_the_sample_scan_alone(parcels: Parcels) -> None:
    with zipfile.ZipFile(parcels.wheel) as archive:
        names = set(archive.namelist())
        notes = archive.read(f"mri_unroll-{mri_unroll.__version__}.dist-info/METADATA").decode()
        digests = dict(line.split()[::-1] for line in archive.read("mri_unroll/weights/DIGESTS").decode().splitlines())
        found = {name: hashlib.sha256(archive.read(f"mri_unroll/weights/{name}")).hexdigest() for name in digests}
    described = {name for name in names if ".dist-info/" in name}
    assert names - described == files_under(ROOT / "mri_unroll") | {"mri_unroll/sample_data/phantom_multicoil.h5"}
    assert {name.partition("/licenses/")[2] for name in described} - {""} == set(LICENCES)
    assert found == digests
    folder = ROOT / "mri_unroll" / "weights"
    assert digests.keys() == {find_checkpoint(name).relative_to(folder).as_posix() for name in shipped_names()}
    for name in (
        "py.typed",
        "weights/unrolled.2.safetensors",
        "weights/trust/unrolled.trust.safetensors",
        "report/report.html.j2",
        "service/page/page.html",
    ):
        assert f"mri_unroll/{name}" in names
    assert f"Version: {mri_unroll.__version__}\n" in notes
    assert "License-Expression: Apache-2.0\n" in notes


def test_the_source_distribution_holds_what_contributing_runs(parcels: Parcels) -> None:
    for folder in ("mri_unroll", "tests", "scripts", "sample_data"):
        assert files_under(parcels.unpacked / folder) == files_under(ROOT / folder)
    for name in (*LICENCES, "Makefile", "constraints.txt", "CONTRIBUTING.md", "docs/theory.md", "docs/phantom_4x.png"):
        assert (parcels.unpacked / name).read_bytes() == (ROOT / name).read_bytes()
    for script in ("scripts/check", "scripts/test", "scripts/check_versions"):
        assert os.access(parcels.unpacked / script, os.X_OK)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_layers.py"]
    done = subprocess.run(command, cwd=parcels.unpacked, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def bare(parcels: Parcels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel in it; the packages that it needs are those of the environment that runs this."""
    if importlib.util.find_spec("ensurepip") is None:
        pytest.skip("this Python makes no environments: it has no ensurepip")
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, timeout=120)
    install = [folder / "bin" / "python", "-m", "pip", "install", "--no-index", "--no-deps", parcels.wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    (own,) = folder.glob("lib/python*/site-packages")
    # Folders named in a .pth file come after the own one, and no .pth file *in* them is read: no editable mri_unroll.
    here = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(here)))
    yield folder / "bin"
    shutil.rmtree(folder)


def without_network() -> list[str]:
    """What to put before a command so that it reaches nothing, where this user may do that; else nothing."""
    cut_off = ["unshare", "--net", "--map-root-user"] if os.geteuid() else ["unshare", "--net"]
    if shutil.which("unshare") is None:
        return []
    return cut_off if subprocess.run([*cut_off, "true"], capture_output=True, check=False).returncode == 0 else []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_installed_wheel_runs_the_demo_without_a_network(bare: Path, tmp_path: Path) -> None:
    own = ("PYTHON", "PYTEST", "MRI_UNROLL")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    clean |= {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}

    def run(*command: str | Path) -> str:
        cut_off = [*without_network(), *map(str, command)]
        done = subprocess.run(
            cut_off, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = run(bare / "python", "-c", "import mri_unroll; print(mri_unroll.__file__)")
    assert Path(place.strip()).is_relative_to(bare.parent)
    assert run(bare / "mri-unroll", "--version") == f"mri-unroll {mri_unroll.__version__}\n"
    table = run(bare / "mri-unroll", "demo", "-o", "demo", "--threads", "1").splitlines()  # others test, too
    psnr = {line.split()[0]: float(line.split()[2]) for line in table[1:]}
    assert psnr["unrolled"] > psnr["l1-wavelet"] > psnr["zero-filled"]
    for method in psnr:
        stem = tmp_path / "demo" / method / f"phantom_multicoil_{method}"
        page = stem.with_suffix(".html").read_text(encoding="utf-8")
        assert "<svg" in page or "data:image/png;base64," in page
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
        assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        sidecar = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        assert (sidecar["predicted"] is not None) == (method != "zero-filled")  # calibrations came along
    assert "verified" in run(bare / "mri-unroll", "models", "verify", "unrolled")


# Files of the project


@pytest.fixture(scope="module")
def third_party() -> ModuleType:
    specification = importlib.util.spec_from_file_location("third_party", ROOT / "scripts" / "third_party.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def rows(table: str) -> dict[str, list[str]]:
    """The cells of all Markdown tables in a text, by their first."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {cells[0]: cells[1:] for cells in lines}


def test_every_dependency_is_listed_with_its_licence(third_party: ModuleType) -> None:
    listed = rows((ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8"))
    asked = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for extra, requirements in asked.items():
        if extra in third_party.TOOLS:
            continue
        for requirement in requirements:
            name = re.split(r"[<>=\[;~! ]", requirement)[0].lower()
            extras, licence, _ = listed[name]
            assert licence
            assert (extra in extras.split(", ")) if extra else extras == ""


def test_a_dependency_whose_licence_nobody_knows_is_not_passed_over(
    third_party: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(third_party.SAID, "cufinufft")
    monkeypatch.setattr(third_party, "installed", lambda name: None)
    with pytest.raises(SystemExit, match="No licence is known of cufinufft"):
        third_party.text()


def test_every_weight_is_listed_with_its_licence_and_sources() -> None:
    text = (ROOT / "mri_unroll" / "weights" / "LICENCE.md").read_text(encoding="utf-8")
    folder = ROOT / "mri_unroll" / "weights"
    for path in folder.rglob("*.safetensors"):
        assert f"`{path.relative_to(folder).as_posix()}`" in text
    for name in shipped_names():
        path = find_checkpoint(name)
        card = summarise(path)["card"]
        listed = f"`{path.relative_to(folder).as_posix()}`"
        (licence,) = {cells[0] for files, cells in rows(text).items() if listed in files}
        assert licence == card["weights_licence"]
        for source in card["sources"]:
            assert f"- {source}\n" in text


def test_one_version_everywhere() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changes, flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == mri_unroll.__version__
    assert f"\nversion: {mri_unroll.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    supported = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line}
    assert min(supported, key=lambda v: tuple(map(int, v.split(".")))) == PROJECT["requires-python"].removeprefix(">=")
