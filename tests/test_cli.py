"""The command line as people and scripts meet it: exit codes, stdout and stderr, and what lies on the disk."""

from __future__ import annotations

import errno
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import mri_unroll
from mri_unroll import checkpoints, cli, demo, doctor, machine, options, terminal
from mri_unroll.errors import ConvergenceError, ModelError, ShapeError
from mri_unroll.nets import model
from mri_unroll.recon import reconstructor
from mri_unroll.recon.methods import NETWORKS

COMMAND = [sys.executable, "-c", "from mri_unroll.cli import main; main()"]
SMALL = model.ModelConfig(n_steps=1, n_cg=1, n_start_cg=2, widths=(4, 8))
SIDECAR_KEYS = {
    "version",
    "method",
    "weights_digest",
    "parameters",
    "input_digest",
    "scale",
    "device",
    "fft_engine",
    "seconds",
    "warnings",
    "data_residual",
    "verdict",
    "advice",
    "predicted",
    "checks",
    "metrics",
}


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands set the number of threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write_scan(path: Path, keep_every: int = 1, shape: tuple[int, ...] = (3, 3, 40, 31)) -> Path:
    """A smooth object seen by a few coils, in the fastMRI layout without a header."""
    n_slices, n_coils, height, width = shape
    rng = np.random.default_rng(7)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.5 * np.cos(6 * x) * np.sin(5 * y))
    coils = np.stack(
        [np.exp(-((y - rng.normal()) ** 2) - (x - rng.normal()) ** 2 + 1j * rng.normal() * x) for _ in range(n_coils)]
    )
    images = np.stack([(1 + 0.1 * index) * body * coils for index in range(n_slices)])
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    kspace += 1e-3 * (rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape))
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    with h5py.File(path, "w") as file:
        if keep_every > 1:
            mask = np.arange(width) % keep_every == 0
            mask[width // 2 - 5 : width // 2 + 5] = True
            kspace *= mask
            file["mask"] = mask
        file["kspace"] = kspace.astype(np.complex64)
        file["reconstruction_rss"] = np.sqrt((abs(images) ** 2).sum(axis=1)).astype(np.float32)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "knee.h5")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of "shipped" weights that holds a small network which has learned nothing."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    path = folder / "unrolled.safetensors"
    model.save(model.build(SMALL), SMALL, {"data": "none", "training": {"steps": 0}, "limits": ["untrained"]}, path)
    digest = model.digest(path).removeprefix("sha256:")
    (folder / checkpoints.DIGESTS).write_text(f"{digest}  {path.name}\n")
    for module in (reconstructor, checkpoints):
        monkeypatch.setattr(module, "weights_folder", lambda: folder)
    return folder


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def check_refused(result: Result, code: int, *words: str) -> None:
    """Hold a failure to the rules: its code, one sentence on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]


# What is written


def test_a_folder_gets_volume_report_preview_and_sidecar(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    result = run(
        "recon", scan, "-o", out, "--method", "zero-filled", "--accelerate", 2, "--mask", "random", "--seed", 3
    )
    assert result.exit_code == 0, result.stderr
    paths = [out / f"knee{suffix}" for suffix in (".h5", ".html", ".png", ".json")]
    assert result.stdout.split("\n") == [*map(str, paths), ""]
    assert sorted(out.iterdir()) == sorted(paths)
    with h5py.File(paths[0]) as file:
        assert file["reconstruction"].shape == (3, 40, 31)
        assert file["reconstruction"].dtype == np.float32
    sidecar = json.loads(paths[3].read_text())
    assert sidecar.keys() >= SIDECAR_KEYS
    assert sidecar["metrics"].keys() == {"nmse", "psnr", "ssim"}
    assert len(sidecar["data_residual"]) == len(sidecar["scale"]) == 3
    assert sidecar["version"] == mri_unroll.__version__
    assert sidecar["input_digest"].startswith("sha256:")
    assert sidecar["retrospective"] == {"accelerate": 2, "mask": "random", "center_fraction": 0.16, "seed": 3}
    for words in ("3 slices of 40 x 31", "data residual", "PSNR", "verdict: check", "research use only"):
        assert words in result.stderr


@pytest.mark.parametrize("name", ["brain.nii.gz", "brain.npy", "brain.h5"])
def test_out_may_name_the_volume_itself(scan: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "results" / name
    result = run("recon", scan, "-o", out, "--method", "zero-filled", "--slices", "1:3")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([name, "brain.html", "brain.json", "brain.png"])
    if name.endswith(".nii.gz"):
        assert sorted(nibabel.load(out).shape) == [2, 31, 40]
    elif name.endswith(".npy"):
        assert np.load(out).shape == (2, 40, 31)
    assert json.loads((out.parent / "brain.json").read_text())["slices"] == [1, 3]


def test_format_chooses_the_suffix_in_a_folder(scan: Path, tmp_path: Path) -> None:
    result = run("recon", scan, "-o", tmp_path / "out", "--method", "zero-filled", "--format", "nifti")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "knee.nii.gz").is_file()


def test_settings_of_classical_methods_arrive(scan: Path, tmp_path: Path) -> None:
    options = ["--method", "l1-wavelet", "--reg-weight", 0.02, "--iterations", 3, "--slices", ":1", "--threads", 1]
    result = run("recon", scan, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    sidecar = json.loads((tmp_path / "out" / "knee.json").read_text())
    assert sidecar["parameters"] == {"reg_weight": 0.02, "n_iterations": 3}
    assert sidecar["weights_digest"] is None
    assert torch.get_num_threads() == 1


def test_a_checkpoint_stands_in_the_place_of_a_method(scan: Path, weights: Path, tmp_path: Path) -> None:
    path = weights / "unrolled.safetensors"
    result = run("recon", scan, "-o", tmp_path / "out", "--method", path, "--slices", "0:1")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "out" / "knee.json").read_text())["weights_digest"] == model.digest(path)


def test_numpy_files_say_their_axes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(2, 18, 15)) + 1j * rng.normal(size=(2, 18, 15))).astype(np.complex64)
    np.save(tmp_path / "k.npy", kspace)
    layout = ["--layout", "coil,ky,kx"]
    result = run("recon", tmp_path / "k.npy", "-o", tmp_path / "out", "--method", "zero-filled", *layout)
    assert result.exit_code == 0, result.stderr
    assert "PSNR" not in result.stderr  # there is no reference to score against
    found = run("inspect", tmp_path / "k.npy", "--json", *layout)
    assert json.loads(found.stdout)["n_coils"] == 2


def test_nothing_is_overwritten_unless_asked(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for suffix in (".h5", ".html", ".png", ".json"):  # any of the four is enough
        mine = out / f"knee{suffix}"
        mine.write_text("mine")
        check_refused(run("recon", scan, "-o", out, "--method", "zero-filled"), 2, "exists already", "--overwrite")
        assert [path.read_text() for path in out.iterdir()] == ["mine"]
        mine.unlink()
    (out / "knee.h5").write_text("mine")
    assert run("recon", scan, "-o", out, "--method", "zero-filled", "--overwrite").exit_code == 0
    assert h5py.is_hdf5(out / "knee.h5")


def test_the_input_is_never_the_output(scan: Path) -> None:
    before = scan.read_bytes()
    check_refused(
        run("recon", scan, "-o", scan.parent, "--method", "zero-filled", "--overwrite"), 2, "input file itself"
    )
    assert scan.read_bytes() == before


def test_a_failure_while_writing_leaves_no_half_file(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    check_refused(run("recon", scan, "-o", out, "--method", "zero-filled"), 75, "No space left", "Free some space")
    assert list(out.iterdir()) == []


# Exit code 2: a file or an option is wrong


def test_bad_input_is_one_sentence_and_exit_code_2(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("this is no scan\n")
    (tmp_path / "empty.h5").touch()
    (tmp_path / "cut.h5").write_bytes(scan.read_bytes()[:5000])
    plain = ["-o", tmp_path / "out", "--method", "zero-filled"]
    check_refused(run("recon", tmp_path / "missing.h5", *plain), 2, "no file", "missing.h5")
    check_refused(run("recon", tmp_path / "text.h5", *plain), 2, "text.h5")
    check_refused(run("recon", tmp_path / "empty.h5", *plain), 2, "empty.h5")
    check_refused(run("recon", tmp_path / "cut.h5", *plain), 2, "cut.h5")
    (tmp_path / "nothing").mkdir()
    check_refused(run("recon", tmp_path / "nothing", *plain), 2, "folder", "nothing", "holds no file")
    check_refused(run("recon", scan, *plain, "--shard", "0/2", "--skip-bad"), 2, "single file", "--shard", "--skip-bad")
    check_refused(run("recon", scan, *plain, "--slices", "1:9"), 2, "0:3", "1:9")
    check_refused(run("recon", scan, "-o", scan / "below", "--method", "zero-filled"), 2, "is a file")
    check_refused(run("inspect", tmp_path / "text.h5"), 2, "text.h5")
    assert not (tmp_path / "out").exists()


def test_settings_that_cannot_be_are_exit_code_2(scan: Path, tmp_path: Path) -> None:
    def recon(*options: Any) -> Result:
        return run("recon", scan, "-o", tmp_path / "out", *options)

    check_refused(recon("--method", "l1wavelet"), 2, "l1-wavelet")
    check_refused(recon("--method", tmp_path / "none.safetensors"), 2, "none.safetensors")
    check_refused(recon("--method", "tv", "--slices", "2"), 2, "A:B", "0:3")
    check_refused(recon("--method", "tv", "--slices", "2:1"), 2, "slices")
    check_refused(recon("--method", "tv", "--reg-weight", -1), 2, "reg_weight")
    check_refused(recon("--method", "zero-filled", "--iterations", 5), 2, "zero-filled", "iterations")
    check_refused(recon("--method", "zero-filled", "--accelerate", 0.5), 2, "accelerate")
    assert not (tmp_path / "out").exists()


def test_an_undersampled_file_is_not_undersampled_again(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "under.h5", keep_every=2)
    plain = ["-o", tmp_path / "out", "--method", "zero-filled"]
    check_refused(run("recon", path, *plain, "--accelerate", 4), 2, "fully sampled", "--accelerate")
    assert run("recon", path, *plain).exit_code == 0


@pytest.mark.parametrize("option", [("--mask", "random"), ("--center-fraction", "0.1"), ("--seed", "0")])
def test_mask_options_need_accelerate(scan: Path, tmp_path: Path, option: tuple[str, str]) -> None:
    check_refused(run("recon", scan, "-o", tmp_path / "out", *option), 2, option[0], "--accelerate")


@pytest.mark.parametrize(
    "arguments",
    [
        ("recon", "k.h5", "-o", "out", "--acelerate", "4"),
        ("recon", "k.h5", "-o", "out", "--mask", "spiral"),
        ("recon", "k.h5", "-o", "out", "--threads", "0"),
        ("recon", "k.h5"),
        ("recon",),
        ("reconstruct", "k.h5"),
        ("models", "drop"),
    ],
)
def test_usage_errors_are_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in result.stderr


# The other exit codes


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("shapes differ\nsomewhere"), 70, ("bug", "RuntimeError: shapes differ somewhere", "--debug")),
        (ShapeError("Expected (2,), got (3,)."), 70, ("bug", "ShapeError", "got (3,)")),
        (ConvergenceError("Not converged."), 70, ("bug", "ConvergenceError")),
        (KeyError("x"), 70, ("bug", "KeyError")),
        (ModelError("No.", "Do this."), 2, ("No. Do this.",)),
        (MemoryError(), 75, ("memory",)),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 75, ("memory",)),
        (torch.OutOfMemoryError("CUDA out of memory."), 75, ("memory",)),
        (OSError(errno.ENOSPC, "No space left on device"), 75, ("No space left",)),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, ("out", "Permission denied")),
        (OSError(errno.EIO, "Input/output error"), 70, ("OSError",)),
        (KeyboardInterrupt(), 130, ("Interrupted",)),
    ],
)
def test_exit_codes(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: tuple[str, ...]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("mri_unroll.pipeline.reconstruct_file", fail)
    check_refused(run("recon", scan, "-o", tmp_path / "out"), code, *words)


def test_debug_shows_the_traceback(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("mri_unroll.pipeline.reconstruct_file", fail)
    arguments = ["recon", str(scan), "-o", str(tmp_path / "out")]
    for result in (run(*arguments, "--debug"), CliRunner().invoke(cli.app, arguments, env={terminal.DEBUG: "1"})):
        assert result.exit_code == 70
        assert "Traceback" in result.stderr
        assert result.stdout == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_exit_code_75(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_refused(
        run("recon", scan, "-o", tmp_path / "out", "--method", "tv", "--device", "cuda"), 75, "GPU", "--device cpu"
    )


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    check_refused(run("recon", tmp_path / "a\x1b[2Jb.h5", "-o", tmp_path / "out"), 2, r"a\x1b[2Jb.h5")


# --json


def events_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_gives_an_event_a_line(scan: Path, tmp_path: Path) -> None:
    result = run("recon", scan, "-o", tmp_path / "out", "--method", "zero-filled", "--json")
    assert result.exit_code == 0, result.stderr
    events = events_of(result)
    assert [event["event"] for event in events] == ["start", *["progress"] * (len(events) - 3), "writing", "done"]
    assert [event["done"] for event in events if event["event"] == "progress"][-1] == 3
    done = events[-1]
    assert {name: Path(path).is_file() for name, path in done["paths"].items()} == dict.fromkeys(
        ("volume", "report", "preview", "sidecar"), True
    )
    assert done["summary"].keys() >= SIDECAR_KEYS


def test_json_tells_an_error_as_an_event_too(tmp_path: Path) -> None:
    result = run("recon", tmp_path / "missing.h5", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 2
    assert events_of(result)[-1].items() >= {"event": "error", "kind": "InputError", "exit_code": 2}.items()
    assert "error: " in result.stderr


def test_json_holds_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.put_json({"a": [1.5, float("nan")], "b": {"c": float("inf")}, "d": (Path("x"),)})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": {"c": None}, "d": ["x"]}


# A real process


def test_data_on_stdout_all_else_on_stderr(scan: Path, tmp_path: Path) -> None:
    arguments = ["recon", scan, "-o", tmp_path / "out.npy", "--method", "cg-sense", "--slices", "0:2"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "out.npy")
    assert len(done.stdout.splitlines()) == 4
    assert "reconstructing knee.h5 with cg-sense" in done.stderr
    assert "slice 2 of 2" in done.stderr
    assert "Warning" not in done.stderr  # that of a library
    assert len(done.stderr.splitlines()) < 15


def test_interrupted_runs_leave_nothing(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "long.h5", shape=(40, 3, 40, 31))
    arguments = ["recon", scan, "-o", tmp_path / "out", "--method", "l1-wavelet", "--iterations", "3000", "--json"]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test run that a shell put in the background ignores interrupts, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "progress":
                break
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    assert json.loads(stdout.splitlines()[-1])["kind"] == "KeyboardInterrupt"
    assert stderr.splitlines()[-1] == "error: Interrupted."
    assert not (tmp_path / "out").exists()


def test_an_interrupt_that_python_drops_is_heeded() -> None:
    class Dropping:
        def __del__(self) -> None:  # as in a weak reference's callback, exceptions end here
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminal.listening(False) as events:
            with suppress_unraisable():
                Dropping()
            with pytest.raises(KeyboardInterrupt):
                events({"event": "progress", "done": 1, "total": 20})
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def suppress_unraisable() -> Iterator[None]:
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def test_a_closed_pipe_is_quiet(scan: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*COMMAND, "inspect", scan], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert done.returncode == terminal.BROKEN_PIPE
    assert done.stderr == ""


def test_a_terminal_gets_a_bar(scan: Path, tmp_path: Path) -> None:
    watcher, shown = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "recon", scan, "-o", tmp_path / "out", "--method", "zero-filled"],
        stdout=subprocess.DEVNULL,
        stderr=shown,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(shown)
    seen = b""
    with suppress(OSError):  # the other end is closed
        while chunk := os.read(watcher, 4096):
            seen += chunk
    os.close(watcher)
    assert process.wait(timeout=60) == 0, seen
    assert b"slice 1 of" not in seen
    assert "━".encode() in seen
    assert b"verdict: check" in seen


def test_a_table_on_a_terminal_is_ruled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal.put_table([["a", "[red]b"]], ("name", "value"))
    seen = capsys.readouterr().out
    assert "[red]b" in seen
    assert "━" in seen or "─" in seen


# The other commands


def every_command() -> list[list[str]]:
    nameless = [cli.evaluate_app, cli.prediction_app, cli.training_app]
    at_the_top = [command for each in (cli.app, *nameless) for command in each.registered_commands]
    names = [command.name or command.callback.__name__ for command in at_the_top]
    of_models = [["models", str(command.name)] for command in cli.models_app.registered_commands]
    return [[], *([name] for name in names), ["models"], *of_models]


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_help_has_an_example(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert " ".join(["Example: mri-unroll", *command]) in result.stdout
    assert result.stderr == ""


def test_the_commands_of_the_issue_are_there() -> None:
    assert [" ".join(command) for command in every_command()] == [
        "",
        "recon",
        "send",
        "serve",
        "mrd-client",
        "watch",
        "inspect",
        "methods",
        "demo",
        "doctor",
        "evaluate",
        "predict",
        "score",
        "train",
        "finetune",
        "models",
        "models list",
        "models show",
        "models verify",
        "models import",
    ]


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"mri-unroll {mri_unroll.__version__}\n")


def test_inspect_says_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "under.h5", keep_every=2)
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["matrix"] == [40, 31]
    table = run("inspect", path)
    assert table.exit_code == 0
    assert table.stderr == ""
    lines = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in table.stdout.splitlines()}
    assert lines["matrix"] == "40 x 31"
    assert lines["n coils"] == "3"
    assert lines["format"] == "fastmri"
    assert "noise covariance" in table.stdout


def test_methods_are_listed_and_the_default_marked() -> None:
    found = json.loads(run("methods", "--json").stdout)
    assert {method["name"]: method["kind"] for method in found} == {
        "zero-filled": "classical",
        "cg-sense": "classical",
        "l1-wavelet": "classical",
        "tv": "classical",
        "vdamp": "classical",
        "vdamp-cnn": "learned",
        "bart-pics": "peer",
        "sigpy-l1wavelet": "peer",
        "unrolled": "learned",
        "unrolled-small": "learned",
        "equilibrium": "learned",
    }
    assert set(NETWORKS) | {"restore"} == set(reconstructor.shipped_models())
    assert [method["name"] for method in found if method["default"]] == ["unrolled"]
    assert "unrolled *" in run("methods").stdout


def test_method_names_complete() -> None:
    assert list(options.complete_method("l1")) == ["l1-wavelet"]
    answer = CliRunner().invoke(
        cli.app,
        prog_name="mri-unroll",
        env={
            "_MRI_UNROLL_COMPLETE": "complete_bash",
            "COMP_WORDS": "mri-unroll recon k.h5 --method c",
            "COMP_CWORD": "4",
        },
    )
    assert answer.stdout.split() == ["cg-sense"]


def test_checkpoints_complete(tmp_path: Path) -> None:
    for name in ("mine", "mine.2", "minor.2"):  # the second file of a checkpoint is not offered
        (tmp_path / f"{name}.safetensors").touch()
    offered = [str(tmp_path / f"{name}.safetensors") for name in ("mine", "minor.2")]
    assert list(options.complete_method(f"{tmp_path}/mi")) == offered


def test_models_list_and_show(weights: Path) -> None:
    digest = model.digest(weights / "unrolled.safetensors")
    listed = json.loads(run("models", "list", "--json").stdout)
    assert [entry["name"] for entry in listed] == ["unrolled"]
    assert listed[0]["digest"] == digest
    assert f"{listed[0]['parameters']:,}" in run("models", "list").stdout
    shown = run("models", "show", "unrolled")
    for words in ("untrained", digest, "n steps", "training"):
        assert words in shown.stdout
    assert (
        json.loads(run("models", "show", weights / "unrolled.safetensors", "--json").stdout)["card"]["data"] == "none"
    )
    check_refused(run("models", "show", "unroled"), 2, "unroled", "Shipped: unrolled")


def test_models_verify(weights: Path) -> None:
    path = weights / "unrolled.safetensors"
    for arguments in ((), ("unrolled",)):
        result = run("models", "verify", *arguments)
        assert result.exit_code == 0, result.stderr
        assert model.digest(path) in result.stdout
    check_refused(run("models", "verify", path.parent / "other.safetensors"), 2, "other")


def test_changed_weights_are_found(weights: Path) -> None:
    path = weights / "unrolled.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    check_refused(run("models", "verify"), 2, "not those that shipped")
    findings = doctor.examine()
    assert not findings["ok"]
    assert "not those that shipped" in findings["problems"][0]


def test_weights_without_a_digest_are_not_verified(weights: Path) -> None:
    (weights / checkpoints.DIGESTS).unlink()
    check_refused(run("models", "verify"), 2, "digest")
    (weights / checkpoints.DIGESTS).write_text("nonsense\n")
    check_refused(run("models", "verify"), 2, "DIGESTS")
    assert run("doctor").exit_code == 75


def test_weights_that_give_nan_are_found(weights: Path) -> None:
    path = weights / "unrolled.safetensors"
    network = model.build(SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(6e4)  # finite in half precision, and too large to work with
    model.save(network, SMALL, {}, path)
    (weights / checkpoints.DIGESTS).write_text(f"{model.digest(path).removeprefix('sha256:')}  {path.name}\n")
    check_refused(run("models", "verify"), 2, "not finite")


def test_missing_weights_are_told(weights: Path, scan: Path, tmp_path: Path) -> None:
    (weights / "unrolled.safetensors").unlink()
    check_refused(run("models", "verify"), 2, "missing")
    check_refused(run("recon", scan, "-o", tmp_path / "out"), 2, "weights of 'unrolled' are missing")
    result = run("doctor")
    assert result.exit_code == 75
    assert "missing" in result.stderr
    check_refused(run("demo", "-o", tmp_path / "demo"), 2, "missing")
    assert not (tmp_path / "demo").exists()


def test_doctor_finds_this_installation_sound(weights: Path) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.stderr
    findings = json.loads(result.stdout)
    assert findings["ok"]
    assert findings["problems"] == []
    assert findings["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert findings["fft_engines"]["cpu"] == "torch+scipy"
    assert findings["weights"][0]["verified"]
    assert findings["threads"] >= 1
    assert "torch+scipy" in run("doctor").stdout


def test_doctor_tells_a_broken_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libcudart.so is missing")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    result = run("doctor")
    assert result.exit_code == 75
    assert "libcudart.so is missing" in result.stderr


def test_doctor_tells_a_full_disk(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "disk_free_bytes", lambda folder: 10)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (10**9, 10))
    result = run("doctor")
    assert result.exit_code == 75
    assert "disk" in result.stderr
    assert "memory" in result.stderr


def test_demo_has_a_folder_and_a_line_for_each_method(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "METHODS", ("zero-filled", "unrolled"))  # the quick ones
    out = tmp_path / "demo"
    for _ in range(2):  # the second replaces the first
        result = run("demo", "-o", out)
        assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == ["method", *demo.METHODS]
    for line in lines[1:]:
        report = out / line[0] / f"phantom_multicoil_{line[0]}.html"
        assert line[-1] == str(report)
        assert report.is_file()
    (out / "thesis.txt").touch()
    check_refused(run("demo", "-o", out), 2, "thesis.txt")


def test_demo_does_not_touch_foreign_folders(weights: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "demo" / "unrolled" / "data.h5"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    check_refused(run("demo", "-o", tmp_path / "demo"), 2, "data.h5")
    check_refused(run("demo", "-o", stranger), 2, "not a folder")


def test_cores_are_counted_within_what_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 1 <= machine.physical_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 3},{cpu % 3 + 3}\n")
    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert machine.physical_cores() == 3
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.physical_cores() == 3
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.physical_cores() == 2
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.default_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert machine.default_threads() == 5


# What needs the weights that ship


def test_shipped_weights_are_whole_and_reconstruct(scan: Path, tmp_path: Path) -> None:
    result = run("models", "verify")
    assert result.exit_code == 0, result.stderr
    assert run("doctor").exit_code == 0
    result = run("recon", scan, "-o", tmp_path / "out", "--slices", "0:1")
    assert result.exit_code == 0, result.stderr
    sidecar = json.loads((tmp_path / "out" / "knee.json").read_text())
    assert sidecar["method"] == "unrolled"
    assert sidecar["weights_digest"].startswith("sha256:")


def test_the_network_wins_the_demo(tmp_path: Path) -> None:
    result = run("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 0, result.stderr
    psnr = {line.split()[0]: float(line.split()[2]) for line in result.stdout.splitlines()[1:]}
    assert psnr["unrolled"] > psnr["l1-wavelet"] > psnr["zero-filled"]


def test_a_verdict_can_be_failed_on_and_nothing_is_lost(scan: Path, tmp_path: Path) -> None:
    result = run("recon", scan, "-o", tmp_path / "out", "--method", "zero-filled", "--fail-on", "check")
    assert result.exit_code == 3
    assert f"The verdict of {scan.name} is check; everything was written." in result.stderr
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".h5", ".html", ".json", ".png"]
    mild = run("recon", scan, "-o", tmp_path / "mild", "--method", "zero-filled", "--fail-on", "no-go")
    assert mild.exit_code == 0, mild.stderr
    folder = tmp_path / "many"
    folder.mkdir()
    shutil.copy(scan, folder)
    many = run("recon", folder, "-o", tmp_path / "all", "--method", "zero-filled", "--fail-on", "check")
    assert many.exit_code == 3
    assert "verdicts: 1 check" in many.stderr


def test_without_a_verdict_there_is_nothing_to_fail_on(scan: Path, tmp_path: Path) -> None:
    refused = run("recon", scan, "-o", tmp_path / "out", "--no-verdict", "--fail-on", "check")
    assert refused.exit_code == 2
    assert "nothing for --fail-on" in refused.stderr
    assert not (tmp_path / "out").exists()
    plain = run("recon", scan, "-o", tmp_path / "out", "--method", "zero-filled", "--no-verdict")
    assert plain.exit_code == 0
    assert "no verdict: nothing here predicts" in plain.stderr
    assert json.loads((tmp_path / "out" / f"{scan.stem}.json").read_text())["verdict"] is None
