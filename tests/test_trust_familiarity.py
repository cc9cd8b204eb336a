"""Which bodies are known: thumbnails, the shipped classifier, and what it was taught with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from mri_unroll.errors import ModelError
from mri_unroll.trust import familiarity
from mri_unroll.trust.familiarity import KINDS, SIDE, Familiarity, log_odds, thumbnail, unfamiliarity

TEST_PEOPLE = {"brain_uih_T1": 80, "knee20": 19, "cardiac100": 95}  # a slice of each, which nothing was trained on


@pytest.fixture
def looks(trust_script: Callable[[str], ModuleType]) -> ModuleType:
    return trust_script("looks")


def body() -> NDArray[np.float64]:
    y, x = np.mgrid[-50:50, -40:40]
    return np.where(np.hypot(y / 45, x / 35) < 1, 0.6, 0.0) + np.where(np.hypot(y - 12, x) < 9, 0.4, 0.0)


@pytest.mark.parametrize("shape", [(64, 64), (21, 300), (640, 372), (7, 5)])
def test_a_thumbnail_knows_no_unit_and_no_size(shape: tuple[int, int]) -> None:
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    small = thumbnail(picture)
    assert small.shape == (SIDE, SIDE)
    assert 0 <= float(small.min()) <= float(small.max()) <= 1.5
    torch.testing.assert_close(thumbnail(picture * 1e-7), small, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(thumbnail(picture * 1e7), small, rtol=1e-3, atol=1e-3)


def test_nothing_at_all_has_a_thumbnail() -> None:
    assert float(thumbnail(torch.zeros(40, 30)).abs().max()) == 0.0
    assert math.isfinite(unfamiliarity(torch.zeros(40, 30)))


def test_a_reflection_is_as_familiar() -> None:
    picture = torch.from_numpy(body()).float()
    assert unfamiliarity(picture.flip(0)) == pytest.approx(unfamiliarity(picture), abs=1e-3)
    assert unfamiliarity(picture.flip(1)) == pytest.approx(unfamiliarity(picture), abs=1e-3)
    assert unfamiliarity(1e6 * picture) == pytest.approx(unfamiliarity(picture), abs=1e-2)


def test_a_classifier_comes_back_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network, thumbnails = Familiarity().eval(), torch.rand(3, SIDE, SIDE)
    assert network(thumbnails).shape == (3, len(KINDS) + 1)
    familiarity.save(network, {"limit": 1.5}, tmp_path / "one.safetensors")
    again, about = familiarity.load(tmp_path / "one.safetensors")
    assert about == {"limit": 1.5}
    torch.testing.assert_close(log_odds(thumbnails, again), log_odds(thumbnails, network))
    save_file({"last.bias": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no classifier of bodies"):
        familiarity.load(tmp_path / "other.safetensors")


def test_noise_and_stripes_are_no_body() -> None:
    y, x = np.mgrid[-60:60, -60:60]
    stripes = torch.from_numpy(1.0 + np.sign(np.sin(x / 3.0) * np.sin(y / 5.0))).float()
    noise = torch.rand(120, 120, generator=torch.Generator().manual_seed(2))
    assert unfamiliarity(stripes) > familiarity.limit()
    assert unfamiliarity(noise) > familiarity.limit()


def test_people_whom_nothing_was_trained_on_are_familiar(shared_data: Path) -> None:
    for name, index in TEST_PEOPLE.items():
        with np.load(shared_data / "truth" / f"{name}.npz") as file:
            picture = torch.from_numpy(file["images"][min(index, len(file["images"]) - 1)].astype(np.float32))
        assert unfamiliarity(picture) < familiarity.limit(), name


def test_strangers_are_pictures_and_differ(looks: ModuleType) -> None:
    for maker, share in looks._MAKERS:
        assert 0 < share < 1
        found = [np.clip(maker(body(), np.random.default_rng([1, seed])), 0, None) for seed in range(3)]
        for picture in found:
            small = looks.shown(picture, np.random.default_rng(1))
            assert small.shape == (SIDE, SIDE)
            assert np.isfinite(small).all()
            assert small.std() > 0.01, maker.__name__
        assert not np.array_equal(found[0], found[1]), maker.__name__
    one, other = (looks.stranger(body(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert sum(share for _, share in looks._MAKERS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("person", "kind"), [("brain_skyra", "brain"), ("knee20:3", "knee"), ("cardiac100:17", "heart")]
)
def test_every_person_is_of_a_kind(looks: ModuleType, person: str, kind: str) -> None:
    assert looks.kind_of(person) == kind
