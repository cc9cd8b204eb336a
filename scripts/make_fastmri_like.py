"""Write a folder of multi-coil volumes laid out as fastMRI's: for tests, tutorials and benchmarks of evaluation.

    python scripts/make_fastmri_like.py OUT                                    # 36 volumes of invented heads
    python scripts/make_fastmri_like.py OUT --volumes 12 --coils 4,8 --seed 1
    python scripts/make_fastmri_like.py OUT --from TRUTH --split 12,18,6 --held-out 'brain_patient20_.*|knee20:1[6-9]'

OUT gets ``multicoil_train``, ``multicoil_val`` and ``multicoil_test``. K-space is (slice, coil, readout, phase encode),
complex64, the readout twofold oversampled; ``reconstruction_rss`` is the root sum of squares of the same samples, noise
included, cropped by fastMRI's rule; test files hold ``mask`` and masked k-space and no picture (``--test-truth`` writes
their full data into ``multicoil_test_full``). ``index.json`` says of every file where it comes from. Some volumes have
zero-filled columns, odd widths, pictures that are not square, and the first brain of the test split is narrower than
its header's picture, as FLAIR_203 in fastMRI.

The object is either analytic (ellipses, of which each volume has its own variation) or a run of neighbouring slices of
a magnitude volume: TRUTH holds ``index.json`` (a list with ``file``, ``shape``, ``contrast``, ``anatomy``) and ``.npz``
files with ``images``. Coils, phase and noise are simulated and belong to the volume, not to the slice. No person is in
two splits. These are simulations: scores on them are no scores on fastMRI.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from mri_unroll.errors import ConfigError, InputError, MriUnrollError
from mri_unroll.metrics import center_crop
from mri_unroll.physics.phantom import Ellipse, ellipse_kspace, head_slice
from mri_unroll.physics.sampling import fastmri_mask
from mri_unroll.training.dataset import find_volumes
from mri_unroll.training.simulate import coil_maps, complex_normal, object_phase

SPLITS = ("train", "val", "test")
ACQUISITIONS = {  # fastMRI's name by contrast and anatomy; what is not here has no like in fastMRI
    ("T1", "brain"): "AXT1",
    ("T1W", "brain"): "AXT1",
    ("T1+Gd", "brain"): "AXT1POST",
    ("T2", "brain"): "AXT2",
    ("T2W", "brain"): "AXT2",
    ("FLAIR", "brain"): "AXFLAIR",
    ("PD 3D FSE", "knee"): "CORPD_FBK",
}
SEQUENCES = {  # TR, TE, TI in ms, flip angle in degrees, kind of sequence: nominal, the simulation uses none of them
    "AXT1": (500, 10, 0, 90, "SpinEcho"),
    "AXT1POST": (500, 10, 0, 90, "SpinEcho"),
    "AXT2": (6000, 100, 0, 150, "TurboSpinEcho"),
    "AXFLAIR": (9000, 85, 2500, 150, "TurboSpinEcho"),
    "CORPD_FBK": (2800, 33, 0, 140, "TurboSpinEcho"),
}
PHANTOM_ACQUISITIONS = ("AXT1", "AXT2", "AXFLAIR", "CORPD_FBK")
PHANTOM_SLICES, PHANTOM_HEIGHT = 24, 0.4  # of a person; the part of the head that they cover, its height being 1.2
OBJECT_SIDE = 1.5  # the object is laid out on a grid this much finer than the picture, then k-space is cut
UNIT = 2.0**-13  # fastMRI's files are of this order; code that adds a constant to avoid a division by zero shows it
THICKNESS_MM = 5.0


@dataclass(frozen=True, slots=True)
class Slab:
    """Neighbouring slices of one person."""

    person: str
    acquisition: str
    source: str  # where it comes from, with its licence
    path: Path | None  # None: analytic
    first: int
    last: int  # exclusive


@dataclass(frozen=True, slots=True)
class Plan:
    """One file to be made."""

    split: str
    name: str
    slab: Slab
    n_coils: int
    narrow: bool
    seed: tuple[int, int]


def phantom_slabs(counts: tuple[int, ...], n_slices: int) -> list[list[Slab]]:
    """Return an invented person for every volume, by split."""
    slabs: list[list[Slab]] = []
    person = 0
    for count in counts:
        slabs.append([])
        for _ in range(count):
            acquisition = PHANTOM_ACQUISITIONS[person % len(PHANTOM_ACQUISITIONS)]
            first = (5 * person) % max(1, PHANTOM_SLICES - n_slices)
            slabs[-1].append(Slab(f"phantom-{person:04d}", acquisition, "analytic", None, first, first + n_slices))
            person += 1
    return slabs


def truth_slabs(folder: Path, counts: tuple[int, ...], n_slices: int, held_out: str, seed: int) -> list[list[Slab]]:
    """Return runs of slices by split: whom ``held_out`` names goes to val and test, everybody else to train.

    Each slice is used once, so that no two volumes of a split share a picture.
    """
    training, others = find_volumes(folder, held_out)
    entries = {entry["file"]: entry for entry in json.loads((folder / "index.json").read_text())}
    everybody: list[dict[str, list[Slab]]] = []
    for volumes in (training, others):
        people: dict[str, list[Slab]] = {}
        for volume in volumes:
            entry = entries[volume.path.name]
            acquisition = ACQUISITIONS.get((entry["contrast"], entry["anatomy"]))
            if acquisition is None:
                continue
            one_each = entry["shape"][0] == 20 and entry["anatomy"] == "knee"  # a slice each of as many knees
            length = 1 if one_each else n_slices
            used = [i for i in range(volume.first, volume.last) if _has_tissue(_images(volume.path)[i])]
            for start in range(0, len(used) - length + 1, length):
                first = used[start]
                if used[start + length - 1] != first + length - 1:
                    continue  # an empty slice lies between
                person = f"{volume.path.stem}:{first}" if one_each else "_".join(volume.path.stem.split("_")[:2])
                source = f"{entry['source']} ({entry['licence']})"
                slab = Slab(person, acquisition, source, volume.path, first, first + length)
                people.setdefault(person, []).append(slab)
        everybody.append(people)
    if both := set(everybody[0]) & set(everybody[1]):
        raise InputError(f"The pattern of those held out splits {', '.join(sorted(both))}.", "Name all of a person.")
    rng = np.random.default_rng([seed, 1])
    test = _share_of(everybody[1], counts[2] / max(counts[1] + counts[2], 1), rng)
    train = [slab for slabs in everybody[0].values() for slab in slabs]
    val = [slab for person, slabs in everybody[1].items() if person not in test for slab in slabs]
    return [train, val, [slab for person in sorted(test) for slab in everybody[1][person]]]


def _share_of(people: dict[str, list[Slab]], share: float, rng: Generator) -> set[str]:
    """Draw a share of the people, of heads and of knees alike; at least one and not all, where there are two."""
    drawn: set[str] = set()
    if share == 0:
        return drawn
    for knees in (False, True):
        group = sorted(person for person, slabs in people.items() if (slabs[0].acquisition == "CORPD_FBK") == knees)
        count = min(max(1, round(share * len(group))), max(len(group) - (share < 1), 0))
        drawn |= {group[i] for i in rng.permutation(len(group))[:count]}
    return drawn


def make_plans(slabs: list[list[Slab]], counts: tuple[int, ...], coils: tuple[int, ...], seed: int) -> list[Plan]:
    """Choose for every file what it shows: contrasts in turn, then people in turn."""
    plans: list[Plan] = []
    for split, count, there in zip(SPLITS, counts, slabs, strict=True):
        if count > len(there):
            raise ConfigError(
                f"Expected {count} volumes for {split}, but the people of that split suffice for {len(there)}.",
                "Ask for fewer volumes (--split) or for fewer slices in each (--slices).",
            )
        rng = np.random.default_rng([seed, 2 + SPLITS.index(split)])
        left = {i: there[i] for i in rng.permutation(len(there)).tolist()}
        uses: dict[str, int] = {}
        narrow = split == "test"
        for _ in range(count):
            # dictionaries keep their order, and min takes the first: the least used contrast, of the least used person
            chosen = min(left, key=lambda i: (uses.get(left[i].acquisition, 0), uses.get(left[i].person, 0)))
            slab = left.pop(chosen)
            for key in (slab.acquisition, slab.person):
                uses[key] = uses.get(key, 0) + 1
            index, brain = len(plans), slab.acquisition.startswith("AX")
            name = (
                f"file_brain_{slab.acquisition}_2{index:02d}_{6000000 + index}.h5"
                if brain
                else f"file{1000000 + index}.h5"
            )
            plans.append(Plan(split, name, slab, coils[index % len(coils)], narrow and brain, (seed, 10 + index)))
            narrow &= not brain
    return plans


@lru_cache(maxsize=4)
def _images(path: Path) -> NDArray[np.uint16]:
    with np.load(path) as file:
        return np.asarray(file["images"])


def _has_tissue(image: NDArray[Any]) -> bool:
    return bool(np.count_nonzero(image > image.max() // 8) > 0.02 * image.size)


def truth_object(slab: Slab) -> NDArray[np.float64]:
    """Return the slices, ``(slice, y, x)``, cut to the tissue and a margin."""
    assert slab.path is not None
    volume = _images(slab.path)[slab.first : slab.last].astype(np.float64)
    volume /= max(float(np.percentile(volume, 99.5)), 1.0)
    tissue = gaussian_filter(volume.max(0), 2) > 0.1
    ends = [np.flatnonzero(tissue.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(int(inside[0]), int(inside[-1]) + 1) for inside in ends)
    return volume[:, rows, columns]


def phantom_object(slab: Slab, side: int) -> NDArray[np.float64]:
    """Return slices of a head like no other, ``(slice, y, x)``: turned, stretched, and with spots of its own."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(slab.person.encode()).digest()[:8], "big"))
    scale, angle = rng.uniform(0.88, 1.0, 2) * (1.05, 1.2), rng.normal(0, 0.08)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    spots = [
        (
            *rng.uniform((-0.5, 0.05), (0.5, 0.2)),  # height of its centre, and half its own
            rng.uniform((-0.25, -0.2), (0.25, 0.2)),
            rng.uniform(0.006, 0.04, 2),
            rng.uniform(0, np.pi),
            rng.uniform(-0.35, 0.45),
        )
        for _ in range(12)
    ]
    frequencies = np.arange(side, dtype=np.float64) - side // 2
    frequency_y = turn[0, 0] * frequencies[:, None] + turn[1, 0] * frequencies
    frequency_x = turn[0, 1] * frequencies[:, None] + turn[1, 1] * frequencies
    # The ends are rounded off a little, as the transform of a raster would ring over the air.
    window = np.exp(-1.5 * (frequencies / (side / 2)) ** 4)
    heights = np.linspace(-PHANTOM_HEIGHT / 2, PHANTOM_HEIGHT / 2, PHANTOM_SLICES)
    volume = []
    for z in heights[np.arange(slab.first, slab.last) % PHANTOM_SLICES]:
        cut = [
            Ellipse((center[0], center[1]), (axes[0] * size**0.5, axes[1] * size**0.5), turned, intensity)
            for z0, height, center, axes, turned, intensity in spots
            if (size := 1 - ((z - z0) / height) ** 2) > 0
        ]
        kspace = ellipse_kspace((*head_slice(z), *cut), frequency_y, frequency_x) * np.linalg.det(turn)
        kspace *= window[:, None] * window * side**2
        volume.append(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace))).real)
    return np.array(volume)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What goes into one file."""

    kspace: NDArray[np.complex64]  # (slice, coil, readout, phase)
    header: dict[str, Any]
    rss: NDArray[np.float32]
    columns: tuple[int, int]  # measured
    noise: float  # standard deviation of a sample over bright tissue


def acquire(plan: Plan, largest: int) -> Made:
    """Acquire one volume: the same coils, phase and matrix for all its slices, noise for each sample."""
    rng = np.random.default_rng(plan.seed)
    side = min(int(rng.integers(round(0.7 * largest), largest + 1)), largest)
    volume = phantom_object(plan.slab, round(OBJECT_SIDE * side)) if plan.slab.path is None else truth_object(plan.slab)
    volume = np.clip(volume, 0, None) ** rng.uniform(0.7, 1.3)
    length = round(max(volume.shape[1:]) * rng.uniform(1.04, 1.15))  # pixels of the object along the field of view
    side = min(side, length)
    width, picture = _widths(plan.narrow, side, volume.shape[2] * side / length, rng)
    grid = (2 * length, max(round(length * width / side), width))
    coils = coil_maps(plan.n_coils, (length, grid[1]), rng).astype(np.complex64)
    base, drift = (object_phase((length, grid[1]), rng) for _ in range(2))
    noise = float(10 ** rng.uniform(-2.7, -1.6))
    # Neighbouring coils hear some of each other's noise.
    mixing = np.eye(plan.n_coils) + rng.uniform(0, 0.3) * complex_normal((plan.n_coils,) * 2, rng) / plan.n_coils**0.5
    kspace = np.empty((len(volume), plan.n_coils, 2 * side, width), dtype=np.complex64)
    brightness = []
    for index, picture_of in enumerate(_in_the_middle(volume, (length, grid[1]))):
        phase = base + 0.05 * (index - len(volume) / 2) * drift
        coil_images = coils * (picture_of * np.exp(1j * phase)).astype(np.complex64)
        brightness.append(np.percentile(np.linalg.norm(coil_images, axis=0), 94))  # half as many pixels as in the RSS
        kspace[index] = _measured(coil_images, grid[0], (2 * side, width))
    level = noise * float(np.mean(brightness))
    for part in kspace:
        part += level * np.tensordot(mixing, complex_normal(part.shape, rng), axes=1)
    first, last = 0, width
    if rng.random() < 0.5:  # a coarser resolution along the phase encoding, filled up with zeros
        first, last = int(rng.integers(0, width // 16)), width - int(rng.integers(1, width // 16))
        kspace[..., :first] = 0
        kspace[..., last:] = 0
    kspace *= np.float32(UNIT * rng.lognormal(0, 0.5))
    kspace += np.float32(0)  # -0.0 becomes 0.0
    crop = picture if picture[1] <= width else (width, width)
    rss = center_crop(_rss(kspace), crop)
    pixel = float(rng.uniform(220, 250)) / side
    header = {
        "encoded": ((2 * side, width, 1), (2 * side * pixel, width * pixel, THICKNESS_MM)),
        "recon": ((*picture, 1), (picture[0] * pixel, picture[1] * pixel, THICKNESS_MM)),
        "center": width // 2 - first,
        "maximum": last - first - 1,
        "acquisition": plan.slab.acquisition,
        "n_coils": plan.n_coils,
    }
    return Made(kspace, header, rss, (first, last), noise)


def _widths(narrow: bool, side: int, tissue: float, rng: Generator) -> tuple[int, tuple[int, int]]:
    """Draw how many columns are encoded, and the picture's size: square, or as wide as what was encoded."""
    kind = rng.choice(["oversampled", "tight"], p=[0.7, 0.3])
    tight = min(round(max(1.06 * tissue, 0.72 * side)), side - 1)
    if narrow:
        return tight, (side, side)
    if kind == "tight":
        return tight, (side, tight)
    return round(side * rng.uniform(1.0, 1.2)), (side, side)


def _in_the_middle(volume: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Surround by air, or cut where it is too wide."""
    volume = center_crop(volume, (min(volume.shape[1], shape[0]), min(volume.shape[2], shape[1])))
    result = np.zeros((len(volume), *shape))
    top, left = (n // 2 - m // 2 for n, m in zip(shape, volume.shape[1:], strict=True))
    result[:, top : top + volume.shape[1], left : left + volume.shape[2]] = volume
    return result


def _measured(coil_images: NDArray[np.complex64], n_rows: int, matrix: tuple[int, int]) -> NDArray[np.complex64]:
    """Return the middle of k-space, ``(coil, *matrix)``, of pictures that air extends to ``n_rows``.

    It belongs to the unitary transform of that size: cutting k-space makes the pixels larger and leaves their values.
    """
    n_coils, length, n_columns = coil_images.shape
    lines = _middle(fft.fftshift(fft.fft(fft.ifftshift(coil_images, -1)), -1), -1, matrix[1])
    tall = np.zeros((n_coils, n_rows, matrix[1]), dtype=np.complex64)
    top = n_rows // 2 - length // 2
    tall[:, top : top + length] = lines
    kspace = _middle(fft.fftshift(fft.fft(fft.ifftshift(tall, 1), axis=1), 1), 1, matrix[0])
    return kspace * np.float32((matrix[0] * matrix[1]) ** 0.5 / (n_rows * n_columns))


def _middle(array: NDArray[np.complex64], axis: int, length: int) -> NDArray[np.complex64]:
    first = array.shape[axis] // 2 - length // 2
    return np.take(array, range(first, first + length), axis)


def _rss(kspace: NDArray[np.complex64]) -> NDArray[np.float32]:
    pictures = []
    for part in kspace / np.abs(kspace).max():  # squares of small numbers would vanish in single precision
        images = fft.ifft2(fft.ifftshift(part, (-2, -1)), norm="ortho")
        pictures.append(fft.fftshift(np.linalg.norm(images, axis=0)))
    return np.array(pictures) * np.abs(kspace).max()


def header_xml(header: dict[str, Any]) -> str:
    """Return the ISMRMRD header with all that readers of fastMRI files ask for."""

    def space(name: str, matrix: tuple[int, ...], lengths: tuple[float, ...]) -> str:
        sizes = "".join(f"<{axis}>{n}</{axis}>" for axis, n in zip("xyz", matrix, strict=True))
        fovs = "".join(f"<{axis}>{n:.4f}</{axis}>" for axis, n in zip("xyz", lengths, strict=True))
        return f"<{name}><matrixSize>{sizes}</matrixSize><fieldOfView_mm>{fovs}</fieldOfView_mm></{name}>"

    repetition, echo, inversion, flip, sequence = SEQUENCES[header["acquisition"]]
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<measurementInformation><measurementID>0</measurementID><patientPosition>HFS</patientPosition>"
        f"<protocolName>{header['acquisition']}</protocolName>"
        "<frameOfReferenceUID>2.25.1</frameOfReferenceUID></measurementInformation>"
        "<acquisitionSystemInformation><systemVendor>simulated</systemVendor>"
        "<systemFieldStrength_T>2.89362</systemFieldStrength_T>"
        f"<receiverChannels>{header['n_coils']}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        "<encoding>"
        + space("encodedSpace", *header["encoded"])
        + space("reconSpace", *header["recon"])
        + "<trajectory>cartesian</trajectory><encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
        f"<maximum>{header['maximum']}</maximum><center>{header['center']}</center></kspace_encoding_step_1>"
        "</encodingLimits></encoding>"
        f"<sequenceParameters><TR>{repetition}</TR><TE>{echo}</TE><TI>{inversion}</TI>"
        f"<flipAngle_deg>{flip}</flipAngle_deg><sequence_type>{sequence}</sequence_type>"
        "<echo_spacing>5</echo_spacing></sequenceParameters></ismrmrdHeader>"
    )


def write(path: Path, plan: Plan, made: Made, sampling: tuple[NDArray[np.bool_], int, int] | None) -> None:
    """Write one file; ``sampling`` (mask, acceleration, central lines) makes it a test file."""
    part = path.with_suffix(".part")  # what is there under its name is whole
    with h5py.File(part, "w") as file:
        if sampling is None:
            file["kspace"] = made.kspace
            file["reconstruction_rss"] = made.rss
            file.attrs["max"] = float(made.rss.max())
            file.attrs["norm"] = float(np.linalg.norm(made.rss.astype(np.float64)))
        else:
            mask, file.attrs["acceleration"], file.attrs["num_low_frequency"] = sampling
            file["kspace"] = np.where(mask, made.kspace, np.complex64(0))
            file["mask"] = mask
        file["ismrmrd_header"] = np.bytes_(header_xml(made.header).encode())
        file.attrs["acquisition"] = plan.slab.acquisition
        file.attrs["patient_id"] = hashlib.sha256(plan.slab.person.encode()).hexdigest()
    part.replace(path)


def test_sampling(plan: Plan, width: int) -> tuple[NDArray[np.bool_], int, int]:
    """Return mask, acceleration and central lines: fastMRI's masks of knees and of brains, 4- and 8-fold in turn."""
    acceleration = 4 if plan.seed[1] % 2 == 0 else 8
    kind = "equispaced_fraction" if plan.slab.acquisition.startswith("AX") else "random"
    share = 0.32 / acceleration
    return fastmri_mask(kind, width, share, acceleration, file_name=plan.name), acceleration, round(width * share)


def run(folder: Path, plans: list[Plan], largest: int, test_truth: bool) -> None:
    """Make all files, and the index in the end."""
    index = []
    for number, plan in enumerate(plans):
        made = acquire(plan, largest)
        split = f"multicoil_{plan.split}"
        full = [f"{split}_full"] if plan.split == "test" and test_truth else []
        for name in (split, *full):
            (folder / name).mkdir(parents=True, exist_ok=True)
            sampling = test_sampling(plan, made.kspace.shape[-1]) if name == "multicoil_test" else None
            write(folder / name / plan.name, plan, made, sampling)
            index.append(
                {
                    "file": f"{name}/{plan.name}",
                    "person": plan.slab.person,
                    "acquisition": plan.slab.acquisition,
                    "source": plan.slab.source,
                    "slices": [plan.slab.first, plan.slab.last],
                    "kspace": list(made.kspace.shape),
                    "picture": list(made.rss.shape[1:]),
                    "measured_columns": list(made.columns),
                    "noise": round(made.noise, 5),
                }
            )
        print(f"{number + 1}/{len(plans)} {split}/{plan.name} {made.kspace.shape}", file=sys.stderr)
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make; it must not exist yet, or be empty")
    parser.add_argument("--from", dest="source", default="phantom", metavar="phantom|TRUTH", help="what is acquired")
    parser.add_argument("--held-out", default="", metavar="REGEX", help="with TRUTH: who goes to val and test, by file")
    parser.add_argument("--volumes", type=int, help="in all, of which two thirds are for training (default: 36)")
    parser.add_argument("--split", type=_numbers, metavar="TRAIN,VAL,TEST", help="numbers of volumes, instead")
    parser.add_argument("--slices", type=int, default=5, help="of each volume (default: %(default)s)")
    parser.add_argument("--coils", type=_numbers, default=(4, 8, 12, 2, 16, 6), help="in turn (default: 4,8,12,2,16,6)")
    parser.add_argument("--largest", type=int, default=224, help="longest side of a picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    parser.add_argument("--test-truth", action="store_true", help="write the test split's full data as well")
    options = parser.parse_args(arguments)
    if options.volumes is not None and options.split is not None:
        parser.error("expected one of --volumes and --split, got both")
    total = 36 if options.volumes is None else options.volumes
    counts = options.split or (total - 2 * (total // 6), total // 6, total // 6)
    if len(counts) != 3 or min(counts) < 0 or sum(counts) < 1:
        parser.error(f"expected three numbers of volumes, 0 or more, got {counts}")
    if min(options.slices, *options.coils) < 1 or max(options.coils) > 64 or options.largest < 48:
        parser.error("expected 1 slice or more, 1 to 64 coils, and pictures of 48 pixels or more")
    if options.source == "phantom" and (options.held_out or options.slices > PHANTOM_SLICES):
        parser.error(f"the phantom has no use for --held-out, and {PHANTOM_SLICES} slices")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} is there already: name a new folder")
    started = time.perf_counter()
    try:
        if options.source == "phantom":
            slabs = phantom_slabs(counts, options.slices)
        else:
            slabs = truth_slabs(Path(options.source), counts, options.slices, options.held_out, options.seed)
        run(options.out, make_plans(slabs, counts, options.coils, options.seed), options.largest, options.test_truth)
    except MriUnrollError as error:
        raise SystemExit(str(error)) from error
    print(f"Wrote {options.out} in {time.perf_counter() - started:.0f} s.", file=sys.stderr)


if __name__ == "__main__":
    main()
