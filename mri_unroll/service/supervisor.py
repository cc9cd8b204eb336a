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
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.worker import as_order

_log = logging.getLogger(__name__)
_LOOK = 0.2
_UMASK = 0o077  # scans, pictures and the database are for nobody else on this machine
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
    ConfigError
        If the database of jobs is of a newer version, or cannot be used.
    DeviceError
        If the database cannot be reached, or the address cannot be had.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        settings.folder.mkdir(0o700, parents=True, exist_ok=True)
        before = os.umask(_UMASK)
        try:
            connect(settings.database_url).dispose()  # made or brought forward once, before anybody uses it
        finally:
            os.umask(before)
        self._sockets = {"api": _listening(settings.host, settings.port)} if settings.http else {}
        if settings.mrd_port is not None:
            self._sockets["mrd_server"] = _listening(settings.host, settings.mrd_port)
        self._parts = [_part(name, str(found.fileno())) for name, found in self._sockets.items()]
        if settings.dicom_port is not None:
            self._parts.append(_part("dicom_node"))
        self._parts += [_part("worker") for _ in range(settings.workers)]
        self._stop = threading.Event()

    @property
    def address(self) -> str | None:
        """Where the service answers HTTP, None where it does not."""
        return f"http://{self._place('api')}" if "api" in self._sockets else None

    @property
    def mrd_address(self) -> str | None:
        """Where scanners send to, None where that is not wanted."""
        return self._place("mrd_server") if "mrd_server" in self._sockets else None

    def _place(self, name: str) -> str:
        host = self._settings.host
        return f"{f'[{host}]' if ':' in host else host}:{self._sockets[name].getsockname()[1]}"

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
        handles = [found.fileno() for found in self._sockets.values()]
        part.process = subprocess.Popen(
            part.command,
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=handles,
            start_new_session=True,
            umask=_UMASK,
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
        for found in self._sockets.values():
            found.close()


def _part(name: str, *arguments: str) -> _Part:
    return _Part(name, [sys.executable, "-m", f"mri_unroll.service.{name}", *arguments])


def _listening(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise DeviceError(f"{host}:{port} cannot be listened on: {error.strerror}.", "Choose another port.") from error
    found.listen(2048)
    return found
