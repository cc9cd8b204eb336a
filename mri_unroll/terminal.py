"""What the command line says and where: data on stdout, all else on stderr; errors become sentences and exit codes."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from mri_unroll.errors import ConfigError, DeviceError, InputError, ModelError, MriUnrollError, VerdictError
from mri_unroll.interrupts import heeded

BAD_INPUT, VERDICT, BUG, RESOURCES, INTERRUPTED, BROKEN_PIPE = 2, 3, 70, 75, 130, 141
DEBUG = "MRI_UNROLL_DEBUG"  # environment variable: tracebacks and the warnings of libraries are shown
NO_VERDICT = "no verdict: nothing here predicts the error of this picture"
RESEARCH = "for research use only; not a medical device"

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", envvar=DEBUG, help="Show tracebacks.")]  # `guarded` reads it

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE}
_USER_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)

Events = Callable[[dict[str, Any]], None]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is told: exit code, kind, and one or two sentences."""

    code: int
    kind: str
    message: str
    hint: str


def diagnose(error: BaseException) -> Failure:
    """Turn any exception into what is said about it."""
    kind = type(error).__name__
    reason = " ".join(str(error).split())
    if isinstance(error, InputError | ConfigError | ModelError):
        return Failure(BAD_INPUT, kind, error.message, error.hint)
    if isinstance(error, VerdictError):
        return Failure(VERDICT, kind, error.message, error.hint)
    if isinstance(error, DeviceError):
        return Failure(RESOURCES, kind, error.message, error.hint)
    # torch has its own error for a full GPU, a plain RuntimeError for a full memory; torch itself is not imported here
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in reason:
        return Failure(RESOURCES, kind, "The memory is not enough for this.", "Close other programs, or use --slices.")
    if isinstance(error, OSError) and not isinstance(error, MriUnrollError):
        subject = f"{error.filename}: " if error.filename else ""
        if error.errno in _FULL:
            return Failure(RESOURCES, kind, f"{subject}{error.strerror}.", "Free some space and run it again.")
        if isinstance(error, _USER_PATH) or error.errno in (errno.EROFS, errno.ENAMETOOLONG):
            return Failure(BAD_INPUT, kind, f"{subject}{error.strerror}.", "Check the path and its permissions.")
    if isinstance(error, MriUnrollError):
        reason = str(error)
    advice = f"Run it again with --debug or {DEBUG}=1 for the traceback, and report it."
    return Failure(BUG, kind, f"This is a bug in mri_unroll: {kind}: {reason or 'no message'}", advice)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command its exit codes: every exception is told on stderr in a sentence, without a traceback.

    The command's options ``debug`` and ``as_json`` are read here; with the latter the error is also an event on stdout.
    """

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> R:
        debug = bool(options.get("debug"))
        try:
            with warnings.catch_warnings():
                if not debug:
                    warnings.simplefilter("ignore")  # of libraries; our own warnings are sentences in the result
                result = command(*args, **options)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:  # who read our output has gone: nobody to tell
            _discard_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            _tell_failure(Failure(INTERRUPTED, "KeyboardInterrupt", "Interrupted.", ""), bool(options.get("as_json")))
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if debug:
                traceback.print_exc()
            failure = diagnose(error)
            _tell_failure(failure, bool(options.get("as_json")))
            raise typer.Exit(failure.code) from error

    return run


def _tell_failure(failure: Failure, as_json: bool) -> None:
    tell(f"error: {failure.message} {failure.hint}".strip())
    if as_json:
        with suppress(BrokenPipeError):
            put_json(
                {
                    "event": "error",
                    "kind": failure.kind,
                    "message": failure.message,
                    "hint": failure.hint,
                    "exit_code": failure.code,
                }
            )


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains of the broken pipe when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Text without control characters: a file's name must not steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def tell(line: str) -> None:
    """Say one line on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def put(line: str) -> None:
    """Put one line of data on stdout."""
    print(line, flush=True)


def put_json(value: Any, indent: int | None = None) -> None:
    """Put a value on stdout as JSON; a number that is not finite becomes null."""
    from mri_unroll.io.sidecar import finite

    put(json.dumps(finite(value), indent=indent, allow_nan=False, default=str))


def put_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Put a table on stdout: ruled on a terminal, aligned text elsewhere."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=bool(header), show_edge=False, pad_edge=False)
        for index in range(len(rows[0]) if rows else len(header)):
            table.add_column(header[index] if header else "", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(table)
        return
    lines = [list(header), *rows] if header else rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
    for line in lines:
        put("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def put_record(values: dict[str, Any]) -> None:
    """Put names and values on stdout as a table of two columns."""
    put_table(list(_rows(values)))


def _rows(values: dict[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    """A line for each value; a mapping, and a list of sentences or mappings, takes a line for each of its own."""
    for name, value in values.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, dict):
            yield label, "" if value else "none"
            yield from _rows(value, indent + "  ")
        elif isinstance(value, list) and all(isinstance(item, int | float) for item in value):
            is_size = any(word in name for word in ("matrix", "shape", "field_of_view"))
            yield label, (" x " if is_size else ", ").join(map(_spoken, value)) or "none"
        elif isinstance(value, list):
            for index, item in enumerate(value):
                text = ", ".join(f"{k} {_spoken(v)}" for k, v in item.items()) if isinstance(item, dict) else str(item)
                yield label if index == 0 else "", text
        else:
            yield label, _spoken(value)


def _spoken(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def listening(as_json: bool) -> Iterator[Events]:
    """Show the events of a reconstruction: JSON lines on stdout, or on stderr a bar on a terminal, else a few lines.

    The road's own ``done`` is left out: the command says more at the end. An interrupt that Python lost ends the
    command at the next event.
    """
    with _shown(as_json) as shown, heeded() as check:

        def events(event: dict[str, Any]) -> None:
            check()
            shown(event)

        yield events


@contextmanager
def _shown(as_json: bool) -> Iterator[Events]:
    if as_json:
        yield lambda event: None if event["event"] == "done" else put_json(event)
    elif sys.stderr.isatty():
        with _bar() as events:
            yield events
    else:
        yield _plain()


def _title(event: dict[str, Any]) -> str:
    return event.get("title") or f"reconstructing {event['input']} with {event['method']}"


def _plain() -> Events:
    tenth = 0

    def events(event: dict[str, Any]) -> None:
        nonlocal tenth
        if event["event"] == "start":
            tenth = 0
            tell(_title(event))
        elif event["event"] == "progress" and 10 * event["done"] // event["total"] > tenth:
            tenth = 10 * event["done"] // event["total"]
            tell(f"{event.get('unit', 'slice')} {event['done']} of {event['total']}")

    return events


@contextmanager
def _bar() -> Iterator[Events]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def events(event: dict[str, Any]) -> None:
            if event["event"] == "start":
                progress.reset(task, total=None, description=printable(_title(event)))
            elif event["event"] == "progress":
                progress.update(task, completed=event["done"], total=event["total"])
            elif event["event"] == "writing":
                progress.update(task, description="writing volume and report")

        yield events
