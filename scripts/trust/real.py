"""Predicted against true error on real k-space, which neither network nor verdict was made with.

    python scripts/trust/real.py --method unrolled --data ../shared/data/kspace --out runs/trust/real.csv

Every file is undersampled 2-, 4-, 6- and 8-fold with different masks, as `mri-unroll recon --accelerate` does, and
scored against its own fully sampled picture. What is in the CSV file is not done again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import MriUnrollError
from mri_unroll.pipeline import reconstruct_file

CELLS = [(r, mask) for r in (2.0, 4.0, 6.0, 8.0) for mask in ("random", "equispaced_fraction", "poisson")]
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
    rows = list(csv.DictReader(arguments.out.open())) if arguments.out.exists() else []
    done = {(row["file"], float(row["acceleration"]), row["mask"]) for row in rows}
    for path in sorted(arguments.data.glob("*.h5")):
        for acceleration, mask in CELLS:
            if (path.name, acceleration, mask) in done:
                continue
            row = one(path, acceleration, mask, arguments.method)
            rows.append(row)
            with arguments.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(rows)
    told(rows)


def one(path: Path, acceleration: float, mask: str, method: str) -> dict[str, str]:
    """One reconstruction: what was predicted, and what is true."""
    import h5py
    from table import TOP, auroc

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
            }
        with h5py.File(outcome.volume) as file, h5py.File(path) as source:
            picture, found = file["reconstruction"][:], file["predicted_error"][:]
            truth = source["reconstruction_rss"][:] if "reconstruction_rss" in source else None
    summary = outcome.summary
    area = float("nan")
    if truth is not None and truth.shape == picture.shape:
        true = np.abs(truth - picture)
        area = auroc(found.ravel(), (true > np.quantile(true, 1 - TOP)).ravel())
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
    }


def told(rows: list[dict[str, str]]) -> None:
    """Print what came out, file kind by file kind."""
    good = [row for row in rows if row["nmse"]]
    true, predicted, low, high = (
        np.array([float(row[key]) for row in good]) for key in ("nmse", "predicted", "low", "high")
    )
    accelerations = np.array([float(row["acceleration"]) for row in good])
    areas = np.array([float(row["auroc"]) for row in good])
    inside = (low <= true) & (true <= high)
    print(f"{len(good)} reconstructions of {len({row['file'] for row in good})} files")
    for name, chosen in [("all", accelerations > 0)] + [(f"{r:g}x", accelerations == r) for r in (2, 4, 6, 8)]:
        correlation = np.corrcoef(np.log(true[chosen]), np.log(predicted[chosen]))[0, 1]
        print(
            f"{name}: correlation of log NMSE {correlation:.3f}, "
            f"inside the interval {100 * inside[chosen].mean():.0f} %, predicted over true "
            f"{np.exp(np.median(np.log(predicted / true)[chosen])):.2f}, "
            f"AUROC of the error map: mean {np.nanmean(areas[chosen]):.3f}"
        )
    print(f"with an alarm of a check: {100 * np.mean([bool(row['alarms']) for row in good]):.0f} %")


if __name__ == "__main__":
    main()
