"""Sending by C-STORE (PS3.4 Annex B, PS3.7 9.1.1)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import pydicom
from pynetdicom import AE, _config
from pynetdicom.association import Association

from mri_unroll.errors import DeviceError, InputError, MriUnrollError
from mri_unroll.io.dicom.outbox import NO_RESOURCES, Answer, Parcel
from mri_unroll.io.dicom.peer import Peer

_MAX_CONTEXTS = 128  # of one association, PS3.8 9.3.2.2
Outcome = Callable[[Parcel, Answer], None]


class Interrupted(DeviceError):
    """The peer went away or is full: worth another try later."""


def store(parcels: Sequence[Parcel], peer: Peer, outcome: Outcome, timeout: float) -> None:
    """Send over one association, or several where there are more kinds of objects than one can negotiate.

    Raises
    ------
    InputError
        If the peer refuses the association for good.
    Interrupted
        If it cannot be reached, breaks off, or is out of resources.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # its log names instances
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    _knock(peer, timeout)
    kinds = list(dict.fromkeys((parcel.sop_class, parcel.syntax) for parcel in parcels))
    for first in range(0, len(kinds), _MAX_CONTEXTS):
        part = kinds[first : first + _MAX_CONTEXTS]
        entity = AE(ae_title=peer.calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout
        for sop_class, syntax in part:
            entity.add_requested_context(sop_class, syntax)
        association = entity.associate(peer.host, peer.port, ae_title=peer.called)
        if not association.is_established:
            raise _why_not(association, peer)
        try:
            accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            for parcel in parcels:
                if (kind := (parcel.sop_class, parcel.syntax)) in part:
                    if kind in accepted:
                        outcome(parcel, _send(parcel, association, peer))
                    else:
                        outcome(parcel, Answer(False, "the peer takes no such SOP class in this transfer syntax"))
        finally:
            if association.is_established:
                association.release()


def _send(parcel: Parcel, association: Association, peer: Peer) -> Answer:
    dataset = pydicom.dcmread(parcel.path)
    try:
        answer = association.send_c_store(dataset)
    except RuntimeError as error:  # the association ended meanwhile
        raise _broken(peer) from error
    except (ValueError, AttributeError):
        return Answer(False, "it cannot be encoded as its header says")
    if "Status" not in answer:  # time ran out, or the peer broke off
        raise _broken(peer)
    status = int(answer.Status)
    if status in NO_RESOURCES:
        raise Interrupted(f"{peer.address} is out of resources (status {status:04X}).", "Send again later.")
    return Answer.of_status(status)


def _broken(peer: Peer) -> Interrupted:
    return Interrupted(f"{peer.address} broke off or did not answer in time.", "Send again: only the rest is sent.")


def _why_not(association: Association, peer: Peer) -> MriUnrollError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        result, source, reason = (getattr(answer, name, None) for name in ("result", "result_source", "diagnostic"))
        if result == 2:  # transient, PS3.8 9.3.4
            return Interrupted(f"{peer.address} is too busy to take an association.", "Send again later.")
        if source == 1 and reason == 7:
            return InputError(f"{peer.host} knows no application entity {peer.called!r}.", "Check the called AET.")
        if source == 1 and reason == 3:
            return InputError(f"{peer.address} does not know us as {peer.calling!r}.", "Add `?calling=AET`.")
        return InputError(f"{peer.address} refuses the association.", "Ask its administrator to allow this sender.")
    return Interrupted(f"{peer.address} ended the association.", "Check that it speaks DICOM and accepts us.")


def _knock(peer: Peer, timeout: float) -> None:
    """See whether anybody listens: pynetdicom does not say why a connection failed, and leaves its socket open."""
    try:
        socket.create_connection((peer.host, peer.port), timeout).close()
    except socket.gaierror as error:
        raise InputError(f"There is no host {peer.host}.", "Check the address.") from error
    except OSError as error:
        reason = error.strerror or "no answer"
        raise Interrupted(f"{peer.address} cannot be reached: {reason}.", "Check host and port.") from error
