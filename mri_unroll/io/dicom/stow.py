"""Sending by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from mri_unroll.errors import InputError
from mri_unroll.io.dicom.outbox import DUPLICATE, NO_RESOURCES, Answer, Parcel
from mri_unroll.io.dicom.peer import Peer
from mri_unroll.io.dicom.store import Interrupted, Outcome

_BATCH_BYTES = 32 * 2**20
_BATCH = 64  # instances
_TOKEN, _USER, _PASSWORD = (f"MRI_UNROLL_DICOMWEB_{name}" for name in ("TOKEN", "USER", "PASSWORD"))
_AGAIN_LATER = {408, 429, 500, 502, 503, 504, 507}


class _Bearer(requests.auth.AuthBase):
    """A token; as an authentication of its own, so that a netrc file cannot replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def stow(parcels: Sequence[Parcel], peer: Peer, outcome: Outcome, timeout: float) -> None:
    """Send in batches. Certificates are checked (``REQUESTS_CA_BUNDLE`` names other authorities).

    Raises
    ------
    InputError
        If the peer does not let us in, or its certificate is not trusted.
    Interrupted
        If it cannot be reached, is full or fails.
    """
    with requests.Session() as session:
        session.max_redirects = 0  # pictures go where the user said, nowhere else
        if token := os.environ.get(_TOKEN):
            session.auth = _Bearer(token)
        elif user := os.environ.get(_USER):
            session.auth = (user, os.environ.get(_PASSWORD, ""))
        # one piece: dicomweb-client's chunks cannot be sent a second time
        client = DICOMwebClient(peer.address, session=session, timeout=timeout, chunk_size=2**31)
        client.set_http_retry_params(retry=False)
        for batch in _batches(parcels):
            _send(batch, client, peer, outcome)


def _batches(parcels: Sequence[Parcel]) -> Iterator[list[Parcel]]:
    batch: list[Parcel] = []
    for parcel in parcels:
        if batch and (len(batch) >= _BATCH or sum(one.size for one in batch) + parcel.size > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(parcel)
    if batch:
        yield batch


def _send(batch: list[Parcel], client: DICOMwebClient, peer: Peer, outcome: Outcome) -> None:
    answer: Dataset | None
    try:
        answer = client.store_instances([pydicom.dcmread(parcel.path) for parcel in batch])
    except requests.exceptions.SSLError as error:
        raise InputError(
            f"The certificate of {peer.host} is not trusted.", "Name its authority in REQUESTS_CA_BUNDLE."
        ) from error
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"{peer.address} does not let us in (HTTP {status}).",
                f"Set {_TOKEN}, or {_USER} and {_PASSWORD}, or an entry in netrc.",
            ) from error
        if status in _AGAIN_LATER:
            raise Interrupted(f"{peer.address} fails for now (HTTP {status}).", "Send again later.") from error
        answer = _listed(error.response) if status == 409 else None  # none was stored, and the peer may say why
        if answer is None and len(batch) > 1 and status in (400, 409, 413):  # find out which of them is at fault
            for parcel in batch:
                _send([parcel], client, peer, outcome)
            return
        if answer is None and status in (400, 409, 413):
            outcome(batch[0], Answer(False, f"the peer refuses it (HTTP {status})"))
            return
        if answer is None:
            raise InputError(
                f"{peer.address} does not take objects (HTTP {status}).",
                "Check the path, as in https://HOST/dicom-web.",
            ) from error
    except requests.TooManyRedirects as error:
        raise InputError(f"{peer.address} sends us elsewhere.", "Give the final address.") from error
    except requests.RequestException as error:
        raise Interrupted(f"{peer.address} cannot be reached or broke off.", "Check address and network.") from error
    _tell(batch, answer, peer, outcome)


def _listed(response: requests.Response | None) -> Dataset | None:
    """What a refusal lists; None if it lists nothing that can be read."""
    try:
        found = Dataset.from_json(response.content) if response is not None else None
    except Exception:  # a stranger's words, which pydicom takes apart
        return None
    return found if found is not None and found.get("FailedSOPSequence") else None


def _tell(batch: list[Parcel], answer: Dataset, peer: Peer, outcome: Outcome) -> None:
    # on success some peers give an empty FailedSOPSequence; what they name in it, and only that, has failed
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or 0x0110)
        for item in answer.get("FailedSOPSequence", [])
    }
    stored = {
        str(item.ReferencedSOPInstanceUID): int(item.get("WarningReason") or 0)
        for item in answer.get("ReferencedSOPSequence", [])
    }
    full = None
    for parcel in batch:
        if parcel.instance in stored:
            outcome(parcel, Answer.of_status(stored[parcel.instance]))
        elif (reason := failed.get(parcel.instance)) is None:
            outcome(parcel, Answer(False, "the peer did not say that it stored it"))
        elif reason in NO_RESOURCES:
            full = reason  # the rest of the batch may be stored all the same
        else:  # what is listed as failed is not stored, whatever the number, unless it is there already
            outcome(parcel, Answer(reason == DUPLICATE, Answer.of_status(reason).said))
    if full is not None:
        raise Interrupted(f"{peer.address} is out of resources (reason {full:04X}).", "Send again later.")
