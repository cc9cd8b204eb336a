"""The routes of uploads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from mri_unroll.service.guard import Asking, Denied, Identity, need
from mri_unroll.service.jobs import Jobs
from mri_unroll.service.receiving import Receiving
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.tokens import READ, SUBMIT, Caller
from mri_unroll.service.uploads import Upload, Uploads


def add_uploads(app: FastAPI, uploads: Uploads, jobs: Jobs, settings: ServiceSettings) -> None:
    """Send, look after, delete."""
    receiving = Receiving(uploads, jobs, settings)

    def mine(identity: str, caller: Caller) -> Upload:
        found = uploads.get(identity)
        if found is None or found.owner != caller.name:
            raise Denied(404, "There is no such upload.")
        return found

    @app.put("/v1/uploads", status_code=201)
    async def upload(
        request: Request,
        caller: Asking,
        name: Annotated[str, Query(min_length=1, max_length=255)] = "scan",
        sha256: Annotated[str, Query(pattern="^([0-9a-fA-F]{64})?$")] = "",
        more: bool = False,
    ) -> dict[str, Any]:
        """Send a file as the raw body, or with `more` its first piece. With `sha256` it is checked in the end.

        What was cut off, or has more to come, goes on by `PUT /v1/uploads/{id}`.
        """
        need(caller, SUBMIT)
        return _told_upload(await receiving.begin(request, caller, name, sha256.lower(), more))

    @app.put("/v1/uploads/{identity}")
    async def go_on(
        request: Request,
        identity: Identity,
        caller: Asking,
        offset: Annotated[int, Query(ge=0, lt=2**60)],
        more: bool = False,
    ) -> dict[str, Any]:
        """Send the rest of a file from `offset`, which is what `GET` calls `received`; with `more` its next piece."""
        need(caller, SUBMIT)
        found = await asyncio.to_thread(mine, identity, caller)
        return _told_upload(await receiving.go_on(request, caller, found, offset, more))

    @app.get("/v1/uploads")
    def list_uploads(caller: Asking) -> list[dict[str, Any]]:
        """Your uploads, unfinished ones included."""
        need(caller, READ)
        return [_told_upload(found) for found in uploads.listed(caller.name)]

    @app.get("/v1/uploads/{identity}")
    def one_upload(identity: Identity, caller: Asking) -> dict[str, Any]:
        """How much of it has come."""
        need(caller, READ)
        return _told_upload(mine(identity, caller))

    @app.delete("/v1/uploads/{identity}", status_code=204)
    def delete_upload(identity: Identity, caller: Asking) -> None:
        """Delete it; jobs that wait for it will fail."""
        need(caller, SUBMIT)
        mine(identity, caller)
        uploads.delete(identity)


def _told_upload(found: Upload) -> dict[str, Any]:
    return {
        "upload": found.id,
        "name": found.name,
        "received": found.received,
        "complete": found.is_complete,
        "sha256": found.digest if found.is_complete else None,
    }
