"""The DICOM node: series in, results out, and peers that lie or fall silent."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pydicom = pytest.importorskip("pydicom")
pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `dicom` is not installed")

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage  # noqa: E402
from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.transport import AssociationSocket  # noqa: E402
from support.dicom import CANARIES, write_series  # noqa: E402
from support.network import alone  # noqa: E402
from support.service import Running, running  # noqa: E402

from mri_unroll.errors import ConfigError  # noqa: E402
from mri_unroll.io.dicom.send import send  # noqa: E402
from mri_unroll.service import dicom_guard  # noqa: E402
from mri_unroll.service.dicom_node import Node  # noqa: E402
from mri_unroll.service.dicom_rules import check_rules  # noqa: E402
from mri_unroll.service.outbox import Outbox  # noqa: E402
from mri_unroll.service.settings import DicomRule, ServiceSettings  # noqa: E402

RESTORE = {"mode": "restore", "psf": "gaussian:2", "method": "wiener"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def receiver(answer: Callable[[], int] = lambda: 0) -> Iterator[tuple[str, list[Any]]]:
    """An archive that keeps what it answers with 0."""
    kept: list[Any] = []

    def handle(event: Any) -> int:
        status = answer()
        if status == 0:
            kept.append(event.dataset)
        return status

    entity, port = AE("PACS"), free_port()
    entity.add_supported_context(MRImageStorage, ExplicitVRLittleEndian)
    running = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield f"dicom://PACS@127.0.0.1:{port}", kept
    finally:
        running.shutdown()


@contextmanager
def node(folder: Path, receivers: list[str], **more: Any) -> Iterator[tuple[Running, str]]:
    port = free_port()
    rules = [{**RESTORE, "description": "^t1", "send_to": receivers}]
    settings = {"dicom_port": port, "dicom_callers": ["SCANNER"], "dicom_quiet_seconds": 4.0, "dicom_rules": rules}
    settings["dicom_connections_per_minute"] = 100_000  # `node` looks often whether somebody listens
    with running(folder, **{**settings, **more}) as service:
        late = time.monotonic() + 30
        while not listens(port):
            assert time.monotonic() < late, "".join(service.log)
            time.sleep(0.1)
        yield service, f"dicom://MRIUNROLL@127.0.0.1:{port}?calling=SCANNER"


def listens(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def until(true: Callable[[], Any], service: Running, seconds: float = 90) -> Any:
    late = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < late, "".join(service.log)
        time.sleep(0.1)
    return found


def test_a_series_comes_back_restored(tmp_path: Path) -> None:
    """Through the death of the node, in the middle of the series and before the result is sent."""
    is_open = False
    first = write_series(tmp_path / "a", count=4, shape=(48, 40), step=4.0)
    other = write_series(tmp_path / "b", count=3, shape=(48, 40), changes={"SeriesDescription": "localizer of nobody"})
    with (
        receiver(lambda: 0 if is_open else 0xA700) as (address, kept),
        node(tmp_path / "service", [address]) as (service, ours),
    ):
        (process,) = service.children("dicom_node")
        assert send(first[:2], ours, ledger=tmp_path / "l").sent == 2
        os.kill(process, signal.SIGKILL)
        until(lambda: service.children("dicom_node") not in ([], [process]), service)
        report = send([*first, *other], ours, ledger=tmp_path / "l", backoff=1.0, attempts=8)
        assert (report.failed, report.sent + report.already) == ((), 7)
        root = service.client("root-" + "d" * 32)
        jobs = until(lambda: [job for job in root("GET", "/v1/jobs").json() if job["state"] == "done"], service)
        assert len(jobs) == 1  # the other series fits no rule
        outbox = service.data / "dicom" / "outbox"
        until(lambda: [path for path in outbox.iterdir() if path.suffix == ""], service)
        time.sleep(1)
        assert kept == []
        os.kill(service.children("dicom_node")[0], signal.SIGKILL)
        is_open = True
        until(lambda: len(kept) == 4, service)
        sources = {str(pydicom.dcmread(path).SOPInstanceUID) for path in first}
        for one in kept:
            assert one.SourceImageSequence[0].ReferencedSOPInstanceUID in sources
            assert "[RESEARCH]" in one.SeriesDescription
        assert len({one.SOPInstanceUID for one in kept}) == 4
        until(lambda: not list(outbox.iterdir()), service)
        assert send(first, ours, ledger=tmp_path / "again").sent == 4  # the same series again: the same job
        until(lambda: not list((service.data / "dicom" / "inbox").iterdir()), service)
        time.sleep(1)
        assert len(root("GET", "/v1/jobs").json()) == 1
        inbox = [path.name for path in (service.data / "dicom").rglob("*")]
        assert not [name for name in inbox if any(uid in name for uid in sources)]
        assert service.client()("GET", "/v1/jobs").json() == []  # belongs to nobody with a token
    assert [canary for canary in CANARIES if canary in "".join(service.log)] == []


def test_a_slow_sender_s_series_is_one(tmp_path: Path) -> None:
    """Longer than the quiet time passes between two objects; the line stays open until another series begins."""
    first = [pydicom.dcmread(path) for path in write_series(tmp_path / "a", count=2, shape=(48, 40))]
    other = [pydicom.dcmread(path) for path in write_series(tmp_path / "b", count=1, shape=(48, 40))]
    with node(tmp_path / "service", [], dicom_quiet_seconds=1.0) as (service, ours):
        root = service.client("root-" + "d" * 32)
        entity = AE("SCANNER")
        entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        line = entity.associate("127.0.0.1", int(ours.split(":")[-1].split("?")[0]), ae_title="MRIUNROLL")
        for dataset in first:
            assert line.send_c_store(dataset).Status == 0
            time.sleep(3)
        assert root("GET", "/v1/jobs").json() == []
        assert line.send_c_store(other[0]).Status == 0  # what comes next says that the first is whole
        jobs = until(lambda: root("GET", "/v1/jobs").json(), service)
        assert len(jobs) == 1
        line.release()
        until(lambda: len(root("GET", "/v1/jobs").json()) == 2, service)
    said = [json.loads(line) for line in service.log if line.startswith("{")]
    assert [line["count"] for line in said if line["says"] == "a series is a job"] == [2, 1]


def test_only_who_is_named_may_call(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", count=2)
    with node(tmp_path / "service", [], workers=0) as (service, ours):
        for address in (ours.replace("SCANNER", "STRANGER"), ours.replace("MRIUNROLL", "OTHER")):
            with pytest.raises(Exception, match=r"does not know us|knows no application"):
                send(files, address, ledger=tmp_path / "l", attempts=1)
        assert list((service.data / "dicom" / "inbox").iterdir()) == []


def test_who_connects_too_often_waits(tmp_path: Path) -> None:
    with node(tmp_path / "service", [], workers=0, dicom_connections_per_minute=6) as (service, ours):
        port = int(ours.rsplit(":", 1)[1].split("?")[0])
        assert echo(ours) < 5
        links = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(5)]
        try:
            assert links[-1].recv(1) == b""  # `node` has looked, too, so that this is the seventh
            for link in links[:-1]:
                link.settimeout(0.5)
                with pytest.raises(TimeoutError):  # they are listened to
                    link.recv(1)
        finally:
            for link in links:
                link.close()
        said = until(lambda: [line for line in service.log if "too many" in line], service)
        assert json.loads(said[0])["host"] == "127.0.0.1"


def echo(address: str) -> float:
    """Seconds to the answer to a C-ECHO."""
    entity = AE("SCANNER")
    entity.add_requested_context("1.2.840.10008.1.1")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    began = time.monotonic()
    association = entity.associate("127.0.0.1", int(address.rsplit(":", 1)[1].split("?")[0]), ae_title="MRIUNROLL")
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()
    return time.monotonic() - began


def test_silent_and_lying_peers_do_not_stop_it(tmp_path: Path) -> None:
    """64 that announce 4 GB and say nothing more: C-ECHO is answered, and memory stays."""
    with node(tmp_path / "service", [], workers=0) as (service, ours):
        (process,) = service.children("dicom_node")
        port = int(ours.rsplit(":", 1)[1].split("?")[0])

        def memory() -> float:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

        echo(ours)
        before = memory()
        links = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(64)]
        try:
            for number, link in enumerate(links):  # A-ASSOCIATE-RQ or P-DATA-TF of so many bytes
                length = (2**32 - 1) if number % 2 else 60_000
                link.sendall(bytes([1 if number % 4 < 2 else 4, 0]) + length.to_bytes(4, "big") + b"x" * 100)
            late, answered = time.monotonic() + 20, None
            while answered is None and time.monotonic() < late:
                try:
                    answered = echo(ours)
                except AssertionError:  # all places are taken until those who are silent are hung up on
                    time.sleep(0.2)
            assert answered is not None
            assert answered < 5
            assert memory() - before < 64
        finally:
            for link in links:
                link.close()
        assert service.children("dicom_node") == [process]


def test_the_guard_sits_where_pynetdicom_reads() -> None:
    """In a process of its own, because it stays."""
    script = (
        "import socket; from pynetdicom.transport import AssociationSocket as S; "
        "from mri_unroll.service.dicom_guard import guard_associations as g; "
        "assert callable(S.recv) and callable(S.close); g(); g(); assert S.recv.is_guarded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert hasattr(AssociationSocket, "recv")
    assert dicom_guard.MOST_BYTES == 2**20


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"mode": "restore"}, "point spread"),
        ({"mode": "restore", "psf": "measured:/etc/passwd"}, "psf"),
        ({**RESTORE, "send_to": ("ftp://x",)}, "form"),
        ({**RESTORE, "description": "("}, "regular expression"),
    ],
)
def test_rules_are_checked_before_anything_starts(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_rules(ServiceSettings(data_dir="x", dicom_port=1, dicom_callers=("A",), dicom_rules=(DicomRule(**rule),)))


def test_a_node_needs_callers_and_rules() -> None:
    with pytest.raises(ConfigError, match="dicom_callers"):
        ServiceSettings(data_dir="x", dicom_port=104)


def test_the_outbox_gives_up_after_a_week(tmp_path: Path) -> None:
    now = 1e9
    archive = tmp_path / "a.zip"
    with_one = write_series(tmp_path / "a", count=1)
    subprocess.run([sys.executable, "-m", "zipfile", "-c", archive, *with_one], check=True)
    outbox = Outbox(tmp_path / "outbox", lambda: now)
    outbox.put("job", archive, ["dicom://A@127.0.0.1:1"])
    outbox.put("job", archive, ["dicom://A@127.0.0.1:1"])
    for later in (0, 1, 100, 10_000):
        now = 1e9 + later
        outbox.send()
        assert (tmp_path / "outbox" / "job").is_dir()
    now = 1e9 + 8 * 24 * 3600
    outbox.send()
    assert list((tmp_path / "outbox").iterdir()) == []


def test_a_parcel_that_is_broken_holds_up_no_other(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    subprocess.run([sys.executable, "-m", "zipfile", "-c", archive, *write_series(tmp_path / "a", count=2)], check=True)
    outbox = Outbox(tmp_path / "outbox")
    with receiver() as (address, kept):
        for name in ("a", "b", "c"):
            outbox.put(name, archive, [address])
        (tmp_path / "outbox" / "a" / "about.json").write_text("{")
        outbox.send()
        assert len(kept) == 4
        assert [path.name for path in (tmp_path / "outbox").iterdir()] == ["a"]


def test_a_series_cut_in_two_by_a_restart_waits_for_its_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was half way tries again after seconds that grow; the half that is here is not taken for the whole."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # which the node changes
    rules = (DicomRule(mode="restore", psf="gaussian:2"),)
    place = {"data_dir": str(tmp_path), "dicom_port": 1, "dicom_callers": ("A",), "dicom_rules": rules}
    began = time.time()
    halves = {}
    for name, age in (("before", -3600.0), ("since", 1.0)):  # seconds from the start to the last object
        halves[name] = tmp_path / "dicom" / "inbox" / name
        halves[name].mkdir(parents=True)
        (halves[name] / "caller").write_text("A")
        for path in write_series(tmp_path / name, count=2):
            shutil.copy(path, halves[name] / f"{path.stem}.dcm")
        for path in [*halves[name].iterdir(), halves[name]]:
            os.utime(path, (began + age, began + age))
    found = Node(ServiceSettings(**place, dicom_quiet_seconds=5.0))
    found._since = began

    def taken_at(seconds: float) -> set[str]:
        monkeypatch.setattr("mri_unroll.service.dicom_node.time.time", lambda: began + seconds)
        found._take_series()
        return {name for name, folder in halves.items() if not folder.exists()}

    assert taken_at(5.5) == set()
    assert taken_at(6.5) == {"since"}
    assert taken_at(29.5) == {"since"}
    assert taken_at(30.5) == {"since", "before"}
    assert len(found._jobs.listed("dicom")) == 2


def test_a_full_disk_leaves_no_halves_of_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy for the job cannot be written, again and again; with room there is one job, and the series is gone."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # which the node changes
    rules = (DicomRule(mode="restore", psf="gaussian:2"),)
    place = ServiceSettings(data_dir=str(tmp_path), dicom_port=1, dicom_callers=("A",), dicom_rules=rules)
    found = Node(place)
    series = tmp_path / "dicom" / "taken" / "series.1"
    series.mkdir()
    (series / "caller").write_text("A")
    for path in write_series(tmp_path / "a", count=2):
        shutil.copy(path, series / f"{path.stem}.dcm")
    write, room = zipfile.ZipFile.write, False

    def full(self: zipfile.ZipFile, *arguments: Any, **more: Any) -> None:
        write(self, *arguments, **more)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            found._take_series()
    assert found._uploads.known() == set()
    assert list((tmp_path / "uploads").iterdir()) == []
    room = True
    found._take_series()
    (job,) = found._jobs.listed("dicom")
    assert found._uploads.known() == {job.upload}
    assert not series.exists()


def test_tools_of_others_can_speak_to_it(tmp_path: Path) -> None:
    if shutil.which("storescu") is None or shutil.which("echoscu") is None:
        pytest.skip("dcmtk is not installed")
    files = write_series(tmp_path / "a", count=2)
    with node(tmp_path / "service", [], workers=0) as (service, ours):
        port = ours.rsplit(":", 1)[1].split("?")[0]
        call = ["-aet", "SCANNER", "-aec", "MRIUNROLL", "127.0.0.1", port]
        echo, store = (
            subprocess.run([program, *call, *more], capture_output=True, timeout=30)
            for program, more in (("echoscu", []), ("storescu", files))
        )
        assert (echo.returncode, store.returncode) == (0, 0), store.stderr
        (job,) = until(lambda: service.client("root-" + "d" * 32)("GET", "/v1/jobs").json(), service, 20)
        assert (job["state"], job["options"]) == ("queued", RESTORE)
        (packed,) = (service.data / "uploads").iterdir()
        with zipfile.ZipFile(packed) as archive:
            came = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    sent = [pydicom.dcmread(path) for path in files]
    assert {(one.SOPInstanceUID, one.PixelData) for one in came} == {
        (one.SOPInstanceUID, one.PixelData) for one in sent
    }


def test_an_archive_sends_a_series_and_gets_the_result_back(tmp_path: Path) -> None:
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed")
    files = write_series(tmp_path / "a", count=3, shape=(48, 40))
    (tmp_path / "work").mkdir()
    found, said = alone("tests.support.orthanc_and_node", tmp_path / "work", *files)
    assert [canary for canary in CANARIES if canary in said] == []
    assert (found["sent"], found["failed"], found["held"], found["studies"]) == (3, 0, 6, 1)
    assert found["series"] == ["[RESEARCH] restored gaussian", "t1"]
