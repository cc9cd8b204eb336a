"""The command `train`: what it writes, how it goes on after a kill, what it refuses; several processes are as one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.training import assert_same_run, state_of, tiny, toml_of, write_images
from typer.testing import CliRunner

from mri_unroll.cli import app
from mri_unroll.errors import ConfigError, InputError
from mri_unroll.nets.model import ModelConfig, load
from mri_unroll.recon.reconstructor import shipped_models
from mri_unroll.training import checkpoint, loop
from mri_unroll.training.journal import COLUMNS, Journal, contact_sheet
from mri_unroll.training.loop import train
from mri_unroll.training.settings import TrainingConfig, read_training

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingConfig, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    config = tiny(images, tmp_path_factory.mktemp("run"), n_pictures=1, tensorboard=True, bfloat16=False)
    train(config, events.append)
    return config, events


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments])


def test_a_run_leaves_weights_log_pictures_and_events(
    finished: tuple[TrainingConfig, list[dict[str, Any]]],
) -> None:
    config, events = finished
    out = Path(config.out)
    assert [event["event"] for event in events if event["event"] != "progress"] == ["start", "saved", "saved", "done"]
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert tuple(rows[0]) == COLUMNS
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    for step in (2, 4):
        picture = np.asarray(Image.open(out / "pictures" / f"step_{step:06d}.png"))
        assert picture.shape[1] > 3.5 * picture.shape[0]  # one slice: start, result, truth, error
        assert picture.max() == 255
    assert list((out / "tensorboard").glob("events.*"))
    card = load(out / "model.safetensors")[2]
    assert card["training"]["loss"] == "relative"
    assert not {"data", "out", "start_from"} & card["training"].keys()
    assert str(out.parent) not in json.dumps(card)


def test_progress_says_how_long_it_takes(finished: tuple[TrainingConfig, list[dict[str, Any]]]) -> None:
    progress = [event for event in finished[1] if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 4
    assert progress[-1]["seconds_left"] == 0
    assert progress[0]["seconds_left"] == pytest.approx(progress[0]["seconds_per_step"] * (4 - progress[0]["done"]))


def test_a_finished_run_is_left_as_it_is(finished: tuple[TrainingConfig, list[dict[str, Any]]]) -> None:
    config, _ = finished
    weights = Path(config.out) / "model.safetensors"
    before, state = load(weights), state_of(Path(config.out))
    weights.unlink()  # is made again from the checkpoint
    train(config, lambda event: None)
    assert all(torch.equal(value, state[name]) for name, value in state_of(Path(config.out)).items())
    network, model, card = load(weights)
    assert (model, card) == before[1:]
    assert all(map(torch.equal, network.parameters(), before[0].parameters()))


def test_command_trains_and_tells(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fitting_precision", lambda device: torch.bfloat16)  # nothing to note, on any processor
    settings = tmp_path / "run.toml"
    settings.write_text(toml_of(tiny(images, tmp_path / "run")))
    done = invoke(str(settings), "--steps", "2", "--json")
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in events} == {"start", "progress", "saved", "done"}
    assert events[0]["settings"]["n_steps"] == 2
    plain = invoke(str(settings), "--out", str(tmp_path / "other"), "--steps", "1")
    assert plain.exit_code == 0, plain.output
    assert plain.stdout.splitlines() == [str(tmp_path / "other" / "model.safetensors")]
    assert "settings: held_out = b:[12]|c" in plain.stderr
    assert "step 1/1 loss" in plain.stderr


def test_a_run_can_begin_with_a_network_that_ships(tmp_path: Path) -> None:
    settings = tmp_path / "run.toml"
    text = "data = 'scans'\nout = 'out'\nheld_out = 'carl'\nstart_from = 'unrolled-small'\n"
    settings.write_text(text)
    config = read_training(settings)
    shipped = shipped_models()["unrolled-small"]
    assert (config.start_from, config.model) == (str(shipped), load(shipped)[1])
    settings.write_text(text + "[model]\nn_steps = 6\n")
    assert read_training(settings).model == ModelConfig(n_steps=6)
    settings.write_text(text.replace("unrolled-small", "other.safetensors"))
    assert read_training(settings).start_from == str(tmp_path / "other.safetensors")


def test_command_refuses_in_sentences(images: Path, tmp_path: Path) -> None:
    settings = tmp_path / "run.toml"
    text = toml_of(tiny(images, tmp_path / "run", n_steps=1))
    settings.write_text("learning_rat = 0.1\n" + text)
    refused = invoke(str(settings))
    assert refused.exit_code == 2
    assert "no setting `learning_rat`. Did you mean `learning_rate`?" in refused.stderr
    settings.write_text("supervision = 'none'\n" + text)
    assert "Expected one of 'reference', 'ssdu'" in invoke(str(settings)).stderr
    settings.write_text(text)
    assert invoke(str(settings)).exit_code == 0
    step_1 = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    refused = invoke(str(settings), "--restart")
    assert refused.exit_code == 2
    assert "Add --overwrite" in refused.stderr
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == step_1
    assert "no use for --overwrite" in invoke(str(settings), "--overwrite").stderr
    again = invoke(str(settings), "--restart", "--overwrite")
    assert again.exit_code == 0
    assert "from step 0 of 1" in again.stderr
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half of something")
    refused = invoke(str(settings))
    assert refused.exit_code == 2
    assert "cannot be read as a checkpoint" in refused.stderr


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_PATIENCE", 0.1)
    with (
        checkpoint.locked(tmp_path),
        pytest.raises(ConfigError, match="Another training run"),
        checkpoint.locked(tmp_path),
    ):
        pass
    with checkpoint.locked(tmp_path):
        pass


@pytest.mark.parametrize(("native", "bfloat16", "told"), [(False, True, 1), (False, False, 0), (True, True, 0)])
def test_slow_bfloat16_is_told(
    native: bool, bfloat16: bool, told: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "fitting_precision", lambda device: torch.bfloat16 if native else None)
    events: list[dict[str, Any]] = []
    train(tiny(images, tmp_path, n_steps=1, bfloat16=bfloat16), events.append)
    assert [event["message"] for event in events if event["event"] == "note"] == told * [loop.EMULATED]


def test_going_on_with_other_settings_is_told_or_refused(images: Path, tmp_path: Path) -> None:
    train(tiny(images, tmp_path, n_steps=2), lambda event: None)
    events: list[dict[str, Any]] = []
    train(tiny(images, tmp_path, n_steps=3, learning_rate=2e-3), events.append)
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert "learning_rate was 0.001 until step 2 and is 0.002 from there on" in notes
    with pytest.raises(ConfigError, match="held_out = "):
        train(tiny(images, tmp_path, held_out="a|c"), lambda event: None)
    with pytest.raises(ConfigError, match="has done 3 steps"):
        train(tiny(images, tmp_path, n_steps=2), lambda event: None)


def test_settings_out_of_range_are_refused() -> None:
    for change in ({"batch": 0}, {"ssdu_share": 1.0}, {"deep_supervision": ()}, {"learning_rate": 0.0}, {"zoom": 0.9}):
        with pytest.raises(ConfigError, match=f"`{next(iter(change))}`"):
            tiny(Path(), Path(), **change)
    with pytest.raises(ConfigError, match=r"`start_from`, which is missing; got \[0, 1\]"):
        tiny(Path(), Path(), start_steps=(0, 1))


def test_shipped_runs_can_be_read() -> None:
    told_twice = ("train_unrolled.toml", "train_unrolled_stage8.toml")
    for name in (
        "train_unrolled.toml",
        "train_unrolled_stage1.toml",
        "train_unrolled_stage2.toml",
        "train_unrolled_stage3.toml",
        "train_unrolled_stage4.toml",
        "train_unrolled_stage5.toml",
        "train_unrolled_stage6.toml",
        "train_unrolled_stage7.toml",
        "train_unrolled_stage8.toml",
        "train_unrolled_small.toml",
        "train_equilibrium_stage1.toml",
        "train_equilibrium_stage2.toml",
        "train_equilibrium.toml",
    ):
        config = read_training(REPOSITORY / "scripts" / name)
        assert config.loss == "relative"
        assert config.supervision == "reference"
        assert Path(config.out).is_absolute()
        assert config.model.n_strength == (4 if name in told_twice or "equilibrium" in name else 3)


def test_log_drops_rows_beyond_the_checkpoint(tmp_path: Path) -> None:
    rows = [dict.fromkeys(COLUMNS, 0.5) | {"step": step} for step in (2, 4, 6)]
    with Journal(tmp_path, 0, tensorboard=False) as journal:
        for row in rows:
            journal.record(row)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("8,0.5,0.")  # a kill in the middle of a row
    whole = (tmp_path / "log.csv").read_bytes()
    Journal(tmp_path, 4, tensorboard=False)
    kept = (tmp_path / "log.csv").read_bytes()
    assert whole.startswith(kept)
    assert [row["step"] for row in csv.DictReader((tmp_path / "log.csv").read_text().splitlines())] == ["2", "4"]
    with Journal(tmp_path, 0, tensorboard=False) as journal:
        journal.record(rows[0])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


def test_contact_sheet_shows_error_on_the_truths_scale() -> None:
    truth = np.ones((6, 5), np.float32)
    sheet = contact_sheet([(0 * truth, 0.9 * truth, truth), (truth, truth, truth)], margin=1)
    assert sheet.shape == (13, 23)
    np.testing.assert_array_equal(sheet[0, [0, 6, 12, 18]], [0, 229, 255, 127])
    np.testing.assert_array_equal(sheet[12, [0, 6, 12, 18]], [255, 255, 255, 0])


def test_a_batch_is_the_mean_of_its_examples(images: Path, tmp_path: Path) -> None:
    """Two steps' gradients of the same weights, averaged, are one step of a batch of two."""
    from mri_unroll.training.loop import _Run
    from mri_unroll.training.objective import Objective
    from mri_unroll.training.processes import Processes

    config = tiny(images, tmp_path, batch=2, bfloat16=False)
    run = _Run(config, Processes(0, 1, torch.device("cpu")), lambda event: None)
    examples = [run.examples[index] for index in (0, 1)]
    gradients = []
    for example in examples:
        run.network.zero_grad()
        Objective(config)(run.network, example).backward()
        gradients.append([p.grad.clone() for p in run.network.parameters()])
    run.network.zero_grad()
    for example in examples:
        (Objective(config)(run.network, example) / 2).backward()
    for parameter, first, second in zip(run.network.parameters(), *gradients, strict=True):
        torch.testing.assert_close(parameter.grad, (first + second) / 2, rtol=1e-5, atol=1e-8)


def test_a_run_may_begin_with_data_weights_of_its_own(images: Path, tmp_path: Path) -> None:
    from mri_unroll.training.loop import _Run
    from mri_unroll.training.processes import Processes

    config = tiny(images, tmp_path, start_weight=(4.6, 0.5, -5.3))
    network = _Run(config, Processes(0, 1, torch.device("cpu")), lambda event: None).network
    weight = network.steps[0].weight(torch.tensor([[0.3, 1.0]]))
    assert float(weight.detach()) == pytest.approx(np.exp(4.6 * 0.3 + 0.5 - 5.3))
    with pytest.raises(ConfigError, match="exponents of 2 conditions and a constant"):
        tiny(images, tmp_path, start_weight=(4.6, -5.3))


def test_data_weights_may_learn_faster_than_priors(images: Path, tmp_path: Path) -> None:
    """AdamW's first step moves each number by its learning rate: so much and no more do both kinds move."""
    from mri_unroll.training.loop import _Run
    from mri_unroll.training.processes import Processes

    config = tiny(images, tmp_path, n_steps=1, warm_up=0, cool_down=0, learning_rate=1e-3, weight_rate=50.0)
    run = _Run(config, Processes(0, 1, torch.device("cpu")), lambda event: None)
    before = {name: parameter.detach().clone() for name, parameter in run.network.named_parameters()}
    with run.journal:
        run.go()
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in run.network.named_parameters()}
    weights = {name: size for name, size in moved.items() if "weight" in name.split(".")[-2]}
    assert {name.split(".")[-2] for name in weights} == {"log_weight", "log_start_weight"}
    assert max(weights.values()) == pytest.approx(0.05, rel=0.01)
    assert max(size for name, size in moved.items() if name not in weights) == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(ConfigError, match="weight_rate"):
        tiny(images, tmp_path, weight_rate=-1.0)
    with pytest.raises(ConfigError, match="weight_rate"):
        train(tiny(images, tmp_path, n_steps=2, weight_rate=1.0), lambda event: None)  # the run of another optimiser


def test_data_that_cannot_be_used_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        train(tiny(tmp_path / "absent", tmp_path / "run"), lambda event: None)
    with pytest.raises(ConfigError, match="no regular expression"):
        train(tiny(images, tmp_path / "run", held_out="("), lambda event: None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_do_what_one_does(images: Path, tmp_path: Path) -> None:
    """Gradients of two ranks add up to those of one process with the same examples; only rank 0 writes."""
    model = ModelConfig(n_steps=2, n_cg=2, n_start_cg=2, widths=(4, 6))
    one, two = (tiny(images, tmp_path / name, batch=2, model=model) for name in ("one", "two"))
    train(one, lambda event: None)
    settings = tmp_path / "two.toml"
    settings.write_text(toml_of(two))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "mri_unroll", "train", str(settings), "--json"],
        capture_output=True,
        text=True,
        timeout=540,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events].count("done") == 1
    assert events[0]["processes"] == 2
    assert_same_run(tmp_path / "one", tmp_path / "two")
    tables = [list(csv.DictReader((tmp_path / name / "log.csv").read_text().splitlines())) for name in ("one", "two")]
    assert [row["loss"] for row in tables[0]] == [row["loss"] for row in tables[1]]
    assert len(tables[1]) == 2


def test_processes_share_a_step_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    from mri_unroll.training.processes import Processes, processes

    cpu = torch.device("cpu")
    assert [list(Processes(rank, 2, cpu).share(3, 4)) for rank in (0, 1)] == [[12, 13], [14, 15]]
    assert list(Processes(0, 1, cpu).share(5, 1)) == [5]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="multiple of the 2 processes"), processes("cpu", 3):
        pass


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_do_not_change_the_weights() -> None:
    """`scripts/kill_training.py` with two kills; docs/training.md has the figures of the long one."""
    script = REPOSITORY / "scripts" / "kill_training.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "2", "--steps", "10"], capture_output=True, text=True, timeout=1100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical after 2 kills" in done.stdout
    assert "while a checkpoint was written" in done.stdout
