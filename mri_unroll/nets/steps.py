"""One iteration, written once: a prior, then agreement with the measurements."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.nets.prior import Prior
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.solvers.cg import cg


class ProximalStep(nn.Module):
    r"""Prior, then the proximal map of the data term.

    .. math:: z_k = P_k(x_k, A^H(Ax_k - y), s), \qquad
              x_{k+1} = \arg\min_x \|Ax-y\|^2 + \lambda_k \|x-z_k\|^2 .

    The minimisation is a few conjugate gradients from :math:`z_k`. The weight is learned as a power law of the strength
    features, :math:`\log\lambda_k = w_k \cdot s + b_k`, so that noisier scans trust the prior more. It may also be told
    how many coils there are: with several, much of what was not sampled is known from the others, and another weight is
    best than with one.

    Parameters
    ----------
    prior
        Maps ``(batch, 2, y, x)`` (picture, gradient; and further pictures, if any) and strength to a picture.
    n_strength
        Length of the strength vector.
    n_cg
        Conjugate gradient iterations.
    prior_last
        The other order: :math:`x_{k+1} = P_k(\arg\min_x \|Ax-y\|^2 + \lambda_k\|x-x_k\|^2)`. The last word is the
        prior's, so that noise which agreement with the data brings back is removed again. Right where noise is
        amplified and must not look like tissue, as in deblurring; where measured samples are to stay, the first order.
    counts_coils
        Whether the weight depends on the number of coils too; the prior never does.

    Notes
    -----
    Aggarwal, Mani and Jacob (MoDL), IEEE Trans. Med. Imaging 38, 394 (2019), doi:10.1109/TMI.2018.2865356. Unlike MoDL,
    weights are not shared over steps and the prior sees the gradient. The other order is half-quadratic splitting,
    Zhang et al., CVPR 2017, doi:10.1109/CVPR.2017.300.
    """

    def __init__(
        self, prior: Prior, n_strength: int, n_cg: int, prior_last: bool = False, counts_coils: bool = False
    ) -> None:
        super().__init__()
        self.prior = prior
        self.prior_last = prior_last
        self.n_cg = n_cg
        self.counts_coils = counts_coils
        self.log_weight = nn.Linear(n_strength + counts_coils, 1)
        nn.init.zeros_(self.log_weight.weight)
        nn.init.constant_(self.log_weight.bias, math.log(0.05))

    def forward(
        self, image: Tensor, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor, *evidence: Tensor
    ) -> Tensor:
        """``x_k`` to ``x_{k+1}``, both complex ``(batch, y, x)``; the prior is shown further pictures after these."""
        weight = self.weight(strength, op.n_coils)
        if self.prior_last:
            image = data_consistency(op, adjoint_kspace, image, weight, self.n_cg)
        gradient = op.gradient(image, adjoint_kspace)
        proposal = self.prior(torch.stack([image, gradient, *evidence], dim=1), strength)
        return proposal if self.prior_last else data_consistency(op, adjoint_kspace, proposal, weight, self.n_cg)

    def weight(self, strength: Tensor, n_coils: int = 1) -> Tensor:
        r""":math:`\lambda_k`, positive, ``(batch, 1, 1)``."""
        if self.counts_coils:
            strength = torch.cat([strength, strength.new_full((len(strength), 1), math.log2(n_coils / 4))], dim=1)
        return torch.exp(self.log_weight(strength).clamp(-9.0, 3.0)).unsqueeze(-1)


class GradientStep(nn.Module):
    r"""The learned proximal gradient step, :math:`x_{k+1} = P_k(x_k - t_k A^H(Ax_k - y), \cdot, s)`.

    Parameters
    ----------
    prior
        As for `ProximalStep`.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.raw_step_size = nn.Parameter(torch.tensor(math.log(math.e - 1)))  # softplus of it is 1

    @property
    def step_size(self) -> Tensor:
        """``t_k``, positive; starts at 1, which is safe because the operator norm is at most 1."""
        return functional.softplus(self.raw_step_size)

    def forward(
        self, image: Tensor, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor, *evidence: Tensor
    ) -> Tensor:
        """As `ProximalStep.forward`."""
        gradient = op.gradient(image, adjoint_kspace)
        proposal = image - self.step_size * gradient
        return self.prior(torch.stack([proposal, gradient, *evidence], dim=1), strength)


class StepsInTurn(nn.Module):
    r"""Several steps, one after the other, as one: :math:`T = T_m \circ \dots \circ T_1`.

    Parameters
    ----------
    steps
        `ProximalStep`, `GradientStep` or alike, in the order in which they are taken.
    """

    def __init__(self, steps: list[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(
        self, image: Tensor, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor, *evidence: Tensor
    ) -> Tensor:
        """As `ProximalStep.forward`."""
        for step in self.steps:
            image = step(image, adjoint_kspace, op, strength, *evidence)
        return image


def data_consistency(
    op: LinearOperator, adjoint_kspace: Tensor, proposal: Tensor, reg_weight: Tensor, n_cg: int
) -> Tensor:
    r""":math:`\arg\min_x \|Ax-y\|^2 + \lambda\|x-z\|^2` by ``n_cg`` conjugate gradients from ``z``."""
    # In terms of the change d = x - z the right-hand side is A^H(y - Az), and CG starts at zero: one product fewer.
    return proposal + least_squares(op, adjoint_kspace - op.normal(proposal), reg_weight, n_cg)


def least_squares(op: LinearOperator, adjoint_kspace: Tensor, reg_weight: Tensor, n_cg: int) -> Tensor:
    r""":math:`\arg\min_x \|Ax-y\|^2 + \lambda\|x\|^2` by ``n_cg`` conjugate gradients from zero."""
    return cg(lambda x: op.normal(x) + reg_weight * x, adjoint_kspace, n_iterations=n_cg, ndim=op.image_ndim).value
