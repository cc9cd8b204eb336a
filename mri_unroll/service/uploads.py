"""Files that come in: streamed to the disk, resumable, checked by their hash; and the room that there is for them."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, delete, func, insert, select, update

from mri_unroll.io.atomic import flush_to_disk
from mri_unroll.machine import disk_free_bytes
from mri_unroll.service.schema import reading, uploads
from mri_unroll.service.settings import GB, ServiceSettings

_NAME = re.compile(r"[^\w.+ -]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upload:
    """One row."""

    id: str
    owner: str
    name: str
    digest: str
    received: int
    is_complete: bool
    touched: float


class Refused(Exception):
    """Why something is not taken: the HTTP status that says so, and a sentence."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


class Uploads:
    """Uploads on the disk and in the database.

    The file is ``uploads/ID``, a name of our own; what the sender calls it is kept as words.
    """

    def __init__(self, engine: Engine, settings: ServiceSettings, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._settings, self._clock = engine, settings, clock
        self._reads = reading(engine)
        self._folder = settings.folder / "uploads"
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, identity: str) -> Path:
        """Where the file lies."""
        return self._folder / identity

    def begin(self, owner: str, name: str, digest: str) -> Upload:
        """A new one, of no byte yet."""
        made = Upload(uuid.uuid4().hex, owner, plain_name(name), digest, 0, False, self._clock())
        with self._engine.begin() as link:
            link.execute(insert(uploads).values(**{field: getattr(made, field) for field in Upload.__slots__}))
        self.path(made.id).touch(mode=0o600)
        return made

    def get(self, identity: str) -> Upload | None:
        """One upload; of an unfinished one the bytes are those on the disk."""
        with self._reads.begin() as link:
            row = link.execute(select(uploads).where(uploads.c.id == identity)).mappings().first()
        return None if row is None else self._as_it_lies(Upload(**row))

    def listed(self, owner: str) -> list[Upload]:
        """Those of an owner, the latest first."""
        asked = select(uploads).where(uploads.c.owner == owner).order_by(uploads.c.touched.desc()).limit(100)
        with self._reads.begin() as link:
            rows = link.execute(asked).mappings().all()
        return [self._as_it_lies(Upload(**row)) for row in rows]

    def kept_bytes(self, owner: str) -> int:
        """What an owner's uploads take, by the database."""
        with self._reads.begin() as link:
            total = link.execute(select(func.sum(uploads.c.received)).where(uploads.c.owner == owner)).scalar()
        return int(total or 0)

    def keep(self, upload: Upload, is_complete: bool, found: str | None = None) -> Upload:
        """Write down how much has come; a complete file is on the disk before the database says so.

        ``found`` is the SHA-256 of the whole file where it was computed on the way.

        Raises
        ------
        Refused
            If its hash is not the announced one: then it is gone.
        """
        path = self.path(upload.id)
        digest = upload.digest
        if is_complete:
            flush_to_disk(path)
            with path.open("rb") as file:
                found = found or hashlib.file_digest(file, "sha256").hexdigest()
            if digest and found != digest:
                self.delete(upload.id)
                raise Refused(422, "The bytes that came are not those announced (SHA-256 differs).", "Send them again.")
            digest = found
        changed = {"received": path.stat().st_size, "is_complete": is_complete, "digest": digest}
        changed["touched"] = self._clock()
        with self._engine.begin() as link:
            link.execute(update(uploads).where(uploads.c.id == upload.id).values(**changed))
        kept = self.get(upload.id)
        if kept is None:
            raise Refused(404, "The upload was deleted meanwhile.")
        return kept

    def delete(self, identity: str) -> None:
        """Forget one, and its bytes; these first, because on a full disk the database needs their room."""
        self.path(identity).unlink(missing_ok=True)
        with self._engine.begin() as link:
            link.execute(delete(uploads).where(uploads.c.id == identity))

    def idle_since(self, touched: float, needed: set[str]) -> list[str]:
        """Uploads that nobody has touched since a time and no job needs."""
        with self._reads.begin() as link:
            found = link.execute(select(uploads.c.id).where(uploads.c.touched < touched)).scalars().all()
        return [identity for identity in found if identity not in needed]

    def known(self) -> set[str]:
        """All identifiers."""
        with self._reads.begin() as link:
            return set(link.execute(select(uploads.c.id)).scalars())

    def admit(self, owner: str, n_bytes: int, kept: int) -> None:
        """See whether so many bytes more may come from an owner who keeps ``kept`` bytes of results.

        Raises
        ------
        Refused
            413 if the file is too large, 507 if quota or disk are full.
        """
        limit = self._settings.max_upload_gb * GB
        if n_bytes > limit:
            raise Refused(413, f"A file may have {limit / GB:g} GB, this one has {n_bytes / GB:.1f}.", "Split it.")
        quota = self._settings.quota_gb * GB
        if self.kept_bytes(owner) + kept + n_bytes > quota:
            raise Refused(507, f"The quota of {quota / GB:g} GB is used up.", "Delete jobs and uploads.")
        free = disk_free_bytes(self._folder)
        if free is not None and free - n_bytes < self._settings.min_free_gb * GB:
            raise Refused(507, "The disk of the service is nearly full.", "Try again later.")

    def _as_it_lies(self, upload: Upload) -> Upload:
        if upload.is_complete:
            return upload
        try:
            size = self.path(upload.id).stat().st_size
        except FileNotFoundError:
            size = 0
        return Upload(upload.id, upload.owner, upload.name, upload.digest, size, False, upload.touched)


def plain_name(name: str) -> str:
    """The last part of a name, of letters that no shell, log or header trips over."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    cleaned = _NAME.sub("_", last).strip(" .")[-120:]
    return cleaned or "scan"
