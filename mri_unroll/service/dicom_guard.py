"""What keeps a DICOM listener alive when peers lie about lengths, fall silent in the middle, or come too often.

pynetdicom reads as many bytes as a peer announces, up to 4 GB into memory, and waits for them without end. Its
associations read through `AssociationSocket.recv`; here that refuses what is too long and gives up on what is too slow.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from mri_unroll.service.rates import Rates

_log = logging.getLogger(__name__)
MOST_BYTES = 2**20  # of one PDU; those that peers send are as long as we allow in the negotiation, 16 kB
PATIENCE = 10.0  # seconds for one PDU to arrive


def guard_associations() -> None:
    """Bound every read of every association of this process, from now on.

    Raises
    ------
    RuntimeError
        If pynetdicom no longer reads where this expects it.
    """
    read = getattr(AssociationSocket, "recv", None)
    if read is None:
        raise RuntimeError("pynetdicom has no AssociationSocket.recv.")
    if getattr(read, "is_guarded", False):
        return

    def recv(self: Any, nr_bytes: int) -> bytearray:
        if nr_bytes > MOST_BYTES:
            self.close()
            return bytearray()
        late, found = time.monotonic() + PATIENCE, bytearray()
        while len(found) < nr_bytes:
            left = late - time.monotonic()
            if left <= 0 or self.socket is None:
                self.close()
                return bytearray()
            self.socket.settimeout(left)
            try:
                part = self.socket.recv(min(nr_bytes - len(found), 2**16))
            except OSError:  # too slow, or gone
                self.close()
                return bytearray()
            if not part:
                return found
            found += part
        self.socket.settimeout(None)
        return found

    recv.is_guarded = True  # type: ignore[attr-defined]
    AssociationSocket.recv = recv  # type: ignore[method-assign]


class RationedServer(ThreadedAssociationServer):
    """Listens, and hangs up at once on whoever has connected too often within a minute.

    Parameters
    ----------
    per_minute
        Connections of one address.
    """

    def __init__(self, *args: Any, per_minute: int, **more: Any) -> None:
        self._rates, self._per_minute = Rates(), per_minute
        super().__init__(*args, **more)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is answered."""
        is_allowed = self._rates.allow(client_address[0], self._per_minute)
        if not is_allowed:
            _log.warning("too many connections", extra={"host": client_address[0]})
        return is_allowed
