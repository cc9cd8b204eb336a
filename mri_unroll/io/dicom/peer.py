"""Where a series is sent to: ``dicom://AET@HOST:PORT`` or ``https://HOST/dicom-web``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from mri_unroll.errors import InputError

_FORMS = "Write dicom://AET@HOST:PORT or https://HOST/dicom-web."
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")  # PS3.5, VR AE


@dataclass(frozen=True, slots=True)
class Peer:
    """A receiver of DICOM objects."""

    kind: Literal["store", "stow"]
    address: str  # normalised, without secrets: fit to be shown
    host: str
    port: int
    called: str = ""  # application entity title of the peer
    calling: str = "MRIUNROLL"  # and ours


def parse_address(address: str, allow_plain_http: bool = False) -> Peer:
    """Read an address.

    Parameters
    ----------
    address
        ``dicom://AET@HOST:PORT[?calling=AET]`` or ``https://HOST[:PORT]/PATH``; ``http://`` for this machine alone.
    allow_plain_http
        Let ``http://`` reach other machines: pictures and password then travel in the clear.

    Raises
    ------
    InputError
        If it is neither, or holds a password.
    """
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise InputError("The address to send to cannot be read.", _FORMS) from None
    if parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None):
        raise InputError(
            "The address to send to holds a password or a user.",
            "Put them into MRI_UNROLL_DICOMWEB_USER and MRI_UNROLL_DICOMWEB_PASSWORD.",
        )
    if not host or parts.scheme not in ("dicom", "http", "https"):
        raise InputError("The address to send to is of no known form.", _FORMS)
    shown = f"[{host}]" if ":" in host else host
    if parts.scheme == "dicom":
        query = parse_qs(parts.query, keep_blank_values=True)
        called, calling = parts.username or "", query.pop("calling", ["MRIUNROLL"])[0]
        if port is None or query or parts.path not in ("", "/") or parts.fragment:
            raise InputError("The DICOM address lacks its port or holds something unknown.", _FORMS)
        if not (_TITLE.fullmatch(called) and _TITLE.fullmatch(calling)):
            raise InputError("An application entity title has 1 to 16 characters.", _FORMS)
        return Peer("store", f"dicom://{called}@{shown}:{port}", host, port, called, calling)
    if parts.query or parts.fragment:
        raise InputError("The DICOMweb address holds a query.", "Give the root alone, as in https://HOST/dicom-web.")
    if parts.scheme == "http" and not (allow_plain_http or _is_loopback(host)):
        raise InputError(f"Expected https:// for {host}: http:// would send pictures in the clear.", "Use https://.")
    port = port or (443 if parts.scheme == "https" else 80)
    return Peer("stow", f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}", host, port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
