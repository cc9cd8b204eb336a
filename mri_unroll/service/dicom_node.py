"""The DICOM node: archives and scanners send series, results go back to whom the rules name.

``python -m mri_unroll.service.dicom_node`` reads its settings as JSON from standard input. An object is on the disk
before its sender hears that it was stored. A series that has not grown for a while is packed and becomes a job of the
owner ``dicom``, by the first rule that fits it; its result waits in an outbox until every receiver has it. All of this
lies on the disk, so that whoever dies finds it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from sqlalchemy.exc import SQLAlchemyError

from mri_unroll.config import from_mapping
from mri_unroll.errors import DeviceError
from mri_unroll.io.atomic import atomic_path, flush_to_disk
from mri_unroll.machine import disk_free_bytes
from mri_unroll.service import confine
from mri_unroll.service.dicom_guard import RationedServer, guard_associations
from mri_unroll.service.dicom_rules import wish_of_rule
from mri_unroll.service.jobs import DONE, Job, Jobs
from mri_unroll.service.log import configure
from mri_unroll.service.outbox import Outbox
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import GB, DicomRule, ServiceSettings
from mri_unroll.service.task import RESULTS
from mri_unroll.service.uploads import Uploads

_log = logging.getLogger(__name__)
OWNER = "dicom"
_LOOK = 0.5  # seconds between looks at the inbox, the jobs and the outbox
_TROUBLE = 5.0  # seconds more when neither disk nor database can be had
_RETURN = 30.0  # seconds for senders whose series a restart cut in two: they come back, at growing intervals
_STORED, _FULL, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_VERIFICATION = "1.2.840.10008.1.1"
_MOST_ASSOCIATIONS = 64
_SYNTAXES = (  # what is read, see docs/dicom.md
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"),
    *("1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.50"),
)


class Node:
    """Receives, and sees series through to their receivers.

    Parameters
    ----------
    settings
        Of the service, with a port, callers and rules.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        engine = connect(settings.database_url)
        self._jobs = Jobs(engine, settings.lease_seconds, settings.attempts)
        self._uploads = Uploads(engine, settings)
        self._inbox, self._arriving = settings.folder / "dicom" / "inbox", settings.folder / "dicom" / "arriving"
        for folder in (self._inbox, self._arriving):
            folder.mkdir(parents=True, exist_ok=True)
        for left in self._arriving.iterdir():  # of a process that died: its sender was told of no success
            left.unlink()
        tempfile.tempdir = str(self._arriving)
        self._outbox = Outbox(settings.folder / "dicom" / "outbox")
        self._waiting, self._taken = settings.folder / "dicom" / "jobs", settings.folder / "dicom" / "taken"
        for folder in (self._waiting, self._taken):
            folder.mkdir(exist_ok=True)
        self._turn = threading.Lock()
        self._since = time.time()  # while nobody listened, silence meant nothing
        self._latest: dict[Association, str] = {}  # what each association sent last: the folder of its series

    def listen(self) -> None:
        """Take associations, in threads of their own."""
        guard_associations()
        _config.LOG_HANDLER_LEVEL = "none"  # its log names persons
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        _config.STORE_RECV_CHUNKED_DATASET = True  # onto the disk, not into memory
        entity = AE(self._settings.dicom_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._settings.dicom_callers)
        entity.maximum_associations = _MOST_ASSOCIATIONS
        entity.acse_timeout, entity.network_timeout, entity.dimse_timeout = 10, 30, 30
        entity.add_supported_context(_VERIFICATION)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax or "", list(_SYNTAXES))
        place = (self._settings.host, self._settings.dicom_port or 0)
        try:
            server = entity.make_server(
                place,
                evt_handlers=[(evt.EVT_C_STORE, self._store)],
                server_class=RationedServer,
                per_minute=self._settings.dicom_connections_per_minute,
            )
        except OSError as error:
            raise DeviceError(
                f"{place[0]}:{place[1]} cannot be listened on: {error.strerror}.", "Choose another `dicom_port`."
            ) from error
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(self) -> None:
        """Look after series, jobs and the outbox for ever."""
        threading.Thread(target=self._send, daemon=True).start()
        while True:
            for step in (self._take_series, self._take_results):
                try:
                    step()
                except (OSError, SQLAlchemyError):
                    _log.exception("the DICOM node cannot write")
                    time.sleep(_TROUBLE)
            time.sleep(_LOOK)

    # --- in

    def _store(self, event: Any) -> int:
        """Keep an object, under names made of hashes; it is on the disk when this answers."""
        free = disk_free_bytes(self._inbox)
        if free is not None and free < self._settings.min_free_gb * GB:
            return _FULL
        path = Path(event.dataset_path)
        try:
            names = ["SeriesInstanceUID", "SOPInstanceUID"]
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(names))
            series, instance = str(header.get("SeriesInstanceUID", "")), str(header.get("SOPInstanceUID", ""))
        except Exception:  # whatever a broken header makes pydicom raise
            _log.exception("an object was refused")
            return _NOT_UNDERSTOOD
        if not series or not instance:
            return _NOT_UNDERSTOOD
        caller = str(event.assoc.requestor.ae_title).strip()
        try:
            flush_to_disk(path)
            with self._turn:
                folder = self._inbox / _hashed(caller, series)
                folder.mkdir(exist_ok=True)
                self._latest[event.assoc] = folder.name
                if not (folder / "caller").exists():
                    _write(folder / "caller", caller)
                part = folder / f"{_hashed(instance)}.part"
                part.unlink(missing_ok=True)
                os.link(path, part)
                part.replace(folder / f"{_hashed(instance)}.dcm")
        except OSError:
            _log.exception("an object could not be kept")
            return _FULL
        return _STORED

    def _take_series(self) -> None:
        """Make a job of every series that has been quiet for long enough, and is not about to be sent more of."""
        for folder in self._inbox.iterdir():
            files = sorted(folder.glob("*.dcm"))
            latest = max([folder.stat().st_mtime, *(path.stat().st_mtime for path in files)])
            quiet = self._settings.dicom_quiet_seconds
            if latest < self._since:  # nothing more has come since this process began
                latest, quiet = self._since, max(quiet, _RETURN)
            if time.time() - latest >= quiet:
                with self._turn:  # what comes from now on begins a series of its own
                    if folder.name not in self._under_way():
                        folder.rename(self._taken / f"{folder.name}.{time.time_ns()}")
        for folder in sorted(self._taken.iterdir()):  # also those of a process that died
            if files := sorted(folder.glob("*.dcm")):
                rule = self._rule(folder, files[0])
                if rule is None:
                    _log.info("a series fits no rule", extra={"count": len(files)})
                else:
                    self._submit(folder, files, rule)
            shutil.rmtree(folder)

    def _under_way(self) -> set[str]:
        """Folders of series whose sender holds the line and has not gone on to another.

        The next object may be large, or the line slow. Who says nothing for the timeout of the network is cut off. To
        be called in turn.
        """
        self._latest = {caller: name for caller, name in self._latest.items() if caller.is_alive()}
        return set(self._latest.values())

    def _rule(self, folder: Path, file: Path) -> DicomRule | None:
        caller = (folder / "caller").read_text(encoding="utf-8")
        try:
            description = str(pydicom.dcmread(file, stop_before_pixels=True).get("SeriesDescription", ""))
        except Exception:  # as in `_store`
            _log.exception("a description cannot be read")
            description = ""
        for rule in self._settings.dicom_rules:
            if rule.caller in ("", caller) and re.search(rule.description, description):
                return rule
        return None

    def _submit(self, folder: Path, files: list[Path], rule: DicomRule) -> None:
        wish = wish_of_rule(rule).model_dump(exclude_defaults=True)
        content = hashlib.sha256()
        for path in files:
            content.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        key = f"{folder.name[:32]}-{content.hexdigest()[:32]}"  # what died on the way submits the same job again
        upload = self._uploads.begin(OWNER, "series.zip", "")
        try:
            with zipfile.ZipFile(self._uploads.path(upload.id), "w", zipfile.ZIP_STORED) as archive:
                for path in files:
                    archive.write(path, path.name)
            self._uploads.keep(upload, is_complete=True)
        except BaseException:  # the series is tried again, and must not leave half a copy each time
            self._uploads.delete(upload.id)
            raise
        job = self._jobs.submit(OWNER, upload.id, upload.name, wish, key)
        if job.is_ended and job.state != DONE:  # it failed once; somebody who sends it again wants another try
            self._jobs.delete(job.id)
            job = self._jobs.submit(OWNER, upload.id, upload.name, wish, key)
        if job.upload != upload.id:
            self._uploads.delete(upload.id)
        _write(self._waiting / job.id, json.dumps(asdict(rule)["send_to"]))
        _log.info("a series is a job", extra={"job": job.id, "count": len(files)})

    # --- out

    def _take_results(self) -> None:
        """Put results of ended jobs into the outbox."""
        for note in self._waiting.iterdir():
            job = self._jobs.get(note.name)
            if job is not None and not job.is_ended:
                continue
            if job is not None and job.state == DONE:
                self._post(job, json.loads(note.read_text(encoding="utf-8")))
            elif job is not None:
                _log.error("a series failed", extra={"job": job.id})
            if job is not None:
                self._uploads.delete(job.upload)
            note.unlink()

    def _post(self, job: Job, receivers: list[str]) -> None:
        archive = self._settings.folder / "results" / job.result / RESULTS["dicom.zip"][0]
        if receivers and archive.is_file():
            self._outbox.put(job.id, archive, receivers)

    def _send(self) -> None:
        while True:
            try:
                self._outbox.send()
            except OSError:
                _log.exception("the outbox cannot be read")
            time.sleep(_LOOK)


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def _write(path: Path, text: str) -> None:
    with atomic_path(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")


def main() -> None:
    """Run until the parent ends."""
    confine.end_with_parent()
    settings = from_mapping(json.loads(sys.stdin.readline()), ServiceSettings)
    configure()
    node = Node(settings)
    node.listen()
    node.run()


if __name__ == "__main__":
    main()
