"""One connection of MRD streaming: what server and client do with it."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from typing import Any

from mri_unroll.errors import InputError
from mri_unroll.io import mrd_stream


class Gone(Exception):
    """The other side has left."""


def read(link: socket.socket, count: int) -> bytes:
    """So many bytes.

    Raises
    ------
    InputError
        If the other side is silent for too long.
    Gone
        If it has left.
    """
    parts = bytearray()
    while len(parts) < count:
        try:
            part = link.recv(min(count - len(parts), 2**20))
        except TimeoutError:
            raise InputError("Nothing came for too long.", "Send CLOSE when the scan is over.") from None
        if not part:
            raise Gone
        parts += part
    return bytes(parts)


def has_left(link: socket.socket) -> bool:
    """Whether the other side will not read any more."""
    ready, _, _ = select.select([link], [], [], 0)
    if not ready:
        return False
    try:
        return link.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def linger(link: socket.socket) -> None:
    """Let the other side read what was sent: closing at once would throw it away where its own data is unread."""
    with suppress(OSError):
        link.shutdown(socket.SHUT_WR)
        link.settimeout(2)
        late = time.monotonic() + 2
        while time.monotonic() < late and link.recv(2**16):
            continue


def turn_away(link: socket.socket) -> None:
    """Say why to who comes too often, and wait for nothing: what it has not read by then it loses."""
    with link, suppress(OSError):
        link.settimeout(0)
        say(link, "ERROR", "Too many connections within a minute. Wait a moment.")
        link.sendall(mrd_stream.close_message())
        link.shutdown(socket.SHUT_WR)


def say(link: socket.socket, level: str, text: str) -> None:
    """Send words for a log, which hosts colour by their level."""
    link.sendall(mrd_stream.text_message(mrd_stream.TEXT, f"{level} {text}"))


def send(host: str, port: int, header: str, readouts: Any, config: str = "default", timeout: float = 600.0) -> Any:
    """What a scanner does: send a session, and yield the texts and images that come back.

    Raises
    ------
    InputError
        If the other side cannot be reached or breaks off.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout) as link:
            link.sendall(_first_message(config) + mrd_stream.text_message(mrd_stream.HEADER, header))
            for one in readouts:
                link.sendall(mrd_stream.acquisition_message(one))
            link.sendall(mrd_stream.close_message())
            for number, content in mrd_stream.messages(lambda count: read(link, count), float("inf")):
                if number in (mrd_stream.TEXT, mrd_stream.IMAGE):
                    yield content
    except Gone:
        raise InputError(f"{host}:{port} broke off.", "See its log.") from None
    except OSError as error:
        reason = error.strerror or "no answer"
        raise InputError(f"{host}:{port} cannot be spoken with: {reason}.", "Check host and port.") from error


def _first_message(config: str) -> bytes:
    is_json = config.lstrip().startswith("{")
    return mrd_stream.text_message(mrd_stream.CONFIG_TEXT, config) if is_json else mrd_stream.config_message(config)
