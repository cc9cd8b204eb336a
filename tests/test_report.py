"""The report page: complete, self-contained, safe against hostile names, and really drawn by a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from support.browser import chromium, script_source

from mri_unroll.errors import InputError, ShapeError
from mri_unroll.image import Diagnostics, Image, Provenance
from mri_unroll.metrics import CONVENTION
from mri_unroll.quality import NO_VERDICT, assess
from mri_unroll.report import ReportContent, write_report
from mri_unroll.report.figures import MAX_COILS, MAX_STACK
from mri_unroll.report.pictures import LARGEST, hues
from mri_unroll.report.wording import described, number, percent, span
from mri_unroll.scan import Geometry
from mri_unroll.trust.checks import Check
from mri_unroll.trust.prediction import Prediction
from mri_unroll.trust.verdict import judge

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>.h5"
VOID = {"meta", "link", "img", "input"}


def make_content(
    n_slices: int = 3,
    shape: tuple[int, int] = (48, 40),
    n_coils: int = 2,
    reference: bool = True,
    **changes: Any,
) -> ReportContent:
    """A phantom of two discs, a blurred look-alike as its reconstruction, and a line mask."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    truth = ((np.hypot(y, x) < 0.8) + 0.6 * (np.hypot(y, x - 0.2) < 0.3)).astype(np.float32) * 1e-6
    volume = np.stack([truth * (1 + 0.1 * index) for index in range(n_slices)])
    pixels = volume + 2e-8 * random.standard_normal(volume.shape).astype(np.float32) ** 2
    lines = np.arange(shape[1]) % 3 == 0
    lines[shape[1] // 2 - 2 : shape[1] // 2 + 2] = True
    image = Image(
        pixels=pixels,
        geometry=Geometry(shape, (0.22, 0.18, 0.005)),
        diagnostics=Diagnostics(
            data_residual=tuple(0.03 + 0.01 * index for index in range(n_slices)),
            status=("Converged.",) * n_slices,
            n_iterations=(7,) * n_slices,
            seconds=(0.5,) * n_slices,
            warnings=("A warning of the method.",),
        ),
        provenance=Provenance(
            method="l1-wavelet",
            version="9.8.7",
            device="cuda:0 (H100)",
            fft_engine="sigpy/numpy",
            parameters={"reg_weight": 0.005, "n_iterations": 60},
            weights_digest="sha256:" + "ab" * 32,
            scale=(2e-6,) * n_slices,
        ),
    )
    shown = n_slices // 2
    values: dict[str, Any] = {
        "title": "scan.h5",
        "image": image,
        "quality": assess(image, volume if reference else None, "the truth, known here" if reference else None),
        "shown": shown,
        "first_slice": 10,
        "zero_filled": pixels[shown] * np.float32(0.7),
        "reference": volume[shown] if reference else None,
        "mask": np.broadcast_to(lines, shape),
        "sens_maps": (0.5 + np.exp(1j * (x + y) * np.arange(1, n_coils + 1)[:, None, None])).astype(np.complex64),
        "found": {
            "file": "scan.h5",
            "file_bytes": 1_234_567,
            "matrix": list(shape),
            "contrast": {"acquisition": "AXT2"},
            "field_of_view_mm": None,
            "warnings": ["A warning of the reader."],
        },
        "summary": {"seconds": 12.5, "input_digest": "sha256:" + "cd" * 32},
    }
    return ReportContent(**(values | changes))


def render(content: ReportContent, folder: Path) -> str:
    path = folder / "report.html"
    write_report(content, path, overwrite=True)
    return path.read_text(encoding="utf-8")


def pictures(page: str) -> dict[str, PIL.Image.Image]:
    """Every picture that has a text for those who do not see it, decoded."""
    found = {}
    for tag in re.findall(r"<img [^>]*>", page):
        source, alt = re.search(r'src="data:image/(\w+);base64,([^"]+)"', tag), re.search(r'alt="([^"]*)"', tag)
        assert source is not None, tag[:200]
        assert alt is not None, tag[:200]
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(source[2], validate=True)))
        picture.load()
        assert picture.format == source[1].upper()
        if alt[1]:
            found[html.unescape(alt[1])] = picture
    return found


def text_of(page: str) -> str:
    """What a reader sees."""
    body = re.sub(r"<(script|style)>.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"[ \n]+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_pictures_are_embedded_whole(tmp_path: Path) -> None:
    content = make_content()
    found = pictures(render(content, tmp_path))
    names = ["Reference, slice 11", "Zero-filled, slice 11"]
    names += [f"Reconstruction, slice {index}" for index in (10, 11, 12)]
    names += [name for name in found if name.startswith("Error")]
    assert len(names) == 6
    for name in names:
        assert found[name].size == (40, 48)
        assert np.ptp(np.asarray(found[name].convert("L"))) > 100, name
    coils = [name for name in found if name.startswith("Sensitivity")]
    assert [found[name].size for name in coils] == [(40, 96)] * 2
    assert len(found) == len(names) + len(coils) + 1  # and the mask


def test_grey_pictures_share_one_window_and_the_error_is_magnified(tmp_path: Path) -> None:
    content = make_content(n_slices=1)
    assert content.reference is not None
    page = render(content, tmp_path)
    found = pictures(page)
    white = np.percentile(content.reference, 99.5)
    for name, pixels in (("Reference", content.reference), ("Zero-filled", content.zero_filled)):
        expected = 255 * np.clip(pixels / white, 0, 1)
        np.testing.assert_allclose(np.asarray(found[f"{name}, slice 10"]), expected, atol=0.51)
    error = np.abs(content.image.pixels[0].astype(float) - content.reference)
    factor = int(re.search(r"\|reconstruction − reference\| × (\d+)", text_of(page))[1])  # type: ignore[index]
    assert factor > 1
    assert factor * np.percentile(error, 99.5) <= white
    shown = next(picture for name, picture in found.items() if name.startswith("Error"))
    np.testing.assert_allclose(np.asarray(shown), 255 * np.clip(factor * error / white, 0, 1), atol=0.51)
    assert shown.mode == "P"


def test_mask_strip_shows_each_line_in_a_whole_number_of_pixels(tmp_path: Path) -> None:
    content = make_content()
    strip = next(picture for name, picture in pictures(render(content, tmp_path)).items() if "mask" in name)
    scale = strip.width // 40
    assert strip.width == 40 * scale
    assert strip.width >= 1280
    np.testing.assert_array_equal(np.asarray(strip)[5, scale // 2 :: scale] > 0, content.mask[0])


def test_point_mask_keeps_its_shape(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((48, 40)) < 0.3
    mask[20:28, 16:24] = True
    page = render(make_content(mask=mask), tmp_path)
    picture = next(picture for name, picture in pictures(page).items() if "mask" in name)
    np.testing.assert_array_equal(np.asarray(picture)[6::13, 6::13] > 0, mask)
    assert "fully sampled centre (ACS), 8 × 8 samples" in text_of(page)


def test_samples_off_the_grid_are_drawn_where_they_lie(tmp_path: Path) -> None:
    angle = np.linspace(0, np.pi, 40, endpoint=False)[:, None]
    radius = np.linspace(-24, 24, 97)
    spokes = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1).reshape(-1, 2).astype(np.float32)
    summary = {"seconds": 1.0, "effective_acceleration": 2.5}
    page = render(make_content(mask=None, trajectory=spokes, summary=summary), tmp_path)
    text = text_of(page)
    assert "3880 samples off the grid, 2.50-fold undersampled against Nyquist" in text
    assert "The centre of k-space was not measured." not in text
    picture = np.asarray(next(shown for name, shown in pictures(page).items() if "off the grid" in name))
    middle = picture.shape[0] // 2
    assert picture[middle - 3 : middle + 3, middle - 3 : middle + 3].max() == 255
    assert not picture[:20, :20].any()
    assert "as dense as Nyquist asks for" in text_of(
        render(make_content(mask=None, trajectory=spokes, summary=summary | {"effective_acceleration": 1.0}), tmp_path)
    )
    for wrong in ({"mask": None}, {"trajectory": spokes}):
        with pytest.raises(ShapeError, match="either"):
            make_content(**wrong)


def test_one_residual_stands_for_a_volume(tmp_path: Path) -> None:
    content = make_content(volume=True)
    quality = dataclasses.replace(content.quality, data_residual=(0.0421,))
    text = text_of(render(dataclasses.replace(content, quality=quality), tmp_path))
    assert text.count("4.21\N{NO-BREAK SPACE}%") >= 2
    assert "plane of both phase encodings" in text
    assert "all slices" not in text


def test_every_number_and_sentence_is_there(tmp_path: Path) -> None:
    content = make_content(summary={"seconds": 12.5, "input_digest": "sha256:" + "cd" * 32, "retrospective": {
        "accelerate": 4.0, "mask": "equispaced", "center_fraction": 0.08, "seed": 3}})  # fmt: skip
    text = text_of(render(content, tmp_path))
    assert content.quality.metrics is not None
    assert content.quality.in_body is not None
    for expected in (
        NO_VERDICT["advice"][0],
        CONVENTION,
        "Research use only, not for diagnosis.",
        "2 warnings A warning of the method. A warning of the reader.",
        "Reference: the truth, known here.",
        f"{number(content.quality.metrics['psnr'], 4)} dB",
        number(content.quality.in_body["nmse"]),
        "4.00\N{NO-BREAK SPACE}%",  # residual of the shown slice
        "12.5 s",
        "4-fold equispaced mask, seed 3, 8.00\N{NO-BREAK SPACE}% of all lines",
        f"{content.mask[0].sum()} of 40 lines, {number(content.mask.size / content.mask.sum())}-fold undersampled",
        "fully sampled centre (ACS), 4 lines",
        "l1-wavelet",
        "reg_weight 0.005",
        "sha256:" + "ab" * 32,
        "sha256:" + "cd" * 32,
        "mri_unroll 9.8.7",
        "cuda:0 (H100)",
        "sigpy/numpy",
        "1.23 MB",
        "48 × 40",
        "acquisition: AXT2",
        "field of view [mm] unknown",
        "Converged.",
    ):
        assert expected in text, expected


def test_the_verdict_is_told_with_its_reasons_and_the_predicted_error_is_shown(tmp_path: Path) -> None:
    content = make_content()
    checks = (
        Check("motion", 1.5, 1.0, 2.0, "Lines disagree with each other as if the patient had moved."),
        Check("coils", -3.0, 1.0, 2.0, "A coil seems to give no signal."),
    )
    verdict = judge(Prediction(0.0123, 0.0061, 0.0246, 0.9), checks)
    image = dataclasses.replace(content.image, predicted_error=np.full_like(content.image.pixels, 0.01))
    quality = dataclasses.replace(content.quality, verdict=verdict)
    page = render(dataclasses.replace(content, quality=quality, image=image), tmp_path)
    text = text_of(page)
    for expected in (
        "Can this picture be trusted? Verdict: check",
        "Lines disagree with each other as if the patient had moved. Look at it with care.",
        "Predicted NMSE 0.0123",
        "between 0.00610 and 0.0246",
        "2 checks, 1 not passed",
        "Predicted error",
    ):
        assert expected in text, expected
    assert "A coil seems to give no signal. Look" not in text


def test_without_reference_nothing_is_called_an_error(tmp_path: Path) -> None:
    page = render(make_content(reference=False), tmp_path)
    text = text_of(page)
    assert "Difference to zero-filled, not an error" in text
    assert "no error was measured" in text
    assert "PSNR" not in text
    assert not any(name.startswith(("Error", "Reference")) for name in pictures(page))


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    plain = render(make_content(), tmp_path)
    content = make_content(
        title=HOSTILE, found={HOSTILE: HOSTILE, "contrast": {HOSTILE: [HOSTILE]}, "warnings": [HOSTILE]}
    )
    provenance = dataclasses.replace(content.image.provenance, method=HOSTILE, parameters={HOSTILE: HOSTILE})
    content = dataclasses.replace(content, image=dataclasses.replace(content.image, provenance=provenance))
    page = render(content, tmp_path)
    assert text_of(page).count(HOSTILE) > 8
    assert "<script>alert" not in page
    assert page.count("<script>") == plain.count("<script>") == 1
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", page)
    pictures(page)  # none but our own


def test_bytes_that_are_no_text_and_control_characters_do_not_fail(tmp_path: Path) -> None:
    assert "name?" in render(make_content(title="name\udcff\x07\u202e.h5"), tmp_path)


def test_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    page = render(make_content(), tmp_path)
    assert "http" not in page.replace("http-equiv", "")
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert not re.search(r"url\(|@import|@font-face", page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';"
        in html.unescape(page)
    )


def test_markup_is_well_formed_and_labelled(tmp_path: Path) -> None:
    page = render(make_content(), tmp_path)
    open_tags: list[str] = []
    levels: list[int] = []
    names: list[str] = []
    references: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found = dict(attrs)
            names.extend(filter(None, [found.get("id")]))
            references.extend(filter(None, [found.get("aria-labelledby")]))
            if re.fullmatch(r"h[1-6]", tag):
                levels.append(int(tag[1]))
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker(convert_charrefs=True).feed(page)
    assert open_tags == []
    assert '<html lang="en">' in page
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(set(names)) == len(names)
    assert set(references) <= set(names)


@pytest.mark.parametrize("shape", [(48, 40), (1, 1), (7, 5), (3, 200), (300, 9)])
@pytest.mark.parametrize("n_slices", [1, 2])
def test_any_size(tmp_path: Path, shape: tuple[int, int], n_slices: int) -> None:
    content = make_content(n_slices, (48, 40), reference=False)
    pixels = np.ones((n_slices, *shape), np.float32)
    image = dataclasses.replace(content.image, pixels=pixels)
    maps = np.ones((1, *shape), np.complex64)
    content = dataclasses.replace(
        content, image=image, zero_filled=pixels[0], mask=np.ones(shape, np.bool_), sens_maps=maps
    )
    page = render(content, tmp_path)
    assert pictures(page)[f"Zero-filled, slice {10 + n_slices // 2}"].size == shape[::-1]
    assert "fully sampled" in text_of(page)
    assert ("<script>" in page) == (n_slices > 1)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e-42])
def test_pictures_without_contrast(tmp_path: Path, value: float) -> None:
    content = make_content()
    pixels = np.full_like(content.image.pixels, value)
    maps = np.full((2, 48, 40), value, np.complex64)
    image = dataclasses.replace(content.image, pixels=pixels)
    for reference in (pixels[0], None):
        page = render(
            dataclasses.replace(content, image=image, zero_filled=pixels[0], reference=reference, sens_maps=maps),
            tmp_path,
        )
        assert np.ptp(np.asarray(pictures(page)["Reconstruction, slice 11"])) < 5


def test_residuals_without_a_number_leave_a_gap(tmp_path: Path) -> None:
    content = make_content(n_slices=5)
    values = (0.02, 0.04, math.nan, 0.03, 0.0)
    quality = dataclasses.replace(content.quality, data_residual=values)
    page = render(dataclasses.replace(content, quality=quality), tmp_path)
    line = re.search(r'class="line" d="([^"]*)"', page)
    assert line is not None
    assert line[1] == "M100.0 60.00 L300.0 20.00 M700.0 40.00 L900.0 100.00"
    assert "1 slice without a number" in text_of(page)
    assert "nan" not in page.lower().split("</style>")[1].replace("data:", "").split("base64")[0]
    nothing = dataclasses.replace(content.quality, data_residual=(math.nan,) * 5)
    assert "5 slices without a number" in text_of(render(dataclasses.replace(content, quality=nothing), tmp_path))


def test_nothing_measured(tmp_path: Path) -> None:
    text = text_of(render(make_content(mask=np.zeros((48, 40), np.bool_), sens_maps=None), tmp_path))
    assert "The centre of k-space was not measured." in text
    assert "Coil maps" not in text


def test_large_volumes_make_no_large_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    content = make_content(40, (320, 320), 20)
    noisy = content.image.pixels + 5e-8 * np.abs(random.standard_normal(content.image.pixels.shape)).astype(np.float32)
    page = render(dataclasses.replace(content, image=dataclasses.replace(content.image, pixels=noisy)), tmp_path)
    assert len(page) < 1_500_000
    found = pictures(page)
    assert len([name for name in found if name.startswith("Sensitivity")]) == MAX_COILS
    assert f"the first {MAX_COILS} of 20 coils" in text_of(page)
    leaves = [name for name in found if name.startswith("Reconstruction")]
    assert len(leaves) == MAX_STACK
    assert {f"Reconstruction, slice {index}" for index in (10, 30, 49)} < set(leaves)
    assert f"{MAX_STACK} of 40 slices" in text_of(page)


def test_very_large_pictures_are_shrunk(tmp_path: Path) -> None:
    content = make_content(1, (LARGEST * 2, 30), reference=False)
    assert pictures(render(content, tmp_path))["Reconstruction, slice 10"].size == (15, LARGEST)


def test_pixels_are_shown_in_true_proportion(tmp_path: Path) -> None:
    geometry = Geometry((48, 40), (0.24, 0.4, 0.005))  # pixels twice as wide as high
    content = make_content()
    page = render(dataclasses.replace(content, image=dataclasses.replace(content.image, geometry=geometry)), tmp_path)
    assert f"--ratio: {40 / 48 * 2:.5f}" in page


def test_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        write_report(make_content(), path)
    assert path.read_text() == "precious"
    write_report(make_content(), path, overwrite=True)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "changes",
    [
        {"shown": 3},
        {"zero_filled": np.zeros((4, 4), np.float32)},
        {"reference": np.zeros((40, 48), np.float32)},
        {"mask": np.ones((1, 48, 40), np.bool_)},
        {"sens_maps": np.ones((48, 40), np.complex64)},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    content = make_content()
    with pytest.raises(ShapeError, match="Expected"):
        dataclasses.replace(content, **changes)


def test_wording() -> None:
    nbsp = "\N{NO-BREAK SPACE}"
    assert [number(value) for value in (0, 4, 0.0123456, 54321.0, -2.5, math.nan, None, math.inf, -math.inf)] == (
        ["0", "4.00", "0.0123", "54321", "−2.50", "–", "–", "∞", "−∞"]
    )
    assert number(-8.3e-6) == f"−8.30{nbsp}×{nbsp}10⁻⁶"
    assert percent(0.5) == f"50.0{nbsp}%"
    assert percent(None) == "–"
    assert span([]) == span([math.nan]) == "–"
    assert span([2.0, math.nan, 1.0]) == "1.00 to 2.00"
    assert described({"a_b": True, "matrix": [3, 4], "padding_columns": [1, 0], "empty": [], "note": None}) == [
        ("a b", ["yes"]),
        ("k-space grid (ky × kx)", ["3 × 4"]),
        ("zero-filled columns (left, right)", ["1, 0"]),
        ("note", ["unknown"]),
    ]


def test_phase_colours_close_and_are_evenly_light() -> None:
    colours = hues().astype(float)
    assert np.abs(colours[0] - colours[-1]).max() <= 1
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert np.ptp(lightness) < 40


PROBE = """
window.addEventListener("load", () => {
  const range = document.querySelector("input[type=range]");
  range.value = 0;
  range.dispatchEvent(new Event("input"));
  document.documentElement.dataset.probe = JSON.stringify({
    broken: [...document.images].filter((image) => !(image.naturalWidth > 0)).length,
    images: document.images.length,
    visible: [...document.querySelectorAll(".stack img")].map((image) => image.getBoundingClientRect().width > 0),
    output: document.querySelector("output").textContent,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
});
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])  # narrower is no window that a headless Chromium of any age will open
def test_browser_draws_the_page(tmp_path: Path, width: int) -> None:
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    write_report(make_content(title=HOSTILE), page)
    chromium(tmp_path, page, f"--window-size={width},1400", f"--screenshot={shot}")
    with PIL.Image.open(shot) as picture:
        assert picture.size == (width, 1400)
        colours = np.asarray(picture.convert("RGB")).astype(int)
    assert colours.std() > 20
    assert (np.ptp(colours, axis=-1) > 60).sum() > 500  # the error picture and its colour bar have colours


@pytest.mark.slow
def test_browser_runs_the_page_under_its_own_policy(tmp_path: Path) -> None:
    source = render(make_content(), tmp_path)
    page = tmp_path / "probed.html"
    policy = "script-src &#39;" if "script-src &#39;" in source else "script-src '"
    probed = source.replace(policy, f"script-src {script_source(PROBE)} {policy.removeprefix('script-src ')}", 1)
    page.write_text(probed.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    dom = chromium(tmp_path, page, "--dump-dom", "--enable-logging=stderr", "--window-size=500,900")
    found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))  # type: ignore[index]
    assert found["broken"] == 0
    assert found["images"] == len(re.findall("<img ", source))
    assert found["visible"] == [True, False, False]
    assert found["output"] == "slice 10"
    assert found["overflow"] <= 0
