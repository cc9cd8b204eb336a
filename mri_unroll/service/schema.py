"""The tables of the service: SQLite in a file, or a PostgreSQL that several hosts share.

SQLite runs with a write-ahead log and full synchronisation; every transaction that writes begins as a writer, so that
two of them wait for each other instead of failing half-way.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from mri_unroll.errors import ConfigError, DeviceError

VERSION = 1
_READS = "mri_unroll_reads"
metadata = MetaData()

about = Table("about", metadata, Column("name", String(32), primary_key=True), Column("value", String(64)))

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(255), nullable=False),  # what the sender calls the file
    Column("digest", String(64), nullable=False),  # SHA-256 that the sender has announced; "": none
    Column("received", BigInteger, nullable=False),  # bytes on the disk, as of the last request
    Column("is_complete", Boolean, nullable=False),
    Column("touched", Float, nullable=False),  # seconds since 1970, as all times here
    Index("uploads_of", "owner", "touched"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("key", String(128)),  # idempotency: the same key of the same owner is the same job
    Column("upload", String(32), nullable=False),
    Column("name", String(255), nullable=False),  # of the file
    Column("wish", Text, nullable=False),  # JSON: method and options
    Column("state", String(12), nullable=False),  # queued, running, done, failed, cancelled
    Column("attempts", Integer, nullable=False),
    Column("relief", Integer, nullable=False),  # how far down the ladder of memory
    Column("worker", String(64), nullable=False),  # who holds the lease; "": nobody
    Column("lease", Float, nullable=False),  # until when
    Column("wants_cancel", Boolean, nullable=False),
    Column("done", Integer, nullable=False),  # progress
    Column("total", Integer, nullable=False),
    Column("stage", String(200), nullable=False),
    Column("error", Text, nullable=False),  # JSON: message, hint, kind; "": none
    Column("result", String(80), nullable=False),  # folder under results/; "": none
    Column("size", BigInteger, nullable=False),  # bytes of the result
    Column("created", Float, nullable=False),
    Column("started", Float, nullable=False),
    Column("finished", Float, nullable=False),
    Index("jobs_key", "owner", "key", unique=True),
    Index("jobs_next", "state", "created"),
)


def connect(url: str) -> Engine:
    """Open the database; tables are made or brought to this version.

    Raises
    ------
    ConfigError
        If it is of a newer version, or its address is wrong.
    DeviceError
        If it cannot be reached.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True, **_options(url))
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare)
            event.listen(engine, "begin", _begin)
        try:
            with engine.begin() as link:
                _migrate(link)
        except BaseException:
            engine.dispose()
            raise
    except (OperationalError, IntegrityError) as error:
        raise DeviceError(f"The database of jobs cannot be opened: {error.orig}.", "Check its address.") from error
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"The database of jobs cannot be used: {type(error).__name__}.",
            "Write --jobs-url postgresql+psycopg://USER@HOST/NAME, with the extra `postgres` installed.",
        ) from error
    return engine


def _options(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": 30, "check_same_thread": False}} if url.startswith("sqlite") else {}


def _prepare(link: Any, _: Any) -> None:
    link.isolation_level = None  # transactions begin where we say, see `_begin`
    for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        link.execute(f"PRAGMA {setting}").close()


def _begin(link: Connection) -> None:
    link.exec_driver_sql("BEGIN" if link.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")


def reading(engine: Engine) -> Engine:
    """The same database for transactions that only read: they wait for no writer, and no writer waits for them."""
    return engine.execution_options(**{_READS: True})


def _migrate(link: Connection) -> None:
    if link.dialect.name == "postgresql":
        link.execute(text("SELECT pg_advisory_xact_lock(7203401)"))  # one host at a time
    metadata.create_all(link, tables=[about])
    found = link.execute(select(about.c.value).where(about.c.name == "version")).scalar()
    if found is None:
        metadata.create_all(link)
        link.execute(insert(about).values(name="version", value=str(VERSION)))
        return
    version = int(found)
    if version > VERSION:
        raise ConfigError(
            f"The database of jobs is of version {version}, this program knows {VERSION}.", "Update mri_unroll."
        )
    for step in range(version, VERSION):
        for statement in _STEPS[step]:
            link.execute(text(statement))
    if version < VERSION:
        link.execute(update(about).where(about.c.name == "version").values(value=str(VERSION)))


# From one version to the next: statements by the version that they start from. There is no older one yet.
_STEPS: dict[int, tuple[str, ...]] = {}
