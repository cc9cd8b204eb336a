"""Which bodies are known: thumbnails, the shipped classifier, and what it was taught with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from mri_unroll.errors import ModelError
from mri_unroll.trust import familiarity
from mri_unroll.trust.familiarity import KINDS, SIDE, Familiarity, log_odds, thumbnail, unfamiliarity
from mri_unroll.trust.witness import second_network

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
            assert np.isfinite(picture).all()
            assert picture.std() > 0.01 * picture.max() > 0, maker.__name__
        assert not np.array_equal(found[0], found[1]), maker.__name__
    one, other = (looks.stranger(body(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert sum(share for _, share in looks._MAKERS) == pytest.approx(1)


def test_what_is_scanned_is_seen_by_the_second_network(looks: ModuleType) -> None:
    network = second_network(torch.device("cpu"))
    one, again, other = (looks.seen(body(), network, np.random.default_rng(seed)) for seed in (4, 4, 5))
    clear = looks.seen(body(), None, np.random.default_rng(4))  # the same scan, fully sampled
    for small in (one, clear):
        assert small.shape == (SIDE, SIDE)
        assert np.isfinite(small).all()
        assert small.std() > 0.05
    assert np.corrcoef(one.ravel(), clear.ravel())[0, 1] > 0.8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_other_bodies_are_cut_from_volumes_of_both_kinds(
    trust_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = trust_script("others")
    z, y, x = np.mgrid[-20:20, -30:30, -25:25]
    inside = np.hypot(y / 25, x / 20) < 1
    density = np.where(inside, 40.0 + z, -1000.0)  # Hounsfield units
    for name, volume in (("density", density), ("resonance", np.where(inside, 300.0 + 5 * z, 2.0))):
        nibabel.save(
            nibabel.Nifti1Image(volume.T.astype(np.int16), np.diag([1.5, 1.5, 3.0, 1.0])), tmp_path / f"{name}.nii"
        )
    bodies = {name: others.Body(f"{name}.nii") for name in ("density", "resonance")}
    monkeypatch.setattr(others, "BODIES", bodies)
    seen = set()
    for seed in range(12):
        picture, name = others.other_body(tmp_path, np.random.default_rng(seed))
        seen.add(name)
        assert picture.ndim == 2
        assert max(picture.shape) >= 110
        assert np.isfinite(picture).all()
        assert picture.min() >= 0
        assert picture.std() > 0.05, (seed, name)
        np.testing.assert_array_equal(picture, others.other_body(tmp_path, np.random.default_rng(seed))[0])
    assert seen == set(bodies)


def test_packages_that_are_not_there_are_asked_for(trust_script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"There is no .*unpack the packages that docs/trust.md names"):
        trust_script("others").other_body(tmp_path, np.random.default_rng(0))


def test_a_body_left_out_counts_neither_as_known_nor_as_sound(trust_script: Callable[[str], ModuleType]) -> None:
    familiar, evidence_files = trust_script("familiar"), trust_script("evidence_files")
    assert familiar.classes(np.array(["knee", "drawn", "brain", "abdomen"])).tolist() == [1, 3, 0, 3]
    pictures = np.arange(3.0)[:, None, None] * np.ones((3, SIDE, SIDE))
    people = ["brain_uih", "cardiac100:84", "knee20:16"]
    part = evidence_files.Collected((), np.zeros((3, 0)), np.zeros(3), people, pictures, [], [])
    assert familiar.sound(part, ["heart"]).mean((1, 2)).tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("person", "kind"), [("brain_skyra", "brain"), ("knee20:3", "knee"), ("cardiac100:17", "heart")]
)
def test_every_person_is_of_a_kind(looks: ModuleType, person: str, kind: str) -> None:
    assert looks.kind_of(person) == kind
