"""Learning without a reference: lines that are held out, and fine-tuning on one scan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import assert_same_run, tiny, write_images, write_kspace
from typer.testing import CliRunner

from mri_unroll.cli import app
from mri_unroll.errors import InputError, ModelError
from mri_unroll.io.registry import read_scan
from mri_unroll.nets.model import ModelConfig, build, digest, load, save
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.recon.calibrate import calibrate_slice
from mri_unroll.recon.reconstructor import make_reconstructor, shipped_models
from mri_unroll.recon.retrospective import undersample
from mri_unroll.training import finetuning
from mri_unroll.training.finetuning import FinetuningConfig
from mri_unroll.training.loop import train
from mri_unroll.training.self_supervision import hold_out, split_samples


@pytest.fixture(scope="module")
def undersampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "under.h5"
    write_kspace(path, 3, "SECRET", slice(0, None, 3))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was never trained, moved a little from pure data consistency."""
    config = ModelConfig(n_steps=2, n_cg=2, n_start_cg=2, widths=(6,), n_strength=3)
    torch.manual_seed(0)
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save(network, config, {"title": "a start"}, path)
    return path


def lines_of(width: int, step: int) -> np.ndarray:
    lines = np.zeros(width, bool)
    lines[::step] = True
    lines[width // 2 - 5 : width // 2 + 5] = True
    return np.broadcast_to(lines, (40, width)).copy()


@pytest.mark.parametrize("width", [60, 61])
def test_lines_are_split_whole_and_the_centre_is_given(width: int) -> None:
    mask = lines_of(width, 3)
    given, held_out = split_samples(mask, 0.4, np.random.default_rng(0))
    assert not (given & held_out).any()
    np.testing.assert_array_equal(given | held_out, mask)
    assert (held_out == held_out[:1]).all()
    assert held_out[0].sum() == round(0.4 * mask[0].sum())
    assert given[:, width // 2 - 2 : width // 2 + 2].all()
    other = split_samples(mask, 0.4, np.random.default_rng(1))[1]
    assert (other != held_out).any()


def test_samples_are_split_where_sampling_has_no_lines() -> None:
    mask = np.random.default_rng(0).random((50, 41)) < 0.4
    mask[23:27, 18:22] = True
    given, held_out = split_samples(mask, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(given ^ held_out, mask)
    assert held_out.sum() == round(0.3 * mask.sum())
    assert not held_out[23:27, 18:22].any()


def test_a_scan_of_its_centre_alone_is_refused() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:, 8:12] = True
    with pytest.raises(InputError, match="to hold some of them out"):
        split_samples(mask, 0.4, np.random.default_rng(0))


def test_rows_of_a_held_out_problem_are_those_of_the_whole() -> None:
    """Operator, data and held-out samples of a strip belong together, and nothing held out is given."""
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(3, 40, 60, dtype=torch.complex64, generator=generator)
    mask = lines_of(60, 3)
    problem = calibrate_slice(torch.where(torch.from_numpy(mask), kspace, 0), torch.from_numpy(mask))
    given, held_out = split_samples(mask, 0.4, np.random.default_rng(0))
    whole = hold_out(problem, given, held_out, 3)
    rows = slice(7, 29)
    strip = hold_out(problem, given, held_out, 3, rows)
    torch.testing.assert_close(strip.adjoint_kspace, whole.adjoint_kspace[:, rows], rtol=1e-4, atol=1e-5)
    picture = torch.randn(1, 40, 60, dtype=torch.complex64, generator=generator)
    torch.testing.assert_close(
        strip.op.normal(picture[:, rows]), whole.op.normal(picture)[:, rows], rtol=1e-4, atol=1e-5
    )
    there = centred_ifft(whole.held_out, (-2,))[:, :, rows]
    torch.testing.assert_close(strip.held_out, centred_fft(there, (-2,)), rtol=1e-4, atol=1e-5)
    assert not whole.held_out[..., torch.from_numpy(given)].any()
    assert float(whole.strength[0, 2]) == 1.0
    changed = hold_out(
        dataclasses.replace(problem, kspace=torch.where(torch.from_numpy(held_out), 9.0, problem.kspace)),
        given,
        held_out,
        3,
    )
    torch.testing.assert_close(changed.adjoint_kspace, whole.adjoint_kspace)  # what is held out is not seen


def test_exact_pictures_have_no_error_at_held_out_lines() -> None:
    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(1, 40, 60, dtype=torch.complex64, generator=generator)
    mask = lines_of(60, 2)
    kspace = centred_fft(picture)[0]
    problem = calibrate_slice(torch.where(torch.from_numpy(mask), kspace, 0)[None], torch.from_numpy(mask))
    example = hold_out(problem, *split_samples(mask, 0.5, np.random.default_rng(0)), 2)
    exact = problem.op.sens_maps[0, :1].conj() * picture / problem.scale
    assert example.error(exact) < 1e-8
    assert float(example.loss(exact)) < 1e-3
    assert example.error(0 * exact) == pytest.approx(1.0, rel=1e-6)


def test_training_without_references_runs_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate(("one", "two", "three")):
        write_kspace(folder / f"{name}.h5", seed, f"person {seed}", slice(seed % 2, None, 3))
    events: list[dict[str, Any]] = []
    config = tiny(folder, tmp_path / "run", held_out="two", supervision="ssdu")
    train(config, events.append)
    saved = [event for event in events if event["event"] == "saved"]
    assert saved[0]["score"] == "NMSE of held-out lines"
    assert all(np.isfinite(event["validation_db"]) for event in saved)
    assert saved[0]["validation_db"] < 0  # better than predicting nothing

    class Killed(Exception):
        """Stands for a kill."""

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == 4:
            raise Killed

    half = tiny(folder, tmp_path / "half", held_out="two", supervision="ssdu")
    with pytest.raises(Killed):
        train(half, kill)
    train(half, lambda event: None)
    assert_same_run(tmp_path / "run", tmp_path / "half")


def test_validation_asks_for_what_was_learned(tmp_path: Path) -> None:
    """On images there are references, but without them nothing taught the network to take noise away."""
    events: list[dict[str, Any]] = []
    images = write_images(tmp_path / "images")
    model = ModelConfig(n_steps=1, n_cg=2, n_start_cg=2, widths=(4,), n_strength=3)
    train(tiny(images, tmp_path / "run", n_steps=1, supervision="ssdu", model=model), events.append)
    saved = next(event for event in events if event["event"] == "saved")
    assert saved["score"] == "NMSE in the body"
    assert saved["validation_db"] == saved["noisy_db"]


def quick(**changes: Any) -> FinetuningConfig:
    settings: dict[str, Any] = {
        "minutes": 5.0,
        "n_slices": 1,
        "strip": 40,
        "every": 4,
        "max_steps": 12,
        "learning_rate": 2e-3,
    }
    return FinetuningConfig(**(settings | changes))


def test_finetuning_predicts_its_own_lines_better(undersampled: Path, weights: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    out = tmp_path / "tuned.safetensors"
    scan = read_scan(undersampled)
    tuned = finetuning.finetune(scan, weights, out, quick(), events.append)
    assert tuned.kept
    assert tuned.result < tuned.start
    assert (events[0]["event"], events[-1]["event"]) == ("start", "done")
    card = load(out)[2]
    assert card["title"] == "a start"
    assert card["tuned_on"]["scan_digest"] == scan.source.digest
    assert card["tuned_on"]["started_from"] == digest(weights)
    assert card["tuned_on"]["held_out_lines_db"] == {"start": tuned.start, "result": tuned.result}
    assert "SECRET" not in json.dumps(card)
    picture = make_reconstructor(str(out)).reconstruct(scan).pixels
    before = make_reconstructor(str(weights)).reconstruct(scan).pixels
    assert picture.shape == before.shape
    assert np.isfinite(picture).all()
    assert np.abs(picture - before).max() > 1e-4 * before.max()


def test_finetuning_refuses_a_network_that_does_not_reconstruct(undersampled: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    with pytest.raises(ModelError, match="task 'restore'"):
        finetuning.finetune(read_scan(undersampled), shipped_models()["restore"], out, quick(), lambda event: None)
    assert not out.exists()


def test_finetuning_that_makes_it_worse_keeps_the_start(undersampled: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    tuned = finetuning.finetune(
        read_scan(undersampled), weights, out, quick(learning_rate=30.0, max_steps=8), lambda event: None
    )
    assert not tuned.kept
    assert tuned.result == tuned.start
    assert tuned.best_step == 0
    for one, other in zip(load(out)[0].parameters(), load(weights)[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert load(out)[2]["tuned_on"]["kept"] is False


def test_finetuning_stops_in_time(undersampled: Path, weights: Path, tmp_path: Path) -> None:
    tuned = finetuning.finetune(
        read_scan(undersampled), weights, tmp_path / "t.safetensors", quick(minutes=0.0), lambda event: None
    )
    assert tuned.steps == 1
    assert "minutes were over" in tuned.reason
    patient = finetuning.finetune(
        read_scan(undersampled),
        weights,
        tmp_path / "p.safetensors",
        quick(learning_rate=30.0, max_steps=100, every=1, patience=3),
        lambda event: None,
    )
    assert patient.steps == 3
    assert "no better" in patient.reason


def test_finetune_command(undersampled: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "FinetuningConfig", lambda **given: quick(**given, max_steps=4))
    out = tmp_path / "tuned.safetensors"
    arguments = ["finetune", str(undersampled), "-o", str(out), "--from", str(weights), "--threads", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(out)]
    assert "error at the lines that decide" in done.stderr
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    events = [
        json.loads(line) for line in CliRunner().invoke(app, [*arguments, "--overwrite", "--json"]).stdout.splitlines()
    ]
    assert events[-1]["event"] == "done"
    assert events[-1]["digest"] == digest(out)


def test_finetune_refuses_in_sentences(undersampled: Path, weights: Path, tmp_path: Path) -> None:
    full = tmp_path / "full.h5"
    write_kspace(full, 0, "")
    runner = CliRunner()
    out = str(tmp_path / "tuned.safetensors")
    for arguments, words in (
        ([str(full), "-o", out, "--from", str(weights)], "fully sampled"),
        ([str(undersampled), "-o", out, "--from", "nonsense"], "no weights 'nonsense'"),
        ([str(undersampled), "-o", str(tmp_path / "tuned.pt")], "End the name in .safetensors"),
        ([str(undersampled), "-o", str(tmp_path / "absent" / "t.safetensors")], "no folder"),
    ):
        refused = runner.invoke(app, ["finetune", *arguments])
        assert refused.exit_code == 2, refused.output
        assert words in refused.stderr
    scan = undersample(read_scan(full), "random", 3.0, 0.1, seed=0)
    tuned = finetuning.finetune(scan, weights, Path(out), quick(max_steps=4), lambda event: None)
    assert tuned.steps == 4
