"""Reference pages made of the program itself, so that they cannot say anything else than it does.

Four directives: ``commands`` prints the help of every command, ``settings`` the fields of a settings class with their
comments, ``routes`` the HTTP interface, ``exit-codes`` the errors.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

WIDTH = 100  # of help texts, in columns


def commands_of(group: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every command below a group: its full name, and its help."""
    for name, command in group.commands.items():
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from commands_of(command, full)
        else:
            context = typer.Context(command, info_name=full, terminal_width=WIDTH, max_content_width=WIDTH)
            yield full, command.get_help(context)


def comments_of(owner: type) -> dict[str, str]:
    """What the comment at the end of a field's line, and of the lines below it, says."""
    source = inspect.getsource(owner)
    at_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: at_line.get(node.end_lineno or node.lineno, "")
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def settings_of(owner: Any) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of every field."""
    comments, hints = comments_of(owner), get_type_hints(owner)
    for field in dataclasses.fields(owner):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        said = "required" if default is dataclasses.MISSING else f"`{default!r}`"
        yield field.name, kind_of(hints[field.name]), said, comments[field.name]


def kind_of(hint: Any) -> str:
    """A type as somebody says it who writes TOML."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice!r}`" for choice in get_args(hint))
    name = hint.__name__ if inspect.isclass(hint) and not get_args(hint) else str(hint)
    return f"`{re.sub(r'[a-z_]+[.](?=[a-zA-Z_.]*)', '', name)}`"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown; what holds a bar keeps it."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


class Commands(SphinxDirective):
    """``commands``: one section a command."""

    def run(self) -> list[nodes.Node]:
        """Ask the command line for its help."""
        from mri_unroll.cli import app

        text = ""
        for name, help_text in commands_of(typer.main.get_command(app), "mri-unroll"):
            text += f"### {name}\n\n```text\n{help_text}\n```\n\n"
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Settings(SphinxDirective):
    """``settings CLASS``: a table of its fields."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the class."""
        module, name = self.arguments[0].rsplit(".", 1)
        rows = [
            (f"`{field}`", meaning, kind, default)
            for field, kind, default, meaning in settings_of(getattr(importlib.import_module(module), name))
        ]
        return self.parse_text_to_nodes(table(("setting", "what it is", "type or choices", "default"), rows))


class Routes(SphinxDirective):
    """``routes``: a table of the service's requests, from its OpenAPI document."""

    def run(self) -> list[nodes.Node]:
        """Build the application over a database in memory, without starting it."""
        from mri_unroll.service.app import make_routes
        from mri_unroll.service.jobs import Jobs
        from mri_unroll.service.metrics import Metrics
        from mri_unroll.service.schema import connect
        from mri_unroll.service.settings import ServiceSettings

        settings = ServiceSettings(data_dir="nowhere")
        engine = connect("sqlite://")
        jobs = Jobs(engine)
        document = make_routes(settings, engine, jobs, Metrics(jobs, settings)).openapi()
        rows = [
            (
                f"`{method.upper()} {path}`",
                " ".join(operation.get("description", operation.get("summary", "")).split()),
                ", ".join(f"`{given['name']}`" for given in operation.get("parameters", ()) if given["in"] == "query"),
            )
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        return self.parse_text_to_nodes(table(("request", "what it does", "query"), rows))


class ExitCodes(SphinxDirective):
    """``exit-codes``: a table of the errors that mri_unroll raises on purpose, each with the exit code it ends in."""

    def run(self) -> list[nodes.Node]:
        """Ask the command line what it would make of each."""
        from mri_unroll import errors
        from mri_unroll.terminal import diagnose

        kinds = [
            kind
            for kind in vars(errors).values()
            if inspect.isclass(kind) and issubclass(kind, errors.MriUnrollError) and kind is not errors.MriUnrollError
        ]
        rows = [
            (f"`{kind.__name__}`", str(diagnose(kind("message")).code), (inspect.getdoc(kind) or "").splitlines()[0])
            for kind in kinds
        ]
        return self.parse_text_to_nodes(table(("error", "exit code", "what it means"), rows))


def returns_as_field(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Give what is returned to Sphinx as a description: napoleon would take its first line for a type."""
    for number in range(len(lines) - 2):
        if lines[number : number + 2] == ["Returns", "-------"] and lines[number + 2].startswith("    "):
            lines[number : number + 3] = ["", f":returns: {lines[number + 2].strip()}"]
            rest = number + 2
            while rest < len(lines) and (lines[rest].startswith("    ") or not lines[rest]):
                lines[rest] = lines[rest] and f"    {lines[rest].strip()}"
                rest += 1
            lines.insert(rest, "")
            return


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("commands", Commands)
    app.add_directive("settings", Settings)
    app.add_directive("routes", Routes)
    app.add_directive("exit-codes", ExitCodes)
    app.connect("autodoc-process-docstring", returns_as_field, priority=400)  # before napoleon, at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
