"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mri_unroll.errors import DeviceError, InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}


def flush_to_disk(path: Path) -> None:
    """See the content of a file on the disk, or of a folder its names: what is there outlives a power cut.

    Raises
    ------
    OSError
        If the disk cannot hold it, or the file system cannot promise it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and move it there once the block has ended well.

    The temporary file ``.NAME.PID.part`` lies in the same folder, so that the move is one step of the file system; it
    is flushed to the disk first, and removed if the block fails. A killed process can leave a ``.part``, never half a
    file under the name asked for.

    Parameters
    ----------
    path
        The file to make; its folder must exist.
    overwrite
        Replace a file that is there.

    Raises
    ------
    InputError
        If ``path`` exists (also when it appeared meanwhile), is a folder, or cannot be written.
    DeviceError
        If the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file.", "Name a file inside it.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent} to write into.", "Make the folder first.")
    taken = InputError(f"{path} exists already.", "Use --overwrite to replace it, or write to another name.")
    if os.path.lexists(path) and not overwrite:
        raise taken
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        flush_to_disk(part)
        if overwrite:
            os.replace(part, path)
        else:
            try:
                os.link(part, path)  # unlike a rename, a link fails when another process was faster
            except FileExistsError:
                raise taken from None
            except OSError:  # a file system without hard links
                if os.path.lexists(path):
                    raise taken from None
                os.replace(part, path)
        with suppress(OSError):  # not every file system lets a folder be flushed
            flush_to_disk(path.parent)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:160]
        if error.errno in _FULL:
            raise DeviceError(f"{path} cannot be written: {reason}.", "Free some space and run it again.") from error
        raise InputError(
            f"{path} cannot be written: {reason}.", "Check the name and the folder's permissions."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
