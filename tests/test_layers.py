"""The house keeps its floors: every import goes down, no circle, no endless file, no room without a name.

All imports count: at module level, inside functions, under ``TYPE_CHECKING``, and by name through `importlib`. A new
module or folder is placed by writing its name into `FLOORS`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGE = "mri_unroll"
FRONT_DOOR = frozenset({"__version__"})  # all that the house may ask of its own `__init__`
MAX_LINES = 300
FORBIDDEN = frozenset({"utils", "util", "common", "helpers", "helper", "misc"})
SEPARATED = frozenset({3})  # floors whose rooms never import each other
FLOORS = {
    7: (
        *("cli", "model_commands", "evaluate_commands", "prediction_commands", "training_commands", "folders"),
        *(
            "recon_command",
            "study_commands",
            "sending_command",
            "service_commands",
            "watch_command",
            "options",
            "terminal",
            "terminal_summary",
            "interrupts",
            "service",
            "__main__",
        ),
    ),
    6: (
        *("pipeline", "streaming", "objects", "targets", "demo", "checkpoints", "doctor"),
        *("cohort", "evaluate", "studies", "training"),
    ),
    5: ("recon", "trust", "quality", "report"),
    4: ("nets",),
    3: ("io", "metrics", "physics", "solvers"),
    2: ("scan", "image"),
    1: ("errors", "config", "machine"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}


@dataclass
class House:
    """Modules of a package, and who imports whom."""

    files: dict[str, Path]  # dotted name: file
    arrows: dict[str, set[str]] = field(default_factory=dict)  # dotted name: names of modules it imports


def survey(root: Path) -> House:
    """Read every module under ``root`` (the folder of the package) without running it."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    house = House(files)
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        house.arrows[module] = set(_imports(tree, module, house)) - {module}
    return house


def _imports(tree: ast.AST, module: str, house: House) -> Iterator[str]:
    """Yield the modules of the house that ``tree`` imports."""
    is_package = house.files[module].name == "__init__.py"
    uses_importlib = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            uses_importlib |= "importlib" in names
            yield from (_nearest(name, house) for name in names if _is_ours(name))
        elif isinstance(node, ast.ImportFrom):
            uses_importlib |= node.module == "importlib"
            base = _absolute(node.module, node.level, module, is_package)
            if _is_ours(base):
                for alias in node.names:
                    if not (base == PACKAGE and alias.name in FRONT_DOOR):
                        yield _nearest(f"{base}.{alias.name}", house)
    if uses_importlib:  # then a text that names a module of ours is an import by name
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != PACKAGE:
                if node.value in house.files:
                    yield node.value
                elif node.value.startswith(f"{PACKAGE}.") and node.value.removesuffix(".") in house.files:
                    yield node.value.removesuffix(".")  # the beginning of an f-string


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def _absolute(name: str | None, level: int, module: str, is_package: bool) -> str:
    if level == 0:
        return name or ""
    parts = module.split(".")
    parts = parts[: len(parts) - level + is_package]
    return ".".join([*parts, *([name] if name else [])])


def _nearest(name: str, house: House) -> str:
    """Cut ``package.module.function`` back to the module that exists."""
    while name not in house.files and "." in name:
        name = name.rpartition(".")[0]
    return name


def _room(module: str) -> str:
    """First name under the package: the file or folder that the floors table places; "" for the front door."""
    return module.split(".")[1] if "." in module else ""


def misplaced(house: House) -> list[str]:
    """Say which modules the floors table does not know, which bear an empty name, and which are too long."""
    complaints = []
    for module, path in house.files.items():
        room = _room(module)
        if room and room not in FLOOR_OF:
            complaints.append(f"{module} stands on no floor: place `{room}` in FLOORS of tests/test_layers.py.")
        if FORBIDDEN & set(module.split(".")):
            complaints.append(f"{module}: a thing without a name has no room; call it by what it does.")
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        if n_lines > MAX_LINES:
            complaints.append(f"{module} has {n_lines} lines, more than {MAX_LINES}: it is two things.")
    return complaints


def upward_arrows(house: House) -> list[str]:
    """Say which imports go up, or sideways where that is not allowed."""
    complaints = []
    for module, imported in sorted(house.arrows.items()):
        for other in sorted(imported):
            here, there = _room(module), _room(other)
            if not here or here == there:
                continue  # the front door hands everything on; a folder is free within itself
            if not there:
                complaints.append(f"{module} enters by the front door `{PACKAGE}`: import from the room itself.")
                continue
            if here not in FLOOR_OF or there not in FLOOR_OF:
                continue  # `misplaced` says so
            low, high = FLOOR_OF[here], FLOOR_OF[there]
            if high > low:
                complaints.append(f"{module} (floor {low}) imports {other} (floor {high}): upward.")
            elif high == low and low in SEPARATED:
                complaints.append(f"{module} imports {other}: rooms of floor {low} never import each other.")
    return complaints


def cycles(arrows: dict[str, set[str]]) -> list[str]:
    """Say which modules import each other in a circle, each circle once (depth first, back edges)."""
    complaints = []
    state: dict[str, str] = {}
    road: list[str] = []

    def visit(module: str) -> None:
        state[module] = "open"
        road.append(module)
        for other in sorted(arrows.get(module, ())):
            if state.get(other) == "open":
                complaints.append("circle: " + " -> ".join([*road[road.index(other) :], other]))
            elif other not in state:
                visit(other)
        road.pop()
        state[module] = "done"

    for module in sorted(arrows):
        if module not in state:
            visit(module)
    return complaints


def between_rooms(house: House) -> dict[str, set[str]]:
    """Arrows between files and folders directly under the package, the front door left out."""
    arrows: dict[str, set[str]] = {}
    for module, imported in house.arrows.items():
        if _room(module):
            rooms = arrows.setdefault(_room(module), set())
            rooms.update({_room(other) for other in imported} - {_room(module), ""})
    return arrows


@pytest.fixture(scope="module")
def house() -> House:
    return survey(Path(__file__).resolve().parent.parent / PACKAGE)


def test_every_module_is_placed_named_and_short(house: House) -> None:
    assert len(house.files) > 5, "the survey found no house"
    assert misplaced(house) == []


def test_imports_only_go_down(house: House) -> None:
    assert upward_arrows(house) == []


def test_no_module_imports_itself_through_others(house: House) -> None:
    assert cycles(house.arrows) == []


def test_no_room_imports_itself_through_others(house: House) -> None:
    assert cycles(between_rooms(house)) == []


# The checker itself, on small houses made to break one rule each: a check that cannot fail checks nothing.


def _build(root: Path, sources: dict[str, str]) -> House:
    for name, text in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return survey(root)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("scan.py", "import mri_unroll.physics.fourier\n"),
        ("scan.py", "from mri_unroll.physics.fourier import fft\n"),
        ("scan.py", "from mri_unroll.physics import fourier\n"),
        ("scan.py", "from mri_unroll import physics\n"),
        ("scan.py", "from .physics.fourier import fft\n"),
        ("scan.py", "def late():\n    from mri_unroll.physics import fourier\n"),
        ("scan.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .physics import fourier\n"),
        ("scan.py", "import importlib\nimportlib.import_module('mri_unroll.physics.fourier')\n"),
        ("scan.py", "from importlib import import_module\nimport_module(f'mri_unroll.physics.{1}')\n"),
        ("nets/prior.py", "from mri_unroll.recon import learned\n"),
        ("nets/prior.py", "from ..recon import learned\n"),
        ("training/loop.py", "import mri_unroll.cli\n"),
        ("io/fastmri.py", "from mri_unroll.physics.fourier import fft\n"),
        ("metrics.py", "from mri_unroll.physics.fourier import fft\n"),
        ("recon/learned.py", "import mri_unroll\n"),
        ("recon/learned.py", "from mri_unroll import read_scan\n"),
    ],
)
def test_checker_sees_forbidden_arrows(tmp_path: Path, file: str, text: str) -> None:
    folders = dict.fromkeys(["__init__.py", "physics/__init__.py", "recon/__init__.py"], "")
    modules = dict.fromkeys(["cli.py", "physics/fourier.py", "recon/learned.py"], "")
    house = _build(tmp_path, {**folders, **modules, file: text})
    assert len(upward_arrows(house)) == 1


def test_checker_lets_sound_houses_be(tmp_path: Path) -> None:
    house = _build(
        tmp_path,
        {
            "__init__.py": "from importlib import import_module\nNAMES = {'a': 'mri_unroll.io.registry'}\n",
            "errors.py": "import os\n",
            "scan.py": "from mri_unroll.errors import CorruptScan\n",
            "io/registry.py": "from importlib import import_module\nREADERS = ['mri_unroll.io.fastmri']\n",
            "io/fastmri.py": "from mri_unroll.scan import Scan\nfrom . import headers\n",
            "io/headers.py": "",
            "physics/__init__.py": "from mri_unroll.physics.sense import SenseOperator\n",
            "physics/sense.py": "from mri_unroll.physics import linop\n",
            "physics/linop.py": "import torch\n",
            "pipeline.py": "from mri_unroll import __version__\nfrom mri_unroll.io.registry import read_scan\n",
            "cohort.py": "from mri_unroll.pipeline import reconstruct_file\n",
        },
    )
    assert house.arrows["mri_unroll.io.registry"] == {"mri_unroll.io.fastmri"}
    assert house.arrows["mri_unroll.io.fastmri"] == {"mri_unroll.scan", "mri_unroll.io.headers"}
    assert house.arrows["mri_unroll.physics.sense"] == {"mri_unroll.physics.linop"}
    assert house.arrows["mri_unroll.pipeline"] == {"mri_unroll.io.registry"}
    assert misplaced(house) + upward_arrows(house) + cycles(house.arrows) + cycles(between_rooms(house)) == []


def test_checker_sees_circles_inside_functions(tmp_path: Path) -> None:
    house = _build(
        tmp_path,
        {
            "nets/steps.py": "def late():\n    from mri_unroll.nets.prior import soft\n",
            "nets/prior.py": "from mri_unroll.nets import model\n",
            "nets/model.py": "import mri_unroll.nets.steps\n",
        },
    )
    assert cycles(house.arrows) == [
        "circle: mri_unroll.nets.model -> mri_unroll.nets.steps -> mri_unroll.nets.prior -> mri_unroll.nets.model"
    ]


def test_checker_sees_a_room_that_reaches_into_its_own_package(tmp_path: Path) -> None:
    house = _build(
        tmp_path,
        {"nets/__init__.py": "from mri_unroll.nets.a import f\n", "nets/a.py": "from mri_unroll.nets import f\n"},
    )
    assert len(cycles(house.arrows)) == 1


def test_checker_sees_circles_between_rooms(tmp_path: Path) -> None:
    house = _build(
        tmp_path,
        {
            "recon/calibrate.py": "",
            "recon/learned.py": "from mri_unroll.quality import residual\n",
            "quality.py": "from mri_unroll.recon.calibrate import calibrate\n",
        },
    )
    assert cycles(house.arrows) == []
    assert cycles(between_rooms(house)) == ["circle: quality -> recon -> quality"]


def test_checker_sees_unplaced_nameless_and_endless_modules(tmp_path: Path) -> None:
    endless = "x = 1\n" * (MAX_LINES + 1)
    sources = {"magic.py": "", "io/utils.py": "", "nets/prior.py": endless, "nets/steps.py": endless[6:]}
    house = _build(tmp_path, sources)
    complaints = misplaced(house)
    assert len(complaints) == 3
    for module, complaint in zip(("io.utils", "magic", "nets.prior"), complaints, strict=True):
        assert module in complaint
