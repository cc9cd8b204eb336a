"""Scores of anybody's predictions: the official evaluator's numbers, and a reason for every file without one."""

from __future__ import annotations

import csv
import math
import types
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.evaluate.conventions import score_volume
from mri_unroll.evaluate.scoring import FileScore, Scored, score_folders, spread, write_file_scores


def _write(path: Path, attrs: dict | None = None, **arrays: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
        file.attrs.update(attrs or {})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six targets of odd sizes, and predictions that are as large or larger."""
    targets, predictions = tmp_path / "targets", tmp_path / "predictions"
    targets.mkdir()
    predictions.mkdir()
    random = np.random.default_rng(0)
    for index in range(6):
        height, width = 30 + 3 * index, 21 + 2 * (index % 3)
        truth = (random.random((2 + index, height, width)) * 1e-4).astype(np.float32)
        larger = np.pad(truth, ((0, 0), (index, index), (1, 1)))
        guess = (larger + 1e-5 * random.standard_normal(larger.shape)).astype(np.float32)
        attrs = {"acquisition": ("AXT2", "AXFLAIR")[index % 2], "acceleration": 4 + 4 * (index // 3)}
        _write(targets / f"file{index}.h5", attrs, reconstruction_rss=truth)
        _write(predictions / f"file{index}.h5", reconstruction=guess)
    return targets, predictions


def _array(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][()]


def test_every_target_is_scored(folders: tuple[Path, Path]) -> None:
    targets, predictions = folders
    steps: list[tuple[int, int]] = []
    found = score_folders(targets, predictions, progress=lambda *step: steps.append(step))
    assert [score.volume for score in found.scores] == [f"file{index}" for index in range(6)]
    assert (found.bad, found.unmatched, found.convention) == ((), (), "fastmri")
    assert steps[-1] == (6, 6)
    for score in found.scores:
        truth = _array(targets / f"{score.volume}.h5", "reconstruction_rss")
        guess = _array(predictions / f"{score.volume}.h5", "reconstruction")
        expected = score_volume(truth, guess)
        assert {name: getattr(score, name) for name in expected} == expected
        assert (score.height, score.width, score.n_slices) == (truth.shape[2], truth.shape[2], len(truth))
        assert score.mse == pytest.approx(1e-10, rel=0.1)


def test_means_and_deviations_equal_the_official_evaluators(folders: tuple[Path, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that it brings along
        official = pytest.importorskip("fastmri.evaluate", reason="the fastmri package is not installed")
    targets, predictions = folders
    for acquisition, acceleration in ((None, None), ("AXT2", None), ("AXFLAIR", 8)):
        arguments = types.SimpleNamespace(
            target_path=targets, predictions_path=predictions, acquisition=acquisition, acceleration=acceleration
        )
        theirs = official.evaluate(arguments, "reconstruction_rss")
        ours = score_folders(targets, predictions, acquisition=acquisition, acceleration=acceleration).scores
        for name in ("MSE", "NMSE", "PSNR", "SSIM"):
            found = spread(ours, name.lower())
            assert found.mean == pytest.approx(float(np.squeeze(theirs.means()[name])), rel=1e-6)
            assert found.sd == pytest.approx(float(np.squeeze(theirs.stddevs()[name])), rel=1e-4)


def test_acquisition_and_acceleration_choose(folders: tuple[Path, Path]) -> None:
    def names(found: Scored) -> list[str]:
        assert (found.bad, found.unmatched) == ((), ())
        return [score.volume for score in found.scores]

    assert names(score_folders(*folders, acquisition="AXT2")) == ["file0", "file2", "file4"]
    assert names(score_folders(*folders, acceleration=8)) == ["file3", "file4", "file5"]
    assert names(score_folders(*folders, acquisition="AXT2", acceleration=8)) == ["file4"]
    with pytest.raises(InputError, match=r"AXFLAIR, AXT2"):
        score_folders(*folders, acquisition="AXT1")


def test_single_coil_files_hold_two_references(tmp_path: Path) -> None:
    truth, other = np.random.default_rng(0).random((2, 1, 12, 12))
    for name in ("targets", "predictions"):
        (tmp_path / name).mkdir()
    folders = tmp_path / "targets", tmp_path / "predictions"
    _write(folders[1] / "a.h5", reconstruction=truth)
    _write(
        folders[0] / "a.h5", reconstruction_esc=truth, reconstruction_rss=other, kspace=np.ones((1, 20, 12), complex)
    )
    assert score_folders(*folders).scores[0].nmse == 0
    assert score_folders(*folders, challenge="multicoil").scores[0].nmse > 0.1
    _write(folders[0] / "a.h5", reconstruction_esc=truth, reconstruction_rss=other)
    (bad,) = score_folders(*folders).bad
    assert "--challenge" in bad.reason
    assert score_folders(*folders, challenge="singlecoil").scores[0].nmse == 0


def test_names_of_the_second_edition_are_found(folders: tuple[Path, Path]) -> None:
    (folders[1] / "file2.h5").rename(folders[1] / "file2_v2.h5")
    found = score_folders(*folders)
    assert len(found.scores) == 6
    assert found.unmatched == ()


def test_what_cannot_be_scored_is_listed_and_the_rest_is_scored(folders: tuple[Path, Path]) -> None:
    targets, predictions = folders
    (predictions / "file0.h5").unlink()
    (targets / "file1.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (targets / "notes.txt").write_text("unrelated")
    (targets / "folder").mkdir()
    guess = _array(predictions / "file2.h5", "reconstruction")
    _write(predictions / "file2.h5", reconstruction=guess[1:])
    _write(predictions / "file3.h5", reconstruction=np.full_like(guess, np.nan))
    _write(predictions / "file4.h5", recon=guess)
    _write(predictions / "stray.h5", reconstruction=guess)
    found = score_folders(targets, predictions)
    assert [score.volume for score in found.scores] == ["file5"]
    reasons = {each.file: each.reason for each in found.bad}
    assert list(reasons) == ["file0.h5", "file1.h5", "file2.h5", "file3.h5", "file4.h5", "notes.txt"]
    for file, words in {
        "file0.h5": "no prediction",
        "file1.h5": "damaged",
        "file2.h5": "4 slices",
        "file3.h5": "NaN",
        "file4.h5": "it holds 'recon'",
    }.items():
        assert words in reasons[file], reasons[file]
    assert found.unmatched == ("stray.h5",)


@pytest.mark.parametrize("name", ["calgary", "slice"])
def test_other_conventions(folders: tuple[Path, Path], name: str) -> None:
    official, other = score_folders(*folders).scores[5], score_folders(*folders, name).scores[5]
    assert (other.height, other.width) == (45, 25)  # not cropped to a square
    assert abs(official.ssim - other.ssim) > 1e-4


def test_folders_must_be_there_and_hold_something(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folder"):
        score_folders(tmp_path / "absent", tmp_path / "empty")
    with pytest.raises(InputError, match="holds no file"):
        score_folders(tmp_path / "empty", tmp_path / "empty")
    with pytest.raises(ConfigError, match="'nature'"):
        score_folders(tmp_path / "empty", tmp_path / "empty", "nature")


def test_spread_of_few_and_of_perfect_volumes() -> None:
    def score(psnr: float) -> FileScore:
        return FileScore(
            volume="a", acquisition="", n_slices=1, height=9, width=9, mse=0.0, nmse=0.0, psnr=psnr, ssim=1.0
        )

    assert math.isnan(spread([], "psnr").mean)
    one = spread([score(30)], "psnr")
    assert (one.n, one.mean) == (1, 30)
    assert math.isnan(one.sd)
    perfect = spread([score(math.inf), score(30)], "psnr")
    assert perfect.mean == math.inf
    assert math.isnan(perfect.sd)


def test_scores_are_written_one_row_a_volume(folders: tuple[Path, Path], tmp_path: Path) -> None:
    scores = score_folders(*folders).scores
    path = tmp_path / "scores.csv"
    write_file_scores(scores, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["volume"] for row in rows] == [score.volume for score in scores]
    assert [float(row["ssim"]) for row in rows] == [score.ssim for score in scores]
    with pytest.raises(InputError, match="exists already"):
        write_file_scores(scores, path)
