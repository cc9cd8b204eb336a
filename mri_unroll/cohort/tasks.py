"""Which files of a folder are to be done, by which shard, and what whoever does them has to be able to do."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mri_unroll.errors import ConfigError, InputError, MriUnrollError, ShapeError

Events = Callable[[dict[str, Any]], None]  # gets {"event": "progress", "done": ..., "total": ..., "unit": "volume"}
BUG = "bug: "  # begins the kind of an error that was not foreseen


@dataclass(frozen=True, slots=True)
class Task:
    """One file, and what is to be done with it."""

    path: Path
    todo: tuple[Any, ...] = ()  # what the job makes of it; empty: everything


@dataclass(frozen=True, slots=True)
class Lost:
    """Stands for the reply on a task that ended every process which tried it."""

    reason: str


class Worker(Protocol):
    """Does one task after the other, in a process of its own or in ours."""

    def run(self, task: Task, upcoming: Task | None) -> Any:
        """Do a task and return what is to be kept, which can be pickled.

        What is wrong with the file is part of the reply. An exception ends the whole cohort.

        Parameters
        ----------
        task
            What to do.
        upcoming
            What will probably come next, and may be read meanwhile.
        """
        ...


class Job(Protocol):
    """The work on all files, in a form that can be pickled and sent to where it is done."""

    def open(self) -> Worker:
        """Load what all tasks need, such as weights; called once a process."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a cohort, done by processes that know nothing of each other."""

    index: int  # from 0
    count: int

    def of(self, files: Sequence[Path]) -> list[Path]:
        """Every ``count``-th file."""
        return list(files[self.index :: self.count])

    @property
    def name(self) -> str:
        """For names of files."""
        return f"shard-{self.index}-of-{self.count}"


def parse_shard(text: str) -> Shard:
    """``"0/4"`` to ``"3/4"``.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise ConfigError(f"Expected --shard I/N with I from 0 to N-1, got {text!r}.", "Of four shards the first is 0/4.")


def files_of(folder: Path) -> list[Path]:
    """Every file directly in a folder, by name; those whose names begin with a dot are left out.

    Raises
    ------
    InputError
        If there is no such folder, it cannot be read, or it holds no file.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Name the folder that holds the scans.")
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not found:
        inner = sum(path.is_dir() for path in folder.iterdir())
        hint = "Name the folder that directly holds the scans." if inner else "Put scans into it."
        raise InputError(f"The folder {folder} holds no file{f', but {inner} folders' if inner else ''}.", hint)
    return found


def chosen_files(files: Sequence[Path], split_list: Path | None, limit: int | None) -> tuple[list[Path], list[str]]:
    """The files that a list names, and of these the first few.

    Parameters
    ----------
    files
        As `files_of` gives them.
    split_list
        A text file, one name a line with or without its suffix; what follows a ``#`` is a comment. None: all.
    limit
        How many at most; None: all.

    Returns
    -------
        The files in their order, and the names on the list that are no file.

    Raises
    ------
    InputError
        If the list cannot be read or names nothing.
    """
    missing: list[str] = []
    if split_list is not None:
        names = _listed_names(split_list)
        known = {key for path in files for key in (path.name, path.stem)}
        missing = [name for name in names if name not in known]
        wanted = set(names)
        files = [path for path in files if path.name in wanted or path.stem in wanted]
    return list(files[:limit]), missing


def _listed_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The list {path} cannot be read: {error}.", "Expected a text file, one name a line."
        ) from error
    names = [Path(name).name for line in lines if (name := line.partition("#")[0].strip())]
    if not names:
        raise InputError(f"The list {path} names no file.", "Write one name a line.")
    return list(dict.fromkeys(names))


def twins(files: Iterable[Path]) -> dict[Path, Path]:
    """Files that share their name but for the suffix with an earlier one, and that one."""
    first: dict[str, Path] = {}
    return {path: first[path.stem] for path in files if first.setdefault(path.stem, path) is not path}


def spoken(error: Exception) -> tuple[str, str]:
    """Kind and reason of what went wrong with one file, for a list; what was not foreseen is called a bug."""
    kind = type(error).__name__
    if isinstance(error, MriUnrollError) and not isinstance(error, ShapeError):
        return kind, str(error)
    reason = " ".join(str(error).split()) or "no message"
    if isinstance(error, MemoryError) or "can't allocate memory" in reason:
        return "MemoryError", "The memory is not enough for this file."
    if isinstance(error, OSError) and not isinstance(error, MriUnrollError):
        return kind, reason
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{BUG}{kind}", f"{reason} (in {Path(frame.filename).name}, line {frame.lineno}; please report it)"
