"""README and documentation as a whole: links, figures, commands that exist, and the site that is built of them."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
from support.browser import chromium
from support.pages import PAGES, REPOSITORY, Block, blocks

from mri_unroll import cli

DOCS = REPOSITORY / "docs"
_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
SHELL = [(page, block) for page in PAGES for block in blocks(page) if block.language == "sh"]


def named(value: object) -> str:
    """For the names of tests."""
    return str(value.relative_to(REPOSITORY)) if isinstance(value, Path) else f"line {getattr(value, 'line', value)}"


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub and MyST turn them into anchors."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    found = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    for _, target in found:
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target}"
        assert place.is_relative_to(REPOSITORY)
        if anchor:
            assert anchor in anchors(place), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_figures_say_what_draws_them(page: Path) -> None:
    """A script that exists is named within a dozen lines of each figure, or in its alternative text."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if not re.search(r"!\[[^\]]+\]\([^)]+\.(png|jpg)\)", line):
            continue
        near = "\n".join(lines[max(0, number - 12) : number + 13])
        scripts = re.findall(r"scripts/[\w/]+\.py", near)
        assert any((REPOSITORY / script).is_file() for script in scripts), f"{page.name}, line {number + 1}: {line}"


def test_every_figure_is_shown() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    figures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".jpg") and "_site" not in path.parts]
    assert figures
    assert [path.name for path in figures if path.name not in text] == []


@pytest.mark.parametrize(("page", "block"), SHELL, ids=named)
def test_commands_exist(page: Path, block: Block) -> None:
    """Bash understands every block, and every option of ours in it exists, also where the block is not run."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for start, word in enumerate(words):
            begins = start == 0 or words[start - 1] in ("&&", "||", "|", ";")
            if begins and Path(word).name == "mri-unroll":
                _check_call(words[start + 1 :], f"{page.name}, line {block.line}: {line}")
    extras = re.findall(r"mri-unroll\[([\w,]+)\]", block.text)
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name for found in extras for name in found.split(",")} <= set(known)


def _check_call(words: list[str], where: str) -> None:
    command = typer.main.get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no such command: {where}"
    options = {option for given in command.params for option in (*given.opts, *given.secondary_opts)} | {"-h", "--help"}
    used = {word.split("=")[0] for word in words if re.match(r"-\w|--\w", word)}
    assert used <= options, f"{used - options}: {where}"


@pytest.mark.parametrize("place", re.findall(r"{settings} (\S+)", (DOCS / "reference" / "settings.md").read_text()))
def test_every_setting_says_what_it_is(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    monkeypatch.syspath_prepend(str(DOCS))
    module, name = place.rsplit(".", 1)
    rows = list(importlib.import_module("site_reference").settings_of(getattr(importlib.import_module(module), name)))
    assert len(rows) > 5
    assert [field for field, _, _, meaning in rows if not meaning] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is an error."""
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(out / "trees")]
    done = subprocess.run([*command, str(DOCS), str(out / "html")], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_the_site_fetches_nothing_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"([^\"]+)\"", text)
        fetched += re.findall(r"<link\b(?![^>]*rel=\"(?:canonical|author|license)\")[^>]*?\bhref=\"([^\"]+)\"", text)
        assert [address for address in fetched if re.match(r"(https?:)?//", address)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import\s+['\"]?https?:", sheet.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_reference_is_made_of_the_program(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    names = [name for name in typer.main.get_command(cli.app).commands if name != "models"]  # type: ignore[attr-defined]
    assert [name for name in names if f"mri-unroll {name}" not in commands] == []
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert "share of noise to remove" in settings.replace("the noise", "noise")
    assert "/v1/jobs/{identity}" in (site / "reference" / "http.html").read_text(encoding="utf-8")
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "mri_unroll.physics.SenseOperator" in python
    assert "<math" in python
    assert "$" not in re.sub(r"<(pre|code|script|style).*?</\1>", "", python, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "start", "gallery", "trust", "reference/commands", "reference/settings"])
def test_pages_fit_a_phone(site: Path, tmp_path: Path, name: str) -> None:
    """Nothing is wider than the screen of a phone: what is wide scrolls by itself."""
    frame = tmp_path / "phone.html"
    page = site / f"{name}.html"
    frame.write_text(
        f"<body style='margin:0'><iframe src='{page.as_uri()}' style='width:360px;height:700px;border:0' "
        "onload='document.title = String(this.contentDocument.documentElement.scrollWidth)'></iframe></body>"
    )
    dom = chromium(tmp_path, frame, "--allow-file-access-from-files", "--dump-dom")
    title = re.search(r"<title>(\d+)</title>", dom)
    assert title, dom[:500]
    assert int(title.group(1)) <= 360
