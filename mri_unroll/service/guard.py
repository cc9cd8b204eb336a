"""What every request passes before it reaches a route: host, token, rate, size and time; and what every answer carries.

Denied unless allowed: without a token only the page's own files and the two health questions are answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated

from fastapi import Depends, Path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mri_unroll.service.metrics import Metrics
from mri_unroll.service.rates import Rates
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.tokens import Caller, Tokens

_log = logging.getLogger(__name__)
OPEN = ("/", "/page.css", "/page.js", "/health/live", "/health/ready")
_BODY = 64 * 1024  # bytes of a request that is no upload
_PATIENCE = 20.0  # seconds between two pieces of a request
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NOTHING = "default-src 'none'; frame-ancestors 'none'; sandbox"


class Denied(HTTPException):
    """An answer that ends a request."""

    def __init__(self, status: int, message: str, hint: str = "", **headers: str) -> None:
        super().__init__(status, message, headers)
        self.hint = hint


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, tokens: Tokens, metrics: Metrics) -> None:
        self._app, self._settings, self._tokens, self._metrics = app, settings, tokens, metrics
        self._rates = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websocket
        began, status, started = time.monotonic(), 500, False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                path = scope["path"]
                policy = _PAGE_POLICY if path in OPEN[:3] else _NOTHING
                message["headers"] = [*message.get("headers", []), *_HEADERS]
                message["headers"].append((b"content-security-policy", policy.encode()))
            await send(message)

        try:
            caller = self._admit(scope)
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, self._bounded(scope, receive), answer)
        except Denied as denied:
            if started:
                raise
            await told(denied)(scope, receive, answer)
        finally:
            seconds = time.monotonic() - began
            name = getattr(scope.get("state", {}).get("caller"), "name", "")
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.observe(scope["method"], route, status, seconds)
            _log.info(
                "request",
                extra={"method": scope["method"], "path": route, "status": status, "seconds": round(seconds, 4)}
                | ({"caller": name} if name else {}),
            )

    def _admit(self, scope: Scope) -> Caller | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if not self._settings.is_host(name):
            raise Denied(400, "This service does not go by that name.", "Add it to allowed_hosts.")
        kind, _, token = headers.get(b"authorization", "").partition(" ")
        caller = self._tokens.caller(token.strip()) if kind.lower() == "bearer" and token else None
        address = (scope.get("client") or ("unknown",))[0]
        per_minute = self._settings.requests_per_minute
        if scope["path"] in OPEN:
            self._count(f"open {address}", per_minute)
            return caller
        if caller is None:
            self._count(f"address {address}", max(10, per_minute // 10))
            raise Denied(
                401, "A token is needed.", "Send it as `Authorization: Bearer TOKEN`.", **{"www-authenticate": "Bearer"}
            )
        self._count(f"caller {caller.name}", per_minute)
        return caller

    def _count(self, who: str, per_minute: int) -> None:
        if not self._rates.allow(who, per_minute):
            raise Denied(429, "Too many requests.", "Wait a moment.", **{"retry-after": str(1 + int(60 / per_minute))})

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Let a body come only so fast and, but for uploads, only so far."""
        is_upload = scope["method"] == "PUT" and scope["path"].startswith("/v1/uploads")
        came = 0
        is_complete = False

        async def bounded() -> Message:
            nonlocal came, is_complete
            if is_complete:  # then this waits for the other side to leave, as long as the answer takes
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), _PATIENCE)
            except TimeoutError:
                raise Denied(408, "The request did not come in time.", "Send it again.", connection="close") from None
            if message["type"] == "http.request":
                came += len(message.get("body", b""))
                is_complete = not message.get("more_body", False)
                if not is_upload and came > _BODY:
                    raise Denied(413, f"This request may have {_BODY} bytes.", connection="close")
            return message

        return bounded


def told(error: HTTPException) -> JSONResponse:
    """The one form in which this service says no."""
    said = {"message": str(error.detail), "hint": getattr(error, "hint", "")}
    return JSONResponse({"error": said}, error.status_code, headers=dict(error.headers or {}))


def caller_of(request: Request) -> Caller:
    """Who asks; there is always somebody behind the guard."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def need(caller: Caller, scope: str) -> None:
    """Refuse a caller who may not do this.

    Raises
    ------
    Denied
        If the token lacks the scope.
    """
    if not caller.may(scope):
        raise Denied(403, f"This token lacks the scope `{scope}`.")


Identity = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Asking = Annotated[Caller, Depends(caller_of)]
