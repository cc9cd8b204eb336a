"""Decoding in a process of its own, within a time and a memory: no codec is safe with broken data.

GDCM ends the process that it runs in on some broken JPEG; CharLS spends ten seconds on some 32 x 40 pixels of JPEG-LS,
and any codestream may state a larger picture than the header around it.

Run as a program, this module answers on its standard output, first with one empty message, when it is ready, then for
each object that comes in with the length of the answer and an array in NumPy's format, or no bytes if the pixels
cannot be decoded.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

# GDCM is what pydicom takes for JPEG; the others are named, as they answer broken data with an error.
PLUGINS = {
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"),
}

_LENGTH = struct.Struct("<Q")
_QUESTION = struct.Struct("<QQ")  # bytes of pixels, length
_START = 60.0  # seconds until the child is ready
_PATIENCE, _PER_BYTE = 5.0, 1e-6  # seconds for one object, and for each byte of its pixels: a twentieth of usual speed
_MEMORY, _COPIES = 1 << 28, 8  # bytes for one object, and how many times its pixels may be held beside them


class Apart:
    """A child process that decodes one object after the other, started when it is first needed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def decode(self, content: bytes, n_bytes: int) -> NDArray:
        """Stored values of a whole DICOM file whose header promises ``n_bytes`` of pixels.

        Raises
        ------
        ValueError
            If they cannot be decoded, or the child died of it or took too long.
        """
        with self._turn:
            if self._child is None:
                self._child = self._start()
                self._asked(b"", _START)
            answer = self._asked(_QUESTION.pack(n_bytes, len(content)) + content, _PATIENCE + _PER_BYTE * n_bytes)
        if not answer:
            raise ValueError("The decoder could not decode it.")
        values: NDArray = np.load(io.BytesIO(answer), allow_pickle=False)
        return values

    def _asked(self, question: bytes, patience: float) -> bytes:
        """The next message of the child, which is ended if it takes longer than ``patience`` seconds."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        watch = threading.Timer(patience, child.kill)
        watch.start()
        try:
            child.stdin.write(question)
            child.stdin.flush()
            answer = _read(child.stdout)
        except BrokenPipeError:
            answer = None
        finally:
            watch.cancel()
        if answer is None:
            _end(child)
            self._child = None
            raise ValueError("The decoder died or took too long.")
        return answer

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
    _answer(b"")
    while len(head := sys.stdin.buffer.read(_QUESTION.size)) == _QUESTION.size:
        n_bytes, length = _QUESTION.unpack(head)
        _limit_memory(_COPIES * n_bytes + 4 * length)  # before the object is read, which has its share
        content = sys.stdin.buffer.read(length)
        answer = io.BytesIO()
        try:
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            dataset.pixel_array_options(decoding_plugin=PLUGINS.get(dataset.file_meta.TransferSyntaxUID, ""))
            np.save(answer, dataset.pixel_array, allow_pickle=False)
        except Exception as error:  # whatever it is, the answer is that there are no pixels
            answer = io.BytesIO()
            print(type(error).__name__, file=sys.stderr)
        _answer(answer.getvalue())


def _answer(content: bytes) -> None:
    sys.stdout.buffer.write(_LENGTH.pack(len(content)) + content)
    sys.stdout.buffer.flush()


def _limit_memory(n_bytes: int) -> None:
    """Let this process take ``n_bytes``, and some, beyond what it holds; Linux only."""
    if sys.platform != "linux":
        return
    import resource

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    allowed = held + _MEMORY + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard))


if __name__ == "__main__":
    _serve()
