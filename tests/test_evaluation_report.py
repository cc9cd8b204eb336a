"""The report of an evaluation: complete, self-contained, the same for the same scores, safe against hostile names."""

from __future__ import annotations

import csv
import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.browser import chromium, script_source
from support.scores import GAINS, make_score, make_scores, write_pictures

from mri_unroll.errors import ConfigError
from mri_unroll.evaluate import cases, figures
from mri_unroll.evaluate.conventions import CONVENTIONS, IN_BODY_STATEMENT
from mri_unroll.evaluate.record import BadFile, VolumeScore, picture_path
from mri_unroll.evaluate.report import fixed, write_evaluation
from mri_unroll.evaluate.statistics import PAIRED, SPREAD
from mri_unroll.evaluate.tables import find

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
VOID = {"meta", "link", "img"}
SETTINGS = {
    "folder": "multicoil_val",
    "methods": {
        "zero-filled": {"parameters": {}, "weights_digest": None},
        "unrolled": {"parameters": {"n_steps": 5}, "weights_digest": "sha256:" + "ab" * 32},
    },
    "mask": "random",
    "expected_scores": 20,
}
BAD = [
    BadFile(file="z.h5", method="tv", kind="UnsupportedScan", reason="Planes only."),
    BadFile(file="a.txt", kind="UnknownFormat", reason="a.txt is of no format that is read."),
]


def _scores(n_volumes: int = 5) -> list[VolumeScore]:
    return make_scores(n_volumes, ("zero-filled", "unrolled"))


def _text(page: str) -> str:
    """What a reader sees."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    return re.sub(r"[\s\N{NO-BREAK SPACE}]+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], list[VolumeScore]]:
    """A report of five volumes with pictures, and two bad files."""
    out, scores = tmp_path_factory.mktemp("evaluation"), _scores()
    write_pictures(out, scores)
    return write_evaluation(out, scores, BAD, SETTINGS), scores


def test_files_are_written_under_their_names(made: tuple) -> None:
    paths, _ = made
    assert {name: path.name for name, path in paths.items()} == {
        "json": "summary.json",
        "csv": "summary.csv",
        "report": "report.html",
    }


def test_json_holds_what_the_scores_say(made: tuple) -> None:
    paths, scores = made
    found = json.loads(paths["json"].read_text())
    assert (found["n_volumes"], found["n_scores"], found["n_missing"], found["convention"]) == (5, 20, 0, "fastmri")
    assert found["statement"] == f"{CONVENTIONS['fastmri'].statement} {IN_BODY_STATEMENT}"
    assert (found["spread"], found["comparison"]) == (SPREAD, PAIRED)
    assert [each["file"] for each in found["bad_files"]] == ["a.txt", "z.h5"]
    group = next(g for g in found["groups"] if (g["method"], g["acceleration"]) == ("unrolled", 8))
    mine = [score.ssim for score in scores if (score.method, score.acceleration) == ("unrolled", 8)]
    assert group["measures"]["ssim"]["mean"] == pytest.approx(np.mean(mine))
    assert group["measures"]["ssim"]["sd"] == pytest.approx(np.std(mine, ddof=1))
    assert {g["acquisition"] for g in found["groups_by_acquisition"]} == {"AXT1", "AXT2", "CORPD_FBK"}
    pair = next(p for p in found["comparisons"] if (p["measure"], p["acceleration"]) == ("psnr", 4))
    assert (pair["method"], pair["other"], pair["n_pairs"]) == ("unrolled", "zero-filled", 5)
    assert pair["low"] < pair["mean_difference"] < pair["high"]


def test_csv_has_a_row_for_every_mean(made: tuple) -> None:
    paths, scores = made
    with paths["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 6 * (1 + 3)  # accelerations, methods, measures, all and each acquisition
    row = next(
        r
        for r in rows
        if (r["method"], r["measure"], r["acceleration"], r["acquisition"]) == ("unrolled", "psnr", "4.0", "all")
    )
    mine = [score.psnr for score in scores if (score.method, score.acceleration) == ("unrolled", 4)]
    assert float(row["mean"]) == pytest.approx(np.mean(mine))
    assert float(row["median"]) == pytest.approx(np.median(mine))
    assert int(row["n"]) == 5


def test_page_tells_everything(made: tuple) -> None:
    paths, scores = made
    text = _text(paths["report"].read_text())
    for words in (
        "2 methods on 5 volumes",
        CONVENTIONS["fastmri"].statement,
        SPREAD,
        PAIRED,
        IN_BODY_STATEMENT,
        "a.txt is of no format that is read. (UnknownFormat)",
        "Planes only. (UnsupportedScan)",
        "unrolled − zero-filled",
        "5 : 0",
        "The same by acquisition",
        "Only 5 volumes: an example rather than a benchmark.",
        "2 files were not scored or not by every method.",
        "unrolled: n_steps: 5, weights: sha256:abab",
        "zero-filled: nothing to set",
        "multicoil_val",
        "Seconds a slice",
        "Pictures, 4× random",
        "Pictures, 8× random",
        "Research use only, not for diagnosis.",
    ):
        assert words in text, words
    assert text.count(CONVENTIONS["fastmri"].brief) == 3  # with every table of scores
    mine = [score.psnr for score in scores if (score.method, score.acceleration) == ("unrolled", 4)]
    assert f"{np.mean(mine):.2f} ± {np.std(mine, ddof=1):.2f}" in text


def test_best_means_and_clear_differences_are_marked(made: tuple) -> None:
    page = made[0]["report"].read_text()
    assert len(re.findall("<td class=best>", page)) >= 12  # of two accelerations, six measures each, and by acquisition
    for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL):
        if ">zero-filled" in row:
            assert "class=best" not in row
    assert len(re.findall("<td class=apart>", page)) == 6


def test_a_difference_whose_interval_holds_zero_is_not_marked(tmp_path: Path) -> None:
    scores = [
        make_score(volume=f"v{index}", method=method, psnr=30 + gain * (-1) ** index, ssim=0.8 + 0.1 * gain)
        for index in range(12)
        for method, gain in (("a", 0), ("b", 1))
    ]
    page = write_evaluation(tmp_path, scores, [], {})["report"].read_text()
    (row,) = [row for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL) if "b − a" in row]
    assert re.findall(r"<td( class=apart)?>[^<]*<span class=\"sd interval\">", row) == ["", "", " class=apart"]


def test_page_loads_nothing_and_runs_nothing(made: tuple) -> None:
    page = made[0]["report"].read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:", "#")), address[:80]
    assert not re.findall(r"url\((?!#)", page)
    assert re.findall(r"https?://[^\"< ]+", page.replace("http://www.w3.org/", "")) == []
    assert "#010203" not in page
    assert "currentColor" in page


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_names_each_part_once(made: tuple) -> None:
    page = made[0]["report"].read_text()
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    ids = re.findall(r'<(?:section|h2|h3)[^>]* id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    captions = re.findall(r"<b>(Figure|Table) (\d+)\.</b>", page)
    for kind in ("Figure", "Table"):
        numbers = [int(number) for name, number in captions if name == kind]
        assert numbers == list(range(1, len(numbers) + 1))
    for tag in re.findall(r"<img [^>]*>", page):
        assert ' alt="' in tag


def test_same_scores_give_the_same_files(made: tuple) -> None:
    paths, scores = made
    before = {name: path.read_bytes() for name, path in paths.items()}
    again = write_evaluation(paths["report"].parent, scores[::-1], BAD[::-1], SETTINGS)
    assert {name: path.read_bytes() for name, path in again.items()} == before


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    scores = [
        replace(score, volume=HOSTILE + score.volume, acquisition=HOSTILE, method=HOSTILE + score.method)
        for score in _scores(2)
    ]
    write_pictures(tmp_path, scores)
    settings = {"folder": HOSTILE, "methods": {HOSTILE: {}}, "other": [HOSTILE]}
    bad = [BadFile(file=HOSTILE, method=HOSTILE, kind=HOSTILE, reason=HOSTILE)]
    page = write_evaluation(tmp_path, scores, bad, settings)["report"].read_text()
    assert "<script" not in page
    assert "onerror=alert(2)>" not in page
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert "alert(1)" in _text(page)


def test_nothing_scored_is_said(tmp_path: Path) -> None:
    paths = write_evaluation(tmp_path, [], BAD, SETTINGS)
    text = _text(paths["report"].read_text())
    assert "No volume was scored." in text
    assert "0 of 20 expected scores are there" in text
    assert "Planes only." in text
    assert json.loads(paths["json"].read_text())["groups"] == []


def test_one_volume_by_one_method_without_pictures(tmp_path: Path) -> None:
    score = make_score(body_nmse=math.nan, body_psnr=math.nan, body_ssim=math.nan)
    text = _text(write_evaluation(tmp_path, [score], [], {})["report"].read_text())
    assert "1 method on 1 volume" in text
    for absent in ("in the body", "Differences", "Pictures", "Against acceleration", "Not scored File"):
        assert absent not in text


def test_a_perfect_volume_is_left_out_of_means_and_said(tmp_path: Path) -> None:
    scores = [make_score(), make_score(volume="perfect", psnr=math.inf, nmse=0.0, ssim=1.0)]
    text = _text(write_evaluation(tmp_path, scores, [], {})["report"].read_text())
    assert "30.00 (1 not finite)" in text
    assert "0.9000 ± 0.1414" in text


def test_unequal_sets_and_mixed_conventions_are_warned_of(tmp_path: Path) -> None:
    scores = _scores(12)
    scores = [replace(scores[0], convention="slice"), *scores[1:-3]]
    text = _text(write_evaluation(tmp_path, scores, [], SETTINGS)["report"].read_text())
    assert "Scores of different conventions lie side by side: fastmri, slice." in text
    assert "Not every method has every volume: 1 scores are missing." in text
    assert "11 of 12" in text
    assert CONVENTIONS["slice"].statement in text


def test_scores_of_an_unknown_convention_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nature'"):
        write_evaluation(tmp_path, [make_score(convention="nature")], [], {})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_picture_is_said_and_left_out(tmp_path: Path) -> None:
    scores = [score for score in _scores(3) if score.acceleration == 4]
    write_pictures(tmp_path, scores)
    (worst,) = [s for s in scores if s.ssim == min(s.ssim for s in scores)]
    picture_path(tmp_path, worst.key).write_bytes(b"PK\x03\x04 cut short")
    found, complaints = cases.galleries(tmp_path, scores)
    assert complaints
    assert "damaged" in complaints[0]
    assert all(case.score != worst for case in found[0].extremes.cases)


def test_worst_best_and_typical_cases(tmp_path: Path) -> None:
    scores = make_scores(9, accelerations=(4.0,))
    write_pictures(tmp_path, scores)
    (gallery,), complaints = cases.galleries(tmp_path, scores, tuple(GAINS))
    assert complaints == []
    assert [(case.name, case.score.method) for case in gallery.extremes.cases] == [
        (name, method) for method in GAINS for name in ("worst", "best")
    ]
    for case in gallery.extremes.cases:
        ranked = sorted(score.ssim for score in scores if score.method == case.score.method)
        assert case.score.ssim == ranked[0 if case.name == "worst" else -1]
    assert [case.score.method for case in gallery.typical.cases] == list(GAINS)
    assert len({case.score.volume for case in gallery.typical.cases}) == 1
    means = [np.mean([s.ssim for s in scores if s.volume == volume]) for volume in {s.volume for s in scores}]
    assert np.mean([case.score.ssim for case in gallery.typical.cases]) == pytest.approx(np.median(means))
    assert {case.slice for case in gallery.typical.cases} == {1}
    assert gallery.typical.factor >= gallery.extremes.factor >= 1


def test_plots_show_every_method_in_its_own_colour_and_sign() -> None:
    scores = make_scores(15)
    shown = figures.signs(scores, tuple(GAINS))
    assert [sign.method for sign in shown] == list(GAINS)
    assert len({(sign.colour, sign.glyph) for sign in shown}) == 4
    for plot in (*figures.boxes(scores, "random"), *figures.curves(scores, "random")):
        assert plot.svg.startswith("<svg ")
        assert plot.svg.endswith("</svg>")
        assert "4×" in plot.svg
        assert "8×" in plot.svg
        for sign in shown:
            assert sign.colour in plot.svg
        assert "<style" not in plot.svg
        assert "metadata" not in plot.svg
    assert figures.curves([s for s in scores if s.acceleration == 4], "random") == []
    own = [make_score(volume=f"v{R}", mask="from-file", acceleration=3 + R / 10, seed="") for R in range(20)]
    for plot in (*figures.boxes(own, "from-file"), *figures.curves(own, "from-file")):
        assert len(re.findall(r"[\d.]+×</text>", plot.svg)) == 7
    many = figures.signs(make_scores(1, [f"m{index}" for index in range(20)]))
    assert len({(sign.colour, sign.glyph) for sign in many}) == 20


@pytest.mark.parametrize(
    ("value", "measure", "signed", "text"),
    [
        (0.01234, "nmse", False, "0.0123"),
        (0.00031, "nmse", False, "3.1 × 10⁻⁴"),
        (31.236, "psnr", False, "31.24"),
        (-1.5, "body_psnr", True, "−1.50"),
        (0.25, "ssim", True, "+0.2500"),
        (0.0, "ssim", True, "0.0000"),
        (math.inf, "psnr", False, "∞"),
        (math.nan, "psnr", True, "–"),
    ],
)
def test_scores_as_text(value: float, measure: str, signed: bool, text: str) -> None:
    assert fixed(value, measure, signed).replace("\N{NO-BREAK SPACE}", " ") == text


def test_speeds_add_up() -> None:
    scores = _scores(4)
    speed = next(each for each in find(scores, SETTINGS).speeds if each.method == "unrolled")
    mine = [score for score in scores if score.method == "unrolled"]
    assert (speed.n_volumes, speed.n_slices) == (8, 80)
    assert speed.seconds == pytest.approx(sum(score.seconds for score in mine))
    assert speed.overhead == pytest.approx(8 * 0.8 / (speed.seconds + 8 * 0.8))


PROBE = """
window.addEventListener("load", () => {
  const texts = [...document.querySelectorAll(".plot text")];
  document.documentElement.dataset.probe = JSON.stringify({
    broken: [...document.images].filter((image) => !(image.naturalWidth > 0)).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    plots: [...document.querySelectorAll(".plot svg")].map((plot) => plot.getBoundingClientRect().height > 100),
    colours: [...new Set(texts.map((text) => getComputedStyle(text).fill))],
    ink: getComputedStyle(document.body).color,
  });
});
"""


@pytest.mark.slow
def test_browser_draws_the_page_within_its_width(made: tuple, tmp_path: Path) -> None:
    source = made[0]["report"].read_text()
    page = tmp_path / "probed.html"
    probed = source.replace("default-src 'none'", f"default-src 'none'; script-src {script_source(PROBE)}", 1)
    page.write_text(probed.replace("</body>", f"<script>{PROBE}</script></body>"))
    dom = chromium(tmp_path, page, "--dump-dom", "--enable-logging=stderr", "--window-size=500,900")
    found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))  # type: ignore[index]
    assert found["broken"] == 0
    assert found["overflow"] <= 0
    assert found["plots"] == [True] * 6
    assert found["colours"] == [found["ink"]]  # drawings take the page's colour of text
