"""Simulated blur: magnitude pictures as a scanner or an archive might have smoothed them, with their sharp truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from torch import Tensor

from mri_unroll.physics.blur import BlurOperator
from mri_unroll.physics.fourier import use_engine
from mri_unroll.physics.resolution import TruncationOperator
from mri_unroll.recon.blurred import pose
from mri_unroll.recon.calibrate import brightness
from mri_unroll.training.dataset import Pictures, Volume
from mri_unroll.training.examples import Supervised
from mri_unroll.training.simulate import Turn, field_of_view, smooth_noise

PATCH = 144  # pixels of a side, at most: whole slices would train on fewer pictures in the same time
EMPTY_SHARE = 0.08  # of pictures that hold nothing but noise: a network must not see tissue in it
DRAWN_SHARE = 0.15  # of pictures that are drawn: real ones hold noise of their own, which is no truth to learn


@dataclass(frozen=True, slots=True, eq=False)
class BlurredExample(Supervised):
    """A blurred picture with its truth, batch of one, in units of bright tissue."""

    op: BlurOperator | TruncationOperator
    psf: Tensor | None  # (y, x); None: k-space was cut

    def to(self, device: torch.device) -> BlurredExample:
        """The same on another device."""
        if self.adjoint_kspace.device == device:
            return self
        psf = None if self.psf is None else self.psf.to(device)
        return BlurredExample(
            op=self.op if psf is None else BlurOperator(psf, self.op.image_shape),
            adjoint_kspace=self.adjoint_kspace.to(device),
            strength=self.strength.to(device),
            coil_combined=self.coil_combined.to(device),
            rss=self.rss.to(device),
            body=self.body.to(device),
            psf=psf,
        )


class BlurredPictures:
    """Endless, indexable blurred pictures: item ``i`` is the same in every run, process and resume.

    Parameters
    ----------
    volumes
        Of magnitude pictures in ``.npz`` files.
    seed, length
        What decides the items, and how many there are.
    turn
        Rotates and zooms pictures; None: as they are.
    empty_share, drawn_share
        Of pictures that hold nothing but noise, which have no relative error to be scored by, and of `drawn_picture`.
    """

    def __init__(
        self,
        volumes: list[Volume],
        seed: int,
        length: int,
        turn: Turn | None = None,
        empty_share: float = EMPTY_SHARE,
        drawn_share: float = 0.0,
    ) -> None:
        self.pictures = Pictures(volumes)
        self.seed = seed
        self.length = length
        self.turn = turn
        self.empty_share = empty_share
        self.drawn_share = drawn_share

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> BlurredExample:
        rng = np.random.default_rng([self.seed, index, 2])
        with torch.no_grad(), use_engine("torch"):
            drawn = rng.random() < self.drawn_share
            truth = drawn_picture(rng) if drawn else sharp_picture(self.pictures.draw(rng), rng, self.turn)
            return blur(truth, rng, self.empty_share)


def sharp_picture(image: NDArray[np.uint16], rng: Generator, turn: Turn | None = None) -> NDArray[np.float64]:
    """Orient, recolour, choose a field of view and cut a patch with tissue in it: ``(y, x)``, tissue up to about 1."""
    if rng.random() < 0.5:
        image = image.T
    image = image[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    picture = image.astype(np.float64) / max(float(np.percentile(image, 99.5)), 1e-9)
    picture = field_of_view(picture ** rng.uniform(0.6, 1.5), rng)
    if turn is not None:
        picture = np.abs(turn(picture + 0j, rng))
    for _ in range(8):
        sides = [min(n, int(rng.integers(PATCH - 48, PATCH + 1))) for n in picture.shape]
        top, left = (int(rng.integers(n - side + 1)) for n, side in zip(picture.shape, sides, strict=True))
        patch = picture[top : top + sides[0], left : left + sides[1]]
        if np.count_nonzero(patch > 0.1) > 0.15 * patch.size:
            break
    return patch


def drawn_picture(rng: Generator) -> NDArray[np.float64]:
    """Ellipses in ellipses, each of one brightness, softly shaded, without any noise: ``(y, x)``, up to about 1."""
    shape = (int(rng.integers(PATCH - 48, PATCH + 1)), int(rng.integers(PATCH - 48, PATCH + 1)))
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    picture = np.zeros(shape)
    for number in range(int(rng.integers(1, 30))):
        centre, angle = rng.uniform(-0.8, 0.8, 2) * min(number, 1), rng.uniform(0, np.pi)
        along = (y - centre[0]) * math.cos(angle) + (x - centre[1]) * math.sin(angle)
        across = -(y - centre[0]) * math.sin(angle) + (x - centre[1]) * math.cos(angle)
        radii = rng.uniform(0.6, 1.3, 2) if number == 0 else np.exp(rng.uniform(math.log(0.02), math.log(0.6), 2))
        inside = np.hypot(along / radii[0], across / radii[1]) < 1
        picture[inside & (picture > 0) if number else inside] = rng.uniform(0.05, 1.0)
    return picture * np.exp(rng.uniform(0, 0.2) * smooth_noise(shape, 2, rng))


def blur(truth: NDArray[np.float64], rng: Generator, empty_share: float = 0.0) -> BlurredExample:
    """Blur a sharp picture at random, add noise, and pose the problem as restoration does."""
    shape = (truth.shape[0], truth.shape[1])
    psf, op = _random_blur(shape, rng)
    level = 10 ** rng.uniform(-2.8, -0.9)
    bright = None  # the picture says itself how bright it is, but for an empty one among others of a series
    if rng.random() < empty_share:
        truth = np.zeros(shape)
        bright = 1.0 if rng.random() < 0.7 else None
    clean = torch.complex(torch.from_numpy(truth).float(), torch.zeros(shape))[None]
    seen = _seen(op, clean)
    noise = torch.from_numpy(_noise(shape, level, op, rng)).to(seen.dtype)
    # A magnitude holds Rician noise; scanners and archives also leave pictures of real parts, or scaled ones.
    measured = (seen + noise).abs() if rng.random() < 0.65 else (seen + noise).real
    picture = measured[0].numpy().astype(np.float32)
    scale = brightness(torch.from_numpy(picture)) if bright is None else bright
    problem = pose(picture, op, scale=scale, lipschitz=1.0)
    wanted = clean / scale
    smooth = gaussian_filter(truth, 2)
    return BlurredExample(
        op=op,
        adjoint_kspace=op.adjoint(problem.kspace),
        strength=problem.strength,
        coil_combined=wanted,
        rss=wanted.real,
        body=torch.from_numpy(smooth > 0.08 * max(float(np.percentile(truth, 97)), 1e-6))[None],
        psf=psf,
    )


def _seen(op: BlurOperator | TruncationOperator, clean: Tensor) -> Tensor:
    """The picture that an archive would hold, on the grid of the sharp one."""
    return op.normal(clean) if isinstance(op, TruncationOperator) else op.forward(clean)


def _noise(
    shape: tuple[int, int], level: float, op: BlurOperator | TruncationOperator, rng: Generator
) -> NDArray[np.complex128]:
    """Complex noise, its real part of standard deviation ``level``: white, band-limited, or uneven over the picture."""
    noise = level * rng.standard_normal(shape) + 1j * level * rng.standard_normal(shape)
    if isinstance(op, TruncationOperator):
        limited: NDArray[np.complex128] = op.normal(torch.from_numpy(noise).to(torch.complex64)[None])[0].numpy()
        return limited
    if rng.random() < 0.25:  # an archive interpolated: noise lost its finest part
        factor = rng.uniform(1.0, 1.6)
        kept = [max(1, round(n / factor)) for n in shape]
        small = TruncationOperator(shape, (kept[0], kept[1]))
        noise = small.normal(torch.from_numpy(noise)[None])[0].numpy()
    if rng.random() < 0.3:  # parallel imaging and surface coils: more noise in the middle
        noise *= np.exp(rng.uniform(0, 0.4) * smooth_noise(shape, 2, rng))
    return noise


def _random_blur(shape: tuple[int, int], rng: Generator) -> tuple[Tensor | None, BlurOperator | TruncationOperator]:
    kind = str(rng.choice(["gaussian", "measured", "truncation"], p=[0.5, 0.2, 0.3]))
    if kind == "truncation":
        factor = math.exp(rng.uniform(math.log(1.05), math.log(3.0)))
        uneven = rng.uniform(1.0, 1.4, 2) if rng.random() < 0.3 else np.ones(2)
        kept = [min(n, max(16, round(n / factor / u))) for n, u in zip(shape, uneven, strict=True)]
        return None, TruncationOperator(shape, (kept[0], kept[1]))
    psf = torch.from_numpy(_gaussian(rng) if kind == "gaussian" else _irregular(rng)).float()
    return psf, BlurOperator(psf, shape)


def _gaussian(rng: Generator) -> NDArray[np.float64]:
    """Of 0.6 to 4.5 pixels, wider along one axis at times, as of pixels that are not square."""
    fwhm = math.exp(rng.uniform(math.log(0.6), math.log(4.5)))
    ratio = math.exp(rng.normal(0, 0.25)) if rng.random() < 0.4 else 1.0
    profiles = []
    for width in (fwhm * ratio, fwhm / ratio):
        sigma = width / math.sqrt(8 * math.log(2))
        reach = max(1, math.ceil(3 * sigma))
        profiles.append(np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2))
    psf = np.outer(*profiles)
    return psf / psf.sum()


def _irregular(rng: Generator) -> NDArray[np.float64]:
    """A sharp streak, disc or ragged blot of up to 13 pixels, as motion or a resampling leaves it."""
    side = 13
    y, x = np.mgrid[:side, :side] - side // 2 + 0.0
    angle = rng.uniform(0, np.pi)
    along, across = y * math.cos(angle) + x * math.sin(angle), -y * math.sin(angle) + x * math.cos(angle)
    form = int(rng.integers(3))
    if form == 0:
        distance = np.hypot(np.maximum(np.abs(along) - rng.uniform(0.5, 4), 0), across)
        psf = np.exp(-0.5 * (distance / rng.uniform(0.4, 0.9)) ** 2)
    elif form == 1:
        psf = np.clip(rng.uniform(0.8, 3.0) + 0.5 - np.hypot(y, x), 0, 1)
    else:
        ragged = np.clip(zoom(rng.standard_normal((5, 5)), side / 5, order=3)[:side, :side], 0, None)
        psf = ragged * np.exp(-0.5 * (np.hypot(y, x) / rng.uniform(1.0, 2.5)) ** 2)
        psf[side // 2, side // 2] += 0.2 * max(psf.max(), 1e-3)
    return psf / psf.sum()
