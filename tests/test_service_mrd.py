"""The MRD socket: what a scanner sends comes back as pictures, and nothing that it sends harms the next one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from support.files import write_fastmri
from support.mrd import CALIBRATION, NOISE, mrd_header, readout, write_mrd
from support.service import Running, running
from typer.testing import CliRunner, Result

from mri_unroll.cli import app
from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError
from mri_unroll.io import mrd_stream
from mri_unroll.io.mrd_session import SessionFile, stored_session
from mri_unroll.io.mrd_stream import Acquisition, ImageMessage, acquisition_message, config_message
from mri_unroll.io.registry import read_scan
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.service.mrd_config import Asked
from mri_unroll.service.mrd_link import send
from mri_unroll.service.wish import Wish

EVERY_CUT = int(os.environ.get("MRD_EVERY_CUT", "0"))  # sessions cut at every so many bytes; 0: at some
MUTATIONS = int(os.environ.get("MRD_MUTATIONS", "60"))
MATRIX, FOV = (24, 17), (240.0, 170.0)  # (readout, phase)
AXES = np.array([[0.0, 0.6, 0.8], [1, 0, 0], [0, 0.8, -0.6]])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"mrd_port": 0, "mrd_idle_seconds": 5.0, "mrd_connections_per_minute": 100_000}
    with running(tmp_path_factory.mktemp("service"), **settings) as found:
        yield found


@pytest.fixture
def place(service: Running) -> tuple[str, int]:
    host, _, port = service.mrd_address.rpartition(":")
    return host, int(port)


def lopsided(count: int = 3) -> NDArray[np.float64]:
    """Pictures ``(slice, readout, phase)`` that no turn or flip leaves as they are."""
    y, x = np.meshgrid(np.linspace(-1, 1, MATRIX[0]), np.linspace(-1, 1, MATRIX[1]), indexing="ij")
    disc = np.hypot(y - 0.2, x + 0.1) < 0.6
    return np.stack([disc * (2 + x + 0.5 * y) * (1 + k) for k in range(count)])


def write_scan(path: Path, oversampling: int = 1) -> Path:
    """Full k-space with noise, calibration lines and places, as a scanner has it."""
    shown = lopsided()
    wide = np.zeros((len(shown), MATRIX[0] * oversampling, MATRIX[1]))
    first = wide.shape[1] // 2 - MATRIX[0] // 2
    wide[:, first : first + MATRIX[0]] = shown
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wide, (1, 2)), norm="ortho"), (1, 2))
    coils = np.stack([kspace, 0.5j * kspace], axis=1).astype(np.complex64)
    rng = np.random.default_rng(1)
    noise = (0.01 * rng.standard_normal((2, 64, 2))).astype(np.float32).view(np.complex64)[..., 0]
    axes = dict(zip(("read_dir", "phase_dir", "slice_dir"), AXES, strict=True))
    readouts = [readout(noise, flags=(NOISE,))]
    readouts += [readout(coils[0, :, :, 8], flags=(CALIBRATION,), kspace_encode_step_1=8, **axes)]
    for index, plane in enumerate(coils):
        position = 1000 * (np.array([0.01, 0.02, 0.03]) + 0.005 * index * AXES[2])
        for line in range(MATRIX[1]):
            readouts.append(
                readout(plane[:, :, line], slice=index, kspace_encode_step_1=line, position=position, **axes)
            )
    sizes = {"encoded": (MATRIX[0] * oversampling, MATRIX[1], 1), "recon": (*MATRIX, 1)}
    views = {"encoded_fov": (FOV[0] * oversampling, FOV[1], 5.0), "recon_fov": (*FOV, 5.0)}
    person = "<subjectInformation><patientName>CANARYNAME</patientName></subjectInformation>"
    return write_mrd(path, readouts, mrd_header(**sizes, **views, extra=person))  # type: ignore[arg-type]


def session(path: Path, place: tuple[str, int], config: str = "zero-filled") -> tuple[list[ImageMessage], list[str]]:
    header, readouts = stored_session(path)
    back = list(send(*place, header, readouts, config, timeout=120))
    return [one for one in back if isinstance(one, ImageMessage)], [one for one in back if isinstance(one, str)]


@pytest.mark.parametrize("oversampling", [1, 2])
def test_what_is_sent_comes_back_as_pictures(
    service: Running, place: tuple[str, int], tmp_path: Path, oversampling: int
) -> None:
    path = write_scan(tmp_path / "scan.h5", oversampling)
    images, texts = session(path, place)
    assert [text for text in texts if text.startswith("ERROR")] == []
    assert len(images) == 3
    expected = make_reconstructor("zero-filled").reconstruct(read_scan(path)).pixels
    for index, image in enumerate(images):
        assert image.pixels.shape == (1, 1, MATRIX[1], MATRIX[0])  # the readout along x
        assert image.pixels.dtype == np.uint16
        np.testing.assert_allclose(image.pixels[0, 0].T / 4095, expected[index] / expected.max(), atol=2e-4)
        head = image.head
        np.testing.assert_allclose(head["field_of_view"], (*FOV, 5.0), rtol=1e-5)
        np.testing.assert_allclose(head["position"], [10 + 0, 20 + 4 * index, 30 - 3 * index], atol=1e-3)
        for name, axis in zip(("read_dir", "phase_dir", "slice_dir"), AXES, strict=True):
            np.testing.assert_allclose(head[name], axis, atol=1e-6)
        assert (head["image_index"], head["slice"], head["image_type"]) == (index + 1, index, 1)
        for words in ("<name>Keep_image_geometry</name><value>1<", "[RESEARCH]", "RescaleSlope", "Verdict check."):
            assert words in image.attributes
    assert images[-1].pixels.max() == 4095
    assert "CANARYNAME" not in "".join(service.log)
    assert "CANARYNAME" not in "".join(image.attributes for image in images)


def test_the_phantom_of_others_comes_back_right_side_up(place: tuple[str, int], tmp_path: Path) -> None:
    if shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None:
        pytest.skip("ismrmrd-tools is not installed")
    path = tmp_path / "phantom.h5"
    make = ["ismrmrd_generate_cartesian_shepp_logan", "-o", str(path), "-c", "4", "-m", "64", "-O", "2", "-r", "1"]
    subprocess.run(make, check=True, capture_output=True)
    (image,), texts = session(path, place, "default")
    assert [text for text in texts if text.startswith("ERROR")] == []
    assert "nominal" in image.attributes
    subprocess.run(["ismrmrd_recon_cartesian_2d", str(path)], check=True, capture_output=True, cwd=tmp_path)
    with h5py.File(path) as file:
        theirs = next(np.squeeze(group["data"][()]) for group in _images(file))
    ours = image.pixels[0, 0].astype(float)
    ways = {
        (turned, flips): np.corrcoef(np.flip(ours.T if turned else ours, flips).ravel(), theirs.ravel())[0, 1]
        for turned in (False, True)
        for flips in ((), (0,), (1,), (0, 1))
    }
    assert max(ways, key=lambda way: ways[way]) == (False, ())
    assert ways[(False, ())] > 0.95


def _images(file: h5py.File) -> Iterator[h5py.Group]:
    found: list[h5py.Group] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and {"data", "header"} <= set(item):
            found.append(item)

    file.visititems(look)
    yield from found


def test_the_client_of_the_command_line(service: Running, tmp_path: Path) -> None:
    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(app, ["mrd-client", *map(str, arguments)], env={"COLUMNS": "200"})

    path, out = write_scan(tmp_path / "scan.h5"), tmp_path / "images.h5"
    done = run(path, "--to", service.mrd_address, "-o", out, "--config", "zero-filled")
    assert done.exit_code == 0, done.stderr
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == (3, MATRIX[1], MATRIX[0])
    again = run(path, "--to", service.mrd_address, "-o", out)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    other, text = write_fastmri(tmp_path / "fastmri.h5"), tmp_path / "text.h5"
    text.write_text("no HDF5 at all")
    here = service.mrd_address
    for scan, to, words in (
        (path, "nowhere", "HOST:PORT"),
        (path, "127.0.0.1:1", "cannot be spoken with"),
        (other, here, "not one"),
        (text, here, "text.h5"),
        (tmp_path / "none.h5", here, "no file"),
    ):
        wrong = run(scan, "--to", to, "-o", tmp_path / "other.h5")
        assert wrong.exit_code == 2
        assert words in wrong.stderr


# --- what goes wrong


def spoken(place: tuple[str, int], content: bytes, close: bool = False) -> list[Any]:
    """Send bytes and read what comes back to the end: texts, images, and one CLOSE."""
    with socket.create_connection(place, timeout=30) as link:
        link.sendall(content)
        if close:
            link.shutdown(socket.SHUT_WR)
        came = bytearray()
        while part := link.recv(2**16):
            came += part
    view = memoryview(bytes(came))

    def read(count: int) -> bytes:
        nonlocal view
        assert len(view) >= count
        part, view = view[:count], view[count:]
        return bytes(part)

    found = [content for number, content in mrd_stream.messages(read, 1e9) if number != mrd_stream.CLOSE]
    assert len(view) == 0  # nothing after CLOSE
    return found


def whole(path: Path, config: str = "zero-filled") -> bytes:
    header, readouts = stored_session(path)
    start = config_message(config) + mrd_stream.text_message(mrd_stream.HEADER, header)
    return start + b"".join(map(acquisition_message, readouts)) + mrd_stream.close_message()


def test_errors_are_told_and_the_session_is_closed_once(place: tuple[str, int], tmp_path: Path) -> None:
    content = whole(write_scan(tmp_path / "scan.h5"))
    start = 2 + 1024
    header_end = start + 6 + int.from_bytes(content[start + 2 : start + 6], "little")
    image = mrd_stream.IMAGE.to_bytes(2, "little") + np.zeros((), mrd_stream.IMAGE_HEAD).tobytes() + bytes(8)
    lying = (mrd_stream.TEXT).to_bytes(2, "little") + (2**32 - 1).to_bytes(4, "little")
    for sent, words in (
        (whole(write_scan(tmp_path / "b.h5"), "os.system"), "none that is known"),
        (whole(write_scan(tmp_path / "c.h5"), "magic"), "no method"),
        (content[:start] + mrd_stream.close_message(), "no raw data"),
        (content[:start] + content[header_end:], "before the header"),
        (content[:header_end] + mrd_stream.close_message(), "no raw data"),
        (content[:header_end] + image, "announced"),
        (lying, "more than 1048576"),
        (b"GET / HTTP/1.1\r\n\r\n", "not known here"),
    ):
        (said,) = spoken(place, sent)
        assert said.startswith("ERROR")
        assert words in said
    broken = content.replace(b"<matrixSize>", b"<matrixSize<", 1)
    (said,) = [text for text in spoken(place, broken) if text.startswith("ERROR")]
    assert "XML" in said or "header" in said


def test_the_texts_of_scanners_choose_a_method(place: tuple[str, int], tmp_path: Path) -> None:
    header, readouts = stored_session(write_scan(tmp_path / "scan.h5"))
    content = config_message("no such thing") + mrd_stream.text_message(mrd_stream.HEADER, header)
    content += mrd_stream.text_message(mrd_stream.TEXT, '{"version": "1.1.0", "parameters": {"config": "zero-filled"}}')
    content += b"".join(map(acquisition_message, readouts)) + mrd_stream.close_message()
    assert sum(isinstance(one, ImageMessage) for one in spoken(place, content)) == 3


def test_options_as_json_are_those_of_a_job(service: Running, place: tuple[str, int], tmp_path: Path) -> None:
    """As OpenRecon sends them: without underscores, values as texts; the pictures are those of the options."""
    path = write_scan(tmp_path / "scan.h5")
    header, readouts = stored_session(path)
    parameters = {"config": "openrecon", "method": "l1-wavelet", "Iterations": "3", "regweight": 0.05}
    content = config_message("openrecon") + mrd_stream.text_message(mrd_stream.HEADER, header)
    content += mrd_stream.text_message(mrd_stream.TEXT, json.dumps({"version": "1.1.0", "parameters": parameters}))
    content += b"".join(map(acquisition_message, readouts)) + mrd_stream.close_message()
    images = [one for one in spoken(place, content) if isinstance(one, ImageMessage)]
    config = ReconstructionConfig(method="l1-wavelet", n_iterations=3, reg_weight=0.05)
    expected = make_reconstructor("l1-wavelet", config).reconstruct(read_scan(path)).pixels
    for index, image in enumerate(images):
        np.testing.assert_allclose(image.pixels[0, 0].T / 4095, expected[index] / expected.max(), atol=2e-4)
    assert len(images) == len(expected) == 3
    latest = service.client("root-" + "d" * 32)("GET", "/v1/jobs").json()[0]
    assert latest["options"] == {"method": "l1-wavelet", "iterations": 3, "reg_weight": 0.05, "mrd": True}


def test_the_client_sends_options_too(service: Running, tmp_path: Path) -> None:
    path, out = write_scan(tmp_path / "scan.h5"), tmp_path / "images.h5"
    arguments = ["mrd-client", path, "--to", service.mrd_address, "-o", out, "--config"]
    done = CliRunner().invoke(
        app, [*map(str, arguments), '{"method": "zero-filled", "first_slice": 1, "last_slice": 2}']
    )
    assert done.exit_code == 0, done.stderr
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == (1, MATRIX[1], MATRIX[0])


def wished(texts: list[str]) -> Wish:
    """What is asked for: the first text comes before the header, the others after it."""
    asked = Asked()
    for number, text in enumerate(texts):
        asked.add(text, is_name=number == 0)
    return asked.wish()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (['{"colour": "red"}'], ("no option `colour`", "Known here", "reg_weight")),
        (['{"parameters": {"denoize": 0.5}}'], ("no option `denoize`", "Did you mean `denoise`")),
        (['{"mode": "restore"}'], ("no option `mode`",)),
        (['{"psf": "gaussian:2"}'], ("no option `psf`",)),
        (['{"mrd": false}'], ("no option `mrd`",)),
        (['{"device": "cuda"}'], ("no option `device`",)),
        (['{"denoise": 7}'], ("`denoise`", "less than or equal to 1")),
        (['{"method": "../../etc/passwd"}'], ("none that is known",)),
        (['{"method": "tv"}', '{"parameters": {"config": "cg-sense"}}'], ("'cg-sense'", "'tv'", "one method")),
        (['{"first_slice": 1}'], ("last_slice",)),
        (['{"seed": 3}'], ("Without `accelerate`", "`seed`")),
        (['{"parameters": [1]}'], ("names and values",)),
        (['{"method": '], ("no JSON",)),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(texts: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        wished(texts)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (["default.xml"], {}),
        (["Zero-Filled"], {"method": "zero-filled"}),
        (["tv", "INFO what a host logs"], {"method": "tv"}),
        (["tv", '{"version": "1", "parameters": {"config": "", "customconfig": "cg-sense"}}'], {"method": "cg-sense"}),
        (['{"denoise": "0.5", "effort": "best"}'], {"denoise": 0.5, "effort": "best"}),
        (['{"accelerate": 4, "centerfraction": "0.08"}'], {"accelerate": 4.0, "center_fraction": 0.08}),
    ],
)
def test_names_and_options_become_a_wish(texts: list[str], options: dict[str, Any]) -> None:
    assert wished(texts).model_dump(exclude_defaults=True) == {**options, "mrd": True}


def test_an_unknown_option_is_told_to_the_scanner(place: tuple[str, int], tmp_path: Path) -> None:
    header, _ = stored_session(write_scan(tmp_path / "scan.h5"))
    content = mrd_stream.text_message(mrd_stream.CONFIG_TEXT, '{"method": "tv", "colour": "red"}')
    (said,) = spoken(place, content + mrd_stream.text_message(mrd_stream.HEADER, header) + mrd_stream.close_message())
    assert said.startswith("ERROR There is no option `colour`.")


def waveform(channels: int = 5, samples: int = 37) -> bytes:
    """An ECG as the specification has it: 40 bytes of head, then uint32 ``(channel, sample)``."""
    head = np.zeros(40, np.uint8)
    head[28:32] = np.array([samples, channels], "<u2").view(np.uint8)
    values = np.arange(channels * samples, dtype="<u4")
    return mrd_stream.WAVEFORM.to_bytes(2, "little") + head.tobytes() + values.tobytes()


def test_waveforms_are_passed_over_and_counted(service: Running, place: tuple[str, int], tmp_path: Path) -> None:
    """Among readouts, before them and after them: the pictures are those of a session without."""
    path = write_scan(tmp_path / "scan.h5")
    header, readouts = stored_session(path)
    content = config_message("zero-filled") + mrd_stream.text_message(mrd_stream.HEADER, header) + waveform()
    sent = 1
    for number, one in enumerate(readouts):
        content += acquisition_message(one)
        if number % 7 == 0:
            content += waveform(channels=1 + number % 3, samples=number)  # also one of no sample
            sent += 1
    found = spoken(place, content + mrd_stream.close_message())
    assert f"INFO {sent} waveforms came, which are not used." in found
    images = [one for one in found if isinstance(one, ImageMessage)]
    for image, without in zip(images, session(path, place)[0], strict=True):
        np.testing.assert_array_equal(image.pixels, without.pixels)
    late = time.monotonic() + 10
    while not (said := [line for line in service.log if "waveforms" in line]) and time.monotonic() < late:
        time.sleep(0.1)
    assert json.loads(said[-1])["count"] == sent


def test_large_messages_are_not_kept_in_memory(service: Running, place: tuple[str, int], tmp_path: Path) -> None:
    """A waveform of 600 MB, and readouts of 16 MB each."""
    header, _ = stored_session(write_scan(tmp_path / "scan.h5"))
    start = config_message("zero-filled") + mrd_stream.text_message(mrd_stream.HEADER, header)
    head = np.zeros((), mrd_stream.ACQUISITION_HEAD)
    head["number_of_samples"], head["active_channels"] = 65_535, 32
    long = acquisition_message(Acquisition(head[()], b"", bytes(8 * 65_535 * 32)))
    (server,) = service.children("mrd_server")
    before = peak(server)
    with socket.create_connection(place, timeout=60) as link:
        link.sendall(start)
        for _ in range(20):
            link.sendall(long)
        declared = np.zeros(40, np.uint8)
        declared[28:32] = np.array([50_000, 3_000], "<u2").view(np.uint8)
        link.sendall(mrd_stream.WAVEFORM.to_bytes(2, "little") + declared.tobytes())
        for _ in range(600):
            link.sendall(bytes(10**6))
    assert peak(server) - before < 200


def peak(process: int) -> float:
    """The most memory that a process has had, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def test_who_connects_too_often_waits(tmp_path: Path) -> None:
    with running(tmp_path, mrd_port=0, workers=0, mrd_connections_per_minute=5) as service:
        host, _, port = service.mrd_address.rpartition(":")
        answers = [spoken((host, int(port)), mrd_stream.close_message()) for _ in range(5)]
        assert all("no raw data" in said for (said,) in answers)
        (said,) = spoken((host, int(port)), b"")
        assert "Too many connections" in said
        late = time.monotonic() + 10
        while not (said := [line for line in service.log if "too many" in line]) and time.monotonic() < late:
            time.sleep(0.1)
        assert json.loads(said[0])["host"] == "127.0.0.1"


def test_silence_ends_a_session_and_holds_up_nobody(place: tuple[str, int], tmp_path: Path) -> None:
    content = whole(write_scan(tmp_path / "scan.h5"))
    with socket.create_connection(place, timeout=30) as silent:
        silent.sendall(content[: len(content) // 2])
        began = time.monotonic()
        assert any(isinstance(one, ImageMessage) for one in spoken(place, content))
        assert time.monotonic() - began < 30
        assert b"ERROR Nothing came for too long" in silent.recv(2**16)
        assert time.monotonic() - began > 3


@pytest.mark.timeout(3600)
def test_cut_and_mutated_sessions_harm_nobody(service: Running, place: tuple[str, int], tmp_path: Path) -> None:
    """Every kind of cut, and random damage: the next client is answered within a second, and memory stays."""
    content = whole(write_scan(tmp_path / "scan.h5"))
    (server,) = service.children("mrd_server")

    def memory() -> float:
        lines = Path(f"/proc/{server}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def answers() -> float:
        began = time.monotonic()
        (said,) = spoken(place, config_message("x") + mrd_stream.close_message())
        assert said.startswith("ERROR")
        return time.monotonic() - began

    answers()
    before, slowest = memory(), 0.0
    rng = np.random.default_rng(4)
    cuts = [*range(0, 1100, 90), *(int(cut) for cut in rng.integers(1100, len(content) - 2, 60))]
    if EVERY_CUT:
        cuts = list(range(0, len(content) - 2, EVERY_CUT))
    for number, cut in enumerate(cuts):
        with socket.create_connection(place, timeout=30) as link:
            link.sendall(content[:cut])
        if number % 10 == 0:
            slowest = max(slowest, answers())
    for number in range(MUTATIONS):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 20)):
            damaged[position] = rng.integers(0, 256)
        del damaged[len(content) // 2 :]  # cut as well, so that none becomes a job
        heard_enough = suppress(BrokenPipeError, ConnectionResetError)
        with socket.create_connection(place, timeout=30) as link, heard_enough:
            link.sendall(damaged)
        if number % 10 == 0:
            slowest = max(slowest, answers())
    print(f"{len(cuts)} cuts, {MUTATIONS} mutations: slowest answer {slowest:.2f} s, {memory() - before:.0f} MB more")
    assert slowest < 1
    assert memory() - before < 64
    left = time.monotonic() + 15
    while list((service.data / "uploads").glob("mrd.*")) and time.monotonic() < left:
        time.sleep(0.2)
    assert list((service.data / "uploads").glob("mrd.*")) == []


def test_a_busy_socket_says_so(tmp_path: Path) -> None:
    with running(tmp_path, mrd_port=0, mrd_sessions=1, workers=0) as service:
        host, _, port = service.mrd_address.rpartition(":")
        with socket.create_connection((host, int(port))):
            time.sleep(0.3)
            (said,) = spoken((host, int(port)), b"")
            assert "1 sessions are under way" in said


def test_one_address_leaves_room_for_others(tmp_path: Path) -> None:
    """Loopback addresses stand for two scanners."""
    with running(tmp_path, mrd_port=0, mrd_sessions=3, mrd_sessions_per_address=2, workers=0) as service:
        port = int(service.mrd_address.rpartition(":")[2])

        def connected(source: str) -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))

        with connected("127.0.0.1"), connected("127.0.0.1"):
            time.sleep(0.3)
            with connected("127.0.0.1") as third:
                assert b"2 sessions of this address are under way" in third.recv(2**16)
            with connected("127.0.0.2") as other:
                other.sendall(config_message("x") + mrd_stream.close_message())
                assert b"under way" not in other.recv(2**16)
        time.sleep(0.5)
        (said,) = spoken(("127.0.0.1", port), config_message("x") + mrd_stream.close_message())
        assert "under way" not in str(said)


def test_a_stop_is_told_to_who_waits(tmp_path: Path) -> None:
    """Who is sending, and who waits for pictures; no job is left that nobody waits for."""
    content = whole(write_scan(tmp_path / "scan.h5"))
    with running(tmp_path / "service", mrd_port=0, workers=0) as service:
        host, _, port = service.mrd_address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=30) as sending,
            socket.create_connection((host, int(port)), timeout=30) as waiting,
        ):
            sending.sendall(content[: len(content) // 2])
            waiting.sendall(content)
            root = service.client("root-" + "d" * 32)
            late = time.monotonic() + 30
            while not root("GET", "/v1/jobs").json() and time.monotonic() < late:
                time.sleep(0.1)
            began = time.monotonic()
            service.stop()
            assert time.monotonic() - began < 8
            for link in (sending, waiting):
                came = bytearray()
                while part := link.recv(2**16):
                    came += part
                assert b"ERROR The service is being stopped" in came
                assert came.endswith(mrd_stream.close_message())
        with sqlite3.connect(service.data / "jobs.sqlite") as base:
            assert base.execute("SELECT state FROM jobs").fetchall() == [("cancelled",)]
        base.close()
        assert list((service.data / "uploads").iterdir()) == []


def test_beside_a_scanner_there_is_no_http(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mri_unroll", "serve", "--no-http", "--mrd-port", "0", "--threads", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "MRI_UNROLL_TOKEN"}
    service = subprocess.Popen(
        [*command, "--data-dir", tmp_path / "data"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert service.stdout is not None
        line = service.stdout.readline()
        assert line.startswith("MRD sessions at ")
        host, _, port = line.split()[-1].rpartition(":")
        images, _ = session(write_scan(tmp_path / "scan.h5"), (host, int(port)))
        assert len(images) == 3
    finally:
        service.terminate()
        service.wait(30)
        service.stdout.close()
    assert service.returncode == 0


def test_a_session_file_is_read_as_it_was_sent(tmp_path: Path) -> None:
    """Through the writer and our reader: the same scan."""
    path = write_scan(tmp_path / "scan.h5")
    header, readouts = stored_session(path)
    with SessionFile(tmp_path / "copy.h5", header) as copy:
        for one in readouts:
            copy.add(one)
    before, after = read_scan(path), read_scan(tmp_path / "copy.h5")
    np.testing.assert_array_equal(after.kspace, before.kspace)
    np.testing.assert_array_equal(after.geometry.position, before.geometry.position)
    assert after.noise_cov is not None


def test_heads_are_as_long_as_the_specification_says() -> None:
    assert (mrd_stream.ACQUISITION_HEAD.itemsize, mrd_stream.IMAGE_HEAD.itemsize) == (340, 198)
