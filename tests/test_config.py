"""Settings: defaults, the way from TOML, and every refusal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from mri_unroll.config import ReconstructionConfig, from_mapping, load_toml
from mri_unroll.errors import ConfigError


@dataclass(frozen=True)
class Prior:
    width: int = 32
    kind: Literal["resnet", "unet"] = "resnet"
    strength: float = 1.0


@dataclass(frozen=True)
class Model:
    n_steps: int
    prior: Prior = field(default_factory=Prior)
    momentum: str | bool = False
    rates: tuple[float, ...] = ()
    crop: tuple[int, int] | None = None
    weights: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def test_defaults_are_valid_and_frozen() -> None:
    config = ReconstructionConfig()
    assert config.method == "unrolled"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(("accelerate", "expected"), [(4.0, 0.08), (8.0, 0.04), (None, 0.32)])
def test_center_fraction_follows_acceleration(accelerate: float | None, expected: float) -> None:
    assert ReconstructionConfig(accelerate=accelerate).effective_center_fraction == pytest.approx(expected)
    assert ReconstructionConfig(accelerate=accelerate, center_fraction=0.1).effective_center_fraction == 0.1


def test_toml_fills_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "recon.toml"
    path.write_text('method = "tv"\naccelerate = 4\nslices = [2, 5]\nreg_weight = 1e-3\n')
    config = load_toml(path, ReconstructionConfig)
    assert config == ReconstructionConfig(method="tv", accelerate=4.0, slices=(2, 5), reg_weight=1e-3)
    assert type(config.accelerate) is float


def test_toml_fills_nested_tables(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text(
        'n_steps = 5\nmomentum = "fista"\nrates = [1, 0.5]\ncrop = [3, 4]\nweights = "a/b"\nnames = ["x"]\n'
        '[prior]\nwidth = 8\nkind = "unet"\nstrength = 2\n[notes]\nby = "me"\n'
    )
    model = load_toml(path, Model)
    assert model == Model(
        n_steps=5,
        prior=Prior(width=8, kind="unet", strength=2.0),
        momentum="fista",
        rates=(1.0, 0.5),
        crop=(3, 4),
        weights=Path("a/b"),
        notes={"by": "me"},
        names=["x"],
    )


@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ("n_step = 5", "`n_step`", "`n_steps`"),
        ("n_steps = 5\nprior.widht = 3", "`prior.widht`", "`width`"),
        ("n_steps = 5\nxyzzy = 3", "`xyzzy`", "Known here: crop"),
        ("", "`n_steps` is missing", "no default"),
        ("n_steps = 5.0", "a whole number for `n_steps`", "Correct"),
        ("n_steps = true", "a whole number for `n_steps`", "Correct"),
        ("n_steps = '5'", "a whole number for `n_steps`", "Correct"),
        ("n_steps = 5\nprior = 3", "a table for `prior`", "Correct"),
        ("n_steps = 5\nprior.strength = true", "a number for `prior.strength`", "Correct"),
        ("n_steps = 5\nprior.kind = 'resnt'", "'resnet', 'unet' for `prior.kind`", "'resnet'"),
        ("n_steps = 5\nprior.kind = 1", "'resnet', 'unet' for `prior.kind`", "Choose"),
        ("n_steps = 5\nmomentum = 1", "a text or true or false for `momentum`", "Correct"),
        ("n_steps = 5\nrates = ['a']", "a number for `rates`", "Correct"),
        ("n_steps = 5\nrates = 3", "a list, each item a number for `rates`", "Correct"),
        ("n_steps = 5\ncrop = [1, 2, 3]", "a list of 2 (a whole number, a whole number) for `crop`", "Correct"),
        ("n_steps = 5\nnotes.by = 3", "a text for `notes.by`", "Correct"),
        ("n_steps = 5\nnames = 'x'", "a list, each item a text for `names`", "Correct"),
        ("n_steps = ", "not valid TOML", "Correct"),
    ],
)
def test_toml_is_refused_with_place_and_advice(tmp_path: Path, text: str, place: str, advice: str) -> None:
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_toml(path, Model)
    assert str(path) in caught.value.message
    assert place in caught.value.message
    assert advice in caught.value.hint


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_file_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "absent.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_toml(path, ReconstructionConfig)


@pytest.mark.parametrize(
    "change",
    [
        {"accelerate": 0.5},
        {"accelerate": float("nan")},
        {"accelerate": float("inf")},
        {"center_fraction": -0.1},
        {"center_fraction": float("nan")},
        {"seed": -1},
        {"slices": (3, 3)},
        {"slices": (-1, 3)},
        {"reg_weight": 0.0},
        {"n_iterations": 0},
        {"method": ""},
        {"device": "tpu"},
        {"mask": "radial"},
        {"format": "png"},
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(change))}`"):
        ReconstructionConfig(**change)


def test_only_dataclasses_are_built() -> None:
    with pytest.raises(TypeError, match="not a dataclass"):
        from_mapping({}, int)
