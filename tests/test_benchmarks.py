"""The benchmark scripts run, agree with sigpy before they time, and refuse to compare different results."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark

    return benchmark


def options(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "quick": True,
            "only": "",
            "clock": "cpu",
            "json": None,
            "threads": 1,
            "rounds": 3,
            "seconds": 1.0,
            **changes,
        }
    )


def test_different_results_are_not_compared(benchmark: ModuleType) -> None:
    truth = np.arange(1.0, 9.0)
    right = benchmark.Candidate("mri_unroll", lambda: truth, benchmark.differs_from(truth))
    wrong = benchmark.Candidate("other", lambda: truth * (1 + 1e-5), benchmark.differs_from(truth))
    with pytest.raises(SystemExit, match=r"other differs by 1\.0e-05"):
        benchmark.Bench(options()).compare("A^H A", [right, wrong])
    undefined = benchmark.Candidate("other", lambda: truth * np.nan, benchmark.differs_from(truth))
    with pytest.raises(SystemExit, match="other differs by nan"):
        benchmark.Bench(options()).compare("A^H A", [right, undefined])


def test_a_page_without_marks_is_left_alone(benchmark: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="end of bench_recon"):
        benchmark.replace_between(page, "bench_recon", "tables")
    assert page.read_text() == "no marks"


def test_ratios_are_to_the_first_and_memory_is_seen(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def work(n: int) -> float:
        return float(np.ones(n).cumsum().sum())

    small = benchmark.Candidate("mri_unroll", lambda: work(400_000))
    large = benchmark.Candidate("other", lambda: work(8_000_000))
    case = benchmark.Bench(options(rounds=5, quick=False)).compare("sums", [small, large])
    assert case.ratio("mri_unroll") == 1
    assert case.ratio("other") > 5
    assert case.ratio("nobody") is None
    peaks = {row.name: row.peak_mb for row in case.rows}
    if peaks["other"] is not None:  # the kernel tells
        assert 100 < peaks["other"] < 160
        assert peaks["mri_unroll"] < 20
    assert "| other |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "titles"),
    [
        (
            "bench_operator.py",
            ["A^H A", "gradient step", "a length of", "scaling over coils", "scaling over slices", "NUFFT"],
        ),
        ("bench_recon.py", ["CG-SENSE", "L1-wavelet", "ESPIRiT"]),
    ],
)
def test_quick_runs_of_all_cases(script: str, titles: list[str], tmp_path: Path) -> None:
    report, page, mark = tmp_path / "report.json", tmp_path / "page.md", Path(script).stem
    page.write_text(f"before\n<!-- {mark} -->\nold\n<!-- end of {mark} -->\nafter\n")
    command = [
        sys.executable,
        str(SCRIPTS / script),
        "--quick",
        "--clock",
        "cpu",
        "--json",
        str(report),
        "--page",
        str(page),
    ]
    if script == "bench_operator.py":
        command += ["--figure", str(tmp_path / "figure.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    cases = json.loads(report.read_text())["cases"]
    assert all(any(case["title"].startswith(title) for case in cases) for title in titles)
    for case in cases:
        assert f"| {case['title']} |" in done.stdout
        assert case["rows"][0]["name"].startswith("mri_unroll")
        assert case["rows"][0]["ratio"] == 1
        assert all(row["milliseconds"] > 0 and math.isfinite(row["ratio"]) for row in case["rows"])
        if case["title"].startswith(("A^H A", "gradient")):
            compared = {row["name"]: row["difference"] for row in case["rows"] if row["difference"] is not None}
            assert {"mri_unroll", "sigpy"} <= compared.keys()
            assert max(compared.values()) < 1e-6
        assert f"| {case['title']} |" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith(f"<!-- end of {mark} -->\nafter\n")
    assert "old" not in page.read_text().splitlines()
    if script == "bench_operator.py":
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
