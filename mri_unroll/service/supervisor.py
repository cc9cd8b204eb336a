"""The parent of all: opens the socket, starts who answers and who works, and starts anew whoever dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mri_unroll.errors import DeviceError
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.worker import as_order

_log = logging.getLogger(__name__)
_LOOK = 0.2
_GRACE = 25.0  # seconds to stop before it is forced


@dataclass(slots=True)
class _Part:
    """A child, whichever process plays it at the moment."""

    name: str
    command: list[str]
    process: subprocess.Popen[str] | None = None
    began: float = 0.0
    pause: float = field(default=0.0)  # before the next start; grows while starts fail


class Supervisor:
    """Runs the service until it is told to stop.

    Parameters
    ----------
    settings
        Of the service.

    Raises
    ------
    DeviceError
        If the address cannot be had.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((settings.host, settings.port))
        except OSError as error:
            raise DeviceError(
                f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}.", "Choose another --port."
            ) from error
        self._socket.listen(2048)
        os.set_inheritable(self._socket.fileno(), True)
        python = [sys.executable, "-m"]
        self._parts = [_Part("api", [*python, "mri_unroll.service.api", str(self._socket.fileno())])]
        self._parts += [_Part("worker", [*python, "mri_unroll.service.worker"]) for _ in range(settings.workers)]
        self._stop = threading.Event()

    @property
    def address(self) -> str:
        """Where the service answers."""
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}"

    def stop(self) -> None:
        """Have `run` end."""
        self._stop.set()

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Keep all children running."""
        for part in self._parts:
            self._start(part)
        started()
        while not self._stop.wait(_LOOK):
            for part in self._parts:
                self._look_after(part)
        self._end()

    def _start(self, part: _Part) -> None:
        part.process = subprocess.Popen(
            part.command, stdin=subprocess.PIPE, text=True, pass_fds=(self._socket.fileno(),), start_new_session=True
        )
        assert part.process.stdin is not None
        try:
            part.process.stdin.write(as_order(self._settings))
            part.process.stdin.close()
        except BrokenPipeError:
            _log.warning("a child ended at its start", extra={"pid": part.process.pid})
        part.began = time.monotonic()

    def _look_after(self, part: _Part) -> None:
        if part.process is not None and part.process.poll() is None:
            return
        if part.process is not None:
            # Who was killed starts at once; who ends by itself, and soon, has a reason that may last.
            lasts = time.monotonic() - part.began > 10 or part.process.returncode < 0
            part.pause = 0.0 if lasts else min(max(0.5, 2 * part.pause), 30.0)
            _log.error(f"the {part.name} ended and is started anew", extra={"signal": -part.process.returncode})
            part.process, part.began = None, time.monotonic()
        if time.monotonic() - part.began >= part.pause:
            self._start(part)

    def _end(self) -> None:
        running = [part.process for part in self._parts if part.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        late = time.monotonic() + _GRACE
        for process in running:
            try:
                process.wait(max(0.1, late - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._socket.close()
