"""One set of assertions that every forward operator must pass."""

from __future__ import annotations

import torch
from torch import Tensor

from mri_unroll.physics import LinearOperator, adjoint_error, operator_norm


def random_complex(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Circular Gaussian samples."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check_operator(
    op: LinearOperator, image: Tensor, kspace: Tensor, *, tolerance: float = 0.0, norm: float = 1.0
) -> None:
    """Adjoint, normal, gradient, linearity and norm to the accuracy of the dtype.

    ``tolerance``: what the operator's normal form may differ from forward and adjoint by, where it is no mere rounding.
    ``norm``: bound of the largest singular value.
    """
    accuracy = 2e-6 if image.dtype == torch.complex64 else 1e-12
    loose = max(accuracy, tolerance)
    assert adjoint_error(op, image, kspace) < accuracy
    normal = op.normal(image)
    expected = op.adjoint(op.forward(image))
    assert torch.linalg.norm(normal - expected) <= 5 * loose * torch.linalg.norm(expected)
    adjoint_kspace = op.adjoint(kspace)
    gradient = op.adjoint(op.forward(image) - kspace)
    assert torch.linalg.norm(op.gradient(image, adjoint_kspace) - gradient) <= 10 * loose * torch.linalg.norm(gradient)
    other = random_complex(tuple(image.shape), image.dtype, seed=99).to(image.device)
    mixed = op.forward(2j * image - other) - (2j * op.forward(image) - op.forward(other))
    assert torch.linalg.norm(mixed) <= 10 * accuracy * torch.linalg.norm(op.forward(other))
    assert float(operator_norm(op, image).max()) <= norm + 10 * accuracy


def check_derivatives(op: LinearOperator, image: Tensor, kspace: Tensor) -> None:
    """First and second derivatives of forward, adjoint and normal against finite differences, in double precision."""
    assert image.dtype == torch.complex128
    image, kspace = image.clone().requires_grad_(), kspace.clone().requires_grad_()
    for function, argument in ((op.forward, image), (op.adjoint, kspace), (op.normal, image)):
        assert torch.autograd.gradcheck(function, (argument,), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x).abs().square(), (argument,))
