"""Who may do what: tokens, kept as hashes alone."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mri_unroll.errors import ConfigError

SUBMIT, READ, ADMIN = "submit", "read", "admin"
SCOPES = (SUBMIT, READ, ADMIN)
VARIABLE = "MRI_UNROLL_TOKEN"
_LEAST = 32  # characters; 43 of base64 hold 256 bits
_MAKE = 'Make one with `python3 -c "import secrets; print(secrets.token_urlsafe(32))"`.'


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token belongs to. ``admin`` sees everybody's jobs; the others see their own."""

    name: str
    scopes: frozenset[str]
    digest: bytes = field(repr=False)

    def may(self, scope: str) -> bool:
        """Whether this is allowed."""
        return scope in self.scopes or ADMIN in self.scopes


class Tokens:
    """All callers; comparing takes the same time whoever it is."""

    def __init__(self, callers: Sequence[Caller]) -> None:
        self._callers = tuple(callers)

    def caller(self, token: str) -> Caller | None:
        """Whose token it is; None: nobody's."""
        digest = _digest(token)
        found = None
        for caller in self._callers:
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        return found


def load_tokens(path: Path | None) -> Tokens:
    """Tokens of a file, else the one in the environment.

    A file holds one token, or lines of name, scopes (``submit``, ``read``, ``admin``, with commas between) and token.

    Raises
    ------
    ConfigError
        If there is none, one is short, or others than its owner may read the file.
    """
    if path is None:
        token = os.environ.get(VARIABLE, "").strip()
        if not token:
            raise ConfigError(f"Nobody could log in: neither --token-file nor {VARIABLE} is set.", _MAKE)
        return Tokens([_caller("owner", SCOPES, token)])
    try:
        mode = path.stat().st_mode
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The token file {path} cannot be read: {error}.", "Check the path and that it is text."
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~(stat.S_IRGRP):
        raise ConfigError(f"Others may use the token file {path}.", f"Run `chmod 600 {path}`.")
    lines = [words for words in lines if words and not words[0].startswith("#")]
    if len(lines) == 1 and len(lines[0]) == 1:
        return Tokens([_caller("owner", SCOPES, lines[0][0])])
    callers = []
    for words in lines:
        scopes = words[1].split(",") if len(words) == 3 else []
        if not scopes or not set(scopes) <= set(SCOPES):
            raise ConfigError(
                f"Expected lines of name, scopes and token in {path}, got another.", f"Scopes are {', '.join(SCOPES)}."
            )
        callers.append(_caller(words[0], scopes, words[2]))
    names = [caller.name for caller in callers]
    if not callers or len(set(names)) < len(names):
        raise ConfigError(f"The token file {path} holds no token, or one name twice.", _MAKE)
    return Tokens(callers)


def _caller(name: str, scopes: Sequence[str], token: str) -> Caller:
    if len(token) < _LEAST:
        raise ConfigError(f"The token of {name} has {len(token)} characters, fewer than {_LEAST}.", _MAKE)
    return Caller(name, frozenset(scopes), _digest(token))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
