"""Sending: a server in this process that refuses, breaks off and dawdles; and a real archive."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `dicom` is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid  # noqa: E402
from support.dicom import CANARIES, write_series  # noqa: E402
from support.files import write_fastmri  # noqa: E402
from support.network import alone  # noqa: E402
from typer.testing import CliRunner, Result  # noqa: E402

from mri_unroll.cli import app  # noqa: E402
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
    assert [name for name, _ in report.warned] == ["2.dcm"]  # stored, but not as it was
    assert "B007" in report.warned[0][1]


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


# --- STOW-RS: a server that says what a test wants


Said = tuple[int, Dataset | None]  # HTTP status and what the answer lists


@contextmanager
def web(files: list[Path], answer: Callable[[list[str], int], Said], certificate: Path | None = None) -> Iterator[Any]:
    """A peer; ``answer`` gets the identifiers that came and the number of the request. Yields address and requests."""
    known = [str(pydicom.dcmread(path).SOPInstanceUID) for path in files]
    requests: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came = [uid for uid in known if uid.encode() in body]
            requests.append(came)
            status, listed = answer(came, len(requests))
            content = CANARY.encode() if listed is None else listed.to_json().encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if listed is None else "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        running.socket = context.wrap_socket(running.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{running.server_port}/dicom-web", requests
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def listing(stored: dict[str, int | None], failed: dict[str, int]) -> Dataset:
    """The answer of PS3.18 10.5.3: what was stored, perhaps with a warning, and what failed."""
    found = Dataset()
    for keyword, reason, items in (
        ("ReferencedSOPSequence", "WarningReason", stored),
        ("FailedSOPSequence", "FailureReason", failed),
    ):
        sequence = []
        for uid, number in items.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, uid
            if number is not None:
                setattr(item, reason, number)
            sequence.append(item)
        setattr(found, keyword, sequence)
    return found


def all_stored(came: list[str], _: int) -> Said:
    return 200, listing(dict.fromkeys(came), {})


def test_a_web_peer_that_fails_for_now_is_asked_again(tmp_path: Path) -> None:
    files = write(tmp_path)
    with web(files, lambda came, n: (503, None) if n < 3 else all_stored(came, n)) as (address, requests):
        report = send(files, address, ledger=tmp_path / "l", backoff=0.01)
        again = send(files, address, ledger=tmp_path / "l")
    assert (report.sent, report.failed, again.sent, again.already) == (5, (), 0, 5)
    assert len(requests) == 3


def test_a_web_peer_that_keeps_failing_ends_it_without_its_words(tmp_path: Path) -> None:
    files = write(tmp_path, 2)
    with web(files, lambda came, n: (500, None)) as (address, requests), pytest.raises(DeviceError) as caught:
        send(files, address, ledger=tmp_path / "l", backoff=0.01, attempts=2)
    assert "HTTP 500" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert len(requests) == 2


def test_a_refusal_that_says_why_is_passed_on(tmp_path: Path) -> None:
    files = write(tmp_path, 4)

    def answer(came: list[str], n: int) -> Said:
        return 409, listing({}, dict(zip(came, (0xA900, 0x0111, 0x0124, 0xB00E), strict=True)))

    with web(files, answer) as (address, requests):
        report = send(files, address, ledger=tmp_path / "l")
    assert len(requests) == 1
    assert report.sent == 1  # the peer had it
    # a number that would be a warning elsewhere: what is listed as failed is not stored
    found = {name: reason[-5:-1] for name, reason in report.failed}
    assert found == {"0.dcm": "A900", "2.dcm": "0124", "3.dcm": "B00E"}


@pytest.mark.parametrize("status", [400, 409, 413])
def test_a_refusal_without_a_reason_is_traced_to_its_object(status: int, tmp_path: Path) -> None:
    files = write(tmp_path, 4)
    bad = str(pydicom.dcmread(files[2]).SOPInstanceUID)
    with web(files, lambda came, n: (status, None) if bad in came else all_stored(came, n)) as (address, _):
        report = send(files, address, ledger=tmp_path / "l")
    assert report.sent == 3
    assert [name for name, _ in report.failed] == ["2.dcm"]
    assert str(status) in report.failed[0][1]


def test_warnings_and_a_full_peer_on_the_web(tmp_path: Path) -> None:
    files = write(tmp_path, 3)

    def answer(came: list[str], n: int) -> Said:
        if n == 1:
            return 202, listing({came[0]: 0xB000, came[1]: None}, {came[2]: 0xA700})
        return all_stored(came, n)

    with web(files, answer) as (address, requests):
        report = send(files, address, ledger=tmp_path / "l", backoff=0.01)
    assert report.sent == 3
    assert [name for name, _ in report.warned] == ["0.dcm"]
    assert [len(came) for came in requests] == [3, 1]  # only what was not stored went again


@pytest.mark.parametrize(("status", "words"), [(401, "let us in"), (404, "does not take"), (302, "elsewhere")])
def test_a_web_peer_that_is_none(status: int, words: str, tmp_path: Path) -> None:
    files = write(tmp_path, 2)
    with web(files, lambda came, n: (status, None)) as (address, requests), pytest.raises(InputError, match=words):
        send(files, address, ledger=tmp_path / "l")
    assert len(requests) == 1


def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files, both = write(tmp_path, 1), tmp_path / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"),
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "cert").read_bytes())
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with web(files, all_stored, both) as (address, requests):
        with pytest.raises(InputError, match="certificate"):
            send(files, address, ledger=tmp_path / "l")
        assert requests == []  # nothing went to whom we do not know
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert"))
        assert send(files, address, ledger=tmp_path / "l").sent == 1


# --- the command line


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_a_restored_study_is_sent(tmp_path: Path) -> None:
    write_series(tmp_path / "study", count=3, shape=(48, 40))
    restore = ("--mode", "restore", "--psf", "gaussian:2", "--method", "wiener")
    out = tmp_path / "out"
    with server(lambda event, n: 0xC000 if n == 2 else 0) as (address, kept):
        done = run("recon", tmp_path / "study", "-o", out, *restore, "--send", address)
        assert done.exit_code == 2  # the pictures are there, but the archive has not all of them
        assert "refused 1 of 3 files" in done.stderr
        assert f"mri-unroll send {out} {address}" in done.stderr
        assert len(kept) == 2
        rest = run("send", out, address)
        assert rest.exit_code == 0, rest.stderr
        assert "1 files sent" in rest.stderr
        assert "2 were there already" in rest.stderr
        assert run("send", out, address).exit_code == 0
    written = {str(pydicom.dcmread(path).SOPInstanceUID) for path in out.rglob("*.dcm")}
    assert sorted(kept) == sorted(written)  # each once
    for text in (done.stdout + done.stderr, rest.stdout + rest.stderr, (out / "sent.jsonl").read_text()):
        assert [canary for canary in CANARIES if canary in text] == []


def test_raw_data_are_sent_as_dicom(tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5")
    made = ("--method", "zero-filled", "--format", "dicom", "--allow-synthetic-geometry")
    with server(lambda event, n: 0) as (address, kept):
        done = run("recon", scan, "-o", tmp_path / "out", *made, "--send", address)
        assert done.exit_code == 0, done.stderr
        assert len(kept) == len(list((tmp_path / "out").rglob("*.dcm"))) == 3


def test_an_address_is_checked_before_the_work(tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "scan.h5")
    made = ("--method", "zero-filled", "--format", "dicom", "--allow-synthetic-geometry")
    done = run("recon", scan, "-o", tmp_path / "out", *made, "--send", "ftp://host/x")
    assert done.exit_code == 2
    assert "dicom://AET@HOST:PORT" in done.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        assert run("send", folder, "dicom://A@127.0.0.1:1").exit_code == 2


# --- a real archive


def test_round_trip_with_a_real_archive(tmp_path: Path) -> None:
    if shutil.which("Orthanc") is None or not list(Path("/usr/lib/orthanc").glob("libOrthancDicomWeb.so.*")):
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    files = write(tmp_path)
    (tmp_path / "work").mkdir()
    found, said = alone("tests.support.orthanc", tmp_path / "work", *files)
    assert "does not let us in (HTTP 401)" in found["without a password"]
    for road in ("store", "stow"):
        assert found[road] == {"sent": 5, "failed": [], "again": 0, "forgotten": 5, "held": 5, "same": 5}, road
    assert found["killed"]
    assert found["rest"][2:] == [5, 5]
    assert sum(found["rest"][:2]) == 5
    assert CANARY not in said
