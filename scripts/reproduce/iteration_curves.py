"""What experiments on pictures share: iterates with their cost, proximal maps, and how curves are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sigpy
import torch
from figures import STYLE
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from PIL import Image
from torch import Tensor

from mri_unroll.physics import LinearOperator
from mri_unroll.physics.bridge import to_array, to_tensor
from mri_unroll.solvers.shrinkage import soft_threshold

Prox = Callable[[Tensor], Tensor]
WAVELET = "db4"


class CountedOperator(LinearOperator):
    """Counts how often ``A^H A`` or its parts are applied: what an iteration costs, whatever the method calls one."""

    def __init__(self, op: LinearOperator) -> None:
        self.op = op
        self.image_ndim = op.image_ndim
        self.count = 0.0

    def forward(self, image: Tensor) -> Tensor:
        """``A x``, half of one."""
        self.count += 0.5
        return self.op.forward(image)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """``A^H y``, half of one."""
        self.count += 0.5
        return self.op.adjoint(kspace)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``, one."""
        self.count += 1
        return self.op.normal(image)

    def gradient(self, image: Tensor, adjoint_kspace: Tensor) -> Tensor:
        """``A^H A x`` with a difference, one."""
        self.count += 1
        return self.op.gradient(image, adjoint_kspace)


@dataclass
class Curve:
    """PSNR of each iterate of one method."""

    method: str
    cost: list[float] = field(default_factory=list)  # applications of A^H A so far
    psnr: list[float] = field(default_factory=list)  # dB, mean over pictures
    picture: Tensor | None = None  # the last iterate

    @property
    def best(self) -> float:
        """Highest PSNR of all iterates."""
        return max(self.psnr)

    def cost_of(self, psnr: float) -> float | None:
        """Applications of A^H A until ``psnr`` is reached, if ever."""
        return next((cost for cost, value in zip(self.cost, self.psnr, strict=True) if value >= psnr), None)


def follow(method: str, iterates: Iterable[Tensor], op: CountedOperator, psnr: Callable[[Tensor], float]) -> Curve:
    """Run through the iterates and measure each."""
    op.count, curve = 0.0, Curve(method)
    for picture in iterates:
        curve.cost.append(op.count)
        curve.psnr.append(psnr(picture))
        curve.picture = picture
    return curve


def iterates_of(solve: Callable[[Prox], object], prox: Prox) -> Iterator[Tensor]:
    """The iterates of a proximal gradient solver: what its proximal maps return, one after another.

    They are gathered first; their cost is one application of A^H A each.
    """
    pictures: list[Tensor] = []

    def recorded(picture: Tensor) -> Tensor:
        pictures.append(prox(picture))
        return pictures[-1]

    solve(recorded)
    yield from pictures


def wavelet_prox(threshold: float, shape: tuple[int, ...], seed: int = 0) -> Prox:
    """Soft thresholding of db4 coefficients of pictures ``(batch, y, x)``, shifted at random from call to call."""
    bands = sigpy.wavelet.get_wavelet_shape(shape, WAVELET)[1]
    random = np.random.default_rng(seed)

    def prox(image: Tensor) -> Tensor:
        shift = (int(random.integers(8)), int(random.integers(8)))
        pictures = []
        for picture in torch.roll(image, shift, (-2, -1)):
            coefficients = to_tensor(sigpy.fwt(to_array(picture), wave_name=WAVELET))
            kept = to_array(soft_threshold(coefficients, threshold))
            pictures.append(to_tensor(sigpy.iwt(kept, shape, bands, wave_name=WAVELET)).to(image))
        return torch.roll(torch.stack(pictures), (-shift[0], -shift[1]), (-2, -1))

    return prox


def tv_prox(weight: float, n_inner: int = 6) -> Prox:
    r"""Proximal map of isotropic total variation, by accelerated projections of the dual that go on from call to call.

    Beck and Teboulle, IEEE Trans. Image Process. 18, 2419 (2009), doi:10.1109/TIP.2009.2028250.
    """
    kept: list[Tensor] = []

    def gradient(image: Tensor) -> Tensor:
        down, right = torch.zeros_like(image), torch.zeros_like(image)
        down[..., :-1, :] = image.diff(dim=-2)
        right[..., :, :-1] = image.diff(dim=-1)
        return torch.stack([down, right])

    def adjoint(dual: Tensor) -> Tensor:
        image = torch.zeros_like(dual[0])
        image[..., :-1, :] -= dual[0][..., :-1, :]
        image[..., 1:, :] += dual[0][..., :-1, :]
        image[..., :, :-1] -= dual[1][..., :, :-1]
        image[..., :, 1:] += dual[1][..., :, :-1]
        return image

    def prox(image: Tensor) -> Tensor:
        dual = point = kept.pop() if kept else torch.zeros(2, *image.shape, dtype=image.dtype)
        momentum = 1.0
        for _ in range(n_inner):
            new = point + gradient(image - weight * adjoint(point)) / (8 * weight)
            new = new / torch.linalg.vector_norm(new, dim=0).clamp_min(1)
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            point = new + (momentum - 1) / following * (new - dual)
            dual, momentum = new, following
        kept.append(dual)
        return image - weight * adjoint(dual)

    return prox


def table(results: Mapping[str, Iterable[Curve]]) -> list[dict[str, Any]]:
    """A row for every iterate of every method on every problem."""
    return [
        {
            "problem": problem,
            "method": curve.method,
            "iteration": i,
            "normal_applications": cost,
            "psnr_db": f"{psnr:.3f}",
        }
        for problem, curves in results.items()
        for curve in curves
        for i, (cost, psnr) in enumerate(zip(curve.cost, curve.psnr, strict=True))
    ]


def shrink(path: Path) -> None:
    """Write a figure again with 256 colours: greys, the map of errors, and the lines fading to white."""
    fade = np.linspace(0, 0.9, 6)[:, None, None]
    lines = ((1 - fade) * to_rgba_array(STYLE["axes.prop_cycle"].by_key()["color"])[:, :3] + fade).reshape(-1, 3)
    errors = colormaps["magma"](np.linspace(0, 1, 72))[:, :3]
    greys = np.linspace(0, 1, 256 - len(errors) - len(lines))[:, None].repeat(3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.concatenate([greys, errors, lines])).astype(np.uint8).tobytes())
    with Image.open(path) as image:
        image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def draw(axes: Axes, curves: list[Curve], title: str) -> None:
    """PSNR against applications of A^H A, learned methods with their layers marked."""
    for curve in curves:
        learned = {"marker": "o", "linewidth": 2.2} if curve.method.startswith("learned") else {}
        axes.semilogx(curve.cost, curve.psnr, label=curve.method, **learned)
    axes.set(title=title, xlabel="applications of $A^H A$", ylabel="PSNR (dB)")
