"""Sending DICOM to an archive: the command ``mri-unroll send``, and what ``--send`` of `recon` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mri_unroll.errors import InputError
from mri_unroll.terminal import AsJson, Debug, Events, guarded, listening, put_json, tell


@guarded
def send(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With DICOM files, in it or below.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="dicom://AET@HOST:PORT or https://HOST/dicom-web.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Send DICOM files to an archive; what it has acknowledged is noted in FOLDER/sent.jsonl and not sent again."""
    check_address(address)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", "Name the folder that `recon` wrote.")
    files = sorted(folder.rglob("*.dcm"))
    if not files:
        raise InputError(f"{folder} holds no DICOM file (*.dcm).", "Name the folder that `recon` wrote.")
    with listening(as_json) as events:
        send_files(files, address, folder, events, as_json)


def check_address(address: str) -> None:
    """Refuse an address that cannot be sent to before anything is made."""
    from mri_unroll.io.dicom.peer import parse_address

    parse_address(address)


def send_files(files: list[Path], address: str, out: Path, events: Events, as_json: bool) -> None:
    """Send what was written; a file ``sent.jsonl`` beside it says what the peer has.

    Raises
    ------
    InputError
        If the peer refused some.
    """
    from mri_unroll.io.dicom.send import send as send_all

    events({"event": "start", "input": f"{len(files)} files", "method": address, "title": "sending"})
    report = send_all(files, address, ledger=out / "sent.jsonl", events=lambda event: events({**event, "unit": "file"}))
    said = f"{report.sent} files sent to {report.address}, {report.already} were there already"
    if as_json:
        put_json(
            {
                "event": "sent",
                "sent": report.sent,
                "already": report.already,
                "failed": report.failed,
                "warned": report.warned,
            }
        )
    else:
        tell(said)
    for name, warning in report.warned[:1]:
        more = f", and of {len(report.warned) - 1} more files" if len(report.warned) > 1 else ""
        tell(f"warning: the archive says of {name}: {warning}{more}")
    if not report.is_complete:
        name, reason = report.failed[0]
        raise InputError(
            f"The archive refused {len(report.failed)} of {len(files)} files; {name}: {reason}.",
            f"What it took is noted in sent.jsonl: `mri-unroll send {out} {address}` tries the rest again.",
        )
