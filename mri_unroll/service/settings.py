"""What a service is told: one TOML file, or the options of ``mri-unroll serve``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from mri_unroll.config import DeviceChoice, StudyMode
from mri_unroll.errors import ConfigError

GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomRule:
    """Which series become which jobs; of several rules the first that fits holds.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    caller: str = ""  # application entity that sent it; "": any
    description: str = ""  # regular expression that the series description holds; "": any
    mode: StudyMode = "restore"  # undo a blur, or simulate undersampling
    psf: str | None = None  # of "restore", as for `recon --psf`
    method: str | None = None  # None: as the mode asks
    accelerate: float | None = None  # of "retrospective", > 1
    insist: bool = False  # simulate although the pictures were processed before
    send_to: tuple[str, ...] = ()  # dicom://AET@HOST:PORT or https://HOST/dicom-web: where the result goes

    def __post_init__(self) -> None:
        try:
            re.compile(self.description)
        except re.error as error:
            raise ConfigError(
                f"`description` of a rule is no regular expression: {error}.", "Correct the expression."
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How the service runs.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    data_dir: str  # uploads, results and, unless `jobs_url` says otherwise, the database; on a local disk
    host: str = "127.0.0.1"  # address to listen at
    port: int = 8080  # 0: any free one
    http: bool = True  # answer HTTP; without it there is no page, and no token is needed
    allowed_hosts: tuple[str, ...] = ()  # names under which the service may be addressed, besides `host` and loopback
    mrd_port: int | None = None  # of the MRD socket for scanners, on `host`; it knows no tokens; None: none
    mrd_sessions: int = 8  # at the same time
    mrd_sessions_per_address: int = 4  # of these, so that one scanner leaves room for others
    mrd_connections_per_minute: int = 120  # of one address
    mrd_idle_seconds: float = 120.0  # that a scanner may be silent
    dicom_port: int | None = None  # of the DICOM node, on `host`; None: none
    dicom_title: str = "MRIUNROLL"  # application entity that peers must call
    dicom_callers: tuple[str, ...] = ()  # application entities that may call; nobody else may
    dicom_connections_per_minute: int = 300  # of one address; some archives make one for every object
    dicom_quiet_seconds: float = 10.0  # after which a series that grows no more, and is not being sent, is whole
    dicom_rules: tuple[DicomRule, ...] = ()  # what is done with their series
    token_file: str | None = None  # one token, or lines "NAME SCOPE[,SCOPE] TOKEN"; None: MRI_UNROLL_TOKEN
    jobs_url: str | None = None  # postgresql+psycopg://...; None: SQLite in `data_dir`
    workers: int = 1  # processes that reconstruct, each with a device of its own
    device: DeviceChoice = "auto"  # "auto": a GPU where there is one
    threads: int | None = None  # of the CPU for one worker; None: cores / workers
    max_upload_gb: float = 32.0  # of one file
    max_uploads: int = 32  # at the same time
    quota_gb: float = 200.0  # of everything that one token's owner keeps here
    min_free_gb: float = 2.0  # below this no upload is taken
    requests_per_minute: int = 1200  # of one token; of one address without a token a tenth
    result_hours: float = 72.0  # after which finished jobs and idle uploads are deleted
    lease_seconds: float = 30.0  # how long a worker that says nothing keeps its job
    job_hours: float = 6.0  # after which a job is ended
    job_memory_gb: float | None = None  # of the process that runs a job; None: what the machine has
    attempts: int = 3  # at a job that ends its process, then it has failed

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("data_dir", lambda value: value != "", "a folder"),
            ("port", lambda value: 0 <= value < 65536, "0 to 65535"),
            ("mrd_port", lambda value: value is None or 0 <= value < 65536, "0 to 65535"),
            ("mrd_sessions", lambda value: 1 <= value <= 256, "1 to 256"),
            ("mrd_sessions_per_address", lambda value: value >= 1, ">= 1"),
            ("mrd_connections_per_minute", lambda value: value >= 1, ">= 1"),
            ("mrd_idle_seconds", lambda value: value > 0, "> 0"),
            ("dicom_port", lambda value: value is None or 0 < value < 65536, "1 to 65535"),
            ("dicom_title", lambda value: 1 <= len(value.strip()) <= 16, "1 to 16 characters"),
            ("dicom_connections_per_minute", lambda value: value >= 1, ">= 1"),
            ("dicom_quiet_seconds", lambda value: value > 0, "> 0"),
            ("workers", lambda value: 0 <= value <= 64, "0 to 64"),
            ("threads", lambda value: value is None or value >= 1, ">= 1"),
            ("max_upload_gb", lambda value: value > 0, "> 0"),
            ("max_uploads", lambda value: value >= 1, ">= 1"),
            ("quota_gb", lambda value: value > 0, "> 0"),
            ("min_free_gb", lambda value: value >= 0, ">= 0"),
            ("requests_per_minute", lambda value: value >= 10, ">= 10"),
            ("result_hours", lambda value: value > 0, "> 0"),
            ("lease_seconds", lambda value: value >= 1, ">= 1"),
            ("job_hours", lambda value: value > 0, "> 0"),
            ("job_memory_gb", lambda value: value is None or value >= 1, ">= 1"),
            ("attempts", lambda value: 1 <= value <= 10, "1 to 10"),
        ):
            value = getattr(self, name)
            if not holds(value):
                raise ConfigError(f"Expected `{name}` to be {wanted}, got {value!r}.", "Correct the value.")
        if not self.http and self.mrd_port is None and self.dicom_port is None:
            raise ConfigError(
                "Without HTTP, MRD and DICOM there is nothing to serve.", "Set `mrd_port` or `dicom_port`."
            )
        if self.dicom_port is not None and not (self.dicom_callers and self.dicom_rules):
            raise ConfigError(
                "A DICOM node needs `dicom_callers`, who may call, and `dicom_rules`, what is done with their series.",
                "Set both; docs/service.md shows how.",
            )

    @property
    def folder(self) -> Path:
        """``data_dir``."""
        return Path(self.data_dir)

    @property
    def database_url(self) -> str:
        """Of the jobs."""
        return self.jobs_url or f"sqlite:///{self.folder.resolve() / 'jobs.sqlite'}"

    def is_host(self, name: str) -> bool:
        """Whether the service may be addressed as ``name``, the Host header without its port."""
        name = name.strip("[]").casefold()
        if name in {self.host.casefold(), "localhost", *(one.casefold() for one in self.allowed_hosts)}:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False
