"""The commands ``mri-unroll serve`` and ``mri-unroll mrd-client``."""

from __future__ import annotations

import dataclasses
import re
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mri_unroll.config import DeviceChoice, load_toml
from mri_unroll.errors import ConfigError, InputError
from mri_unroll.terminal import Debug, guarded, put, put_json, tell


@guarded
def serve(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where uploads, jobs and results lie; on a local disk.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="TOML", help="All settings; options below overrule it.", show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free one.", show_default="8080")] = None,
    no_http: Annotated[bool, typer.Option("--no-http", help="Answer no HTTP; then no token is needed.")] = False,
    mrd_port: Annotated[
        int | None, typer.Option(help="Take MRD sessions of scanners here; it knows no tokens.", show_default="none")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="One token, or lines NAME SCOPES TOKEN.", show_default="variable MRI_UNROLL_TOKEN"),
    ] = None,
    jobs_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="postgresql+psycopg://..., shared by hosts.", show_default="SQLite"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that reconstruct.", show_default="1")] = None,
    device: Annotated[DeviceChoice | None, typer.Option(help="Of the workers.", show_default="auto")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each.", show_default="all cores")] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the settings that hold, and end.")] = False,
    debug: Debug = False,
) -> None:
    """Serve reconstructions over HTTP: uploads, durable jobs, results, and a page at /.

    A token of 32 characters or more is needed, in a file or in the variable MRI_UNROLL_TOKEN. Ctrl-C stops it; jobs at
    hand are queued again.
    """
    given: dict[str, Any] = {
        "data_dir": None if data_dir is None else str(data_dir),
        "host": host,
        "port": port,
        "http": False if no_http else None,
        "mrd_port": mrd_port,
        "token_file": None if token_file is None else str(token_file),
        "jobs_url": jobs_url,
        "workers": workers,
        "device": device,
        "threads": threads,
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        from mri_unroll.service.settings import ServiceSettings
        from mri_unroll.service.supervisor import Supervisor
        from mri_unroll.service.tokens import load_tokens
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The service needs {error.name}, which is not installed.",
            "Install it with `pip install 'mri-unroll[serve]'`.",
        ) from error
    if config is not None:
        settings = load_toml(config, ServiceSettings, given)
    elif "data_dir" in given:
        settings = ServiceSettings(**given)
    else:
        raise ConfigError("The service needs a folder for its data.", "Add --data-dir DIR, or --config FILE.")
    if show_config:
        url = settings.jobs_url and re.sub(r"(?<=://)([^/@]*):[^/@]*@", r"\1:***@", settings.jobs_url)  # no password
        put_json({**dataclasses.asdict(settings), "jobs_url": url}, indent=2)
        return
    if settings.http:  # says at once what is wrong
        load_tokens(None if settings.token_file is None else Path(settings.token_file))
    if settings.dicom_port is not None:
        if find_spec("pynetdicom") is None:
            raise ConfigError(
                "The DICOM node needs pynetdicom, which is not installed.",
                "Install it with `pip install 'mri-unroll[dicom]'`.",
            )
        from mri_unroll.service.dicom_rules import check_rules

        check_rules(settings)
    from mri_unroll.service.log import configure

    supervisor = Supervisor(settings)
    configure()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        tell("note: tokens and pictures travel unencrypted; put a proxy with TLS in front of it")

    def tell_where() -> None:
        if supervisor.address is not None:
            put(f"listening on {supervisor.address}")
        if supervisor.mrd_address is not None:
            put(f"MRD sessions at {supervisor.mrd_address}")
        if settings.dicom_port is not None:
            put(f"DICOM node {settings.dicom_title} at {settings.host}:{settings.dicom_port}")

    supervisor.run(tell_where)
    tell("stopped")


@guarded
def mrd_client(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ISMRMRD HDF5.")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the MRD socket is.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Gets the images: .h5 with `reconstruction` (slice, y, x).")],
    config: Annotated[str, typer.Option(help="A method, or options as JSON.")] = "default",
    debug: Debug = False,
) -> None:
    """Send a scan to an MRD socket, as a scanner would, and keep the images that come back."""
    host, colon, port = to.rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise ConfigError(f"Expected --to HOST:PORT, got {to!r}.", "A socket on this machine is 127.0.0.1:9002.")
    if out.exists():
        raise InputError(f"{out} exists already.", "Name another file.")
    import h5py
    import numpy as np

    from mri_unroll.io.atomic import atomic_path
    from mri_unroll.io.content import plain_file
    from mri_unroll.io.mrd_session import stored_session
    from mri_unroll.io.mrd_stream import ImageMessage
    from mri_unroll.service.mrd_link import send

    header, readouts = stored_session(plain_file(file))
    found = []
    for content in send(host.strip("[]"), int(port), header, readouts, config):
        if isinstance(content, ImageMessage):
            found.append(content)
        else:
            tell(str(content))
    if not found:
        raise InputError("No image came back.", "See what was said above.")
    with atomic_path(out) as part, h5py.File(part, "w") as file_out:
        file_out["reconstruction"] = np.stack([one.pixels[0, 0] for one in found]).astype(np.float32)
        file_out["heads"] = np.array([one.head for one in found])
    put(str(out))
