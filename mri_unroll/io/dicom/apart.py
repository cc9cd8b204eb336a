"""Decoding in a process of its own: GDCM ends the process that it runs in on some broken JPEG.

Run as a program, this module answers on its standard output: for each object that comes in, the length of the answer
and an array in NumPy's format, or no bytes if the pixels cannot be decoded.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import weakref
from typing import IO

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<Q")
_PATIENCE = 60.0  # seconds for one object


class Apart:
    """A child process that decodes one object after the other, started when it is first needed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def decode(self, content: bytes) -> NDArray:
        """Stored values of a whole DICOM file.

        Raises
        ------
        ValueError
            If they cannot be decoded, or the child died of it or took too long.
        """
        with self._turn:
            return self._decoded(content)

    def _decoded(self, content: bytes) -> NDArray:
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        watch = threading.Timer(_PATIENCE, child.kill)
        watch.start()
        try:
            child.stdin.write(_LENGTH.pack(len(content)) + content)
            child.stdin.flush()
            answer = _read(child.stdout)
        except BrokenPipeError:
            answer = None
        finally:
            watch.cancel()
        if answer is None:
            _end(child)
            self._child = None
            raise ValueError("The decoder died.")
        if not answer:
            raise ValueError("The decoder could not decode it.")
        values: NDArray = np.load(io.BytesIO(answer), allow_pickle=False)
        return values

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders complain there
            start_new_session=True,  # Ctrl-C is for the parent
        )
        weakref.finalize(self, _end, child)
        return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # what it did not read before it died
                continue
    child.wait()


def _read(pipe: IO[bytes]) -> bytes | None:
    """One message; None if the other side is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = pipe.read(length)
    return body if len(body) == length else None


def _serve() -> None:
    """Decode until the parent closes the pipe."""
    import pydicom

    while (content := _read(sys.stdin.buffer)) is not None:
        answer = io.BytesIO()
        try:
            np.save(answer, pydicom.dcmread(io.BytesIO(content), force=True).pixel_array, allow_pickle=False)
        except Exception as error:  # whatever it is, the answer is that there are no pixels
            answer = io.BytesIO()
            print(type(error).__name__, file=sys.stderr)
        sys.stdout.buffer.write(_LENGTH.pack(len(answer.getvalue())) + answer.getvalue())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
