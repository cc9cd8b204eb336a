"""Many files: which ones, who does them, and that nothing is lost or done twice when workers die."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cohorts import Deadly, Failing, write_folder
from typer.testing import CliRunner, Result

from mri_unroll import cli
from mri_unroll.cohort import crew, hiring
from mri_unroll.cohort.cluster import _OfOneThread
from mri_unroll.cohort.crew import MAX_DEATHS, Answer, Died, Done, Ready, run_here, run_team
from mri_unroll.cohort.hiring import Crew, run_cohort
from mri_unroll.cohort.kept import BadFile, agree, read_bad_files, write_bad_files
from mri_unroll.cohort.reconstruction import SETTINGS
from mri_unroll.cohort.tasks import BUG, Lost, Shard, Task, chosen_files, files_of, parse_shard, spoken, twins
from mri_unroll.errors import ConfigError, CorruptScan, DeviceError, InputError


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands set the number of threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


# Which files


def test_a_folder_is_its_visible_files_by_name(tmp_path: Path) -> None:
    for name in ("b.h5", "a.npz", ".hidden", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    files = files_of(tmp_path)
    assert [path.name for path in files] == ["a.h5", "a.npz", "b.h5"]
    assert {path.name: other.name for path, other in twins(files).items()} == {"a.npz": "a.h5"}
    with pytest.raises(InputError, match="holds no file") as caught:
        files_of(tmp_path / "inner")
    assert "Put scans" in caught.value.hint
    (tmp_path / "outer" / "multicoil_val").mkdir(parents=True)
    with pytest.raises(InputError, match="but 1 folders"):
        files_of(tmp_path / "outer")
    with pytest.raises(InputError, match="no folder"):
        files_of(tmp_path / "missing")


def test_a_list_chooses_files_and_says_which_are_missing(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.h5" for name in "abcd"]
    listing = tmp_path / "split.txt"
    listing.write_text("d.h5\n# the first part\nb  # of the knee\n\nfolder/a.h5\nz.h5\n")
    found, missing = chosen_files(files, listing, None)
    assert [path.stem for path in found] == ["a", "b", "d"]
    assert missing == ["z.h5"]
    assert chosen_files(files, listing, 2) == (found[:2], ["z.h5"])
    assert chosen_files(files, None, 3) == (files[:3], [])
    listing.write_text("# nothing\n")
    with pytest.raises(InputError, match="names no file"):
        chosen_files(files, listing, None)
    with pytest.raises(InputError, match="cannot be read"):
        chosen_files(files, tmp_path / "none.txt", None)


def test_shards_are_equal_parts_of_the_whole(tmp_path: Path) -> None:
    files = [tmp_path / f"{index:02}" for index in range(11)]
    parts = [parse_shard(f"{index}/4").of(files) for index in range(4)]
    assert sorted(path for part in parts for path in part) == files
    assert {len(part) for part in parts} == {2, 3}
    assert Shard(1, 4).name == "shard-1-of-4"
    for text in ("4/4", "1", "-1/4", "a/b", "1/0", ""):
        with pytest.raises(ConfigError, match=r"0 to N-1"):
            parse_shard(text)


def test_what_went_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    assert spoken(CorruptScan("It is cut.", "Copy it again.")) == ("CorruptScan", "It is cut. Copy it again.")
    assert spoken(MemoryError()) == ("MemoryError", "The memory is not enough for this file.")
    assert spoken(OSError(5, "Input/output error"))[0] == "OSError"
    try:
        [][1]
    except IndexError as error:
        kind, reason = spoken(error)
    assert kind == f"{BUG}IndexError"
    assert "test_cohort.py" in reason
    bad = [BadFile(file="a\udcff.h5", kind=kind, reason='with "quotes",\nand a line')]
    write_bad_files(bad, tmp_path / "bad_files.csv")
    assert read_bad_files([tmp_path / "bad_files.csv", tmp_path / "bad_files.csv"]) == bad


def test_settings_are_written_once_and_then_held_to(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    agree({"mask": "random", "methods": {"tv": {"reg_weight": 0.1}}}, path)
    agree({"mask": "random", "methods": {"tv": {"reg_weight": 0.1}}}, path)
    with pytest.raises(ConfigError, match=r"methods\.tv\.reg_weight was 0\.1, now 0\.2") as caught:
        agree({"mask": "random", "methods": {"tv": {"reg_weight": 0.2}}}, path)
    assert "mask" not in caught.value.message
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        agree({}, path)


# Who does them: a team that is played here, so that members die when the test wants it


class PlayedTeam:
    """Members who do one task a call of `wait`, or die."""

    def __init__(self, deadly: set[str], chance: float = 0.0, starts: bool = True) -> None:
        self.deadly, self.chance, self.starts = deadly, chance, starts
        self.random = random.Random(3)
        self.hired: list[dict[str, Any]] = []
        self.dismissed: list[dict[str, Any]] = []
        self.alone: list[tuple[str, str | None]] = []

    def hire(self) -> dict[str, Any]:
        self.hired.append({"pid": len(self.hired), "answer": Ready(len(self.hired))})
        return self.hired[-1]

    def submit(self, handle: dict[str, Any], task: Task, upcoming: Task | None) -> None:
        assert handle not in self.dismissed
        assert handle["answer"] is None
        name = task.path.name
        self.alone.append((name, upcoming.path.name if upcoming else None))
        touched = {name, upcoming.path.name if upcoming else name}
        died = touched & self.deadly or self.random.random() < self.chance
        handle["answer"] = Died("it was killed") if died else Done(name)

    def wait(self, handles: Sequence[dict[str, Any]], timeout: float) -> list[tuple[dict[str, Any], Answer]]:
        if not self.starts:
            return []
        answers = [(handle, handle["answer"]) for handle in handles if handle["answer"] is not None]
        for handle, _ in answers:
            handle["answer"] = None
        return answers

    def dismiss(self, handle: dict[str, Any]) -> None:
        self.dismissed.append(handle)


def tasks_named(*names: str) -> list[Task]:
    return [Task(Path(name)) for name in names]


def play(team: PlayedTeam, tasks: list[Task], size: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    replies: dict[str, Any] = {}
    events: list[dict[str, Any]] = []

    def keep(task: Task, reply: Any) -> None:
        assert task.path.name not in replies, "done twice"
        replies[task.path.name] = reply

    run_team(tasks, team, size, keep, events.append)
    assert {handle["pid"] for handle in team.dismissed} == {handle["pid"] for handle in team.hired}
    return replies, events


def test_every_task_is_done_once_by_a_team_that_keeps_dying() -> None:
    tasks = tasks_named(*map(str, range(60)))
    team = PlayedTeam(set(), chance=0.2)
    replies, events = play(team, tasks)
    assert replies == {task.path.name: task.path.name for task in tasks}
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["done"] for event in progress] == list(range(1, 61))
    lost = [event for event in events if event["event"] == "worker" and event["state"] == "lost"]
    assert len(lost) >= len(team.hired) - 3 > 3


def test_a_file_that_kills_whoever_reads_it_is_given_up_and_no_other() -> None:
    names = [*map(str, range(8)), "poison", *map(str, range(8, 20))]
    team = PlayedTeam({"poison"})
    replies, _ = play(team, tasks_named(*names))
    assert isinstance(replies.pop("poison"), Lost)
    assert replies == {name: name for name in names if name != "poison"}
    met = [pair for pair in team.alone if "poison" in pair]
    assert len(met) == MAX_DEATHS
    assert met[1:] == [("poison", None)] * (MAX_DEATHS - 1), "after the first death it is tried alone"


def test_what_one_only_reads_ahead_another_takes() -> None:
    team = PlayedTeam(set())
    replies, _ = play(team, tasks_named("a", "b", "c"), size=2)
    assert set(replies) == {"a", "b", "c"}


def test_a_team_that_cannot_work_is_given_up() -> None:
    with pytest.raises(DeviceError, match="one after the other") as caught:
        play(PlayedTeam(set(), chance=1.0), tasks_named(*map(str, range(30))))
    assert "--resume" in caught.value.hint
    with pytest.raises(DeviceError, match="No worker started"):
        play(PlayedTeam(set(), starts=False), tasks_named("a"))


def test_one_process_knows_what_comes_next() -> None:
    seen: list[tuple[str, str | None]] = []

    class Job:
        def open(self) -> Job:
            return self

        def run(self, task: Task, upcoming: Task | None) -> int:
            seen.append((task.path.name, upcoming.path.name if upcoming else None))
            return len(seen)

    replies: list[Any] = []
    run_here(tasks_named("a", "b", "c"), Job(), lambda task, reply: replies.append(reply), lambda event: None)
    assert seen == [("a", "b"), ("b", "c"), ("c", None)]
    assert replies == [1, 2, 3]


@pytest.mark.slow
def test_processes_that_are_killed_are_replaced(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    job = Deadly(once="b", always="c", marks=marks)
    replies: dict[str, Any] = {}
    events: list[dict[str, Any]] = []

    def keep(task: Task, reply: Any) -> None:
        assert task.path.name not in replies
        replies[task.path.name] = reply

    run_cohort(tasks_named(*"abcd"), job, Crew(workers=2, threads=1), keep, events.append)
    given_up = replies.pop("c")
    assert isinstance(given_up, Lost)
    assert "SIGKILL" in given_up.reason
    assert replies == {name: f"{name} done" for name in "abd"}
    lost = [event for event in events if event["event"] == "worker" and event["state"] == "lost"]
    assert len(lost) in (MAX_DEATHS, MAX_DEATHS + 1)  # c was read ahead beside b, or was not
    assert len(list(marks.glob("b.*"))) == 2


@pytest.mark.slow
def test_what_a_process_cannot_begin_is_raised_here() -> None:
    with pytest.raises(ValueError, match="no weights"):
        run_cohort(tasks_named("a"), Failing(), Crew(workers=2), lambda task, reply: None, lambda event: None)


def test_ray_is_asked_for_by_name_and_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hiring.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        Crew(cluster="local")
    assert "mri-unroll[cluster]" in caught.value.hint
    with pytest.raises(ConfigError, match="workers"):
        Crew(workers=0)
    assert crew.MAX_DEATHS < crew.MAX_DEATHS_IN_A_ROW


def test_what_threads_of_a_cluster_print_is_no_data_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stdout(_OfOneThread(sys.stdout)):
        print("ours", flush=True)
        thread = threading.Thread(target=print, args=("a worker died",))
        thread.start()
        thread.join()
    captured = capsys.readouterr()
    assert captured.out == "ours\n"
    assert captured.err == "a worker died\n"


# Folders reconstructed


def test_a_folder_is_reconstructed_and_continued(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scans", 4), tmp_path / "out"
    plain = ("recon", folder, "-o", out, "--method", "zero-filled")
    first = run(*plain, "--shard", "0/2")
    assert first.exit_code == 0, first.output
    assert first.stdout.split() == [str(out / f"file{index:03}.h5") for index in (0, 2)]
    held = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {"file000.h5", "file000.html", "file000.png", "file000.json", SETTINGS} <= set(held)

    refused = run(*plain)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    (out / "file002.json").unlink()  # as if the process had been killed before the sidecar, which is written last
    continued = run(*plain, "--resume")
    assert continued.exit_code == 0, continued.output
    assert continued.stdout.split() == [str(out / f"file{index:03}.h5") for index in (1, 2, 3)]
    assert "1 finished before" in continued.stderr
    now = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert now["file000.h5"] == held["file000.h5"]
    assert now["file002.h5"] > held["file002.h5"]

    other = run("recon", folder, "-o", out, "--method", "cg-sense", "--resume")
    assert other.exit_code == 2
    assert 'method was "zero-filled", now "cg-sense"' in other.stderr
    assert run(*plain, "--overwrite").exit_code == 0


def test_bad_files_of_a_folder_are_listed_and_the_rest_is_done(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scans", 2), tmp_path / "out"
    (folder / "notes.txt").write_text("not a scan\n")
    (folder / "cut.h5").write_bytes((folder / "file000.h5").read_bytes()[:3000])
    (folder / "file001.npz").touch()
    plain = ("recon", folder, "-o", out, "--method", "zero-filled")
    result = run(*plain)
    assert result.exit_code == 2
    assert result.stdout.split() == [str(out / "file000.h5"), str(out / "file001.h5")]
    listed = {bad.file: bad for bad in read_bad_files([out / "bad_files.csv"])}
    assert sorted(listed) == ["cut.h5", "file001.npz", "notes.txt"]
    assert listed["notes.txt"].kind == "UnknownFormat"
    assert "but for the suffix" in listed["file001.npz"].reason
    assert all(bad.reason in result.stderr for bad in listed.values())
    assert run(*plain, "--resume", "--skip-bad").exit_code == 0


def test_a_folder_does_not_overwrite_what_is_not_its_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "scans", 1)
    copies = write_folder(tmp_path / "copies", 1)
    before = (copies / "file000.h5").read_bytes()
    for option in ("--resume", "--skip-bad"):
        assert run("recon", folder, "-o", copies, "--method", "zero-filled", option).exit_code == 2
    assert run("recon", folder, "-o", folder, "--method", "zero-filled").exit_code == 2
    assert run("recon", folder, "-o", tmp_path / "one.h5", "--method", "zero-filled").exit_code == 2
    assert (copies / "file000.h5").read_bytes() == before
    assert sorted(path.name for path in copies.iterdir()) == ["file000.h5"]
