"""Checkpoints in one file or several."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mri_unroll import checkpoints
from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets import ModelConfig, build
from mri_unroll.nets.model import digest, files, load, save
from mri_unroll.nets.weights import named_as_part, read, write
from mri_unroll.recon import reconstructor

SMALL = ModelConfig(n_steps=3, n_cg=1, n_start_cg=1, widths=(8, 8))
LIMIT = 16_000  # bytes of a file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(build(SMALL), SMALL, {"title": 'a "quoted" card'}, tmp_path / "net.safetensors", LIMIT)
    return tmp_path / "net.safetensors"


def test_several_files_hold_what_one_would(path: Path) -> None:
    parts = files(path)
    assert [part.name for part in parts] == [
        "net.safetensors",
        *(f"net.{n}.safetensors" for n in range(2, len(parts) + 1)),
    ]
    assert len(parts) > 2
    assert all(part.stat().st_size <= LIMIT for part in parts)
    network, config, card = load(path)
    torch.manual_seed(0)
    save(build(SMALL), SMALL, card, path.with_name("one.safetensors"))
    whole = load(path.with_name("one.safetensors"))[0]
    assert (config, card) == (SMALL, {"title": 'a "quoted" card'})
    for (name, mine), other in zip(network.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other), name
    assert files(path.with_name("one.safetensors")) == [path.with_name("one.safetensors")]


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {name: name.upper() for name in ("z", "config", "card", "a", "umlaut ü", 'quote "')}
    digests = set()
    for number in range(6):
        target = tmp_path / f"{number}.safetensors"
        write({"odd": torch.arange(3.0), "even": torch.ones(2, 2)}, metadata, target)
        digests.add(digest(target))
        tensors, found = read(target)
        assert found == metadata
        assert torch.equal(tensors["odd"], torch.arange(3.0))
    assert len(digests) == 1


def test_the_digest_of_the_first_covers_the_others(path: Path) -> None:
    assert digest(path) == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, framework="pt") as file:
        listed = json.loads(file.metadata()["parts"])
    assert listed == [digest(part) for part in files(path)[1:]]


def _remove(part: Path) -> None:
    part.unlink()


def _change(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)


def _exchange(part: Path) -> None:
    torch.manual_seed(1)
    save(build(SMALL), SMALL, {"title": 'a "quoted" card'}, part.with_name("other.safetensors"), LIMIT)
    part.with_name("other.2.safetensors").replace(part)


@pytest.mark.parametrize(
    ("damage", "words"), [(_remove, "beside net"), (_change, "does not belong"), (_exchange, "does not belong")]
)
def test_a_missing_or_foreign_part_is_refused(path: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(path.with_name("net.2.safetensors"))
    with pytest.raises(ModelError, match=rf"net\.2\.safetensors.*{words}|{words}.*net\.2\.safetensors"):
        load(path)


def test_a_part_is_no_checkpoint_of_its_own(path: Path) -> None:
    with pytest.raises(ModelError, match=r"file 2 of a checkpoint") as caught:
        load(path.with_name("net.2.safetensors"))
    assert "first" in caught.value.hint


def test_a_list_of_parts_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for nonsense in ("{", '{"a": 1}', "[1]"):
        save_file({"x": torch.ones(1)}, path, metadata={"parts": nonsense})
        with pytest.raises(ModelError, match="which files belong"):
            read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="safetensors checkpoint"):
        files(path)


def test_saving_again_leaves_no_part_behind_and_touches_nothing_else(path: Path) -> None:
    foreign = path.with_name("net.9.safetensors")  # a checkpoint that happens to be called so
    save(build(SMALL), SMALL, {}, foreign)
    n_files = len(files(path))
    save(build(SMALL), SMALL, {}, path, 2 * LIMIT)
    assert 1 < len(files(path)) < n_files
    load(path)
    save(build(SMALL), SMALL, {}, path)
    load(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.9.safetensors", "net.safetensors"]


def test_what_fits_no_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'x' of 80000 bytes"):
        write({"x": torch.zeros(20_000)}, {}, tmp_path / "a.safetensors", LIMIT)
    with pytest.raises(ConfigError, match="card"):
        write({"x": torch.zeros(2)}, {"card": "long" * 5000}, tmp_path / "a.safetensors", LIMIT)
    assert not list(tmp_path.iterdir())


def test_export_ships_parts_as_one_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (tmp_path / "card.toml").write_text('title = "Test"\n')
    for module in (reconstructor, checkpoints):
        monkeypatch.setattr(module, "weights_folder", lambda: folder)
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "export_model.py"))
    monkeypatch.setitem(script["main"].__globals__, "MAX_BYTES", LIMIT)
    given = ["--card", str(tmp_path / "card.toml"), "--tolerance", "2e-4", "--iterations", "70"]
    monkeypatch.setattr(sys, "argv", ["export_model.py", str(path), *given])
    script["main"]()
    shipped = folder / "unrolled.safetensors"
    assert len(files(shipped)) > 2
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in files(shipped))
    assert list(reconstructor.shipped_models()) == checkpoints.shipped_names() == ["unrolled"]
    assert checkpoints.verify("unrolled") == digest(shipped)
    config = load(shipped)[1]
    assert (config.tolerance, config.n_iterations) == (2e-4, 70)
    summary = checkpoints.summarise(shipped)
    assert summary["bytes"] == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert (summary["card"]["title"], summary["card"]["run"]) == ("Test", {"title": 'a "quoted" card'})
    assert "unrolled.2.safetensors" in capsys.readouterr().out
    _change(folder / "unrolled.2.safetensors")
    with pytest.raises(ModelError, match="does not belong"):
        checkpoints.verify("unrolled")


def test_export_ships_the_mean_of_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (tmp_path / "card.toml").write_text('title = "Test"\n')
    for module in (reconstructor, checkpoints):
        monkeypatch.setattr(module, "weights_folder", lambda: folder)
    torch.manual_seed(0)
    config = ModelConfig(n_steps=2, widths=(4, 6), counts_coils=True)
    paths, networks = [], []
    for index, n_strength in enumerate((2, 3)):  # the first knew less, and the mean has half of what the second added
        found = dataclasses.replace(config, n_strength=n_strength)
        networks.append(build(found))
        with torch.no_grad():
            for parameter in networks[-1].parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        paths.append(tmp_path / f"{index}.safetensors")
        save(networks[-1], found, {"run": index}, paths[-1])
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "export_model.py"))
    given = [*map(str, paths), "--card", str(tmp_path / "card.toml"), "--name", "both"]
    monkeypatch.setattr(sys, "argv", ["export_model.py", *given])
    script["main"]()
    shipped, shipped_config, card = load(folder / "both.safetensors")
    assert shipped_config.n_strength == 3
    assert card["run"] == {"run": 1, "mean_of": 2}
    first, second, mean = (network.steps[1].log_weight.weight[0] for network in (*networks, shipped))
    expected = torch.stack([first[0], first[1], 0 * first[1], first[2]]) + second
    torch.testing.assert_close(mean, expected / 2, rtol=2e-3, atol=1e-3)  # half precision in the file
    bias = torch.stack([network.steps[0].prior.last.bias for network in networks]).mean(0)
    torch.testing.assert_close(shipped.steps[0].prior.last.bias, bias, rtol=2e-3, atol=1e-3)


def test_only_numbered_names_are_parts() -> None:
    numbered = [f"a{middle}.safetensors" for middle in (".2", ".13", ".b.3")]
    whole = [f"a{middle}.safetensors" for middle in ("", ".1", ".0", "2", ".2x", ".02")]
    assert all(named_as_part(Path(name)) for name in numbered)
    assert not any(named_as_part(Path(name)) for name in whole)
