"""The process that answers HTTP, on a socket that its parent has opened and keeps: one that dies loses no caller.

``python -m mri_unroll.service.api FD`` reads its settings as JSON from standard input.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mri_unroll.config import from_mapping
from mri_unroll.service import confine
from mri_unroll.service.app import make_app
from mri_unroll.service.log import configure
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.tokens import load_tokens

_HEADER_SECONDS = 15.0  # for the head of a request
_GRACE = 20  # seconds for answers under way when told to stop


class _Impatient(H11Protocol):
    """Hangs up on whoever takes too long to say what is wanted; uvicorn alone waits for ever."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._late.cancel()
        self._wait()

    def _wait(self) -> None:
        self._late: asyncio.TimerHandle = self.loop.call_later(_HEADER_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def main() -> None:
    """Answer until SIGTERM, or until the parent ends."""
    confine.end_with_parent()
    settings = from_mapping(json.loads(sys.stdin.readline()), ServiceSettings)
    configure()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tokens = load_tokens(None if settings.token_file is None else Path(settings.token_file))
    config = uvicorn.Config(
        make_app(settings, tokens),
        fd=int(sys.argv[1]),
        http=_Impatient,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,  # it would hold the names of files
        server_header=False,
        proxy_headers=False,
        limit_concurrency=2000,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=16 * 1024,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
