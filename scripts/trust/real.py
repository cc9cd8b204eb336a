"""Predicted against true error on real k-space, which neither network nor verdict was made with.

    python scripts/trust/real.py --method unrolled --data ../shared/data/kspace --out runs/trust/real.csv

Every file is undersampled 2-, 4-, 6- and 8-fold with different masks, as `mri-unroll recon --accelerate` does, and
scored against its own fully sampled picture. What is in the CSV file, and beside it in one of its name that ends in
npz (some pixels of each picture), is not done again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from evidence_files import write_whole
from numpy.typing import NDArray
from table import auroc

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import MriUnrollError
from mri_unroll.pipeline import reconstruct_file

CELLS = [(r, mask) for r in (2.0, 4.0, 6.0, 8.0) for mask in ("random", "equispaced_fraction", "poisson")]
PIXELS = 2000  # of each picture, drawn at random, to rank those of all pictures together
FIELDS = ("file", "acceleration", "mask", "nmse", "predicted", "low", "high", "auroc", "verdict", "alarms")


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="unrolled")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.out.with_suffix(".npz")
    pixels = dict(np.load(beside)) if beside.exists() else {}
    rows = list(csv.DictReader(arguments.out.open())) if arguments.out.exists() else []
    rows = [row for row in rows if _name(row) in pixels or not row["nmse"]]
    done = {_name(row) for row in rows}
    for path in sorted(arguments.data.glob("*.h5")):
        for acceleration, mask in CELLS:
            name = f"{path.name} {acceleration} {mask}"
            if name in done:
                continue
            row, drawn = one(path, acceleration, mask, arguments.method)
            rows.append(row)
            pixels |= {} if drawn is None else {name: drawn}
            write_whole(beside, pixels)
            with arguments.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(rows)
    told(rows, pixels)


def _name(row: dict[str, str]) -> str:
    return f"{row['file']} {row['acceleration']} {row['mask']}"


def one(path: Path, acceleration: float, mask: str, method: str) -> tuple[dict[str, str], NDArray[np.float32] | None]:
    """One reconstruction: what was predicted, and what is true; ``(2, PIXELS)`` of the error map and of the error.

    The pixels are in units where bright tissue is 1; None where there is no truth.
    """
    config = ReconstructionConfig(method=method, accelerate=acceleration, mask=mask, seed=11, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = reconstruct_file(path, folder, config)
        except MriUnrollError as error:
            return dict.fromkeys(FIELDS, "") | {
                "file": path.name,
                "acceleration": str(acceleration),
                "mask": mask,
                "verdict": f"refused: {error}",
            }, None
        with h5py.File(outcome.volume) as file, h5py.File(path) as source:
            picture, found = file["reconstruction"][:], file["predicted_error"][:]
            truth = source["reconstruction_rss"][:] if "reconstruction_rss" in source else None
    summary = outcome.summary
    area, pixels = float("nan"), None
    if truth is not None and truth.shape == picture.shape:
        true = np.abs(truth - picture)
        area = auroc(found, true)
        drawn = np.random.default_rng(0).choice(true.size, PIXELS)
        pixels = np.stack([found.ravel()[drawn], true.ravel()[drawn]]) / np.percentile(picture, 97)
    predicted = summary["predicted"]
    alarms = [name for name, check in summary["checks"].items() if check["verdict"] != "go"]
    return {
        "file": path.name,
        "acceleration": str(acceleration),
        "mask": mask,
        "nmse": repr(summary["metrics"]["nmse"]),
        "predicted": repr(predicted["nmse"]),
        "low": repr(predicted["low"]),
        "high": repr(predicted["high"]),
        "auroc": repr(area),
        "verdict": summary["verdict"],
        "alarms": " ".join(alarms),
    }, pixels


def told(rows: list[dict[str, str]], pixels: dict[str, NDArray[np.float32]]) -> None:
    """Print what came out, acceleration by acceleration."""
    good = [row for row in rows if row["nmse"]]
    true, predicted, low, high = (
        np.array([float(row[key]) for row in good]) for key in ("nmse", "predicted", "low", "high")
    )
    accelerations = np.array([float(row["acceleration"]) for row in good])
    areas = np.array([float(row["auroc"]) for row in good])
    inside = (low <= true) & (true <= high)
    print(f"{len(good)} reconstructions of {len({row['file'] for row in good})} files")
    for name, chosen in [("all", accelerations > 0)] + [(f"{r:g}x", accelerations == r) for r in (2, 4, 6, 8)]:
        found, error = np.hstack(
            [pixels[_name(row)] for row, yes in zip(good, chosen, strict=True) if yes and _name(row) in pixels]
        )
        correlation = np.corrcoef(np.log(true[chosen]), np.log(predicted[chosen]))[0, 1]
        print(
            f"{name}: correlation of log NMSE {correlation:.3f}, "
            f"inside the interval {100 * inside[chosen].mean():.0f} %, predicted over true "
            f"{np.exp(np.median(np.log(predicted / true)[chosen])):.2f}, "
            f"AUROC of the error map: mean {np.nanmean(areas[chosen]):.3f}, "
            f"of all pictures together {auroc(found, error):.3f}"
        )
    print(f"with an alarm of a check: {100 * np.mean([bool(row['alarms']) for row in good]):.0f} %")


if __name__ == "__main__":
    main()
