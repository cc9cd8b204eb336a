"""How the bytes of an upload get from the network to the disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
from io import FileIO

from starlette.requests import ClientDisconnect, Request

from mri_unroll.service.jobs import Jobs
from mri_unroll.service.settings import GB, ServiceSettings
from mri_unroll.service.tokens import Caller
from mri_unroll.service.uploads import Refused, Upload, Uploads

_BLOCK = 2**20  # bytes in memory before they are written


class Receiving:
    """Takes bodies of any length in little memory; an upload has one sender at a time."""

    def __init__(self, uploads: Uploads, jobs: Jobs, settings: ServiceSettings) -> None:
        self._uploads, self._jobs, self._settings = uploads, jobs, settings
        self._busy: set[str] = set()

    async def begin(self, request: Request, caller: Caller, name: str, digest: str, more: bool) -> Upload:
        """A new file, or its first piece if there is more to come.

        Raises
        ------
        Refused
            With the status that says why.
        """
        await self._admit(request, caller)
        upload = await asyncio.to_thread(self._uploads.begin, caller.name, name, digest)
        return await self._receive(request, upload, hashlib.sha256(), more)

    async def go_on(self, request: Request, caller: Caller, upload: Upload, offset: int, more: bool) -> Upload:
        """The rest of a file, or its next piece. Raises as `begin`."""
        if upload.is_complete:
            raise Refused(409, "The upload is complete.")
        if offset != upload.received:
            raise Refused(409, f"{upload.received} bytes have come, so the rest begins there, not at {offset}.")
        await self._admit(request, caller)
        return await self._receive(request, upload, None, more)

    async def _admit(self, request: Request, caller: Caller) -> None:
        if len(self._busy) >= self._settings.max_uploads:
            raise Refused(429, f"{self._settings.max_uploads} uploads are under way.", "Try again in a moment.")
        length = request.headers.get("content-length", "0")
        announced = int(length) if length.isdecimal() else 0
        kept = await asyncio.to_thread(self._jobs.kept_bytes, caller.name)
        await asyncio.to_thread(self._uploads.admit, caller.name, announced, kept)

    async def _receive(self, request: Request, upload: Upload, hashing: hashlib._Hash | None, more: bool) -> Upload:
        if upload.id in self._busy:
            raise Refused(409, "Somebody is sending this upload already.")
        self._busy.add(upload.id)
        try:
            with self._uploads.path(upload.id).open("ab", buffering=0) as file:
                try:
                    await self._pour(request, file, upload, hashing)
                except ClientDisconnect:
                    await asyncio.to_thread(self._uploads.keep, upload, False)
                    raise
            found = None if hashing is None else hashing.hexdigest()
            return await asyncio.to_thread(self._uploads.keep, upload, not more, found)
        except FileNotFoundError:
            raise Refused(404, "The upload was deleted meanwhile.") from None
        finally:
            self._busy.discard(upload.id)

    async def _pour(self, request: Request, file: FileIO, upload: Upload, hashing: hashlib._Hash | None) -> None:
        received = upload.received
        limit, waiting, checked = self._settings.max_upload_gb * GB, bytearray(), 0
        try:
            async for piece in request.stream():
                waiting += piece
                if len(waiting) < _BLOCK:
                    continue
                received += len(waiting)
                if received > limit:
                    await asyncio.to_thread(self._uploads.delete, upload.id)
                    raise Refused(413, f"A file may have {limit / GB:g} GB.", "Split it.")
                await asyncio.to_thread(_write, file, bytes(waiting), hashing)
                waiting.clear()
                if received - checked > 64 * _BLOCK:  # one that did not say its length fills the disk like any other
                    await asyncio.to_thread(self._uploads.admit, "", 0, 0)
                    checked = received
        except ClientDisconnect:  # what came before the line was cut is kept
            await asyncio.to_thread(_write, file, bytes(waiting), hashing)
            raise
        await asyncio.to_thread(_write, file, bytes(waiting), hashing)


def _write(file: FileIO, content: bytes, hashing: hashlib._Hash | None) -> None:
    """Append all or, on a full disk, nothing: a sender who goes on does so behind the last whole piece."""
    end, left = file.seek(0, os.SEEK_END), memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        file.truncate(end)
        raise
    if hashing is not None:
        hashing.update(content)
