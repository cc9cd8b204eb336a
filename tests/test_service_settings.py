"""What a service is told: settings, tokens, rules; and limits of the process that opens files."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from mri_unroll.cli import app
from mri_unroll.config import load_toml
from mri_unroll.errors import ConfigError
from mri_unroll.service.rates import Rates
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.tokens import VARIABLE, load_tokens
from mri_unroll.service.uploads import plain_name

DOCS = Path(__file__).parents[1] / "docs" / "service.md"


def run(*arguments: Any, **environment: str) -> Result:
    return CliRunner().invoke(app, ["serve", *map(str, arguments)], env={"COLUMNS": "200", **environment})


def test_settings_of_the_documentation_hold(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        place = tmp_path / "service.toml"
        place.write_text(block if "data_dir" in block else f'data_dir = "data"\n{block}')
        assert isinstance(load_toml(place, ServiceSettings), ServiceSettings)


def test_commands_of_the_documentation_have_their_options() -> None:
    lines = [line for name in ("service.md", "deploy.md") for line in (DOCS.parent / name).read_text().splitlines()]
    commands = [
        found for line in lines if (found := re.match(r"(?:ExecStart=)?(?:\S*/)?mri-unroll ([a-z-]+)( .*)?$", line))
    ]
    assert len(commands) >= 6
    for found in commands:
        command, rest = found[1], (found[2] or "").split("#")[0]
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), (command, option)


def test_settings_are_shown_and_unknown_ones_refused(tmp_path: Path) -> None:
    place = tmp_path / "service.toml"
    place.write_text('data_dir = "data"\nworkers = 2\n')
    shown = json.loads(run("--config", place, "--port", 0, "--show-config").stdout)
    assert (shown["data_dir"], shown["workers"], shown["port"]) == ("data", 2, 0)
    assert shown["jobs_url"] is None
    shown = json.loads(run("--config", place, "--jobs-url", "postgresql://me:secret@host/n", "--show-config").stdout)
    assert shown["jobs_url"] == "postgresql://me:***@host/n"
    place.write_text('data_dir = "data"\nworker = 2\n')
    done = run("--config", place, "--show-config")
    assert done.exit_code == 2
    assert "`workers`" in done.stderr
    place.write_text('data_dir = "data"\nworkers = 99\n')
    assert "0 to 64" in run("--config", place, "--show-config").stderr


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        ((), "x" * 40, "--data-dir"),
        (("--data-dir", "D"), "", VARIABLE),
        (("--data-dir", "D"), "short", "fewer than 32"),
        (("--data-dir", "D", "--token-file", "nowhere"), "", "nowhere"),
        (("--data-dir", "D", "--port", "99999"), "x" * 40, "65535"),
    ],
)
def test_a_service_that_cannot_start_says_why(
    arguments: tuple[str, ...], token: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, **{VARIABLE: token})
    assert done.exit_code == 2
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--data-dir", tmp_path / "d", "--port", port, **{VARIABLE: "x" * 40})
    assert done.exit_code == 75
    assert "cannot be listened on" in done.stderr


def test_a_database_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    """Not by children that die again and again behind a socket that nobody answers."""
    connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}").dispose()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as base:
        base.execute("UPDATE about SET value = '99' WHERE name = 'version'")
    base.close()
    done = run("--data-dir", tmp_path, "--port", 0, **{VARIABLE: "x" * 40})
    assert done.exit_code == 2
    assert "is of version 99" in done.stderr
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    url = "postgresql+psycopg://u:secret@127.0.0.1:1/n"
    away = run("--data-dir", tmp_path, "--port", 0, "--jobs-url", url, **{VARIABLE: "x" * 40})
    assert away.exit_code == 75
    assert "cannot be opened" in away.stderr
    assert "secret" not in away.stderr


def test_tokens(tmp_path: Path) -> None:
    place = tmp_path / "tokens"
    place.write_text(f"# who\nalice submit,read {'a' * 40}\n\nroot admin {'b' * 40}\n")
    place.chmod(0o600)
    tokens = load_tokens(place)
    alice, root = tokens.caller("a" * 40), tokens.caller("b" * 40)
    assert alice is not None
    assert root is not None
    assert (alice.name, alice.may("submit"), alice.may("admin"), root.may("submit")) == ("alice", True, False, True)
    assert tokens.caller("c" * 40) is None
    assert "a" * 40 not in repr(alice)
    for text, words in (
        (f"alice submit {'a' * 20}", "fewer"),
        (f"alice fly {'a' * 40}", "scopes"),
        ("", "no token"),
        (f"a read {'a' * 40}\na read {'b' * 40}", "twice"),
    ):
        place.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_tokens(place)
    place.write_text("x" * 40)
    assert load_tokens(place).caller("x" * 40) is not None
    place.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_tokens(place)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\knee.h5", "knee.h5"),
        ("a\0b\n.h5", "a_b_.h5"),
        ("..", "scan"),
        ("", "scan"),
        ("/", "scan"),
        ("<img>.h5", "_img_.h5"),
        (".hidden", "hidden"),
        ("x" * 500 + ".h5", ("x" * 500 + ".h5")[-120:]),
        ("knee 1.h5", "knee 1.h5"),
    ],
)
def test_names_are_only_words(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_the_process_that_opens_files_is_confined() -> None:
    """No network, no reach into other processes, bounded memory and files; and it cannot be undone."""
    script = """
import json, os, resource, socket, sys, tempfile
from mri_unroll.service import confine
confine.cut_network()
confine.limit(2**31, 30, 2**20)
said = {}
for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
    try:
        socket.socket(getattr(socket, family), socket.SOCK_RAW if family in ("AF_NETLINK", "AF_PACKET") else 1)
        said[family] = "open"
    except OSError as error:
        said[family] = error.errno
said["AF_UNIX"] = socket.socket(socket.AF_UNIX) is not None
import ctypes
library = ctypes.CDLL(None, use_errno=True)
library.ptrace(16, os.getppid(), 0, 0)
said["ptrace"] = ctypes.get_errno()
try:
    bytearray(2**32)
    said["memory"] = "all"
except MemoryError:
    said["memory"] = "bounded"
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with tempfile.TemporaryFile() as file:
    try:
        file.write(bytes(2**21))
        file.flush()
        said["file"] = "all"
    except OSError as error:
        said["file"] = "bounded"
child = os.popen(sys.executable + ' -c "import socket; socket.socket()" 2>&1').read()
said["child"] = "PermissionError" in child
print(json.dumps(said))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == {
        **dict.fromkeys(("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "ptrace"), 13),
        "AF_UNIX": True,
        "memory": "bounded",
        "file": "bounded",
        "child": True,
    }


def test_rates_hold_a_minute_and_fill_steadily() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert [rates.allow("a", 6) for _ in range(8)] == [True] * 6 + [False] * 2
    assert rates.allow("b", 6)  # others are not held up
    now = 9.9
    assert not rates.allow("a", 6)
    now = 20.0
    assert [rates.allow("a", 6) for _ in range(2)] == [True, False]
    now = 1e6
    assert [rates.allow("a", 6) for _ in range(8)] == [True] * 6 + [False] * 2
