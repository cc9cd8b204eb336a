"""How well a known blur of a real series is undone: the network against Richardson-Lucy, Wiener, TV and wavelets.

    python scripts/restore_quality.py STUDY -o docs/restore

A magnitude series is taken as the truth, blurred by a known function or cut in k-space, and gets noise. Every baseline
gets the best of its settings by the truth, for each case, and apart for each metric; the network has no setting. A
slice that holds nothing but noise rides along: what a method makes of it is in the last column. Residuals and that
column are in units of the noise. Writes ``restore_quality.md`` and ``restore_quality.png``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from mri_unroll import metrics
from mri_unroll.image import Image
from mri_unroll.io.dicom.study import find_series, read_pixels
from mri_unroll.recon.calibrate import brightness
from mri_unroll.recon.restore import PsfSpec, make_restorer, parse_psf
from mri_unroll.recon.restorer import spacing_of

BLURS = ("gaussian:2", "gaussian:3.5", "kspace-truncation:1.6")
LEVELS = (0.01, 0.03)  # of bright tissue
SETTINGS: dict[str, tuple[str, tuple[float, ...]]] = {
    "richardson-lucy": ("n_iterations", (2, 4, 6, 10, 15, 25, 40)),
    "wiener": ("reg_weight", (2, 4, 8, 16, 32, 64, 128, 256)),
    "tv": ("reg_weight", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)),
    "wavelet": ("reg_weight", (0.07, 0.15, 0.25, 0.35, 0.5, 0.7)),
}


@dataclass(frozen=True)
class Case:
    """A series as it was, and as it is to be restored; the last slice of the latter is noise alone."""

    psf: PsfSpec
    truth: NDArray[np.float32]
    source: Image
    noise: float


@dataclass(frozen=True)
class Score:
    """Of one setting of one method."""

    psnr: float
    ssim: float
    residual: float  # in units of the estimated noise
    blob: float  # brightest pixel of the empty slice, in units of the noise that was added
    setting: float | None
    shown: NDArray[np.float32]


def degrade(image: Image, text: str, level: float) -> Case:
    """Blur or cut, and add real Gaussian noise; a magnitude has no sign, so what falls below zero is turned up."""
    psf = parse_psf(text)
    shape = (image.pixels.shape[1], image.pixels.shape[2])
    op = psf.operator(shape, spacing_of(image))
    noise = level * brightness(torch.from_numpy(image.pixels))
    generator = torch.Generator().manual_seed(5)
    truth = torch.from_numpy(np.concatenate([image.pixels, np.zeros((1, *shape), np.float32)])) + 0j
    field = noise * torch.randn(truth.shape, generator=generator)
    seen = op.normal(truth + field) if psf.kind == "kspace-truncation" else op.forward(truth) + field
    return Case(psf, image.pixels, replace(image, pixels=seen.real.abs().numpy()), noise)


def scored(case: Case, method: str, name: str | None = None, setting: float | None = None) -> Score:
    options = {} if name is None else {name: int(setting or 0) if name == "n_iterations" else setting}
    result = make_restorer(method, case.psf, **options).restore(case.source)  # type: ignore[arg-type]
    pixels, n = result.pixels[:-1], len(case.truth)
    return Score(
        psnr=metrics.psnr(case.truth, pixels),
        ssim=metrics.ssim(case.truth, pixels),
        residual=float(np.median(result.diagnostics.data_residual[:-1])),
        blob=float(result.pixels[-1].max()) / case.noise,
        setting=setting,
        shown=pixels[n // 2],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=6, help="take every so-manieth slice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    whole = read_pixels(find_series(arguments.study).pick(None))
    image = replace(whole, pixels=np.ascontiguousarray(whole.pixels[:: arguments.every]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    cases = [degrade(image, text, level) for text in BLURS for level in LEVELS]
    labels = [f"{text}, noise {100 * level:g} %" for text in BLURS for level in LEVELS]
    lines = [
        "| case | method | PSNR [dB] | SSIM | best setting | residual | empty slice, brightest |",
        "|---|---|---|---|---|---|---|",
    ]
    rows: list[list[NDArray[np.float32]]] = []
    for case, label in track(list(zip(cases, labels, strict=True)), description="restoring"):
        blurred = case.source.pixels[:-1]
        found = f"{metrics.psnr(case.truth, blurred):.2f} | {metrics.ssim(case.truth, blurred):.4f}"
        lines.append(f"| {label} | as it came | {found} | | | |")
        best: dict[str, Score] = {}
        for method, (name, values) in SETTINGS.items():
            if case.psf.kind == "kspace-truncation" and method in ("richardson-lucy", "wiener"):
                continue
            tried = [scored(case, method, name, value) for value in values]
            best[method] = top = max(tried, key=lambda score: score.psnr)
            ssim = max(score.ssim for score in tried)
            lines.append(
                f"| {label} | {method} | {top.psnr:.2f} | {ssim:.4f} | {top.setting:g} "
                f"| {top.residual:.2f} | {top.blob:.1f} |"
            )
        best["restore"] = ours = scored(case, "restore")
        lines.append(
            f"| {label} | **restore** | **{ours.psnr:.2f}** | **{ours.ssim:.4f}** | "
            f"| {ours.residual:.2f} | {ours.blob:.1f} |"
        )
        pictures = [case.truth[len(case.truth) // 2], blurred[len(case.truth) // 2]]
        rows.append(
            [
                *pictures,
                *(best[method].shown if method in best else pictures[0] * 0 for method in (*SETTINGS, "restore")),
            ]
        )
    title = "# Restoration, by all methods\n\n`python scripts/restore_quality.py STUDY -o docs/restore`\n\n"
    (arguments.out / "restore_quality.md").write_text(title + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    draw(rows, labels, arguments.out / "restore_quality.png")


def draw(rows: list[list[NDArray[np.float32]]], labels: list[str], path: Path) -> None:
    """A part of the middle slice, one case a row: truth, source, and what every method made of it."""
    titles = ("truth", "as it came", *SETTINGS, "restore")
    figure, axes = plt.subplots(len(rows), len(titles), figsize=(2.1 * len(titles), 2.2 * len(rows)), squeeze=False)
    for row, (pictures, label) in enumerate(zip(rows, labels, strict=True)):
        bright = float(np.percentile(pictures[0], 99.5))
        for column, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            height, width = picture.shape
            part = picture[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
            axis = axes[row, column]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(part, cmap="gray", vmin=0, vmax=bright)
            if row == 0:
                axis.set_title(title, fontsize=9)
            if column == 0:
                axis.set_ylabel(label, fontsize=7)
            if not picture.any():
                axis.text(0.5, 0.5, "needs a PSF", color="white", ha="center", transform=axis.transAxes, fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
