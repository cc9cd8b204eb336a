"""Thumbnails of bodies as any scan shows them, and of what is no such body, to learn the difference from.

    python scripts/trust/looks.py --others packages --count 8000 --seed 1 --out runs/looks
    python scripts/trust/looks.py --others packages --count 5000 --seed 3 --fully-sampled --drawn 0.4 --out runs/looks

Writes OUT/SEED-CHUNK.npz, five hundred thumbnails at a time; what is there is not made again. They are of pictures that
the second network of the verdict makes of simulated scans, faint, streaked and noisy as they may be; or, so that clear
pictures are met as well, of what the full scan shows.

What is no known body has to be made of the same stuff, or a network learns to tell a photograph from a scan: pictures
of known bodies are bent, torn, magnified, or poured into another outline. Photographs and drawings are among them, and
real bodies of other kinds (`others.py`).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from collect import COARSE, HERE, SMALL, calibrated, coarser, people, slice_of
from evidence_files import write_whole
from faults import measured
from numpy.random import Generator
from numpy.typing import NDArray
from others import bent, other_body, part
from scanners import PLAIN, PLANAR, SIDES, any_scan
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from skimage.transform import resize

from mri_unroll.config import load_toml
from mri_unroll.nets.model import Network
from mri_unroll.training.dataset import Volume
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import centred_ifft2, smooth_noise
from mri_unroll.trust.evidence import second_opinion
from mri_unroll.trust.familiarity import KINDS, thumbnail
from mri_unroll.trust.witness import second_network

Picture = NDArray[np.float64]

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("horse", "hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon", "page", "retina", "rocket"),
    "text",
)


KNOWN = 0.42  # share of pictures that show a body of `KINDS`; of the others some are made up
DRAWN = "drawn"  # what is said of those
CHUNK = 500


def kind_of(person: str) -> str:
    """Which body a name of `collect.slice_of` belongs to, one of `KINDS`."""
    return next(kind for kind in KINDS if person.startswith({"heart": "cardiac"}.get(kind, kind)))


def known(volumes: Sequence[Volume], kind: str, rng: Generator) -> Picture:
    """A slice of a body of some kind, as it is stored, at most `COARSE` pixels wide."""
    while True:
        image, person = slice_of(list(volumes), rng)
        if kind_of(person) == kind:
            return coarser(image, COARSE)


def anything(volumes: Sequence[Volume], others: Path, drawn: float, rng: Generator) -> tuple[Picture, str]:
    """A picture, and of what: a name of `KINDS`, `DRAWN` (a share ``drawn``), or a name of `others.BODIES`."""
    share = rng.random()
    if share >= KNOWN + drawn:
        return other_body(others, rng)
    kind = str(rng.choice(KINDS))
    body = known(volumes, kind, rng)
    return (body, kind) if share < KNOWN else (stranger(body, rng), DRAWN)


def seen(image: Picture, network: Network | None, rng: Generator) -> NDArray[np.float32]:
    """The thumbnail of a picture that is scanned, plainly or in any way, and reconstructed by the second network.

    Without one it is the root sum of squares of the fully sampled scan.
    """
    image = coarser(image, COARSE if rng.random() < SMALL else SIDES[1])
    acquisition = any_scan(image, rng, PLANAR, 1.0 if rng.random() < 0.5 else PLAIN, uneven=0.3)
    scan = measured(acquisition)
    if network is None:
        picture = torch.from_numpy(np.linalg.norm(centred_ifft2(scan.full), axis=0))
        return thumbnail(picture.float()).numpy()
    with torch.inference_mode():
        return thumbnail(second_opinion(calibrated(scan), network).picture.abs()).numpy()


def stranger(body: Picture, rng: Generator) -> Picture:
    """What is no known body, some of it made of ``body``."""
    body = body / max(float(np.percentile(body, 99)), 1e-9)
    makers, shares = zip(*_MAKERS, strict=True)
    return np.clip(makers[int(rng.choice(len(makers), p=shares))](body, rng), 0, None)


@functools.cache
def _photograph(name: str) -> Picture:
    picture = getattr(skimage.data, name)()
    grey = picture if picture.ndim == 2 else rgb2gray(picture[..., :3])
    return coarser(grey / grey.max(), COARSE)


def _any_photograph(body: Picture, rng: Generator) -> Picture:
    return part(_photograph(str(rng.choice(PHOTOGRAPHS))), rng, 0.5, 1.0)


def _cut_photograph(body: Picture, rng: Generator) -> Picture:
    picture = part(_photograph(str(rng.choice(PHOTOGRAPHS))), rng, 0.4, 1.0)
    return resize(picture, body.shape, order=1) ** rng.uniform(0.6, 1.6) * _outline(body.shape, rng)


def _bent(body: Picture, rng: Generator) -> Picture:
    return bent(body, rng.uniform(0.10, 0.25), rng)


def _torn(body: Picture, rng: Generator) -> Picture:
    n = int(rng.integers(2, 5))
    height, width = (side // n for side in body.shape)
    pieces = [body[i * height : (i + 1) * height, j * width : (j + 1) * width] for i in range(n) for j in range(n)]
    pieces = [pieces[k][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])] for k in rng.permutation(len(pieces))]
    whole = np.block([pieces[i * n : (i + 1) * n] for i in range(n)])
    return whole * _outline(whole.shape, rng) if rng.random() < 0.6 else whole


def _poured(body: Picture, rng: Generator) -> Picture:
    """Magnified tissue in another outline, with a rim like fat under the skin and some organs."""
    outline = _outline(body.shape, rng)
    depth = gaussian_filter(outline, rng.uniform(2, 6))
    rim = outline * np.clip(1.3 - depth, 0, 1) * rng.uniform(0, 1.5)
    return _filled(body, rng) * outline * (0.3 + depth) + rim + _organs(body.shape, rng, int(rng.integers(0, 4)))


def _magnified(body: Picture, rng: Generator) -> Picture:
    return part(body, rng, 0.22, 0.45)


def _drawn(body: Picture, rng: Generator) -> Picture:
    outline = _outline(body.shape, rng) * rng.uniform(0.2, 0.7)
    return _grained(outline + _organs(body.shape, rng, int(rng.integers(2, 12))), rng)


def _texture(body: Picture, rng: Generator) -> Picture:
    """Clouds, grain or a grating, over everything or in an outline."""
    grain = gaussian_filter(rng.standard_normal(body.shape), np.exp(rng.uniform(np.log(0.3), np.log(12))))
    grain = grain / max(float(grain.std()), 1e-9)
    y, x = np.meshgrid(*(np.arange(n) for n in body.shape), indexing="ij")
    waves = [np.sin(rng.uniform(0.02, 1.2) * axis + rng.uniform(0, 2 * np.pi)) for axis in (y, x)]
    grating = np.sign(waves[0] * waves[1]) if rng.random() < 0.5 else waves[0] + waves[1]
    pattern = 1 + (grain if rng.random() < 0.5 else grating) * rng.uniform(0.2, 1.0)
    return pattern * _outline(body.shape, rng) if rng.random() < 0.4 else pattern


def _torso(body: Picture, rng: Generator) -> Picture:
    """Fat, muscle, a vertebra with its canal, organs to its sides and before it, sometimes arms; across the body."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in body.shape), indexing="ij")
    tall, wide, rim = rng.uniform(0.45, 0.75), rng.uniform(0.7, 0.97), rng.uniform(0.04, 0.2)
    radius = np.hypot(y / tall, x / wide) + 0.04 * smooth_noise(body.shape, 3, rng)
    inside = _filled(body, rng) * rng.uniform(0.2, 0.8)
    picture = np.where(radius < 1, rng.uniform(0.1, 1.2), 0.0)  # fat, or none of it after its suppression
    picture = np.where(radius < 1 - rim, inside, picture)
    picture = np.where(
        (radius < 1 - rim) & (radius > 1 - rim - rng.uniform(0.03, 0.15)), rng.uniform(0.1, 0.5), picture
    )
    back = tall * rng.uniform(0.4, 0.65)
    picture = _disc(picture, y - back, x, rng.uniform(0.09, 0.16), rng)
    picture = _disc(picture, y - back - 0.17, x, rng.uniform(0.03, 0.06), rng)
    for side in (-1, 1):  # kidneys or lungs, then whatever lies before them
        picture = _disc(picture, y - back * rng.uniform(0.3, 1), x - side * wide * rng.uniform(0.4, 0.6), 0.15, rng)
    for _ in range(int(rng.integers(3, 12))):
        at = rng.uniform(-0.6, 0.2) * tall, rng.uniform(-0.6, 0.6) * wide
        picture = _disc(picture, y - at[0], x - at[1], rng.uniform(0.04, 0.3), rng)
    picture = np.where(radius < 1, picture, 0.0)
    if rng.random() < 0.3:
        for side in (-1, 1):
            picture = _disc(picture, y - rng.uniform(-0.2, 0.3), x - side * 0.97, rng.uniform(0.05, 0.12), rng)
    return _grained(picture, rng)


def _limb(body: Picture, rng: Generator) -> Picture:
    """One or two limbs across, or a joint of a ball and a shaft: marrow in dark bone, muscle, fat."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in body.shape), indexing="ij")
    inside, picture, fat = _filled(body, rng), np.zeros(body.shape), rng.uniform(0.2, 1.3)
    for middle in (0.0,) if rng.random() < 0.6 else (-0.5, 0.5):
        size = rng.uniform(0.6, 0.95) if middle == 0 else rng.uniform(0.3, 0.47)
        radius = np.hypot(y, (x - middle) * rng.uniform(0.8, 1.2)) / size + 0.05 * smooth_noise(body.shape, 3, rng)
        picture = np.where(radius < 1, fat, picture)
        picture = np.where(radius < rng.uniform(0.75, 0.97), inside, picture)
        for _ in range(int(rng.integers(1, 3))):
            at = rng.uniform(-0.4, 0.4, 2) * size
            around, bone = np.hypot(y - at[0], x - middle - at[1]) / size, rng.uniform(0.1, 0.45)
            shaft = (np.abs(x - middle - at[1]) < 0.6 * bone * size) & (y > at[0]) & (rng.random() < 0.5)
            picture = np.where((around < bone * 1.15) | shaft, 0.05, picture)
            picture = np.where(
                (around < bone) | (shaft & (np.abs(x - middle - at[1]) < 0.5 * bone * size)), fat, picture
            )
    return _grained(picture, rng)


_MAKERS: tuple[tuple[Callable[[Picture, Generator], Picture], float], ...] = (
    (_any_photograph, 0.13),
    (_cut_photograph, 0.09),
    (_bent, 0.15),
    (_torn, 0.09),
    (_poured, 0.12),
    (_magnified, 0.1),
    (_drawn, 0.06),
    (_texture, 0.06),
    (_torso, 0.12),
    (_limb, 0.08),
)


def _filled(body: Picture, rng: Generator) -> Picture:
    """A part of a body, magnified to the size of the whole."""
    return resize(part(body, rng, 0.25, 0.6), body.shape, order=1)


def _grained(picture: Picture, rng: Generator) -> Picture:
    """A drawing with soft edges and an uneven filling."""
    grain = gaussian_filter(rng.standard_normal(picture.shape), rng.uniform(0.6, 3))
    uneven = 1 + rng.uniform(0, 0.3) * grain / max(float(grain.std()), 1e-9)
    return gaussian_filter(picture, rng.uniform(0.4, 1.2)) * uneven


def _disc(picture: Picture, y: Picture, x: Picture, size: float, rng: Generator) -> Picture:
    """A picture with an ellipse of another brightness around where ``y`` and ``x`` are zero."""
    inside = np.hypot(y * rng.uniform(0.6, 1.4), x * rng.uniform(0.6, 1.4)) < size
    return np.where(inside, rng.uniform(0, 1.3), picture)


def _outline(shape: tuple[int, ...], rng: Generator) -> Picture:
    """1 inside a random smooth closed curve, 0 outside."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    angle = np.arctan2(y, x)
    radius = 1 + sum(rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    inside = np.hypot(y / rng.uniform(0.5, 0.95), x / rng.uniform(0.5, 0.95)) < radius
    return gaussian_filter(inside.astype(np.float64), rng.uniform(0.5, 1.5))


def _organs(shape: tuple[int, ...], rng: Generator, count: int) -> Picture:
    """Small outlines anywhere, brighter or darker than what they lie in."""
    found = np.zeros(shape)
    for _ in range(count):
        sides = [max(8, int(n * rng.uniform(0.06, 0.35))) for n in shape]
        top, left = (int(rng.integers(n - side)) for n, side in zip(shape, sides, strict=True))
        found[top : top + sides[0], left : left + sides[1]] += _outline(tuple(sides), rng) * rng.uniform(-0.5, 1)
    return found


def main() -> None:
    """Make thumbnails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=Path, required=True, help="folder with the packages of others.py, unpacked")
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drawn", type=float, default=0.2, help="share of pictures that are made up")
    parser.add_argument("--fully-sampled", action="store_true", help="of what the full scan shows, by no network")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig)
    volumes = people("train", arguments.data / "truth", config.held_out)
    network = None if arguments.fully_sampled else second_network(torch.device("cpu"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for chunk in range(-(-arguments.count // CHUNK)):
        path = arguments.out / f"{arguments.seed}-{chunk}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([77, arguments.seed, chunk])
        pictures, labels = [], []
        for _ in range(min(CHUNK, arguments.count - chunk * CHUNK)):
            picture, label = anything(volumes, arguments.others, arguments.drawn, rng)
            pictures.append(seen(picture, network, rng))
            labels.append(label)
        write_whole(path, {"pictures": np.array(pictures, dtype=np.float16), "labels": np.array(labels)})
        print(path, flush=True)


if __name__ == "__main__":
    main()
