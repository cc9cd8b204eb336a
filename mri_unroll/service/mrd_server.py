"""The MRD socket: a scanner sends readouts while it measures and gets pictures back on the same connection.

``python -m mri_unroll.service.mrd_server FD`` reads its settings as JSON from standard input. A session is written into
an ISMRMRD file as it comes and reconstructed as a job like any other, of the owner ``mrd``; its own thread waits for
it, so that nobody waits for somebody else's. Whatever goes wrong is told to the scanner as a text, and CLOSE is sent
once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from mri_unroll.config import from_mapping
from mri_unroll.errors import InputError, MriUnrollError, UnsupportedScan
from mri_unroll.io import mrd_stream
from mri_unroll.io.mrd_session import SessionFile
from mri_unroll.service import confine
from mri_unroll.service.jobs import Job, Jobs
from mri_unroll.service.log import configure
from mri_unroll.service.methods import Methods
from mri_unroll.service.mrd_config import Asked
from mri_unroll.service.mrd_link import Gone, has_left, linger, read, say, turn_away
from mri_unroll.service.rates import Rates
from mri_unroll.service.schema import connect
from mri_unroll.service.settings import GB, ServiceSettings
from mri_unroll.service.task import RESULTS
from mri_unroll.service.uploads import Refused, Uploads
from mri_unroll.service.wish import Wish

_log = logging.getLogger(__name__)
OWNER = "mrd"
_LOOK = 0.2  # seconds between looks at the job
_WAIT = 2.0  # seconds for one of the sessions to end, before somebody is turned away
_MOST_THREADS = 300
_TELL = 5.0  # seconds between words about it
_GRACE = 8.0  # seconds for sessions under way when told to stop


class Server:
    """Takes sessions until it is closed.

    Parameters
    ----------
    settings
        Of the service.
    listening
        A socket that listens.
    """

    def __init__(self, settings: ServiceSettings, listening: socket.socket) -> None:
        self._settings, self._listening = settings, listening
        engine = connect(settings.database_url)
        self._jobs = Jobs(engine, settings.lease_seconds, settings.attempts)
        self._uploads = Uploads(engine, settings)
        self._methods = Methods(settings)
        self._free = threading.BoundedSemaphore(settings.mrd_sessions)
        self._rates = Rates()
        self._turn, self._of_address = threading.Lock(), Counter[str]()  # sessions, waiting ones too
        self._links: set[socket.socket] = set()  # of sessions under way
        self._is_stopping = False

    def stop(self) -> None:
        """Tell those who are sending or waiting that nothing will come; who is being given pictures gets them all."""
        self._is_stopping = True
        late = time.monotonic() + _GRACE
        while self._links and time.monotonic() < late:
            for link in tuple(self._links):
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RD)  # who waits for it wakes up
            time.sleep(_LOOK / 2)

    def run(self) -> None:
        """Accept; every session has a thread."""
        while True:
            link, address = self._listening.accept()
            link.settimeout(self._settings.mrd_idle_seconds)
            if not self._rates.allow(address[0], self._settings.mrd_connections_per_minute):
                _log.warning("too many connections", extra={"host": address[0]})
                turn_away(link)
            elif threading.active_count() > _MOST_THREADS:
                link.close()
            else:
                threading.Thread(target=self._admit, args=(link, address[0]), daemon=True).start()

    def _admit(self, link: socket.socket, host: str) -> None:
        most = self._settings.mrd_sessions_per_address
        with self._turn:
            is_one_too_many = self._of_address[host] >= most
            self._of_address[host] += not is_one_too_many
        if is_one_too_many:
            self._refuse(link, f"{most} sessions of this address are under way.")
            return
        try:
            if self._free.acquire(timeout=_WAIT):
                self._attend(link)
            else:
                self._refuse(link, f"{self._settings.mrd_sessions} sessions are under way.")
        finally:
            with self._turn:
                self._of_address[host] -= 1
                self._of_address += Counter()  # forgets those at zero

    def _refuse(self, link: socket.socket, reason: str) -> None:
        with link, suppress(OSError):
            say(link, "ERROR", f"{reason} Try again later.")
            link.sendall(mrd_stream.close_message())
            linger(link)

    def _attend(self, link: socket.socket) -> None:
        began = time.monotonic()
        self._links.add(link)
        try:
            with link:
                try:
                    self._session(link)
                except (MriUnrollError, Refused) as error:
                    say(link, "ERROR", f"{error.message} {error.hint}".strip())
                except Gone:
                    if not self._is_stopping:
                        raise
                    say(link, "ERROR", "The service is being stopped. Send the scan again.")
                except Exception as error:
                    _log.exception("session failed")
                    say(link, "ERROR", f"The service failed ({type(error).__name__}).")
                    raise
                finally:
                    link.sendall(mrd_stream.close_message())
                    linger(link)
        except (OSError, Gone):
            _log.info("session broken off")
        finally:
            self._links.discard(link)
            self._free.release()
            _log.info("session ends", extra={"seconds": round(time.monotonic() - began, 3)})

    def _session(self, link: socket.socket) -> None:
        path = self._uploads.path(f"mrd.{os.getpid()}.{threading.get_ident()}.{time.monotonic_ns()}.part")
        try:
            wish = self._record(link, path)
            self._methods.check(wish.method, None)
            upload = self._uploads.begin(OWNER, "scan.h5", "")
            try:
                path.replace(self._uploads.path(upload.id))
                self._uploads.keep(upload, is_complete=True)
                job = self._jobs.submit(OWNER, upload.id, upload.name, wish.model_dump(exclude_defaults=True))
                _log.info("session is a job", extra={"job": job.id})
                try:
                    self._give_back(link, self._waited_for(link, job))
                finally:
                    self._jobs.cancel(job.id)  # nothing to a job that has ended
            finally:
                self._uploads.delete(upload.id)
        finally:
            path.unlink(missing_ok=True)

    def _record(self, link: socket.socket, path: Path) -> Wish:
        """Write a session into a file, to its CLOSE; gives what was asked for."""
        most = self._settings.max_upload_gb * GB
        asked, file, n_waveforms = Asked(), None, 0
        with ExitStack() as closing:
            for number, content in mrd_stream.messages(lambda count: read(link, count), most):
                if number in (mrd_stream.CONFIG_FILE, mrd_stream.CONFIG_TEXT):
                    asked.add(content, is_name=True)
                elif number == mrd_stream.HEADER and file is None:
                    self._uploads.admit(OWNER, 0, self._jobs.kept_bytes(OWNER))
                    file = closing.enter_context(SessionFile(path, content))
                elif number == mrd_stream.TEXT:
                    asked.add(content)
                elif number == mrd_stream.ACQUISITION:
                    if file is None:
                        raise InputError("Readouts came before the header.", "Send CONFIG and HEADER first.")
                    file.add(content)
                    if file.count % 4096 == 0:
                        self._uploads.admit(OWNER, 0, 0)
                elif number == mrd_stream.WAVEFORM:
                    n_waveforms += 1
                elif number == mrd_stream.IMAGE:
                    raise UnsupportedScan("Images were sent.", "Send raw data: set the emitter to `raw`.")
        if file is None or file.count == 0:
            raise InputError("The session holds no raw data.", "Send HEADER and readouts before CLOSE.")
        if n_waveforms:
            _log.info("waveforms are not used", extra={"count": n_waveforms})
            say(link, "INFO", f"{n_waveforms} waveforms came, which are not used.")
        return asked.wish()

    def _waited_for(self, link: socket.socket, job: Job) -> Job:
        """Wait for a job's end, and say now and then how it goes."""
        told = time.monotonic()
        while True:
            found = self._jobs.get(job.id)
            if found is None:
                raise InputError("The job was deleted.", "Send the scan again.")
            if found.is_ended:
                return found
            if has_left(link):
                raise Gone
            if time.monotonic() - told > _TELL:
                say(link, "INFO", found.stage or found.state)
                told = time.monotonic()
            time.sleep(_LOOK)

    def _give_back(self, link: socket.socket, job: Job) -> None:
        if job.error is not None:
            raise InputError(job.error["message"], job.error["hint"])
        if not job.result:
            raise InputError(f"The job was {job.state}.", "Send the scan again.")
        with (self._settings.folder / "results" / job.result / RESULTS["mrd"][0]).open("rb") as stream:
            link.sendfile(stream)


def main() -> None:
    """Listen until SIGTERM, or until the parent ends."""
    confine.end_with_parent()
    settings: ServiceSettings = from_mapping(json.loads(sys.stdin.readline()), ServiceSettings)
    configure()
    server = Server(settings, socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        server.run()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
