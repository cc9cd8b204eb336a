"""Gather evidence of simulated scans, without and with faults, for calibration and test of the verdict.

    python scripts/trust/collect.py --methods unrolled cg-sense --people train --count 600 --out runs/trust

Writes OUT/METHOD-PEOPLE-FAULT-SEED-CHUNK.npz, fifty scans at a time; scans are numbered, and what is there is not done
again. Scans, and what of the evidence does not depend on the picture, are made once for all methods.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
import torch
from evidence_files import write_whole
from faults import FAULT_NAMES, FAULTS, OTHER_BODY, Measured, measured
from numpy.random import Generator
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from scanners import PLAIN, PLANAR, any_scan

from mri_unroll.config import load_toml
from mri_unroll.errors import UnsupportedScan
from mri_unroll.nets.model import Network
from mri_unroll.nets.refinement import RefinedSolution
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import CalibratedSlice, calibrate_slice
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.slicewise import SlicewiseReconstructor
from mri_unroll.training.dataset import Volume, find_volumes
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import Acquisition, centred_ifft2
from mri_unroll.trust.evidence import gather, second_opinion
from mri_unroll.trust.familiarity import thumbnail
from mri_unroll.trust.witness import second_network

HERE = Path(__file__).resolve().parent
# Of the people whom no network was trained on, those with whom intervals and limits are set; the others are the test.
CALIBRATION = (
    "brain_patient20",
    "brain_register",
    "knee20:16",
    "knee20:17",
    *(f"cardiac100:{n}" for n in range(84, 92)),
)
OTHER_BODIES = {  # of one person each; many files beside them hold noise in place of a picture, to be nameless
    "abdomen": "syntaxes/MR-SIEMENS-DICOM-WithOverlays.dcm",
    "abdomen CT": "syntaxes/explicit_VR-UN.dcm",
    "shoulder": "syntaxes/MR2_UNCR.dcm",
    "coarse shoulder": "vendor_matrix/hitachi/anatomical/001/*.dcm",
    "spine CT": "syntaxes/bad_sequence.dcm",
}
CHUNK = 50
COARSE = 150  # pixels: the matrix of most scans is at most about so large, which costs less; of the others up to 288
SMALL = 0.87  # that most


def people(which: str, folder: Path, held_out: str) -> list[Volume]:
    """Volumes of ``train``, ``calibration`` or ``test``."""
    training, validation = find_volumes(folder, held_out)
    if which == "train":
        return training
    single = [
        Volume(v.path, i, i + 1) if "knee20" in v.path.stem or "cardiac" in v.path.stem else v
        for v in validation
        for i in (range(v.first, v.last) if "knee20" in v.path.stem or "cardiac" in v.path.stem else (0,))
    ]
    calibration = [v for v in single if f"{v.path.stem}:{v.first}".startswith(CALIBRATION) and _exact(v)]
    return calibration if which == "calibration" else [v for v in single if v not in calibration]


def _exact(volume: Volume) -> bool:
    name = f"{volume.path.stem}:{volume.first}"
    return name in CALIBRATION or not name.startswith(("knee20", "cardiac100"))


@functools.cache
def other_bodies(dicom: Path) -> dict[str, list[NDArray[np.floating]]]:
    """Bodies that nothing was trained or calibrated on, by name, to test with."""
    spine = get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(spine, str)
    found = {name: [_pixels(path) for path in sorted(dicom.glob(pattern))] for name, pattern in OTHER_BODIES.items()}
    return found | {"spine CT of pydicom": [_pixels(Path(spine))]}


def _pixels(path: Path) -> NDArray[np.floating]:
    pixels = pydicom.dcmread(path).pixel_array.astype(np.float64).squeeze()
    return np.clip(pixels - np.percentile(pixels, 5), 0, None)


def calibrated(scan: Measured) -> CalibratedSlice:
    """The forward problem of a scan."""
    return calibrate_slice(torch.from_numpy(scan.kspace.astype(np.complex64)), torch.from_numpy(scan.mask))


def rows(
    methods: Mapping[str, SlicewiseReconstructor], scan: Measured, picture_of: Measured, network: Network
) -> dict[str, dict[str, object]]:
    """Evidence and true error of one scan by method; its pictures are made from ``picture_of``."""
    problem = calibrated(scan)
    made_from = problem if picture_of is scan else calibrated(picture_of)
    second = second_opinion(problem, network)
    truth = torch.from_numpy(np.linalg.norm(centred_ifft2(scan.full), axis=0).astype(np.float32))
    found: dict[str, dict[str, object]] = {}
    for name, method in methods.items():
        solution = method.solve(made_from)
        op = solution.op if isinstance(solution, RefinedSolution) else made_from.op
        assert isinstance(op, SenseOperator)
        ratio = made_from.scale / problem.scale
        solution = dataclasses.replace(
            solution, value=ratio * solution.value, on_the_way=tuple(ratio * x for x in solution.on_the_way)
        )
        evidence, pictures = gather(problem, solution, op, second)
        shown = method.magnitude(problem, solution.value, op)[0] * problem.scale
        error = (shown - truth).abs() / problem.scale
        found[name] = {
            "features": np.array(list(evidence.features.values()), dtype=np.float32),
            "names": list(evidence.features),
            "pictures": pictures.numpy().astype(np.float16),
            "thumbnail": thumbnail(second.picture.abs()).numpy().astype(np.float16),
            "error": error.numpy().astype(np.float16),
            "nmse": float((shown - truth).square().sum() / truth.square().sum()),
        }
    return found


def main() -> None:
    """Collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["unrolled"])
    parser.add_argument("--people", choices=("train", "calibration", "test"), default="train")
    parser.add_argument("--faults", nargs="*", default=["none"], help="none, all, or names of faults.py")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--pictures", action="store_true", help="keep pictures too, for the error map")
    parser.add_argument("--coarse", type=float, default=SMALL, help="share of scans with a small matrix, see COARSE")
    parser.add_argument("--planar", type=float, default=PLANAR, help="share of masks that vary along both axes")
    parser.add_argument("--plain", type=float, default=PLAIN, help="share of scans as networks are trained on")
    parser.add_argument("--uneven", type=float, default=0.0, help="share, of the others, with an uneven receiver")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    volumes = people(arguments.people, arguments.data / "truth", config.held_out)
    methods = {}
    for name in arguments.methods:
        methods[name] = made = make_reconstructor(name)
        assert isinstance(made, SlicewiseReconstructor)
    network = second_network(torch.device("cpu"))
    every = (*FAULT_NAMES, OTHER_BODY) if arguments.people == "test" else FAULT_NAMES
    wanted = every if arguments.faults == ["all"] else arguments.faults
    if OTHER_BODY in wanted and arguments.people != "test":
        parser.error(f"{OTHER_BODY!r} is there to test with only")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for fault, chunk in itertools.product(wanted, range(-(-arguments.count // CHUNK))):
        end = f"{arguments.people}-{fault.replace(' ', '_')}-{arguments.seed}-{chunk}.npz"
        todo = {name: method for name, method in methods.items() if not (arguments.out / f"{name}-{end}").exists()}
        if not todo:
            continue
        n = min(CHUNK, arguments.count - chunk * CHUNK)
        scans = [one(arguments, fault, chunk * CHUNK + i, volumes, todo, network) for i in range(n)]
        for name in todo:
            write(arguments.out / f"{name}-{end}", [scan[name] for scan in scans], arguments.pictures)
        print(*todo, end, flush=True)


def one(
    arguments: argparse.Namespace,
    fault: str,
    index: int,
    volumes: list[Volume],
    methods: Mapping[str, SlicewiseReconstructor],
    network: Network,
) -> dict[str, dict[str, object]]:
    """Scan ``index`` with a fault, by method: the same in every run, if no method refuses it."""
    seed = [31, arguments.seed, {"train": 0, "calibration": 1, "test": 2}[arguments.people], index]
    for attempt in itertools.count():
        rng = np.random.default_rng([*seed, attempt])
        acquisition, person = acquire(volumes, fault, arguments, rng)
        scan = measured(acquisition)
        if fault in ("none", OTHER_BODY):
            damaged, picture_of = scan, scan
        else:
            found = FAULTS[fault](scan, rng)
            if found is None or acquisition.mask.mean() > 0.9:
                continue
            damaged, picture_of = found, scan if fault == "lesion removed" else found
        try:
            with torch.inference_mode():
                results = rows(methods, damaged, picture_of, network)
        except UnsupportedScan:  # vdamp takes masks of some kinds only
            continue
        return {name: result | {"person": person} for name, result in results.items()}
    raise AssertionError


def acquire(
    volumes: list[Volume], fault: str, arguments: argparse.Namespace, rng: Generator
) -> tuple[Acquisition, str]:
    """A random acquisition of a random slice, or of another body part, and whose it is."""
    if fault == OTHER_BODY:
        pictures = other_bodies(arguments.data / "dicom")
        person = str(rng.choice(sorted(pictures)))
        image = pictures[person][int(rng.integers(len(pictures[person])))]
    else:
        image, person = slice_of(volumes, rng)
    image = coarser(image, COARSE if rng.random() < arguments.coarse else 360)
    return any_scan(image, rng, arguments.planar, arguments.plain, arguments.uneven), person


def coarser(image: NDArray, side: int) -> NDArray[np.float64]:
    """An image ``(y, x)`` at most ``side`` wide: means over blocks of pixels."""
    step = -(-max(image.shape) // side)
    image = image[: image.shape[0] // step * step, : image.shape[1] // step * step].astype(np.float64)
    return image.reshape(image.shape[0] // step, step, -1, step).mean((1, 3))


def slice_of(volumes: list[Volume], rng: Generator) -> tuple[NDArray[np.uint16], str]:
    """A slice with tissue of a random volume, and whose it is."""
    while True:
        volume = volumes[int(rng.integers(len(volumes)))]
        index = int(rng.integers(volume.first, volume.last))
        image = _images(volume.path)[index]
        if np.count_nonzero(image > image.max() // 8) > 0.02 * image.size:
            stem = volume.path.stem  # files of hearts and knees hold one person a slice, or a few
            return image, f"{stem}:{index}" if stem.startswith(("cardiac", "knee")) else "_".join(stem.split("_")[:2])


@functools.cache
def _images(path: Path) -> NDArray[np.uint16]:
    with np.load(path) as file:
        images: NDArray[np.uint16] = file["images"]
    return images


def write(path: Path, scans: list[dict[str, object]], pictures: bool) -> None:
    """One file."""
    arrays = {key: np.array([r[key] for r in scans]) for key in ("features", "nmse", "thumbnail")}
    arrays["names"], arrays["people"] = np.array(scans[0]["names"]), np.array([str(r["person"]) for r in scans])
    if pictures:
        for i, r in enumerate(scans):
            arrays[f"pictures_{i}"], arrays[f"error_{i}"] = r["pictures"], r["error"]
    write_whole(path, arrays)


if __name__ == "__main__":
    main()
