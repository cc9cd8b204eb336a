"""The experiments on sparse recovery run, and the weights beside them are what the documentation says of them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "reproduce"
BARS = {  # dB at the last layer, ratio of sums over 1,000 test signals
    "lista_tied": -22.0,
    "lista_untied": -22.0,
    "lista_cp": -29.0,
    "lista_cp_support": -32.0,
    "alista_support": -29.5,
    "lamp": -35.5,
    "lamp_bg": -34.3,
}


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["iterations_to_accuracy", "nmse_by_layer", "state_evolution_check", "state_evolution_mri", "tied_vs_untied"],
)
def test_quick_experiments_write_table_figure_and_text(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    said = run(f"{name}.py", "--quick", "--out", str(out))
    text = (out / "seen.txt").read_text()
    assert text
    assert text in said
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader((out / "table.csv").read_text().splitlines()))) > 5


@pytest.mark.slow
def test_training_saves_each_network_and_goes_on_where_it_was(tmp_path: Path) -> None:
    short = ("--scale", "0.001", "--weights", str(tmp_path))
    run("train_sparse.py", "--only", "alista_support", "lista_tied", *short)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "alista_support.safetensors",
        "lista_tied.safetensors",
        "training_log.csv",
    ]
    before = (tmp_path / "lista_tied.safetensors").stat().st_mtime_ns
    run("train_sparse.py", *short)
    assert (tmp_path / "lista_tied.safetensors").stat().st_mtime_ns == before
    lines = list(csv.DictReader((tmp_path / "training_log.csv").read_text().splitlines()))
    assert {"lamp", "lamp_bg", "lista_untied"} <= {line["network"] for line in lines}


@pytest.mark.slow
def test_shipped_weights_reach_their_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from sparse_problem import MATRIX_DIGEST, digest, gaussian_problem, load, nmse

    problem = gaussian_problem()
    assert digest(problem.matrix) == MATRIX_DIGEST
    signals, data = problem.test_set()
    with torch.no_grad():
        for name, bar in BARS.items():
            assert nmse(signals, load(name, problem)(data).value).ratio_of_sums <= bar, name
    with pytest.raises(Exception, match="trained for"):
        load("lista_tied", gaussian_problem(seed=5))
