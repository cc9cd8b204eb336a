"""Results on their way to other archives: kept on the disk until every receiver has acknowledged every object."""

from __future__ import annotations

import json
import logging
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from mri_unroll.errors import MriUnrollError
from mri_unroll.io.atomic import atomic_path
from mri_unroll.io.dicom.send import send

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 1800.0  # seconds before another try; each waits twice as long as the one before
_GIVEN_UP = 7 * 24 * 3600.0  # seconds after which a receiver that has not taken it will not


class Outbox:
    """One folder a parcel: its objects, who is to have them, and what each has.

    Parameters
    ----------
    folder
        Made if missing.
    clock
        Seconds since 1970.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        folder.mkdir(parents=True, exist_ok=True)
        self._next: dict[str, tuple[float, float]] = {}  # parcel and receiver: when to try, and the pause after that

    def put(self, name: str, archive: Path, receivers: list[str]) -> None:
        """Add the objects of a zip; the same name again is the same parcel."""
        target, part = self._folder / name, self._folder / f"{name}.part"
        if target.exists():
            return
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        with zipfile.ZipFile(archive) as packed:  # made by our own process, of names that it checked
            for number, member in enumerate(packed.namelist()):
                (part / f"{number:05d}.dcm").write_bytes(packed.read(member))
        about = {"receivers": receivers, "since": self._clock()}
        (part / "about.json").write_text(json.dumps(about), encoding="utf-8")
        part.rename(target)

    def send(self) -> None:
        """Try every parcel that is due; one that all receivers have is gone afterwards."""
        for parcel in sorted(path for path in self._folder.iterdir() if path.suffix != ".part"):
            try:
                self._send(parcel)
            except Exception:  # whatever it is, the others go on
                _log.exception("a parcel cannot be handled", extra={"job": parcel.name})

    def _send(self, parcel: Path) -> None:
        about = json.loads((parcel / "about.json").read_text(encoding="utf-8"))
        left = [address for address in about["receivers"] if not self._sent(parcel, address, about["since"])]
        if not left:
            shutil.rmtree(parcel)
        elif left != about["receivers"]:
            with atomic_path(parcel / "about.json", overwrite=True) as part:
                part.write_text(json.dumps({**about, "receivers": left}), encoding="utf-8")

    def _sent(self, parcel: Path, address: str, since: float) -> bool:
        """Whether a receiver has it, or never will."""
        key, now = f"{parcel.name} {address}", self._clock()
        due, pause = self._next.get(key, (0.0, _FIRST_PAUSE))
        if now < due:
            return False
        try:
            report = send(sorted(parcel.glob("*.dcm")), address, ledger=parcel / "sent.jsonl", attempts=1)
        except MriUnrollError as error:
            _log.warning("a receiver cannot be reached", extra={"job": parcel.name, "status": type(error).__name__})
            reason = "unreachable"
        else:
            if report.is_complete:
                _log.info("sent", extra={"job": parcel.name, "count": report.sent + report.already})
                return True
            _log.warning("a receiver refused objects", extra={"job": parcel.name, "count": len(report.failed)})
            reason = "refused"
        if now - since > _GIVEN_UP:
            _log.error("a receiver never took a result", extra={"job": parcel.name, "status": reason})
            return True
        self._next[key] = (now + pause, min(2 * pause, _LONGEST_PAUSE))
        return False
