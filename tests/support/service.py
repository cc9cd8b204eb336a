"""A running service for tests, and a client that speaks to it as anybody would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

requests = pytest.importorskip("requests", reason="the extra `dicom` is not installed")

TOKEN, OTHER, READER = "owner-" + "a" * 32, "other-" + "b" * 32, "reader-" + "c" * 32
TOKENS = f"alice submit,read {TOKEN}\nbob submit,read {OTHER}\ncarol read {READER}\nroot admin root-{'d' * 32}\n"


class Client:
    """What a program would do."""

    def __init__(self, address: str, token: str = TOKEN) -> None:
        self.address = address
        self.session = requests.Session()
        self.session.trust_env = False
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, method: str, path: str, status: int | None = 200, **more: Any) -> Any:
        """One request; the answer, which must have this status."""
        answer = self.session.request(method, self.address + path, timeout=300, **more)
        assert status is None or answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer

    def upload(self, content: bytes | Path, name: str = "scan.h5", status: int = 201) -> str:
        """Send a file; its identifier."""
        body = content.read_bytes() if isinstance(content, Path) else content
        found: dict[str, str] = self("PUT", "/v1/uploads", status, params={"name": name}, data=body).json()
        return found["upload"]

    def submit(self, upload: str, status: int = 201, key: str | None = None, **options: Any) -> str:
        """Queue a job; its identifier."""
        body = {"upload": upload, "options": options} | ({"idempotency_key": key} if key else {})
        found: dict[str, str] = self("POST", "/v1/jobs", status, json=body).json()
        return found["job"]

    def ended(self, job: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a job has ended."""
        late = time.monotonic() + seconds
        while time.monotonic() < late:
            found: dict[str, Any] = self("GET", f"/v1/jobs/{job}").json()
            if found["state"] in ("done", "failed", "cancelled"):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{job} did not end: {found}")


class Running:
    """A service: its address, its process, and what it has said so far."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tokens = folder / "tokens"
        tokens.write_text(TOKENS)
        tokens.chmod(0o600)
        lines = {"data_dir": str(folder / "data"), "port": 0, "token_file": str(tokens), "threads": 1, **settings}
        config = folder / "service.toml"
        config.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in lines.items()))
        self.data = folder / "data"
        command = [sys.executable, "-m", "mri_unroll", "serve", "--config", str(config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._listening = threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True)
        self._listening.start()
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), "".join(self.log)
        self.address = line.split()[-1]
        self.mrd_address = self.process.stdout.readline().split()[-1] if "mrd_port" in settings else ""
        late = time.monotonic() + 60
        while True:
            try:
                if Client(self.address, "")("GET", "/health/ready", None).status_code == 200:
                    break
            except requests.ConnectionError:
                assert time.monotonic() < late, "".join(self.log)
            time.sleep(0.1)

    def client(self, token: str = TOKEN) -> Client:
        """Somebody who speaks to it."""
        return Client(self.address, token)

    def children(self, part: str) -> list[int]:
        """Process identifiers of its ``api``, ``worker`` or ``task`` processes."""
        found = []
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = status.read_bytes().split(b"\0")
                if f"mri_unroll.service.{part}".encode() in words and _descends(
                    int(status.parent.name), self.process.pid
                ):
                    found.append(int(status.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return sorted(found)

    def stop(self) -> str:
        """End it as an administrator would; what it said on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._listening.join(5)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        return "".join(self.log)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_toml(one)}' for name, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _descends(child: int, ancestor: int) -> bool:
    while child > 1:
        if child == ancestor:
            return True
        child = int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Running]:
    """A service that is stopped in the end."""
    service = Running(folder, **settings)
    try:
        yield service
    finally:
        service.stop()
