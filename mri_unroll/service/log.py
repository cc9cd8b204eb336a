"""Logs of the service: one JSON object a line on standard error, with job identifiers and nothing that names a person.

What libraries say is left out below a warning, and its text always: it may quote a file.
"""

from __future__ import annotations

import json
import logging
import sys
import time

_OURS = "mri_unroll."
_FIELDS = (
    *("job", "upload", "caller", "method", "path", "status", "seconds", "bytes", "attempt", "relief", "signal"),
    *("count", "pid", "host", "port"),
)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.startswith(_OURS) or record.name == "__main__"
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "says": record.getMessage() if ours else f"a {record.levelname.lower()} of {record.name}",
        }
        said |= {field: getattr(record, field) for field in _FIELDS if hasattr(record, field)}
        if record.exc_info and record.exc_info[0] is not None:
            said["error"] = record.exc_info[0].__name__
        return json.dumps(said)


def configure() -> None:
    """Send everything to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("mri_unroll").setLevel(logging.INFO)
    logging.getLogger("__main__").setLevel(logging.INFO)
