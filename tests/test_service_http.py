"""The service over HTTP, as a program would use it and as somebody would abuse it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pydicom = pytest.importorskip("pydicom")

from support.dicom import CANARIES, write_series  # noqa: E402
from support.files import random_kspace, write_fastmri  # noqa: E402
from support.service import OTHER, READER, Client, Running, running  # noqa: E402

from mri_unroll.config import ReconstructionConfig  # noqa: E402
from mri_unroll.pipeline import reconstruct_file  # noqa: E402

SCAN = (4, 3, 40, 36)
UPLOADS, UPLOAD_MB = map(int, os.environ.get("LARGE_UPLOADS", "8x8").split("x"))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_fastmri(tmp_path / "scan.h5", random_kspace(SCAN))


def done(client: Client, job: str) -> dict[str, Any]:
    found = client.ended(job)
    assert found["state"] == "done", found
    return found


# --- the ordinary road


def test_a_scan_comes_back_as_the_command_line_makes_it(client: Client, scan: Path, tmp_path: Path) -> None:
    job = client.submit(client.upload(scan, "scan.h5"), method="l1-wavelet", iterations=5, accelerate=2.0)
    found = done(client, job)
    assert (found["done"], found["total"], found["attempts"], found["error"]) == (4, 4, 1, None)
    config = ReconstructionConfig(method="l1-wavelet", n_iterations=5, accelerate=2.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the service of tests: sums of several threads are rounded in another order
    try:
        outcome = reconstruct_file(scan, tmp_path / "out", config)
    finally:
        torch.set_num_threads(threads)
    content = client("GET", f"/v1/jobs/{job}/result/h5").content
    with h5py.File(io.BytesIO(content)) as ours, h5py.File(outcome.volume) as theirs:
        np.testing.assert_array_equal(ours["reconstruction"], theirs["reconstruction"])
        pixels = np.array(ours["reconstruction"])
    sidecar = client("GET", f"/v1/jobs/{job}/result/sidecar").json()
    assert sidecar["method"] == "l1-wavelet"
    assert sidecar["input"] == "scan.h5"
    assert sidecar["metrics"] == outcome.summary["metrics"]
    report = client("GET", f"/v1/jobs/{job}/result/report")
    assert report.headers["content-type"].startswith("text/html")
    assert "sandbox" in report.headers["content-security-policy"]
    assert client("GET", f"/v1/jobs/{job}/result/preview").content.startswith(b"\x89PNG")
    assert client("GET", f"/v1/jobs/{job}/result/nifti").content[:2] == b"\x1f\x8b"
    viewer = client("GET", f"/v1/jobs/{job}/result/viewer").json()
    assert viewer["volumes"] == ["reconstruction", "before"]
    slices, height, width = viewer["shape"]
    first = 2 * height * width
    headers = {"Range": f"bytes={first}-{2 * first - 1}"}
    part = client("GET", f"/v1/jobs/{job}/result/viewer.bin", 206, headers=headers).content
    second = np.frombuffer(part, "<u2").reshape(height, width) / 65535 * viewer["brightest"]
    np.testing.assert_allclose(second, pixels[1], atol=viewer["brightest"] / 65535)
    assert slices == 4
    missing = client("GET", f"/v1/jobs/{job}/result/dicom.zip", 404).json()["error"]
    assert "allow_synthetic_geometry" in missing["hint"]


def test_a_result_says_what_there_is_of_it(client: Client, scan: Path) -> None:
    job = client.submit(client.upload(scan), method="zero-filled")
    done(client, job)
    found = client("GET", f"/v1/jobs/{job}/result").json()
    assert set(found) >= {"h5", "report", "preview", "sidecar"}
    assert "dicom.zip" not in found  # the scan does not say where it lies
    for kind, size in found.items():
        head = client("HEAD", f"/v1/jobs/{job}/result/{kind}")
        assert (int(head.headers["content-length"]), head.content) == (size, b"")
        assert len(client("GET", f"/v1/jobs/{job}/result/{kind}").content) == size
    client("HEAD", f"/v1/jobs/{job}/result/dicom.zip", 404)


def test_a_scan_becomes_dicom_when_places_may_be_made_up(client: Client, scan: Path) -> None:
    job = client.submit(client.upload(scan), method="zero-filled", allow_synthetic_geometry=True)
    done(client, job)
    content = client("GET", f"/v1/jobs/{job}/result/dicom.zip").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        assert names == [f"DICOM/{index:04d}.dcm" for index in range(1, 5)]
        assert "SYNTHETIC" in str(pydicom.dcmread(io.BytesIO(archive.read(names[0])))).upper()


def test_a_dicom_study_is_restored_and_names_nobody(service: Running, client: Client, tmp_path: Path) -> None:
    packed = tmp_path / "study.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in write_series(tmp_path / "study", count=3, shape=(48, 40)):
            archive.write(path, f"DICOM/{path.name}")
    upload = client.upload(packed, "study.zip")
    asked = client.ended(client.submit(upload))
    assert asked["state"] == "failed"
    assert "no k-space" in asked["error"]["message"]
    job = client.submit(upload, mode="restore", psf="gaussian:2", method="wiener")
    done(client, job)
    with zipfile.ZipFile(io.BytesIO(client("GET", f"/v1/jobs/{job}/result/dicom.zip").content)) as archive:
        assert len(archive.namelist()) == 3
    for kind in ("report", "sidecar", "preview", "nifti", "h5", "viewer"):
        text = client("GET", f"/v1/jobs/{job}/result/{kind}").content.decode("latin-1")
        assert [canary for canary in CANARIES if canary in text] == [], kind
    assert client("GET", f"/v1/jobs/{job}/result/viewer").json()["volumes"] == ["reconstruction", "before"]
    assert [canary for canary in CANARIES if canary in "".join(service.log)] == []


def test_progress_is_told_until_the_end(client: Client, scan: Path) -> None:
    job = client.submit(client.upload(scan), method="zero-filled")
    answer = client("GET", f"/v1/jobs/{job}/events", stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.iter_lines(decode_unicode=True) if line.startswith("data: ")]
    assert events[-1]["state"] == "done"
    assert [event["job"] for event in events] == [job] * len(events)


def test_jobs_do_not_spin_while_they_wait(service: Running, client: Client, scan: Path) -> None:
    """Where another program has one of the cores, spinning threads make a job ten times slower."""
    client.ended(client.submit(client.upload(scan), method="zero-filled"))
    tasks = service.children("task")
    assert tasks
    for task in tasks:
        environment = Path(f"/proc/{task}/environ").read_bytes().split(b"\0")
        assert b"OMP_WAIT_POLICY=passive" in environment


def test_the_same_key_is_the_same_job(client: Client, scan: Path) -> None:
    upload = client.upload(scan)
    first = client.submit(upload, key="once", method="zero-filled")
    assert client.submit(upload, key="once", method="zero-filled") == first
    client("POST", "/v1/jobs", 409, json={"upload": upload, "idempotency_key": "once", "options": {"method": "tv"}})
    done(client, first)


def test_a_running_job_can_be_cancelled_and_forgotten(service: Running, client: Client, tmp_path: Path) -> None:
    large = write_fastmri(tmp_path / "large.h5", random_kspace((40, 8, 128, 128)))
    job = client.submit(client.upload(large), method="l1-wavelet", iterations=500)
    late = time.monotonic() + 60
    while client("GET", f"/v1/jobs/{job}").json()["state"] != "running" and time.monotonic() < late:
        time.sleep(0.05)
    client("DELETE", f"/v1/jobs/{job}", 409)
    client("POST", f"/v1/jobs/{job}/cancel")
    assert client.ended(job, 20)["state"] == "cancelled"
    client("GET", f"/v1/jobs/{job}/result/h5", 404)
    client("DELETE", f"/v1/jobs/{job}", 204)
    client("GET", f"/v1/jobs/{job}", 404)
    late = time.monotonic() + 20
    while (left := list((service.data / "results").glob(f"{job}.*"))) and time.monotonic() < late:
        time.sleep(0.1)
    assert left == []


# --- what is wrong with a request is said


def test_bad_files_fail_with_the_reason(client: Client, tmp_path: Path) -> None:
    for content, words in ((b"nothing of the kind" * 9, "no known format"), (b"", "empty")):
        found = client.ended(client.submit(client.upload(content, "odd.h5")))
        assert found["state"] == "failed"
        assert words in found["error"]["message"]
        assert str(tmp_path) not in json.dumps(found)


def test_raw_data_is_not_restored(client: Client, scan: Path) -> None:
    found = client.ended(client.submit(client.upload(scan), mode="restore", psf="gaussian:2"))
    assert found["state"] == "failed"
    assert "raw k-space" in found["error"]["message"]


def test_a_file_cannot_borrow_another(service: Running, client: Client, tmp_path: Path) -> None:
    """Links out of an uploaded file lead nowhere."""
    secret = write_fastmri(service.data.parent / "secret.h5", random_kspace(SCAN))
    stolen = tmp_path / "stolen.h5"
    with h5py.File(stolen, "w") as file:
        file["kspace"] = h5py.ExternalLink(str(secret), "kspace")
    raw = tmp_path / "raw.h5"
    with h5py.File(raw, "w") as file:
        external = [(str(secret), 0, secret.stat().st_size)]
        file.create_dataset("kspace", (1, 1, 8, 8), np.complex64, external=external)
    for path in (stolen, raw):
        found = client.ended(client.submit(client.upload(path)))
        assert found["state"] == "failed"
        assert str(secret) not in json.dumps(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "magic"),
        ({"method": "../../etc/passwd"}, "options.method"),
        ({"accelerate": 0.5}, "options.accelerate"),
        ({"accelerate": "4"}, "options.accelerate"),
        ({"mode": "restore"}, "point spread"),
        ({"mode": "restore", "psf": "measured:/etc/passwd"}, "options.psf"),
        ({"first_slice": 1}, "last_slice"),
        ({"colour": "red"}, "options.colour"),
        ({"device": "cuda"}, "options.device"),
        ({"psf": "gaussian:2"}, "Without `mode`"),
        ({"mode": "restore", "psf": "gaussian:2", "denoise": 0.5}, "`denoise`"),
        ({"mode": "restore", "psf": "gaussian:2", "accelerate": 2.0}, "`accelerate`"),
        ({"seed": 3}, "Without `accelerate`"),
    ],
)
def test_options_are_checked_before_anything_is_queued(
    client: Client, scan: Path, options: dict[str, Any], words: str
) -> None:
    before = len(client("GET", "/v1/jobs").json())
    error = client("POST", "/v1/jobs", 422, json={"upload": client.upload(scan), "options": options}).json()["error"]
    assert words in error["message"]
    assert len(client("GET", "/v1/jobs").json()) == before


def test_an_upload_that_is_cut_off_goes_on(service: Running, client: Client, scan: Path) -> None:
    content = scan.read_bytes()
    half = len(content) // 2
    host, port = service.address.removeprefix("http://").split(":")
    head = f"PUT /v1/uploads?name=cut.h5 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n"
    head += f"Authorization: {client.session.headers['Authorization']}\r\n\r\n"
    with socket.create_connection((host, int(port))) as link:
        link.sendall(head.encode() + content[:half])
    late = time.monotonic() + 20
    while time.monotonic() < late:
        found = [one for one in client("GET", "/v1/uploads").json() if one["name"] == "cut.h5"]
        if found and found[0]["received"] == half:
            break
        time.sleep(0.1)
    (upload,) = found
    assert (upload["complete"], upload["received"]) == (False, half)
    path = f"/v1/uploads/{upload['upload']}"
    client("POST", "/v1/jobs", 409, json={"upload": upload["upload"]})
    client("PUT", path, 409, params={"offset": half - 1}, data=content[half - 1 :])
    whole = client("PUT", path, params={"offset": half}, data=content[half:]).json()
    assert whole["complete"]
    assert whole["sha256"] == hashlib.sha256(content).hexdigest()
    done(client, client.submit(upload["upload"], method="zero-filled"))
    client("DELETE", path, 204)
    client("GET", path, 404)


def test_pieces_and_hashes(client: Client, scan: Path) -> None:
    content, digest = scan.read_bytes(), hashlib.sha256(scan.read_bytes()).hexdigest()
    params = {"name": "p.h5", "sha256": digest, "more": "true"}
    upload = client("PUT", "/v1/uploads", 201, params=params, data=content[:1000]).json()["upload"]
    path = f"/v1/uploads/{upload}"
    client("PUT", path, params={"offset": 1000, "more": "true"}, data=content[1000:2000])
    assert client("PUT", path, params={"offset": 2000}, data=content[2000:]).json()["complete"]
    client("PUT", "/v1/uploads", 201, params={"sha256": digest.upper()}, data=content)
    client("PUT", "/v1/uploads", 422, params={"sha256": digest}, data=content[:-1])
    assert [one["sha256"] for one in client("GET", "/v1/uploads").json()].count(digest) >= 1


# --- who may do what


def routes(client: Client) -> list[tuple[str, str]]:
    found = client("GET", "/v1/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in found.items() for method in methods]


def test_without_a_token_nothing_is_answered(service: Running, client: Client) -> None:
    asked = [
        *routes(client),
        ("GET", "/v1/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/v1/none"),
        ("GET", "/favicon.ico"),
    ]
    assert len(asked) > 15
    for token in ("", "wrong-" + "x" * 40):
        stranger = service.client(token)
        for method, path in asked:
            status = 200 if path.startswith("/health") else 401
            stranger(method, path.replace("{identity}", "0" * 32).replace("{kind}", "h5"), status)


def test_what_is_somebody_elses_is_not_there(service: Running, client: Client, scan: Path) -> None:
    upload = client.upload(scan)
    job = client.submit(upload, method="zero-filled")
    done(client, job)
    other = service.client(OTHER)
    assert other("GET", "/v1/jobs").json() == other("GET", "/v1/uploads").json() == []
    other("POST", "/v1/jobs", 404, json={"upload": upload})
    ours = [path for path in routes(client) if "{identity}" in path[1]]
    assert len(ours) >= 8
    for method, path in ours:
        identity = upload if "uploads" in path else job
        place = path.replace("{identity}", identity).replace("{kind}", "h5")
        other(method, place, 404, params={"offset": 1} if method == "PUT" else None)
    reader = service.client(READER)
    reader("PUT", "/v1/uploads", 403, data=b"x")
    reader("POST", "/v1/jobs", 403, json={"upload": upload})
    for token in (OTHER, READER):
        service.client(token)("GET", "/metrics", 403)
    root = service.client("root-" + "d" * 32)
    assert job in [one["job"] for one in root("GET", "/v1/jobs", params={"limit": 1000}).json()]
    metrics = root("GET", "/metrics").text
    assert 'mri_unroll_jobs{state="done"}' in metrics
    assert "/v1/jobs/{identity}" in metrics
    assert job not in metrics


def test_the_service_goes_by_its_names_alone(client: Client) -> None:
    hosts = ("evil.example", "127.0.0.1.evil.example", "", "localhost:99", "127.0.0.1", "[::1]:8080")
    found = [client("GET", "/health/live", None, headers={"Host": host}) for host in hosts]
    assert [answer.status_code for answer in found] == [400, 400, 400, 200, 200, 200]
    assert "name" in found[0].json()["error"]["message"]


def test_nobody_is_led_elsewhere(client: Client) -> None:
    """A redirection would leave the proxy that speaks TLS."""
    assert client("GET", "/v1/jobs/", 404, allow_redirects=False).json()["error"]["message"] == "Not Found"


def test_other_users_of_the_machine_read_nothing(service: Running, client: Client, scan: Path) -> None:
    done(client, client.submit(client.upload(scan), method="zero-filled"))
    found = [service.data, *service.data.rglob("*")]
    assert {"jobs.sqlite", "uploads", "results", "reconstruction.h5"} <= {path.name for path in found}
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def test_answers_carry_what_browsers_need_to_know(client: Client) -> None:
    for path in ("/", "/page.js", "/page.css"):
        answer = client("GET", path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
    assert (
        "access-control-allow-origin" not in client("GET", "/v1/jobs", headers={"Origin": "https://x.example"}).headers
    )


# --- limits


def test_limits_of_size_rate_and_disk(tmp_path: Path) -> None:
    tight = {"max_upload_gb": 0.002, "quota_gb": 0.003, "requests_per_minute": 60, "workers": 0}
    with running(tmp_path, **tight) as service:
        client = service.client()
        error = client("PUT", "/v1/uploads", 413, data=b"x" * 2_100_000).json()["error"]
        assert "0.002 GB" in error["message"]

        def endless() -> Iterator[bytes]:
            for _ in range(5):
                yield b"y" * 2**20

        client("PUT", "/v1/uploads", 413, data=endless())  # it did not say how much it is
        assert client("GET", "/v1/uploads").json() == []
        client.upload(b"z" * 1_900_000)
        error = client("PUT", "/v1/uploads", 507, data=b"x" * 1_900_000).json()["error"]
        assert "quota" in error["message"]
        client("POST", "/v1/jobs", 413, data=b" " * 70_000, headers={"Content-Type": "application/json"})
        answers = [client("GET", "/v1/jobs", None).status_code for _ in range(70)]
        assert answers.count(429) > 5
        assert set(answers) == {200, 429}
        assert service.client(OTHER)("GET", "/v1/jobs", None).status_code == 200  # others are not held up
    with running(tmp_path / "full", min_free_gb=1e9, workers=0) as service:
        assert "disk" in service.client()("PUT", "/v1/uploads", 507, data=b"x").json()["error"]["message"]


def test_slow_callers_do_not_hold_up_others(service: Running, client: Client) -> None:
    """200 that never finish their request: health answers within a second, and they are hung up on."""
    host, port = service.address.removeprefix("http://").split(":")
    links = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for link in links:
            link.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        slowest = 0.0
        for _ in range(10):
            began = time.monotonic()
            client("GET", "/health/live")
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        links[0].settimeout(30)
        assert links[0].recv(10) == b""
    finally:
        for link in links:
            link.close()


def test_large_uploads_at_once_stay_out_of_memory(tmp_path: Path) -> None:
    """All hashes are right, and the process that takes them stays small: 8 of 8 MB, or `LARGE_UPLOADS=32x256`."""
    size = UPLOAD_MB * 2**20
    with running(tmp_path / "large", workers=0, min_free_gb=0, requests_per_minute=100_000) as service:
        (api,) = service.children("api")

        def send(number: int) -> bool:
            block = np.random.default_rng(number).bytes(2**20)
            digest = hashlib.sha256()

            def body() -> Iterator[bytes]:
                for _ in range(UPLOAD_MB):
                    digest.update(block)
                    yield block

            found = service.client()("PUT", "/v1/uploads", 201, params={"name": f"{number}.h5"}, data=body()).json()
            return found["received"] == size and found["sha256"] == digest.hexdigest()

        highest = slowest = 0.0
        client = service.client()
        with ThreadPoolExecutor(UPLOADS) as pool:
            sent = [pool.submit(send, number) for number in range(UPLOADS)]
            while not all(one.done() for one in sent):
                began = time.monotonic()
                client("GET", "/health/live")
                slowest = max(slowest, time.monotonic() - began)
                lines = Path(f"/proc/{api}/status").read_text().splitlines()
                highest = max(highest, next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))
                time.sleep(0.05)
        assert all(one.result() for one in sent)
        print(f"{UPLOADS} uploads of {UPLOAD_MB} MB: {highest:.0f} MB at most, slowest answer {slowest:.2f} s")
        assert highest < 300
