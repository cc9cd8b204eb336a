"""The command line without its start-up: a process that has imported everything forks for each call.

Importing torch, sigpy and matplotlib takes seconds, and the pages of the documentation call the command many times.
What runs in the fork is ``mri_unroll.cli.main`` with the arguments, folder, environment and streams of the caller.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOADED = ("torch", "sigpy", "matplotlib.figure", "mri_unroll.pipeline", "mri_unroll.recon.reconstructor")
_CALLER = """#!{python} -SE
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(said).to_bytes(4, "big")], [0, 1, 2])
link.sendall(said)
sys.exit(link.recv(1)[0])
"""


@contextmanager
def preloaded(program: Path, address: Path) -> Iterator[None]:
    """Write a program that stands for ``mri-unroll``, and keep running what it calls."""
    program.write_text(_CALLER.format(python=os.path.realpath(sys.executable), address=str(address)))
    program.chmod(0o755)
    process = subprocess.Popen([sys.executable, __file__, str(address)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        while not address.exists():
            assert process.poll() is None, "the preloaded command line has ended"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _serve(address: str) -> None:
    for name in _LOADED:
        importlib.import_module(name)
    main = importlib.import_module("mri_unroll.cli").main
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # handlers are not waited for
    door = socket.socket(socket.AF_UNIX)
    door.bind(f"{address}.part")
    door.listen()
    os.rename(f"{address}.part", address)  # there when somebody listens
    while True:
        link, _ = door.accept()
        if os.fork() == 0:
            door.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(link, main)
        link.close()


def _answer(link: socket.socket, main: Callable[[], None]) -> None:
    size, streams, _, _ = socket.recv_fds(link, 4, 3)
    said = b""
    while len(said) < int.from_bytes(size, "big"):
        said += link.recv(65536)
    arguments, folder, environment = json.loads(said)
    worker = os.fork()
    if worker == 0:
        link.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["mri-unroll", *arguments]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    handle = os.pidfd_open(worker)
    ready, _, _ = select.select([link, handle], [], [])
    if link in ready:  # the caller is gone
        os.kill(worker, signal.SIGTERM)
    _, status = os.waitpid(worker, 0)
    if link not in ready:
        code = os.waitstatus_to_exitcode(status)
        link.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
