r"""The contract of every forward operator :math:`A`, and two measurements of one.

Operators are frozen and are no ``nn.Module``: coil maps and masks belong to a scan, never to a network's state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class LinearOperator(ABC):
    r"""A linear map from pictures to measurements, with its adjoint.

    The last `image_ndim` axes of a picture are one unknown; axes before them are batch axes, independent problems that
    share one call. ``outer @ inner`` composes.
    """

    image_ndim: int = 2  # 2: (*batch, y, x); 3: (*batch, z, y, x)

    @property
    def n_coils(self) -> int:
        """Times that each picture is measured, each time with another sensitivity."""
        return 1

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """``A x``: ``(*batch, [z,] y, x)`` to measurements."""

    @abstractmethod
    def adjoint(self, kspace: Tensor) -> Tensor:
        """``A^H y``: measurements to ``(*batch, [z,] y, x)``."""

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``; a cheaper equal form where one exists."""
        return self.adjoint(self.forward(image))

    def gradient(self, image: Tensor, adjoint_kspace: Tensor) -> Tensor:
        r"""Gradient of :math:`\tfrac12\|Ax-y\|^2`, given :math:`A^H y` once."""
        return self.normal(image) - adjoint_kspace

    def __matmul__(self, inner: LinearOperator) -> Composition:
        """``self`` after ``inner``."""
        return Composition(self, inner)


class Composition(LinearOperator):
    r""":math:`A = A_\mathrm{outer} A_\mathrm{inner}`.

    Parameters
    ----------
    outer, inner
        The measurements of ``inner`` are the pictures of ``outer``.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        self.outer = outer
        self.inner = inner
        self.image_ndim = inner.image_ndim

    @property
    def n_coils(self) -> int:
        """Of both operators."""
        return self.outer.n_coils * self.inner.n_coils

    def forward(self, image: Tensor) -> Tensor:
        """Apply ``inner``, then ``outer``."""
        return self.outer.forward(self.inner.forward(image))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Apply the adjoint of ``outer``, then of ``inner``."""
        return self.inner.adjoint(self.outer.adjoint(kspace))

    def normal(self, image: Tensor) -> Tensor:
        """Use the cheap normal form of ``outer``."""
        return self.inner.adjoint(self.outer.normal(self.inner.forward(image)))


def operator_norm(operator: LinearOperator, example: Tensor, n_iterations: int = 30, seed: int = 0) -> Tensor:
    r"""Largest singular value of :math:`A` per batch entry, by power iteration on :math:`A^H A`.

    Parameters
    ----------
    operator
        The operator.
    example
        Any picture of the right shape ``(*batch, [z,] y, x)``, dtype and device.
    n_iterations
        Power iterations. The estimate approaches the norm from below.
    seed
        Of the random start.

    Returns
    -------
    Tensor
        Real, shape ``batch``.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    x = torch.randn(example.shape, dtype=example.dtype, generator=generator).to(example.device)
    dims = tuple(range(-operator.image_ndim, 0))
    size = x.new_zeros(()).real
    for _ in range(n_iterations):
        x = operator.normal(x / torch.linalg.vector_norm(x, dim=dims, keepdim=True).clamp_min(1e-30))
        size = torch.linalg.vector_norm(x, dim=dims)
    return size.sqrt()


def adjoint_error(operator: LinearOperator, image: Tensor, kspace: Tensor) -> float:
    r"""Dot test, :math:`|\langle Ax, y\rangle - \langle x, A^Hy\rangle| / (\|Ax\|\,\|y\|)`; zero if exact."""
    forward = operator.forward(image)
    left = torch.vdot(kspace.flatten(), forward.flatten())
    right = torch.vdot(operator.adjoint(kspace).flatten(), image.flatten())
    return float((left - right).abs() / (forward.norm() * kspace.norm()).clamp_min(1e-30))
