"""Fixtures and habits of every test."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.service import Client, Running

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are written, never shown
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: threads would only be in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_LONG = ("test_service", "test_training", "test_dicom", "test_cohort")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans (``kspace/``, ``truth/``, ``dicom/``); skipped where absent."""
    folder = Path(os.environ.get("MRI_UNROLL_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real scans: {folder} is not there (set MRI_UNROLL_DATA)")
    return folder


@pytest.fixture
def trust_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of ``scripts/trust`` by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts" / "trust"))
    return importlib.import_module


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running service, one for all tests of a file."""
    from support.service import running

    with running(tmp_path_factory.mktemp("service"), requests_per_minute=100_000) as found:
        yield found


@pytest.fixture
def client(service: Running) -> Client:
    """Somebody with a token who speaks to `service`."""
    return service.client()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left alone with one at the end; and what needs a GPU only where one is.

    Torch is asked for a GPU only if such a test was collected.
    """
    items.sort(key=lambda item: not item.path.name.startswith(_LONG))  # all else stays in order
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
