"""Options that several commands have in common, and the names that a shell completes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from mri_unroll.recon.methods import SUMMARIES

LAYOUT_HELP = 'Axes of a NumPy file, as "slice,coil,ky,kx"; of ISMRMRD which scan, as "repetition=1".'

Layout = Annotated[str | None, typer.Option(help=LAYOUT_HELP, show_default=False)]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="physical cores")]


def complete_method(incomplete: str) -> Iterable[str]:
    """Methods and checkpoints whose names begin so."""
    yield from (name for name in SUMMARIES if name.startswith(incomplete))
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    if folder.is_dir():
        found = {str(path): re.sub(r"\.\d+(?=\.\w+$)", "", str(path)) for path in folder.glob("*.safetensors")}
        # NAME.2.safetensors beside NAME.safetensors is the second file of one checkpoint.
        checkpoints = sorted(name for name, first in found.items() if name == first or first not in found)
        yield from (name for name in checkpoints if name.startswith(incomplete))


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads; None: the physical cores."""
    import torch

    from mri_unroll.machine import default_threads

    torch.set_num_threads(threads or default_threads())
