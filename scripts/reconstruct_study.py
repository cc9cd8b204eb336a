"""The worked example of DICOM: a study in, a restored study out, and what to think of it.

    python scripts/reconstruct_study.py STUDY OUT --psf gaussian:1.5

STUDY is a folder, a zip or a DICOMDIR. Every series that can be restored gets a folder of DICOM files, a report to open
in a browser, a preview and a sidecar in OUT; the rest is listed with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import mri_unroll
from mri_unroll.errors import MriUnrollError


def reconstruct(study: Path, out: Path, psf: str) -> None:
    """Restore what can be restored, and say what came of each series."""
    # What is there? Only headers are read.
    for series in mri_unroll.find_series(study).series:
        first = series.frames[0]
        size = f"{len(series.frames)} x {first.shape[0]} x {first.shape[1]}"
        print(f"{series.name}: {size}, {'can be used' if series.is_eligible else series.refusals[0]}")

    # Undo the blur. The noise is estimated; the network has no other setting.
    config = mri_unroll.StudyConfig(mode="restore", psf=psf)
    outcome = mri_unroll.restore_study(study, out, config)

    # Each result knows its files and how well it agrees with the pictures that it was made of.
    for result in outcome.results:
        residual = result.summary["data_residual_median"]
        agreement = "not judged" if residual is None else f"{residual:.2f} times the noise"
        print(f"{result.name}: {len(result.files)} files in {result.pictures}; data residual {agreement}")
        print(f"    report: {result.report}")
    for name, reason in outcome.refused:
        print(f"{name}: left out: {reason}")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--psf", required=True, help="gaussian:FWHM_MM, measured:FILE or kspace-truncation:R")
    arguments = parser.parse_args()
    try:
        reconstruct(arguments.study, arguments.out, arguments.psf)
    except MriUnrollError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
