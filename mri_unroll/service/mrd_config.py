"""What a scanner asks for: the name of a configuration, or options in JSON; both become the wish of a job.

Texts come as CONFIG_FILE and CONFIG_TEXT before the header, and as TEXT after it. JSON is
``{"parameters": {"config": NAME, "customconfig": NAME, OPTION: VALUE, ...}}``, as OpenRecon sends it, or the options
alone. Options are those of a job over HTTP (`mri_unroll.service.wish`) that mean something to raw k-space. Their names
may be written without underscores and in any case, because OpenRecon allows letters and digits alone, and their values
as texts. Whatever is not known is refused.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from pydantic import ValidationError

from mri_unroll.errors import ConfigError
from mri_unroll.service.wish import STUDY_ONLY, Wish

DEFAULTS = ("", "default", "null", "openrecon", "unrolled")  # names of a configuration that mean our default
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_OPTIONS = {name.replace("_", ""): name for name in Wish.model_fields if name not in {*STUDY_ONLY, "mrd"}}


class Asked:
    """What the texts of one session ask for, so far."""

    def __init__(self) -> None:
        self._name = ""
        self._options: dict[str, Any] = {}

    def add(self, text: str, is_name: bool = False) -> None:
        """Take a text: JSON; else a name, if that is what it is; else words for a log, which are passed over.

        Raises
        ------
        ConfigError
            If it is JSON and broken, or holds an option that is not known.
        """
        text = text.strip()
        if text.startswith("{"):
            self._merge(_parsed(text))
        elif is_name:
            self._name = text

    def wish(self) -> Wish:
        """Method and options; names come from a list, never from the other side.

        Raises
        ------
        ConfigError
            If they contradict each other, or a value cannot be.
        """
        method = _method(self._name)
        given = dict(self._options)
        named = _method(str(given.pop("method", "")))
        if method and named and method != named:
            raise ConfigError(f"The configuration names {method!r}, the option {named!r}.", "Name one method.")
        try:
            wish = Wish.model_validate({**given, "method": named or method, "mrd": True}, strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"The option `{place}`: {first['msg']}.", "Correct it.") from None
        wish.check()
        return wish

    def _merge(self, found: dict[str, Any]) -> None:
        parameters = found.get("parameters", found)
        if not isinstance(parameters, dict):
            raise ConfigError("Expected `parameters` to be names and values.", "Send a JSON object.")
        for name, value in parameters.items():
            key = name.replace("_", "").casefold()
            if key in ("config", "customconfig"):
                if value not in ("", None):
                    self._name = str(value)
            elif key not in _OPTIONS:
                raise _unknown(name)
            elif value is not None:
                self._options[_OPTIONS[key]] = value


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("The text of the configuration is no JSON.", "Correct it.") from error
    assert isinstance(found, dict)  # it begins with a brace
    return found


def _method(name: str) -> str | None:
    name = name.strip().casefold().removesuffix(".xml")
    if name in DEFAULTS:
        return None
    if not _NAME.fullmatch(name):
        raise ConfigError("The name of the configuration is none that is known.", "Name a method.")
    return name


def _unknown(name: str) -> ConfigError:
    shown = name[:40] if name.isprintable() else "of letters that cannot be shown"
    nearest = difflib.get_close_matches(name.casefold(), _OPTIONS.values(), n=1, cutoff=0.5)
    hint = f"Did you mean `{nearest[0]}`?" if nearest else f"Known here: {', '.join(sorted(_OPTIONS.values()))}."
    return ConfigError(f"There is no option `{shown}`.", hint)
