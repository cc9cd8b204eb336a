"""The routes of jobs and their results."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, StreamingResponse

from mri_unroll.service.guard import Asking, Denied, Identity, need
from mri_unroll.service.jobs import Job, Jobs
from mri_unroll.service.methods import Methods
from mri_unroll.service.settings import ServiceSettings
from mri_unroll.service.task import RESULTS
from mri_unroll.service.tokens import ADMIN, READ, SUBMIT, Caller
from mri_unroll.service.uploads import Uploads
from mri_unroll.service.wish import Wish

_LOOK = 0.5  # seconds between looks at a job that somebody watches
_KEEP_ALIVE = 15.0  # seconds after which a silent stream says something


class JobRequest(BaseModel):
    """A reconstruction to be made of an upload."""

    model_config = ConfigDict(extra="forbid")

    upload: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    options: Wish = Wish()
    idempotency_key: Annotated[str | None, Field(min_length=1, max_length=128)] = None


def add_jobs(app: FastAPI, uploads: Uploads, jobs: Jobs, methods: Methods, settings: ServiceSettings) -> None:
    """Submit, watch, cancel, forget."""
    results = settings.folder / "results"

    @app.post("/v1/jobs", status_code=201)
    def submit(wanted: JobRequest, caller: Asking) -> dict[str, Any]:
        """Queue a reconstruction. The same `idempotency_key` gives the same job, however often it is sent."""
        need(caller, SUBMIT)
        found = uploads.get(wanted.upload)
        if found is None or found.owner != caller.name:
            raise Denied(404, "There is no such upload.", "Send it by PUT /v1/uploads.")
        if not found.is_complete:
            raise Denied(409, "The upload is not complete.", "Send the rest by PUT /v1/uploads/{id}.")
        wanted.options.check()
        methods.check(wanted.options.method, wanted.options.mode)
        wish = wanted.options.model_dump(exclude_defaults=True)
        job = jobs.submit(caller.name, found.id, found.name, wish, wanted.idempotency_key)
        if job.upload != found.id or job.wish != wish:
            raise Denied(409, "This idempotency key was used for another job.", "Use another key.")
        return told_job(job)

    @app.get("/v1/jobs")
    def list_jobs(caller: Asking, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """Your jobs, the latest first; with the scope `admin` everybody's."""
        need(caller, READ)
        return [told_job(job) for job in jobs.listed(None if ADMIN in caller.scopes else caller.name, limit)]

    @app.get("/v1/jobs/{identity}")
    def one_job(identity: Identity, caller: Asking) -> dict[str, Any]:
        """How it goes."""
        return told_job(job_of(jobs, identity, caller))

    @app.get("/v1/jobs/{identity}/events", response_class=StreamingResponse)
    async def events(identity: Identity, caller: Asking) -> StreamingResponse:
        """The same as server-sent events: one whenever something changes, the last one when it has ended."""
        await asyncio.to_thread(job_of, jobs, identity, caller)
        return StreamingResponse(_watch(jobs, identity), media_type="text/event-stream")

    @app.post("/v1/jobs/{identity}/cancel")
    def cancel(identity: Identity, caller: Asking) -> dict[str, Any]:
        """Stop it; one that has ended stays as it is."""
        need(caller, SUBMIT)
        job_of(jobs, identity, caller)
        jobs.cancel(identity)
        return told_job(job_of(jobs, identity, caller))

    @app.delete("/v1/jobs/{identity}", status_code=204)
    def delete(identity: Identity, caller: Asking) -> None:
        """Forget an ended job and its result."""
        need(caller, SUBMIT)
        job = job_of(jobs, identity, caller)
        if job.is_ended and job.result:  # first, because on a full disk the database needs the room
            shutil.rmtree(results / job.result, ignore_errors=True)
        if not jobs.delete(identity):
            raise Denied(409, "The job has not ended.", "Cancel it first.")


def job_of(jobs: Jobs, identity: str, caller: Caller) -> Job:
    """A job that this caller may see; what is somebody else's is not there."""
    need(caller, READ)
    job = jobs.get(identity)
    if job is None or (job.owner != caller.name and ADMIN not in caller.scopes):
        raise Denied(404, "There is no such job.")
    return job


def told_job(job: Job) -> dict[str, Any]:
    """A job as it is shown."""
    return {
        "job": job.id,
        "name": job.name,
        "options": job.wish,
        "state": job.state,
        "stage": job.stage,
        "done": job.done,
        "total": job.total,
        "attempts": job.attempts,
        "error": job.error,
        "bytes": job.size,
        "created": job.created,
        "started": job.started or None,
        "finished": job.finished or None,
    }


async def _watch(jobs: Jobs, identity: str) -> AsyncIterator[str]:
    before, silent = None, 0.0
    while True:
        job = await asyncio.to_thread(jobs.get, identity)
        if job is None:
            yield "event: gone\ndata: {}\n\n"
            return
        said = json.dumps(told_job(job))
        if said != before:
            yield f"event: job\ndata: {said}\n\n"
            before, silent = said, 0.0
        if job.is_ended:
            return
        await asyncio.sleep(_LOOK)
        silent += _LOOK
        if silent >= _KEEP_ALIVE:
            yield ": still here\n\n"
            silent = 0.0


def add_results(app: FastAPI, jobs: Jobs, settings: ServiceSettings) -> None:
    """Files of results."""

    def folder_of(job: Job) -> Path:
        if not job.result:
            raise Denied(404 if job.is_ended else 409, f"The job is {job.state}: there is no result.")
        return settings.folder / "results" / job.result

    @app.get("/v1/jobs/{identity}/result")
    def list_result(identity: Identity, caller: Asking) -> dict[str, int]:
        """Which files there are of the result, and how many bytes each has."""
        folder = folder_of(job_of(jobs, identity, caller))
        paths = {kind: folder / name for kind, (name, _) in RESULTS.items()}
        return {kind: path.stat().st_size for kind, path in paths.items() if path.is_file()}

    @app.head("/v1/jobs/{identity}/result/{kind}", include_in_schema=False)
    @app.get("/v1/jobs/{identity}/result/{kind}", response_class=FileResponse)
    def result(
        identity: Identity,
        kind: Annotated[str, InPath(pattern=f"^({'|'.join(RESULTS)})$".replace(".", r"\."))],
        caller: Asking,
    ) -> FileResponse:
        """A file of the result: `h5`, `nifti`, `dicom.zip`, `report`, `preview` or `sidecar`. Ranges are answered."""
        job = job_of(jobs, identity, caller)
        name, media = RESULTS[kind]
        path = folder_of(job) / name
        if not path.is_file():
            reason = "The raw data does not say where the picture lies." if kind == "dicom.zip" else ""
            raise Denied(404, f"This result has no {kind}.", reason and f"{reason} Add allow_synthetic_geometry.")
        stem = job.name.rsplit(".", 1)[0] or "scan"
        return FileResponse(path, media_type=media, filename=f"{stem}_{name}", content_disposition_type="attachment")
