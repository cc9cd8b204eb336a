"""The label that OpenRecon reads: what the container promises a scanner, and what the socket understands, are one."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from mri_unroll import __version__
from mri_unroll.recon.reconstructor import described_methods
from mri_unroll.service.mrd_config import Asked

ROOT = Path(__file__).parents[1]
if not (ROOT / "openrecon.json").is_file():
    pytest.skip("not a checkout", allow_module_level=True)
LABEL: dict[str, Any] = json.loads((ROOT / "openrecon.json").read_text())


def test_the_image_carries_the_label() -> None:
    (found,) = re.findall(r'^LABEL "com\.siemens[^"]*openrecon\.metadata:1\.1\.0"="([^"]+)"$', _stage("inline"), re.M)
    assert base64.b64decode(found, validate=True) == (ROOT / "openrecon.json").read_bytes(), (
        "openrecon.json was changed: put the output of `base64 -w0 openrecon.json` into the Dockerfile"
    )


def _stage(name: str) -> str:
    return next(part for part in (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:] if f"AS {name}\n" in part)


def test_it_says_what_the_container_is() -> None:
    general, wants = LABEL["general"], LABEL["reconstruction"]
    assert general["version"] == general["regulatory_information"]["production_identifier"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", general["version"])
    assert len(general["regulatory_information"]) == 11
    assert (wants["content_qualification_type"], wants["emitter"], wants["injector"]) == ("RESEARCH", "raw", "image")
    assert f'"--mrd-port", "{wants["port"]}"' in _stage("inline")
    assert "USER root" in _stage("inline")


def test_every_choice_is_understood() -> None:
    parameters = LABEL["parameters"]
    assert len(parameters) <= 14
    assert next(one["id"] for one in parameters if one["type"] == "choice") == "config"
    known = {str(one["name"]) for one in described_methods()}
    for one in parameters:
        assert re.fullmatch("[A-Za-z0-9]+", one["id"])
        assert one["default"] in [value["id"] for value in one["values"]]
        for value in one["values"]:
            asked = Asked()
            asked.add(json.dumps({"version": "1.1.0", "parameters": {one["id"]: value["id"]}}))
            assert asked.wish().method in (None, *known)
