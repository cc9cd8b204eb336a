"""Sending: a server in this process that refuses, breaks off and dawdles; and a real archive."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `dicom` is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid  # noqa: E402

from mri_unroll.errors import CorruptScan, DeviceError, InputError  # noqa: E402
from mri_unroll.io.dicom.peer import parse_address  # noqa: E402
from mri_unroll.io.dicom.send import send  # noqa: E402

CANARY = "CANARY^NAME"


def write(folder: Path, count: int = 5) -> list[Path]:
    study, series, files = generate_uid(), generate_uid(), []
    for index in range(count):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = MRImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.Modality = study, series, "MR"
        one.PatientName, one.PatientID, one.InstanceNumber = CANARY, "CANARYID", index + 1
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = 7, 9, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelData = np.random.default_rng(index).integers(0, 999, 63).astype("<u2").tobytes()
        files.append(folder / f"{index}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


@contextmanager
def server(answer: Callable[[Any, int], int], **titles: Any) -> Iterator[tuple[str, list[str]]]:
    """A peer that answers the n-th object as it is told; yields its address and what it kept."""
    kept: list[str] = []
    count = 0

    def handle(event: Any) -> int:
        nonlocal count
        count += 1
        status = answer(event, count)
        if status == 0:
            kept.append(str(event.request.AffectedSOPInstanceUID))
        return status

    entity = pynetdicom.AE("PEER")
    entity.add_supported_context(MRImageStorage, ExplicitVRLittleEndian)
    for name, value in titles.items():
        setattr(entity, name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, handle)])
    try:
        yield f"dicom://PEER@127.0.0.1:{port}", kept
    finally:
        running.shutdown()


def test_a_series_goes_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, ledger, events = write(tmp_path), tmp_path / "ledger.jsonl", []
    with caplog.at_level("DEBUG"), server(lambda event, n: 0) as (address, kept):
        first = send(files, address, ledger=ledger, events=events.append)
        again = send(files, address, ledger=ledger)
    assert (first.sent, first.already, again.sent, again.already) == (5, 0, 0, 5)
    assert first.is_complete
    assert len(set(kept)) == len(kept) == 5
    assert events == [{"event": "progress", "done": n, "total": 5} for n in range(1, 6)]
    for text in (ledger.read_text(), repr(first)):
        assert "CANARY" not in text
        assert not any(uid in text for uid in kept)
    assert "CANARY" not in caplog.text


def test_a_peer_that_breaks_off_gets_the_rest(tmp_path: Path) -> None:
    def answer(event: Any, n: int) -> int:
        if n == 3:
            event.assoc.abort()
        return 0

    files = write(tmp_path)
    with server(answer) as (address, kept):
        report = send(files, address, ledger=tmp_path / "ledger.jsonl", backoff=0.05, timeout=5)
    assert report.sent == 5
    assert len(set(kept)) == 5


def test_half_a_line_of_a_killed_sender_costs_one_object(tmp_path: Path) -> None:
    files, ledger = write(tmp_path), tmp_path / "ledger.jsonl"
    with server(lambda event, n: 0) as (address, _):
        send(files, address, ledger=ledger)
        ledger.write_bytes(ledger.read_bytes()[:-9])
        assert send(files, address, ledger=ledger).sent == 1
        assert send(files, address, ledger=ledger).sent == 0


def test_a_refused_object_is_listed_and_the_rest_goes(tmp_path: Path) -> None:
    files = write(tmp_path)
    with server(lambda event, n: {2: 0xC000, 3: 0xB007, 4: 0x0111}.get(n, 0)) as (address, _):
        report = send(files, address, ledger=tmp_path / "ledger.jsonl")
    assert report.sent == 4
    assert [name for name, _ in report.failed] == ["1.dcm"]
    assert "C000" in report.failed[0][1]


def test_a_full_peer_is_a_device_error_after_the_last_attempt(tmp_path: Path) -> None:
    files, ledger = write(tmp_path), tmp_path / "ledger.jsonl"
    full = server(lambda event, n: 0xA700 if n > 2 else 0)
    with full as (address, _), pytest.raises(DeviceError, match="out of resources"):
        send(files, address, ledger=ledger, backoff=0.01)
    assert len(ledger.read_text().splitlines()) == 2


def test_wrong_titles_are_told_apart(tmp_path: Path) -> None:
    files = write(tmp_path, 1)
    strict = server(lambda event, n: 0, require_called_aet=True)
    with strict as (address, _), pytest.raises(InputError, match="knows no application entity 'OTHER'"):
        send(files, address.replace("PEER", "OTHER"), ledger=tmp_path / "l")
    with server(lambda event, n: 0, require_calling_aet=["FRIEND"]) as (address, _):
        with pytest.raises(InputError, match="does not know us"):
            send(files, address, ledger=tmp_path / "l")
        assert send(files, f"{address}?calling=FRIEND", ledger=tmp_path / "l").sent == 1


def test_nobody_is_there(tmp_path: Path) -> None:
    files = write(tmp_path, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(DeviceError, match="cannot be reached"):
            send(files, f"dicom://A@127.0.0.1:{probe.getsockname()[1]}", ledger=tmp_path / "l", attempts=1, timeout=2)


def test_a_slow_peer(tmp_path: Path) -> None:
    files = write(tmp_path, 1)

    def slow(event: Any, n: int) -> int:
        time.sleep(1.5)
        return 0

    with server(slow) as (address, _), pytest.raises(DeviceError, match="in time"):
        send(files, address, ledger=tmp_path / "l", attempts=1, timeout=0.5)


def test_what_is_no_dicom_is_refused_before_anything_goes(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(CorruptScan, match=r"a\.dcm"):
        send([tmp_path / "a.dcm"], "dicom://A@127.0.0.1:1", ledger=tmp_path / "l")


@pytest.mark.parametrize(
    "address",
    ["ftp://h/x", "dicom://A@host", "dicom://host:104", "dicom://SEVENTEENLETTERSX@h:1", "https://u:p@h/x",
     "http://example.org/dicom-web", "dicom://A@h:99999", "https://h/x?token=1"],
)  # fmt: skip
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_address(address)
    assert "p@" not in str(caught.value)


def test_round_trip_with_a_real_archive(tmp_path: Path) -> None:
    if shutil.which("Orthanc") is None or not list(Path("/usr/lib/orthanc").glob("libOrthancDicomWeb.so.*")):
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network of its own needs root")
    files = write(tmp_path)
    (tmp_path / "work").mkdir()
    command = 'ip link set lo up; exec "$0" -m tests.support.orthanc "$@"'
    ran = subprocess.run(
        ["unshare", "-n", "bash", "-c", command, sys.executable, str(tmp_path / "work"), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert "does not let us in (HTTP 401)" in found["without a password"]
    for road in ("store", "stow"):
        assert found[road] == {"sent": 5, "failed": [], "again": 0, "forgotten": 5, "held": 5, "same": 5}, road
    assert found["killed"]
    assert found["rest"][2:] == [5, 5]
    assert sum(found["rest"][:2]) == 5
    assert CANARY not in ran.stderr + ran.stdout
