"""Every message has one form, and every command's help one, too: read from the code, without running it.

An error is `Error(message, hint)`: a sentence that says what came and what was expected, and one that says what to do.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from mri_unroll import errors
from mri_unroll.cli import app

PACKAGE = Path(errors.__file__).parent
OURS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
ERRORS = {name: kind for name, kind in OURS.items() if issubclass(kind, errors.MriUnrollError)}
# What makes an error: its class, and which argument is the message. The service refuses uploads by a class of its own.
MADE = {**{name: (kind, 0) for name, kind in ERRORS.items()}, "Refused": (errors.MriUnrollError, 1)}
ADVISED = (errors.InputError, errors.ConfigError, errors.ModelError, errors.DeviceError)  # a user can do something
VALUE = "{}"  # stands for what is put into a text when it is shown
RULES = {
    r"!(?!=)": "an exclamation mark",
    r"(?i)\bplease\b|\bsorry\b|\boops\b": "a word of politeness",
    r"(?i)\billegal\b|\bfailed to\b": "a word that says nothing",
    r"`--[\w-]+`": "an option in backquotes: it is written as it is typed, --option",
    r"(?<!`)pip install": "a command without backquotes",
    r"(?:^|\s)-[a-z]\b(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)": "a short option: name the long one",
    r"  |\s$|^\s": "spaces too many",
    r"[a-z][.;,][A-Z]": "a space too few",
}


@dataclass(frozen=True)
class Raised:
    """One place where an error is made."""

    place: str
    kind: type[errors.MriUnrollError]
    messages: tuple[str, ...]  # more than one where a condition chooses; empty where it cannot be read
    hints: tuple[str, ...] | None  # None: there is none


def texts(node: ast.expr, constants: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What an expression of text can be, with `VALUE` for what is put in; empty if that cannot be read."""
    if isinstance(node, ast.Constant):
        return (node.value,) if isinstance(node.value, str) else ()
    if isinstance(node, ast.JoinedStr):
        return ("".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values),)
    if isinstance(node, ast.IfExp):
        return texts(node.body, constants) + texts(node.orelse, constants)
    if isinstance(node, ast.BinOp):
        return tuple(a + b for a in texts(node.left, constants) for b in texts(node.right, constants))
    return constants.get(node.id, ()) if isinstance(node, ast.Name) else ()


def raised_in(source: str, place: str) -> Iterator[Raised]:
    """Errors that a module makes."""
    tree = ast.parse(source)
    constants: dict[str, tuple[str, ...]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            constants[statement.targets[0].id] = texts(statement.value, constants)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MADE:
            kind, first = MADE[node.func.id]
            message, hint = node.args[first : first + 1], node.args[first + 1 : first + 2]
            yield Raised(
                f"{place}:{node.lineno}",
                kind,
                texts(message[0], constants) if message else (),
                texts(hint[0], constants) if hint else None,
            )


def complaints(found: Raised) -> list[str]:
    """Say what of the form an error does not keep."""
    said = []
    for text in found.messages + (found.hints or ()):
        if not re.match(r"[A-Z0-9`(]|\{\}|--[a-z]", text):
            said.append(f"begins with neither a capital nor a value: {text}")
        asks = text in (found.hints or ()) and text.startswith("Did you mean ")
        carries = re.search(r"[.:] (\{\})+$|^\{\}$", text)  # sentences of another error
        if not (text.endswith("?") if asks else text.endswith(".") or carries):
            said.append(f"ends without a full stop: {text}")
        said += [f"has {what}: {text}" for rule, what in RULES.items() if re.search(rule, text)]
    says_what_to_do = all(text.startswith("Expected ") and " got " in text for text in found.messages)
    if found.hints is None and issubclass(found.kind, ADVISED) and not (found.messages and says_what_to_do):
        said.append("has no hint")
    if found.hints is not None and "" in found.hints:
        said.append("has an empty hint")
    return [f"{found.place} {found.kind.__name__} {text}" for text in said]


def all_raised() -> list[Raised]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [one for p in paths for one in raised_in(p.read_text(encoding="utf-8"), p.relative_to(PACKAGE).as_posix())]


def test_every_message_keeps_the_form() -> None:
    found = all_raised()
    assert len(found) > 500
    assert sum(1 for one in found if one.messages) > 0.95 * len(found), "too many messages cannot be read"
    assert [text for one in found for text in complaints(one)] == []


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ('InputError("there is no file.", "Check the path.")', "begins with"),
        ('InputError("There is no file", "Check the path.")', "without a full stop"),
        ('InputError("There is no file!", "Check the path.")', "exclamation"),
        ('InputError("There is no file.", "Please check the path.")', "politeness"),
        ('InputError("It exists.", "Use `--overwrite`.")', "in backquotes"),
        ('InputError("It exists.", "Name another with -o.")', "short option"),
        ('ConfigError("It needs Ray.", "Run pip install ray.")', "without backquotes"),
        ('ConfigError("It is"  " " " twice.", "Leave one out.")', "spaces too many"),
        ('ConfigError("It is.And more.", "Leave one out.")', "space too few"),
        ('ConfigError("There is no setting.")', "no hint"),
        ('ConfigError("There is no setting.", "")', "empty hint"),
        ('ModelError("The weights are missing." if x else "the weights do not fit.", "Copy them.")', "begins with"),
        ('DeviceError(f"{a} is full." + f"{b}and more", "Free some space.")', "without a full stop"),
        ('HINT = "look"\nInputError("There is no file.", HINT)', "begins with"),
    ],
)
def test_the_reader_sees_what_breaks_the_form(call: str, complaint: str) -> None:
    (found,) = raised_in(call, "here")
    assert any(complaint in text for text in complaints(found))


def test_the_reader_lets_sound_messages_be() -> None:
    source = """
InputError(f"{path} exists already.", "Use --overwrite to replace it, or run `pip install 'x[y]'` first.")
ConfigError(f"Expected `n` to be 1 or more, got {n}.")
ConfigError(f"`{name}` is unknown.", f"Did you mean {near!r}?")
ShapeError("Expected either a mask or a trajectory.")
UnsupportedScan(f"Series {name} cannot be used. {reason}", "Run `mri-unroll recon STUDY -o out` with another.")
"""
    assert [text for one in raised_in(source, "here") for text in complaints(one)] == []


# Help


def commands(command: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command of Typer and those below it, by what is typed for each."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*names, name))


COMMANDS = dict(commands(typer.main.get_command(app), ("mri-unroll",)))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_help_ends_with_an_example_that_the_command_knows(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    assert command.help
    assert all(line.endswith((".", ":")) for line in re.split(r"\n\n+", command.help.strip()))
    assert command.epilog
    examples = command.epilog.split("\n\n")
    assert all(example.startswith("Example: ") for example in examples)
    own = 0
    for example in examples:
        words = shlex.split(example.removeprefix("Example: "))
        if "-m" in words:  # by another program, which calls ours
            words = ["mri-unroll", *words[words.index("mri_unroll") + 1 :]]
        assert words[0] == "mri-unroll"
        assert not any(word.endswith((",", ")")) or word.startswith("(") for word in words), "prose, not a command"
        called = max((n for n in COMMANDS if tuple(words[: len(n)]) == n), key=len)
        known = {option for parameter in COMMANDS[called].params for option in parameter.opts}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known
        own += called[: len(names)] == names
    assert own


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_option_is_explained_in_a_sentence(names: tuple[str, ...]) -> None:
    for parameter in COMMANDS[names].params:
        text = parameter.help
        assert text, parameter.name
        assert text.endswith("."), parameter.name
        assert not any(re.search(rule, text) for rule, what in RULES.items() if "backquotes" not in what), text
        if parameter.param_type_name == "argument":
            assert parameter.metavar.isupper()
