"""Bodies of other kinds than those known, which packages bring for their own tests: to learn from, never to test with.

A folder holds the packages unpacked, as docs/trust.md says. Computed tomography has the shapes; what is bright in it is
drawn anew, for no two sequences of magnetic resonance agree on that.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.transform import rescale

from mri_unroll.training.simulate import smooth_noise

Picture = NDArray[np.float64]
EVERYWHERE = ((0.0, 1.0),)
_TOMOGRAPHY = -200  # a volume with values below is one of computed tomography, in Hounsfield units
_FINEST = 110  # pixels that the longer side of a picture has at least


@dataclass(frozen=True, slots=True)
class Body:
    """One person's volume."""

    file: str
    across: tuple[tuple[float, float], ...] = EVERYWHERE  # levels that show no heart, as shares of its length
    other_planes: bool = True  # whether it is fine enough to be cut along the body too
    share: float = 1.0


_SEGMENTATOR = "totalsegmentator-2.18.0/tests/reference_files"  # Apache-2.0
BODIES = {
    "abdomen and pelvis": Body(f"{_SEGMENTATOR}/example_ct.nii.gz", share=3.0),
    "abdomen": Body(f"{_SEGMENTATOR}/example_mr_sm.nii.gz", other_planes=False, share=3.0),  # the one of resonance
    "trunk": Body(f"{_SEGMENTATOR}/aorta_report/example_ct.nii.gz", ((0.0, 0.2), (0.8, 1.0)), share=2.5),
    "chest": Body("slicerio/data/CTChest4.nrrd", ((0.0, 0.22), (0.8, 1.0)), share=2.5),  # MIT
    "spine": Body("TPTBox/tests/sample_mri/sub-mri_label-6_T2w.nii.gz"),  # Apache-2.0
    "vertebra": Body("TPTBox/tests/sample_ct/sub-ct_label-22_ct.nii.gz"),
}


def other_body(folder: Path, rng: Generator) -> tuple[Picture, str]:
    """A random slice or part of one, ``(y, x)`` and non-negative, somewhat bent, and whose it is."""
    shares = np.array([body.share for body in BODIES.values()])
    name = str(rng.choice(list(BODIES), p=shares / shares.sum()))
    while True:
        picture = _cut(BODIES[name], folder, rng)
        if rng.random() < 0.4 and min(picture.shape) > 80:
            picture = part(picture, rng, 0.35, 0.8)  # as of a joint
        if np.mean(picture > 0.1) > 0.15:
            break
    if rng.random() < 0.7:
        picture = bent(picture, rng.uniform(0.01, 0.05), rng)
    return rescale(picture, max(1, -(-_FINEST // max(picture.shape))), order=1), name


def bent(picture: Picture, strength: float, rng: Generator) -> Picture:
    """A picture whose places are moved, smoothly, by about a share ``strength`` of it."""
    cycles = int(rng.integers(2, 5))
    moved = [smooth_noise(picture.shape, cycles, rng) * strength * n for n in picture.shape]
    place = np.meshgrid(*(np.arange(n) for n in picture.shape), indexing="ij")
    return map_coordinates(picture, [at + by for at, by in zip(place, moved, strict=True)], order=1)


def part(picture: Picture, rng: Generator, least: float, most: float) -> Picture:
    """A random rectangle of a picture, each side a share of it."""
    sides = [max(16, int(n * rng.uniform(least, most))) for n in picture.shape]
    top, left = (int(rng.integers(n - side + 1)) for n, side in zip(picture.shape, sides, strict=True))
    return picture[top : top + sides[0], left : left + sides[1]]


def _cut(body: Body, folder: Path, rng: Generator) -> Picture:
    """A slice with square pixels, its bright tissue near 1."""
    volume, spacing = _volume(folder / body.file)
    axis = int(rng.choice(3, p=[0.5, 0.3, 0.2])) if body.other_planes else 0
    low, high = body.across[int(rng.integers(len(body.across)))] if axis == 0 else (0.2, 0.8)
    n = volume.shape[axis]
    index = int(rng.integers(int(low * n), max(int(low * n) + 1, int(np.ceil(high * n)))))
    picture = np.take(volume, index, axis).astype(np.float64)
    sides = np.delete(spacing, axis)
    picture = rescale(picture, sides / sides.min(), order=1) if sides.max() > 1.05 * sides.min() else picture
    if volume.min() < _TOMOGRAPHY:
        picture = _as_resonance(picture, rng)
    else:
        picture = np.clip(picture - np.percentile(picture, 3), 0, None)
    return picture / max(float(np.percentile(picture, 99.5)), 1e-9)


def _as_resonance(density: Picture, rng: Generator) -> Picture:
    """Another brightness for each tissue of computed tomography, or a window of it; organs differ a little more."""
    if rng.random() < 0.35:
        low, high = rng.uniform(-1000, -100), rng.uniform(200, 1500)
        picture = np.clip((density - low) / (high - low), 0, 1)
    else:
        fat, soft = rng.uniform(0.05, 1.2), rng.uniform(0.1, 1.0)
        tissue = {-1000: 0.0, -850: rng.uniform(0, 0.08), -600: rng.uniform(0, 0.2), -200: fat * rng.uniform(0.3, 1)}
        tissue |= {-100: fat, -20: rng.uniform(0.1, 1), 20: soft * rng.uniform(0.4, 1.3), 60: soft}
        tissue |= {130: soft * rng.uniform(0.5, 1.6), 300: rng.uniform(0.05, 1), 1000: rng.uniform(0, 0.5)}
        picture = np.interp(density, list(tissue), list(tissue.values()))
    if rng.random() < 0.6:
        shape = (picture.shape[0], picture.shape[1])
        picture = picture * np.exp(rng.uniform(0, 0.5) * smooth_noise(shape, int(rng.integers(4, 10)), rng))
    return picture


@functools.cache
def _volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A volume ``(z, y, x)`` and the distances of its voxels in mm."""
    if not path.is_file():
        raise SystemExit(f"There is no {path}: unpack the packages that docs/trust.md names into that folder.")
    if path.suffix == ".nrrd":
        try:
            import nrrd
        except ImportError:
            raise SystemExit(f"{path.name} is read by pynrrd: pip install pynrrd") from None
        stored, header = nrrd.read(str(path))
        spacing = np.linalg.norm(header["space directions"], axis=1)
    else:
        image = nibabel.load(path)
        stored, spacing = np.asarray(image.dataobj), np.array(image.header.get_zooms(), dtype=np.float64)
    return stored.T.astype(np.float32), spacing[::-1]
