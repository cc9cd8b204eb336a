"""`predict` and `score` as people and scripts meet them: exit codes, stdout and stderr, and what lies on the disk."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.files import random_kspace, write_fastmri
from typer.testing import CliRunner, Result

from mri_unroll import cli
from mri_unroll.cohort.tasks import Task
from mri_unroll.config import ReconstructionConfig
from mri_unroll.evaluate.challenge import SETTINGS, PredictionJob


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands set the number of threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three fully sampled scans with references, of two acquisitions."""
    folder = tmp_path / "val"
    folder.mkdir()
    for index in range(3):
        kspace = random_kspace((2, 2, 16, 20), seed=index)
        axes = (-2, -1)
        coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
        rss = np.sqrt((np.abs(coils) ** 2).sum(axis=1)).astype(np.float32)
        attrs = {"acquisition": "AXT2" if index else "AXT1"}
        write_fastmri(folder / f"file{index}.h5", kspace, attrs, reconstruction_rss=rss)
    return folder


def predict(scans: Path, out: Path, *more: object) -> Result:
    return run("predict", scans, "-o", out, "--method", "zero-filled", *more)


def test_predictions_are_named_on_stdout_and_score_as_they_should(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "reconstructions"
    result = predict(scans, out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(out / f"file{index}.h5") for index in range(3)]
    assert "3 predicted" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [SETTINGS, "file0.h5", "file1.h5", "file2.h5"]
    result = run("score", scans, out)
    assert result.exit_code == 0, result.stderr
    header, every, first, second, statement = result.stdout.splitlines()
    assert header.split() == ["acquisition", "volumes", "MSE", "NMSE", "PSNR", "SSIM"]
    assert [line.split()[:2] for line in (every, first, second)] == [["all", "3"], ["AXT1", "1"], ["AXT2", "2"]]
    assert every.split()[-3:] == ["1", "±", every.split()[-1]]  # the whole data gives the reference back
    assert "±" not in first
    assert "Convention fastmri" in statement
    assert "7 × 7" in statement


def test_undersampling_first_lowers_the_scores(scans: Path, tmp_path: Path) -> None:
    result = predict(scans, tmp_path / "out", "--accelerate", 4, "--mask", "random")
    assert result.exit_code == 0, result.stderr
    found = json.loads(run("score", scans, tmp_path / "out", "--json").stdout.splitlines()[-1])
    assert found["event"] == "done"
    assert found["means"][0]["nmse"]["mean"] > 0.1
    assert [score["volume"] for score in found["scores"]] == ["file0", "file1", "file2"]
    assert found["bad"] == []
    assert "Convention fastmri" in found["convention"]
    with h5py.File(tmp_path / "out" / "file1.h5") as one, h5py.File(tmp_path / "out" / "file2.h5") as two:
        assert one["reconstruction"].shape == two["reconstruction"].shape == (2, 16, 20)


def test_mask_without_acceleration_is_refused(scans: Path, tmp_path: Path) -> None:
    result = predict(scans, tmp_path / "out", "--mask", "random")
    assert result.exit_code == 2
    assert "Add --accelerate R." in result.stderr
    assert not (tmp_path / "out").exists()


def test_predictions_are_resumed_and_never_mixed_or_overwritten_unasked(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(scans, out, "--shard", "0/2").exit_code == 0
    assert not (out / "file1.h5").exists()
    before = (out / "file0.h5").stat().st_mtime_ns
    refused = predict(scans, out)
    assert refused.exit_code == 2
    assert "predictions of 2 of these scans already" in refused.stderr
    resumed = predict(scans, out, "--resume")
    assert resumed.exit_code == 0
    assert resumed.stdout.split() == [str(out / "file1.h5")]
    assert "2 finished before" in resumed.stderr
    assert (out / "file0.h5").stat().st_mtime_ns == before
    mixed = predict(scans, out, "--resume", "--accelerate", 4)
    assert mixed.exit_code == 2
    assert "other settings: accelerate was null, now 4.0" in mixed.stderr
    assert predict(scans, out, "--overwrite", "--accelerate", 4).exit_code == 0
    assert (out / "file0.h5").stat().st_mtime_ns > before
    (out / SETTINGS).unlink()
    assert "do not say how they were made" in predict(scans, out, "--resume").stderr
    assert predict(scans, scans).exit_code == 2


def test_bad_scans_are_listed_and_the_rest_is_predicted(scans: Path, tmp_path: Path) -> None:
    (scans / "broken.h5").write_bytes((scans / "file0.h5").read_bytes()[:3000])
    (scans / "notes.txt").write_text("unrelated")
    (scans / "file2.npy").write_bytes(b"no array")
    result = predict(scans, tmp_path / "out", "--v2")
    assert result.exit_code == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.h5")) == [f"file{index}_v2.h5" for index in range(3)]
    for words in ("not done: broken.h5: ", "not done: notes.txt: ", "not done: file2.npy: It has the name of file2.h5"):
        assert words in result.stderr
    assert predict(scans, tmp_path / "out", "--v2", "--resume", "--skip-bad").exit_code == 0


def test_scores_without_a_prediction_are_listed(scans: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out", tmp_path / "scores.csv"
    assert predict(scans, out).exit_code == 0
    (out / "file1.h5").rename(out / "other.h5")
    result = run("score", scans, out, "--csv", table)
    assert result.exit_code == 2
    assert "not scored: file1.h5: file1.h5 has no prediction" in result.stderr
    assert "without a target: other.h5" in result.stderr
    with table.open(newline="") as file:
        assert [row["volume"] for row in csv.DictReader(file)] == ["file0", "file2"]
    again = run("score", scans, out, "--csv", table)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "--overwrite" in again.stderr
    assert run("score", scans, out, "--csv", table, "--overwrite", "--skip-bad").exit_code == 0
    only = run("score", scans, out, "--acquisition", "AXT1", "--convention", "calgary")
    assert only.exit_code == 0
    assert [line.split()[:2] for line in only.stdout.splitlines()[1:-1]] == [["all", "1"]]
    assert "Convention calgary" in only.stdout


def test_folders_that_are_not_there_are_refused(scans: Path, tmp_path: Path) -> None:
    for words in (("score", scans, tmp_path / "none"), ("predict", tmp_path / "none", "-o", tmp_path / "out")):
        result = run(*words)
        assert result.exit_code == 2
        assert "There is no folder" in result.stderr
        assert result.stdout == ""


def test_the_work_can_be_sent_to_another_process(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    job = PredictionJob(ReconstructionConfig(method="zero-filled", accelerate=4), tmp_path / "out", v2_suffix=True)
    worker = pickle.loads(pickle.dumps(job)).open()
    reply = worker.run(Task(scans / "file0.h5"), Task(scans / "file1.h5"))
    assert pickle.loads(pickle.dumps(reply)) == tmp_path / "out" / "file0_v2.h5"
    (scans / "notes.txt").write_text("unrelated")
    assert pickle.loads(pickle.dumps(worker.run(Task(scans / "notes.txt"), None))).kind == "UnknownFormat"
