"""What every page is made with: the templates' environment, and a writer that makes the file whole or not at all.

Names and header texts come from files that nobody vouches for: everything is escaped, and a page itself forbids any
script but its own and any address outside.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mri_unroll.io.atomic import atomic_path
from mri_unroll.report.wording import number, percent

_STYLE = "report"  # folder of `page.css`, which all pages wear, and of the macros in `parts.html.j2`


def environment(folder: str = _STYLE) -> Environment:
    """Templates of a folder of the package, with the style and the macros that all pages have in common."""
    folders = dict.fromkeys((folder, _STYLE))
    made = Environment(
        loader=ChoiceLoader([PackageLoader("mri_unroll", name) for name in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "percent": percent, "digest": _digest}
    return made


def write_page(page: str, path: Path, overwrite: bool = False) -> None:
    """Write a rendered page.

    Raises
    ------
    InputError, DeviceError
        As `mri_unroll.io.atomic.atomic_path`.
    """
    with atomic_path(path, overwrite) as part:
        part.write_bytes(page.encode("utf-8", "replace"))  # a file name may hold bytes that are no text


def _digest(script: str) -> str:
    """What a content security policy calls an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode("ascii")
