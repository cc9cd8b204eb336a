"""The routes. Whoever comes here has passed the guard; whose a thing is, is asked here."""

from __future__ import annotations

import asyncio
import logging
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mri_unroll import __version__
from mri_unroll.errors import ConfigError, DeviceError
from mri_unroll.service.guard import Asking, Denied, Guard, need, told
from mri_unroll.service.job_routes import add_jobs, add_results
from mri_unroll.service.jobs import Jobs
from mri_unroll.service.methods import Methods
from mri_unroll.service.metrics import Metrics
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.tokens import ADMIN, Tokens
from mri_unroll.service.upload_routes import add_uploads
from mri_unroll.service.uploads import Refused, Uploads

_log = logging.getLogger(__name__)
_PAGE = {"page.css": "text/css", "page.js": "text/javascript"}


def make_app(settings: ServiceSettings, tokens: Tokens) -> Guard:
    """The whole application, guard included."""
    engine = connect(settings.database_url)
    jobs = Jobs(engine, settings.lease_seconds, settings.attempts)
    metrics = Metrics(jobs, settings)
    return Guard(make_routes(settings, engine, jobs, metrics), settings, tokens, metrics)


def make_routes(settings: ServiceSettings, engine: Engine, jobs: Jobs, metrics: Metrics) -> FastAPI:
    """What is behind the guard, which is not fit to be served without it."""
    uploads, methods = Uploads(engine, settings), Methods(settings)
    app = FastAPI(
        title="mri_unroll",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        redirect_slashes=False,  # behind a proxy it would lead to an address without TLS
    )
    _explain_errors(app)
    _add_public(app, jobs)
    add_uploads(app, uploads, jobs, settings)
    add_jobs(app, uploads, jobs, methods, settings)
    add_results(app, jobs, settings)

    @app.get("/v1/methods")
    async def list_methods(caller: Asking) -> list[dict[str, Any]]:
        """Methods that a job may name."""
        return await asyncio.to_thread(methods.listed)

    @app.get("/metrics", response_class=PlainTextResponse)
    def tell_metrics(caller: Asking) -> Response:
        """Numbers for Prometheus; of everybody, so that they need the scope `admin`."""
        need(caller, ADMIN)
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return told(Denied(422, f"{place}: {first['msg']}." if place else f"{first['msg']}.", "See /v1/openapi.json."))

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return told(Denied(error.status, error.message, error.hint))

    @app.exception_handler(ConfigError)
    async def contradiction(request: Request, error: ConfigError) -> JSONResponse:
        return told(Denied(422, error.message, error.hint))

    @app.exception_handler(DeviceError)
    async def not_now(request: Request, error: DeviceError) -> JSONResponse:
        return told(Denied(503, error.message, error.hint))

    @app.exception_handler(SQLAlchemyError)
    async def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        _log.error("the database failed", extra={"status": 507})
        return told(Denied(507, "The service cannot reach or write its database.", "Try again later."))

    @app.exception_handler(OSError)
    async def storage(request: Request, error: OSError) -> JSONResponse:
        _log.error("storage failed", extra={"status": 507})
        return told(Denied(507, "The service cannot write to its disk.", "Try again later."))


def _add_public(app: FastAPI, jobs: Jobs) -> None:
    page = resources.files("mri_unroll.service") / "page"

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return Response((page / "page.html").read_bytes(), media_type="text/html; charset=utf-8")

    def serve(name: str, kind: str) -> None:
        @app.get(f"/{name}", include_in_schema=False)
        async def file() -> Response:
            return Response((page / name).read_bytes(), media_type=f"{kind}; charset=utf-8")

    for name, kind in _PAGE.items():
        serve(name, kind)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether this process answers."""
        return {"live": True}

    @app.get("/health/ready")
    def ready() -> dict[str, bool]:
        """Whether jobs can be taken."""
        try:
            jobs.counted()
        except Exception as error:  # whatever keeps the database from answering
            raise Denied(503, "The database of jobs does not answer.") from error
        return {"ready": True}
