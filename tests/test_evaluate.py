"""Scores over a folder: they are right, each is made once, and no kill loses or doubles one."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.cohorts import write_folder
from support.files import write_fastmri
from typer.testing import CliRunner, Result

from mri_unroll import cli, metrics
from mri_unroll.cohort.tasks import Task
from mri_unroll.errors import ConfigError, CorruptScan, InputError
from mri_unroll.evaluate.ahead import CHUNK, VolumeAhead
from mri_unroll.evaluate.record import (
    BY_NAME,
    Ledger,
    Picture,
    ScoreKey,
    VolumeScore,
    picture_path,
    read_picture,
    read_scores,
    write_picture,
)
from mri_unroll.evaluate.settings import EvaluationConfig
from mri_unroll.evaluate.volume import Case, VolumeScorer, volume_name
from mri_unroll.image import Image
from mri_unroll.io.registry import read_scan
from mri_unroll.physics.sampling import fastmri_mask
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.scan import Scan

FAST = ("--methods", "zero-filled", "--accelerate", "4")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands set the number of threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, ["evaluate", *(str(argument) for argument in arguments)])


def rows(out: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted(out.glob("scores*.csv")):
        with path.open(newline="") as file:
            found += list(csv.DictReader(file))
    return found


def measures(scores: list[VolumeScore]) -> dict[ScoreKey, tuple[float, ...]]:
    return {score.key: (score.nmse, score.psnr, score.ssim, score.body_ssim, score.data_residual) for score in scores}


def a_score(volume: str = "file1", **changes: Any) -> VolumeScore:
    whole = dict.fromkeys(("n_slices", "n_coils", "height", "width"), 0)
    texts = dict.fromkeys(("acquisition", "seed", "convention"), "")
    names = ("nmse", "psnr", "ssim", "body_nmse", "body_psnr", "body_ssim", "data_residual")
    spans = ("seconds", "read_seconds", "score_seconds", "acceleration", "effective_acceleration")
    numbers = dict.fromkeys((*names, *spans), 1 / 3)
    return VolumeScore(**{"volume": volume, "method": "tv", "mask": "random", **whole, **texts, **numbers, **changes})


# The record


def test_a_row_is_exact_and_a_torn_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    first = a_score('a,"b" é', nmse=0.1 + 0.2, psnr=float("inf"), ssim=float("nan"))
    with Ledger(path) as ledger:
        ledger.append(first)
        ledger.append(a_score("second"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    (found,) = read_scores([path])
    assert found.key == first.key
    assert (found.nmse, found.psnr) == (first.nmse, first.psnr)
    assert np.isnan(found.ssim)
    with Ledger(path) as ledger:
        assert [score.volume for score in ledger.scores] == [first.volume]
        ledger.append(a_score("second"))
    assert path.read_bytes() == whole
    path.write_bytes(whole[:10])  # torn in the header
    with Ledger(path) as ledger:
        ledger.append(a_score("third"))
    assert [score.volume for score in read_scores([path])] == ["third"]


def test_a_key_counts_once_and_a_table_has_one_writer(tmp_path: Path) -> None:
    path, other = tmp_path / "scores.csv", tmp_path / "scores-shard-0-of-2.csv"
    with Ledger(path) as ledger, Ledger(other) as second:
        ledger.append(a_score(nmse=0.5))
        ledger.append(a_score(nmse=0.7))
        second.append(a_score(nmse=0.9))
        with pytest.raises(InputError, match="Another process"):
            Ledger(path)
    assert [score.nmse for score in read_scores([path])] == [0.5]
    assert len(read_scores([path, other])) == 1
    path.write_text("volume,method\n1,2\n")
    with pytest.raises(InputError, match="not a table of scores"):
        Ledger(path)
    other.write_text(other.read_text() + "nonsense\n")
    with pytest.raises(InputError, match="line 3"):
        read_scores([other])


def test_pictures_are_kept_under_any_name(tmp_path: Path) -> None:
    key = ScoreKey("a/b\n../c", "folder/net.safetensors", "random", 4.0, BY_NAME)
    assert picture_path(tmp_path, key).parent == tmp_path / "pictures"
    assert picture_path(tmp_path, key) != picture_path(tmp_path, key._replace(acceleration=8.0))
    assert read_picture(tmp_path, key) is None
    plane = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_picture(tmp_path, key, Picture(plane, plane + 1, (3, 5)))
    found = read_picture(tmp_path, key)
    assert found is not None
    assert found.index == (3, 5)
    assert (found.image == plane + 1).all()
    picture_path(tmp_path, key).write_bytes(b"PK torn")
    with pytest.raises(CorruptScan, match="damaged"):
        read_picture(tmp_path, key)
    assert volume_name("knee\n1.h5") == "knee\\n1"


def test_a_volume_is_read_ahead_in_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "scans", 1, n_slices=2 * CHUNK + 1)
    whole = read_scan(folder / "file000.h5")
    ahead = VolumeAhead(folder / "file000.h5")
    pieces = list(ahead)
    assert [piece.is_last for piece in pieces] == [False, False, True]
    assert np.array_equal(np.concatenate([piece.scan.kspace for piece in pieces]), whole.kspace)
    assert ahead.seconds > 0
    unwanted = VolumeAhead(folder / "file000.h5")
    unwanted.close()
    assert not unwanted._thread.is_alive()
    with pytest.raises(InputError, match="no file"):
        list(VolumeAhead(folder / "missing.h5"))


# The scores


def test_scores_are_those_of_the_masks_that_fastmri_draws_from_the_name(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scans", 3, n_slices=3), tmp_path / "out"
    result = run(folder, "-o", out, "--methods", "zero-filled,cg-sense", "--accelerate", "4,8", "--mask", "random")
    assert result.exit_code == 0, result.output
    scores = {score.key: score for score in read_scores([out / "scores.csv"])}
    assert len(scores) == len(rows(out)) == 3 * 2 * 2
    for index, name in enumerate(("file000", "file001", "file002")):
        kspace = read_scan(folder / f"{name}.h5").kspace
        images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
        reference = np.linalg.norm(images, axis=1)
        for factor in (4.0, 8.0):
            mask = fastmri_mask("random", 35, 0.32 / factor, factor, file_name=f"{name}.h5")
            kept = np.fft.ifft2(np.fft.ifftshift(kspace * mask, (-2, -1)), norm="ortho")
            picture = np.linalg.norm(np.fft.fftshift(kept, (-2, -1)), axis=1)
            score = scores[ScoreKey(name, "zero-filled", "random", factor, BY_NAME)]
            assert score.effective_acceleration == pytest.approx(35 / mask.sum())
            square = (..., slice(0, 35), slice(None))  # 36 x 35: cropped to the square of its width
            assert score.nmse == pytest.approx(metrics.nmse(reference[square], picture[square]), rel=1e-5)
            assert score.psnr == pytest.approx(metrics.psnr(reference[square], picture[square]), abs=1e-4)
            assert score.ssim == pytest.approx(metrics.ssim(reference[square], picture[square]), abs=1e-5)
            assert score.body_nmse == pytest.approx(metrics.in_body(reference, picture)["nmse"], rel=1e-3)
            held = read_picture(out, score.key)
            assert held is not None
            assert held.index[0] == 1
            assert np.allclose(held.image[0], picture[1], rtol=1e-4, atol=1e-5 * picture.max())
        assert score.acquisition == ("AXT2" if index % 2 else "AXT1")
        assert (score.n_slices, score.n_coils, score.height, score.width) == (3, 2, 36, 35)
    assert "zero-filled" in result.stdout
    assert "data range" in result.stdout, "no table without its convention"
    assert (out / "report.html").stat().st_size > 10_000
    assert json.loads((out / "summary.json").read_text())


def test_continuing_adds_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scans", 4), tmp_path / "out"
    assert run(folder, "-o", out, *FAST, "--limit", 2).exit_code == 0
    before = (out / "scores.csv").read_bytes()
    refused = run(folder, "-o", out, *FAST)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    other = run(folder, "-o", out, "--methods", "zero-filled", "--accelerate", "6", "--resume")
    assert other.exit_code == 2
    assert "accelerations was [4.0], now [6.0]" in other.stderr
    (out / "scores.csv").write_bytes(before[:-30])  # the second row, as a kill leaves it
    result = run(folder, "-o", out, *FAST, "--resume", "--json")
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout.splitlines()[-1])
    assert (done["event"], done["scores"], done["new"], done["expected"], done["bad"]) == ("done", 4, 3, 4, 0)
    assert [row["volume"] for row in rows(out)] == [f"file{index:03}" for index in range(4)]
    assert (out / "scores.csv").read_bytes().startswith(before.splitlines(keepends=True)[0])
    again = run(folder, "-o", out, *FAST, "--resume")
    assert "0 of them new" in again.stderr
    (out / "mine.txt").touch()
    assert run(folder, "-o", out, *FAST, "--overwrite", "--limit", 1).exit_code == 0
    assert [row["volume"] for row in rows(out)] == ["file000"]
    assert (out / "mine.txt").exists(), "only what an evaluation wrote is deleted"
    assert run(folder, "-o", folder, *FAST).exit_code == 2
    assert not (folder / "settings.json").exists()


def test_shards_add_up_to_the_whole(tmp_path: Path) -> None:
    folder, out, whole = write_folder(tmp_path / "scans", 5), tmp_path / "out", tmp_path / "whole"
    assert run(folder, "-o", whole, *FAST).exit_code == 0
    for shard in ("1/2", "0/2"):
        result = run(folder, "-o", out, *FAST, "--shard", shard)
        assert result.exit_code == 0, result.output
    assert "5 scores of 5" in result.stderr
    assert run(folder, "-o", out, *FAST, "--shard", "0/2").exit_code == 2
    assert run(folder, "-o", out, *FAST, "--shard", "0/2", "--overwrite").exit_code == 2
    assert {path.name for path in out.glob("scores*.csv")} == {"scores-shard-0-of-2.csv", "scores-shard-1-of-2.csv"}
    assert len(rows(out)) == 5
    assert measures(read_scores(out.glob("scores*.csv"))) == measures(read_scores(whole.glob("scores*.csv")))
    summaries = [json.loads((each / "summary.json").read_text()) for each in (out, whole)]
    assert summaries[0].keys() == summaries[1].keys()
    complete = run(folder, "-o", out, *FAST, "--resume")  # without a shard: whatever is left, and the report
    assert "0 of them new" in complete.stderr


def test_bad_files_are_listed_with_reasons_and_the_rest_is_scored(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scans", 3), tmp_path / "out"
    whole = (folder / "file000.h5").read_bytes()
    (folder / "broken.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not a scan\n")
    (folder / "dangling.h5").symlink_to(tmp_path / "nowhere.h5")
    kspace = read_scan(folder / "file002.h5").kspace
    kspace[..., ::2] = 0
    write_fastmri(folder / "undersampled.h5", kspace)
    (tmp_path / "split.txt").write_text("\n".join([*(path.name for path in folder.iterdir()), "absent.h5"]))
    options = (folder, "-o", out, *FAST, "--split-list", tmp_path / "split.txt")
    result = run(*options)
    assert result.exit_code == 2
    assert [row["volume"] for row in rows(out)] == ["file000", "file001", "file002"]
    with (out / "bad_files.csv").open(newline="") as file:
        bad = {row["file"]: row for row in csv.DictReader(file)}
    assert set(bad) == {"broken.h5", "notes.txt", "dangling.h5", "undersampled.h5", "absent.h5"}
    assert bad["notes.txt"]["kind"] == "UnknownFormat"
    assert "fully sampled" in bad["undersampled.h5"]["reason"]
    assert "not in the folder" in bad["absent.h5"]["reason"]
    for row in bad.values():
        assert row["reason"] in result.stderr
        assert row["file"] in (out / "report.html").read_text()
    assert run(*options, "--resume", "--skip-bad").exit_code == 0
    assert len(rows(out)) == 3


def test_masks_of_the_files_themselves(tmp_path: Path) -> None:
    folder, out = tmp_path / "scans", tmp_path / "out"
    source = write_folder(tmp_path / "full", 4)
    folder.mkdir()
    for index, factor in enumerate((4, 8, 4)):
        with h5py.File(source / f"file{2 * (index // 2) + 1:03}.h5") as file:
            kspace, reference = file["kspace"][()], file["reconstruction_rss"][()]
        mask = fastmri_mask("equispaced", 35, 0.32 / factor, factor, seed=index)
        attrs = {"acceleration": factor, "acquisition": "AXT2"}
        more = {"reconstruction_rss": reference} if index < 2 else {}
        masked = np.where(mask, kspace, 0).astype(np.complex64)
        write_fastmri(folder / f"test{index}.h5", masked, attrs, mask=mask, **more)
    result = run(folder, "-o", out, "--methods", "zero-filled", "--mask", "from-file")
    assert result.exit_code == 2
    assert "no fully sampled reference" in result.stderr
    found = [(row["volume"], row["mask"], float(row["acceleration"]), row["seed"]) for row in rows(out)]
    assert found == [("test0", "from-file", 4.0, ""), ("test1", "from-file", 8.0, "")]
    again = run(folder, "-o", out, "--methods", "zero-filled", "--mask", "from-file", "--resume", "--skip-bad")
    assert "0 of them new" in again.stderr
    wrong = run(folder, "-o", tmp_path / "x", "--mask", "from-file", "--accelerate", "4")
    assert wrong.exit_code == 2
    assert "own masks" in wrong.stderr


class Moody:
    """A method that fails, or returns what is not finite."""

    def __init__(self, name: str, answer: float | Exception) -> None:
        self.name, self.answer = name, answer
        self._good = make_reconstructor("zero-filled")

    def reconstruct(self, scan: Scan, *, progress: Any = None) -> Image:
        if isinstance(self.answer, Exception):
            raise self.answer
        image = self._good.reconstruct(scan)
        image.pixels[0, 0, 0] = self.answer
        return image


def test_a_method_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "scans", 2)
    methods = {
        "zero-filled": make_reconstructor("zero-filled"),
        "broken": Moody("broken", KeyError("x")),
        "infinite": Moody("infinite", float("inf")),
    }
    config = EvaluationConfig(methods=tuple(methods), accelerations=(4.0,))
    scorer = VolumeScorer(config, methods)
    tasks = [Task(folder / f"file00{index}.h5", tuple(Case(name, 4.0) for name in methods)) for index in range(2)]
    for task, upcoming in zip(tasks, (tasks[1], None), strict=True):
        reply = scorer.run(task, upcoming)
        assert [score.method for score, _ in reply.scored] == ["zero-filled"]
        assert {bad.method: bad.kind for bad in reply.bad} == {"broken": "bug: KeyError", "infinite": "InputError"}
        assert reply.seconds["reading"] >= 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": ()},
        {"methods": ("tv", "tv")},
        {"mask": "spiral"},
        {"accelerations": ()},
        {"accelerations": (0.5,)},
        {"accelerations": (4.0,), "mask": "from-file"},
        {"limit": 0},
        {"convention": "mine"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EvaluationConfig(**wrong)


def test_options_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scans", 1), tmp_path / "out"
    for options in (
        ("--methods", "zerofilled"),
        ("--accelerate", "four"),
        ("--shard", "2/2"),
        ("--methods", "none.safetensors"),
    ):
        result = run(folder, "-o", out, *options)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("error: ") == 1
    assert not out.exists()


# Kills

KILLED = """
import os, signal, sys
from pathlib import Path

from mri_unroll.cohort.hiring import Crew
from mri_unroll.evaluate.run import evaluate_folder
from mri_unroll.evaluate.settings import EvaluationConfig

pids, scores = [], []


def hear(event):
    if event["event"] == "worker" and event["state"] == "started":
        pids.append(event["pid"])
    elif event["event"] == "worker":
        print("lost", event["pid"], flush=True)
    elif event["event"] == "score":
        scores.append(event["volume"])
        if len(scores) == 2:
            os.kill(pids[0], signal.SIGKILL)
        if len(scores) == 6:  # with half a row written
            with open(Path(sys.argv[2]) / "scores.csv", "a") as file:
                file.write("file00")
            print("killed after", len(scores), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    evaluate_folder(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        EvaluationConfig(methods=("zero-filled",), accelerations=(4.0,)),
        crew=Crew(workers=2, threads=1, cluster=sys.argv[3] if len(sys.argv) > 3 else None),
        events=hear,
    )
"""


def check_kills(tmp_path: Path, *cluster: str) -> None:
    """A worker is killed, then the driver while it writes; what is continued is complete and holds nothing twice."""
    folder, out = write_folder(tmp_path / "scans", 10), tmp_path / "out"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(folder), str(out), *cluster]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "killed after 6" in killed.stdout
    held = (out / "scores.csv").read_text()
    assert held.endswith("\nfile00")
    result = run(folder, "-o", out, *FAST, "--resume", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "10 scores of 10 asked for, 4 of them new" in result.stderr
    assert sorted(row["volume"] for row in rows(out)) == [f"file{index:03}" for index in range(10)]
    assert (out / "scores.csv").read_text().startswith(held.removesuffix("file00")), "what was there stays as it was"


@pytest.mark.slow
def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    check_kills(tmp_path)


@pytest.mark.slow
def test_killed_ray_actors_lose_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray (extra `cluster`)")
    check_kills(tmp_path, "local")
