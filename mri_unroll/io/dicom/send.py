"""Sending a series to an archive: what a peer has acknowledged is not sent again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mri_unroll.io.dicom.outbox import Answer, Ledger, Parcel, gather
from mri_unroll.io.dicom.peer import parse_address
from mri_unroll.io.dicom.store import Interrupted, store
from mri_unroll.io.dicom.stow import stow


@dataclass(frozen=True, slots=True)
class SendReport:
    """What became of the files."""

    address: str  # without secrets
    sent: int  # acknowledged by the peer in this call
    already: int  # acknowledged earlier, so not sent
    failed: tuple[tuple[str, str], ...]  # file name, reason
    warned: tuple[tuple[str, str], ...] = ()  # file name, what the peer said although it stored it

    @property
    def is_complete(self) -> bool:
        """Whether the peer has acknowledged everything."""
        return not self.failed


def send(
    files: Sequence[Path],
    address: str,
    *,
    ledger: Path,
    events: Callable[[dict[str, Any]], None] = lambda event: None,
    attempts: int = 3,
    timeout: float = 30.0,
    backoff: float = 1.0,
    allow_plain_http: bool = False,
) -> SendReport:
    """Send DICOM files; a second call sends only what is missing.

    Parameters
    ----------
    files
        DICOM files.
    address
        ``dicom://AET@HOST:PORT[?calling=AET]`` or ``https://HOST/dicom-web``, see `parse_address`.
    ledger
        File that keeps what was acknowledged; only hashes stand in it.
    events
        Called with ``{"event": "progress", "done": n, "total": n}``.
    attempts
        How often in a row, without any progress, to try a peer that breaks off or is full.
    timeout
        Seconds to wait for an answer.
    backoff
        Seconds before the second attempt; each further one waits twice as long.
    allow_plain_http
        Let ``http://`` leave this machine.

    Returns
    -------
        What was sent; files that the peer refused, or stored with a warning, are listed with what it said.

    Raises
    ------
    InputError
        If the address is wrong, a file is not DICOM, or the peer does not accept us.
    DeviceError
        If the peer stays out of reach or out of resources; what it acknowledged is in the ledger.
    """
    peer = parse_address(address, allow_plain_http)
    parcels = gather(files)
    kept = Ledger(ledger, peer.address)
    already = sum(kept.holds(parcel) for parcel in parcels)
    refused: dict[str, tuple[str, str]] = {}
    warned: list[tuple[str, str]] = []
    sent = 0

    def outcome(parcel: Parcel, answer: Answer) -> None:
        nonlocal sent
        if answer.is_stored:
            kept.add(parcel)
            sent += 1
            if answer.said:
                warned.append((parcel.path.name, answer.said))
        else:
            refused[parcel.digest] = (parcel.path.name, answer.said)
        events({"event": "progress", "done": already + sent + len(refused), "total": len(parcels)})

    carry = store if peer.kind == "store" else stow
    tries = 0
    while rest := [one for one in parcels if not kept.holds(one) and one.digest not in refused]:
        before = len(rest)
        try:
            carry(rest, peer, outcome, timeout)
        except Interrupted:
            moved = sum(not kept.holds(one) and one.digest not in refused for one in parcels) < before
            tries = 1 if moved else tries + 1
            if tries >= attempts:
                raise
            time.sleep(backoff * 2 ** (tries - 1))
    return SendReport(peer.address, sent, already, tuple(refused.values()), tuple(warned))
