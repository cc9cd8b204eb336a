r"""That a fixed point exists: what makes a step a contraction, what bounds it, and what measures it.

A step that joins a nonexpansive data term to a prior contracts if the prior does. The data term is nonexpansive if it
is a gradient step of at most :math:`2 / \|A\|^2` or the exact proximal map; a few conjugate gradients come close.
Three means, from gentle to strict: `ContractivePrior` makes a fresh network contract, `contraction_penalty` keeps a
trained one contracting where its pictures lie (no guarantee elsewhere), `limit_unet` guarantees it everywhere, at a
price in what the network can express.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.errors import ConfigError
from mri_unroll.nets.prior import Prior, UNetPrior

Map = Callable[[Tensor], Tensor]
_MOST_SHRINKAGE = 0.5  # that it can grow to


class ContractivePrior(nn.Module):
    r"""A residual prior, shrunk towards an anchor: :math:`P(x) = c\,(x + U(x)) + (1-c)\,a`.

    A fresh residual prior is close to the identity. A step with it leaves the null space of ``A`` as it is: it has many
    fixed points, and no gradient. The factor makes the fresh step a contraction by ``c``; a trained ``U`` gives back
    what the factor takes. For ``U`` of Lipschitz constant ``l``, ``P`` has at most :math:`c(1 + l)`. What the data say
    next to nothing of moves slowly towards ``a`` unless ``U`` holds it: an anchor made of the data leaves such parts as
    they were measured, zero leaves them out.

    The less is sampled, the more directions are left to the prior alone, and the slower is the slowest. The shrinkage
    :math:`1-c` may therefore grow with the acceleration.

    Parameters
    ----------
    prior
        The residual prior.
    factor
        ``c``, in (0, 1); where it depends on the acceleration, at fourfold.
    anchored
        Take as ``a`` the last picture of the evidence, which must not change with the iterate; else zero.
    slope
        Power of the acceleration that the shrinkage grows with; 0: the same for all.
    """

    def __init__(self, prior: Prior, factor: float, anchored: bool = False, slope: float = 0.0) -> None:
        if not 0 < factor < 1:
            raise ConfigError(f"Expected a contraction factor between 0 and 1, got {factor}.")
        super().__init__()
        self.prior = prior
        self.factor = factor
        self.anchored = anchored
        self.slope = slope

    def forward(self, image: Tensor, strength: Tensor) -> Tensor:
        """As the prior inside; the second number of ``strength`` is the binary logarithm of acceleration over four."""
        factor = self.factor_at(strength)
        shrunk = factor * self.prior(image, strength)
        return shrunk + (1 - factor) * image[:, -1] if self.anchored else shrunk

    def factor_at(self, strength: Tensor) -> Tensor | float:
        """``c``, one number or ``(batch, 1, 1)``."""
        if not self.slope:
            return self.factor
        return 1 - ((1 - self.factor) * torch.exp2(self.slope * strength[:, 1:2, None])).clamp_max(_MOST_SHRINKAGE)


def local_lipschitz(
    step: Map, image: Tensor, direction: Tensor | None = None, n_iterations: int = 20
) -> tuple[Tensor, Tensor]:
    r"""Largest singular value of a step's Jacobian at a picture, by power iteration on :math:`J^T J`.

    Complex pictures count as real and imaginary parts. The estimate approaches the value from below.

    Parameters
    ----------
    step
        Treats samples independently, twice differentiable.
    image
        ``(batch, ...)``.
    direction
        Where to begin, such as what an earlier call returned; random if None.
    n_iterations
        Power iterations, at least 1.

    Returns
    -------
    tuple
        The value of each sample, ``(batch,)``, and the direction of unit length which it belongs to.
    """
    if direction is None:
        generator = torch.Generator(device="cpu").manual_seed(0)
        direction = torch.randn(image.shape, dtype=image.dtype, generator=generator).to(image.device)
    with torch.enable_grad():
        point = image.detach().requires_grad_()
        output = step(point)
        slope = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, point, slope, create_graph=True)[0]  # J^T slope, linear in the slope
    v = _normalised(direction)
    size = v.new_zeros(v.shape[0]).real
    for _ in range(n_iterations):
        pushed = torch.autograd.grad(pulled, slope, v, retain_graph=True)[0]
        size = torch.linalg.vector_norm(pushed.flatten(1), dim=1)
        v = _normalised(torch.autograd.grad(output, point, pushed, retain_graph=True)[0])
    return size, v


def contraction_penalty(
    step: Map, image: Tensor, limit: float, direction: Tensor | None = None, n_iterations: int = 3
) -> tuple[Tensor, Tensor]:
    r"""What to add to a loss so that a step stays a contraction near a picture: :math:`\max(0, \|J\| - q)^2`.

    Parameters
    ----------
    step, image, direction, n_iterations
        As for `local_lipschitz`; hand in the last direction of the same picture to spare iterations. 0: the gain along
        ``direction`` as it is.
    limit
        ``q``, below 1.

    Returns
    -------
    tuple
        The penalty, averaged over the batch and differentiable by what the step is made of, and the direction.

    Notes
    -----
    Lipschitz constants of learned steps as a penalty: Pramanik, Zimmerman and Jacob, IEEE Trans. Comput. Imaging 9, 260
    (2023), arXiv:2206.04797.
    """
    if direction is None or n_iterations:
        _, direction = local_lipschitz(step, image, direction, n_iterations)
    eps = torch.finfo(image.dtype).eps ** (1 / 3)
    # A central difference: one more graph of the step, where an exact product would need a graph of a graph.
    width = eps * torch.linalg.vector_norm(image.flatten(1), dim=1).clamp_min(eps).view(-1, *[1] * (image.ndim - 1))
    change = (step(image.detach() + width * direction) - step(image.detach() - width * direction)) / (2 * width)
    size = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return functional.relu(size - limit).square().mean(), direction


@torch.no_grad()
def drift(step: Map, image: Tensor, n_steps: int = 2) -> Tensor:
    """The direction in which plain iterations still move after a few: near rest, that in which they are slowest.

    Differences of iterates are a power iteration on the Jacobian itself, at the price of the step alone. Along it the
    gain decides how soon iterations come to rest; the largest gain, `local_lipschitz`, bounds it and costs many times
    as much.

    Parameters
    ----------
    step
        Treats samples independently.
    image
        ``(batch, ...)``, near the fixed point.
    n_steps
        Iterations before the difference is taken.

    Returns
    -------
    Tensor
        Of unit length, or zero for a sample at rest.
    """
    before = image
    for _ in range(n_steps):
        before, image = image, step(image)
    return _normalised(image - before)


def convolution_norm_bound(weight: Tensor, n_grid: int = 16) -> Tensor:
    r"""Upper bound of the operator norm of a convolution, zero-padded or circular, on pictures of any size.

    On an endless grid the norm is the largest singular value, over all frequencies, of the matrix that the kernel is at
    a frequency. Zero padding cuts a part out of the endless grid, which only makes it smaller. Between the points of a
    frequency grid of ``n`` a trigonometric polynomial of degree ``d`` is at most :math:`1/\cos(\pi d/n)` larger than on
    them, along each axis. (The spectral norm of the weight reshaped to a matrix is another quantity: for a 3 x 3 kernel
    the convolution can be three times as large.)

    Parameters
    ----------
    weight
        ``(n_out, n_in, ky, kx)``, real, stride 1.
    n_grid
        Frequencies per axis; at least two more than the kernel's side. 16 is at most 4 % too large for 3 x 3.

    Returns
    -------
    Tensor
        Scalar, differentiable.

    Notes
    -----
    Sedghi, Gupta and Long, ICLR 2019, arXiv:1805.10408; grid: Ehlich and Zeller, Math. Z. 86, 41 (1964),
    doi:10.1007/BF01111276.
    """
    sides = weight.shape[-2:]
    if max(sides) + 2 > n_grid:
        raise ConfigError(f"Expected n_grid of at least {max(sides) + 2} for a kernel {tuple(sides)}, got {n_grid}.")
    narrow = weight if weight.shape[0] <= weight.shape[1] else weight.transpose(0, 1)
    symbol = torch.fft.rfft2(narrow, s=(n_grid, n_grid)).movedim((0, 1), (-2, -1))
    between = math.prod(math.cos(math.pi * (side - 1) / (2 * n_grid)) for side in sides)
    return torch.linalg.eigvalsh(symbol @ symbol.mH).amax().clamp_min(0).sqrt() / between


def unet_lipschitz_bound(prior: UNetPrior, image_shape: tuple[int, int]) -> float:
    r"""Upper bound of the Lipschitz constant of a U-Net's change ``U`` in the joint vector of its complex channels.

    The product of `convolution_norm_bound` along the paths; pooling (1/2) and nearest upsampling (2) cancel, leaky
    rectifiers and pixel shuffling add nothing, and replicating ``p`` rows beyond the edge costs :math:`\sqrt{1+p}`.
    With the gradient :math:`A^H(Ax - y)` as evidence, ``U`` as a function of ``x`` alone has at most
    :math:`\sqrt{1 + \|A\|^4}` times this.

    Parameters
    ----------
    prior
        The network.
    image_shape
        ``(y, x)``: it decides on the padding.
    """
    return _unet_bound(prior, image_shape, _norm_bounds(prior))


@torch.no_grad()
def limit_unet(prior: UNetPrior, lipschitz: float, image_shape: tuple[int, int] = (1, 1)) -> None:
    r"""Scale weights down, where needed, until `unet_lipschitz_bound` is at most ``lipschitz``.

    Every convolution but the last is limited to a norm of 1, the last to what is left. To be called after the steps of
    an optimiser, whose projection it is, and once more at the end; the guarantee holds for the weights as they are
    after the call. Bounds multiply along ten layers while true gains do not: the network can use only a part of the
    constant it is allowed.

    Parameters
    ----------
    prior
        The network, changed in place.
    lipschitz
        The limit, positive. ``ContractivePrior(prior, c)`` contracts if :math:`c (1 + l \sqrt 2) < 1`.
    image_shape
        ``(y, x)``; the default stands for sides that need the most padding.
    """
    if not lipschitz > 0:
        raise ConfigError(f"Expected a positive Lipschitz constant, got {lipschitz}.")
    bounds = _norm_bounds(prior)
    for module, bound in bounds.items():
        if module is not prior.last and bound > 1:
            module.weight.div_(bound)
            bounds[module] = 1.0
    prior.last.weight.mul_(min(1.0, lipschitz / _unet_bound(prior, image_shape, bounds)))


def _norm_bounds(prior: UNetPrior) -> dict[nn.Conv2d, float]:
    modules = [module for module in prior.modules() if isinstance(module, nn.Conv2d)]
    return {module: float(convolution_norm_bound(module.weight.detach())) for module in modules}


def _unet_bound(prior: UNetPrior, image_shape: tuple[int, int], bounds: dict[nn.Conv2d, float]) -> float:
    def gain(block: nn.Module) -> float:
        return math.prod(bounds[module] for module in block.modules() if isinstance(module, nn.Conv2d))

    level = math.prod(math.sqrt(1 + -side % prior.multiple) for side in image_shape)
    skips: list[float] = []
    for depth, block in enumerate(prior.down):
        level = gain(block) * level / (2 if depth else 1)
        skips.append(level)
    skips.pop()
    for block in prior.up:
        level = gain(block) * math.hypot(2 * level, skips.pop())
    return level * bounds[prior.last]


def _normalised(x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return x / size.view(-1, *[1] * (x.ndim - 1))
