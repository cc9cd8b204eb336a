r"""Learned ISTA: the iterations of :math:`\min_x \tfrac12\|Ax-y\|^2 + w\|x\|_1` for one dense ``A``, as layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.solvers.shrinkage import support_threshold
from mri_unroll.solvers.solution import FIXED_COUNT, Solution

Weights = Literal["step", "two-matrix", "coupled", "analytic"]
Momentum = Literal["none", "fista", "learned"]


class ListaNetwork(nn.Module):
    r"""Proximal gradient steps with learned parts, starting from zero.

    A layer takes the point :math:`z = x_k + \beta_k (x_k - x_{k-1})` to :math:`x_{k+1} = \eta(u, \theta_k)`, a soft
    threshold as the activation of a linear module

    ================ ================================================= =======================================
    ``weights``      :math:`u`                                         learned
    ================ ================================================= =======================================
    ``"step"``       :math:`z + t_k A^\top(y - Az)`                    :math:`t_k, \theta_k`
    ``"two-matrix"`` :math:`(I - t_k G_k)z + t_k B_k y`                and :math:`B_k, G_k` (Gregor and LeCun)
    ``"coupled"``    :math:`z + t_k B_k(y - Az)`                       and :math:`B_k` (LISTA-CP)
    ``"analytic"``   :math:`z + t_k W(y - Az)`, `analytic_weights`     :math:`t_k, \theta_k` (ALISTA)
    ================ ================================================= =======================================

    Before training :math:`B_k = A^\top`, :math:`G_k = A^\top A`, :math:`t_k = 1/\|A\|^2`, :math:`\theta_k = t_k w`:
    each is ISTA, or FISTA with ``momentum="fista"`` or ``"learned"``, layer by layer; ``"analytic"`` is ISTA with ``W``
    for :math:`A^\top` and :math:`\|WA\|` for :math:`\|A\|^2`.

    Parameters
    ----------
    matrix
        ``A``, real, ``(m, n)``. It belongs to the problem and is no part of the state dict.
    n_layers
        Iterations.
    weights
        The form of the linear module, see above.
    tied
        One set of matrices for all layers, or one a layer. Step sizes and thresholds are always one a layer.
    momentum
        :math:`\beta_k`: ``"none"`` zero, ``"fista"`` Nesterov's, ``"learned"`` starting from Nesterov's.
    support
        ``(p, p_max)``: layer ``k`` (from 1) does not shrink its ``min(p k, p_max) n`` largest entries; None for none.
    reg_weight
        ``w`` of the ISTA it starts from.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.

    Notes
    -----
    Gregor and LeCun, ICML 2010. Chen, Liu, Wang and Yin, NeurIPS 2018, arXiv:1808.10038 (coupling, support selection).
    Liu, Chen, Wang and Yin, ICLR 2019, https://openreview.net/forum?id=B1lnzn0ctQ (analytic weights).
    """

    matrix: Tensor

    def __init__(
        self,
        matrix: Tensor,
        n_layers: int,
        *,
        weights: Weights = "coupled",
        tied: bool = True,
        momentum: Momentum = "none",
        support: tuple[float, float] | None = None,
        reg_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if weights not in get_args(Weights) or momentum not in get_args(Momentum):
            raise ConfigError(
                f"Expected weights in {get_args(Weights)} and momentum in {get_args(Momentum)}, "
                f"got {weights!r} and {momentum!r}."
            )
        if n_layers < 1 or reg_weight <= 0 or (support is not None and not 0 <= support[0] <= support[1] <= 1):
            raise ConfigError(
                "Expected n_layers >= 1, reg_weight > 0 and support fractions 0 <= p <= p_max <= 1, "
                f"got {n_layers}, {reg_weight} and {support}."
            )
        self.weights, self.momentum, self.support, self.n_layers = weights, momentum, support, n_layers
        self.register_buffer("matrix", matrix, persistent=False)
        adjoint = analytic_weights(matrix) if weights == "analytic" else matrix.mT
        if weights in ("step", "analytic"):
            self.register_buffer("adjoint", adjoint[None], persistent=False)
        else:
            self.adjoint = nn.Parameter(adjoint.expand(1 if tied else n_layers, -1, -1).clone())
        if weights == "two-matrix":
            self.gram = nn.Parameter((adjoint @ matrix).expand(1 if tied else n_layers, -1, -1).clone())
        norm = torch.linalg.matrix_norm(adjoint @ matrix, 2)
        self.log_step_sizes = nn.Parameter(-norm.log().expand(n_layers).clone())
        self.log_thresholds = nn.Parameter((math.log(reg_weight) - norm.log()).expand(n_layers).clone())
        if momentum == "learned":
            self.momentum_weights = nn.Parameter(fista_momentum(n_layers).to(matrix))
        else:
            fixed = fista_momentum(n_layers) if momentum == "fista" else torch.zeros(n_layers)
            self.register_buffer("momentum_weights", fixed.to(matrix), persistent=False)

    @property
    def step_sizes(self) -> Tensor:
        """``t_k``, positive, ``(n_layers,)``."""
        return self.log_step_sizes.exp()

    @property
    def thresholds(self) -> Tensor:
        r""":math:`\theta_k`, positive, ``(n_layers,)``."""
        return self.log_thresholds.exp()

    @property
    def effective_step_sizes(self) -> Tensor:
        r"""Step of each layer along the gradient, :math:`t_k\langle B_k, A^\top\rangle/\|A\|_F^2`, ``(n_layers,)``."""
        along = (self.adjoint * self.matrix.mT).sum((-2, -1)) / self.matrix.square().sum()
        return self.step_sizes * along.expand(self.n_layers)

    def iterates(self, measurements: Tensor, n_layers: int | None = None) -> Iterator[Tensor]:
        """Yield ``x_1, x_2, ...``, each ``(*batch, n)``, of the first ``n_layers`` layers (None for all)."""
        n_measurements, n = self.matrix.shape
        if measurements.shape[-1] != n_measurements:
            raise ShapeError(
                f"Expected measurements (*batch, {n_measurements}) of the matrix, got {tuple(measurements.shape)}."
            )
        previous = x = measurements.new_zeros(*measurements.shape[:-1], n)
        for k in range(self.n_layers if n_layers is None else n_layers):
            point = x if self.momentum == "none" else x + self.momentum_weights[k] * (x - previous)
            adjoint = self.adjoint[k % len(self.adjoint)]
            if self.weights == "two-matrix":
                descent = measurements @ adjoint.mT - point @ self.gram[k % len(self.gram)].mT
            else:
                descent = (measurements - point @ self.matrix.mT) @ adjoint.mT
            trusted = 0 if self.support is None else int(min(self.support[0] * (k + 1), self.support[1]) * n)
            new = support_threshold(point + self.step_sizes[k] * descent, self.thresholds[k], trusted)
            previous, x = x, new
            yield x

    def forward(self, measurements: Tensor) -> Solution:
        """Recover ``x`` from ``y = A x + noise``, ``(*batch, m)``; the value is ``(*batch, n)``."""
        *_, last = self.iterates(measurements)
        return Solution(last, FIXED_COUNT, self.n_layers, ())


def fista_momentum(n_layers: int) -> Tensor:
    r"""Nesterov's weights :math:`\beta_k` for the points at which layers 1, 2, ... start; float64, ``(n_layers,)``."""
    weights, t = [0.0], 1.0
    for _ in range(n_layers - 1):
        new = (1 + math.sqrt(1 + 4 * t**2)) / 2
        weights.append((t - 1) / new)
        t = new
    return torch.tensor(weights, dtype=torch.float64)


def analytic_weights(matrix: Tensor) -> Tensor:
    r"""The ``W`` of least Frobenius coherence, :math:`\min\|WA\|_F^2` with every :math:`(WA)_{ii} = 1`.

    In closed form row ``i`` is :math:`(AA^\top)^{-1}a_i`, scaled so that it meets its own column ``a_i`` with 1.

    Parameters
    ----------
    matrix
        ``A``, ``(m, n)``, of full row rank.

    Returns
    -------
    Tensor
        ``W``, ``(n, m)``, to stand in for :math:`A^\top`.
    """
    rows = torch.linalg.solve(matrix @ matrix.mT, matrix).mT
    return rows / (rows * matrix.mT).sum(-1, keepdim=True)
