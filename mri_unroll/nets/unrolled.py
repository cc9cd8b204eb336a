"""Deep unrolling: K iterations as K layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from mri_unroll.errors import ConfigError
from mri_unroll.nets.lista import Momentum, fista_momentum
from mri_unroll.nets.refinement import MeasuredOperator, RefinedSolution
from mri_unroll.nets.steps import least_squares
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.solvers.solution import FIXED_COUNT, Solution

_ON_THE_WAY = (0.25, 0.5, 0.75)  # shares of the steps after which an iterate is kept in the solution


class Unrolled(nn.Module):
    r"""A start by regularised least squares, then K learned steps.

    With momentum, step ``k`` starts at :math:`x_k + \beta_k (x_k - x_{k-1})`: a skip connection past one layer.

    Parameters
    ----------
    steps
        The layers, in order; pass one module K times to tie their weights.
    n_strength
        Length of the strength vector.
    n_start_cg
        Conjugate gradients of the start, :math:`x_0 = (A^HA + \lambda_0)^{-1} A^H y`.
    momentum
        ``"none"``; ``"fista"``: the weights :math:`\beta_k` of FISTA; ``"learned"``: they start there.
    refiners
        `MapRefiner` before each of the first steps: none, one to refine coil maps once, or as many as there are steps.

    Notes
    -----
    Gregor and LeCun, ICML 2010; Hammernik et al., Magn. Reson. Med. 79, 3055 (2018), doi:10.1002/mrm.26977; momentum:
    Beck and Teboulle, SIAM J. Imaging Sci. 2, 183 (2009), doi:10.1137/080716542.
    """

    def __init__(
        self,
        steps: list[nn.Module],
        n_strength: int,
        n_start_cg: int,
        momentum: Momentum = "none",
        refiners: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        if momentum not in get_args(Momentum):
            raise ConfigError(f"Expected momentum in {get_args(Momentum)}, got {momentum!r}.")
        self.steps = nn.ModuleList(steps)
        self.refiners = nn.ModuleList(refiners)
        self.n_start_cg = n_start_cg
        self.log_start_weight = nn.Linear(n_strength, 1)
        nn.init.zeros_(self.log_start_weight.weight)
        nn.init.constant_(self.log_start_weight.bias, math.log(0.01))
        # One weight for each step but the first, which has nothing behind it.
        weights = fista_momentum(len(steps))[1:].float() if momentum != "none" else torch.zeros(0)
        if momentum == "learned" and len(weights):
            self.momentum_weights = nn.Parameter(weights)
        else:
            self.register_buffer("momentum_weights", weights, persistent=False)

    def iterates(self, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor) -> Iterator[Tensor]:
        """Yield ``x_0, x_1, ... x_K``: deep supervision and convergence plots look inside the network with this."""
        return (image for image, _ in self._run(adjoint_kspace, op, strength))

    def _run(
        self, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor
    ) -> Iterator[tuple[Tensor, LinearOperator]]:
        """Yield each picture with the operator that it agrees with."""
        weight = torch.exp(self.log_start_weight(strength).clamp(-9.0, 3.0)).unsqueeze(-1)
        image = least_squares(op, adjoint_kspace, weight, self.n_start_cg)
        yield image, op
        before = image
        for index, step in enumerate(self.steps):
            if index < len(self.refiners):
                refined: MeasuredOperator = self.refiners[index](image, op, strength)
                op, adjoint_kspace = refined, refined.adjoint_kspace()
            point = image
            if index and len(self.momentum_weights):
                point = image + self.momentum_weights[index - 1] * (image - before)
            image, before = step(point, adjoint_kspace, op, strength), image
            yield image, op

    def forward(self, adjoint_kspace: Tensor, op: LinearOperator, strength: Tensor) -> Solution:
        """Reconstruct.

        Parameters
        ----------
        adjoint_kspace
            ``A^H y``, complex ``(batch, y, x)``, scaled so that bright tissue is near 1.
        op
            The forward operator; of a network that refines coil maps, see `mri_unroll.nets.refinement.measured`.
        strength
            ``(batch, n_strength)``.

        Returns
        -------
        Solution
            With iterates from a quarter, half and three quarters of the way; a `RefinedSolution` where coil maps were
            refined.
        """
        n_steps = len(self.steps)
        looked_at = [round(share * n_steps) for share in _ON_THE_WAY]
        kept: list[Tensor] = []
        last, used = adjoint_kspace, op
        for index, iterate in enumerate(self._run(adjoint_kspace, op, strength)):
            last, used = iterate
            kept += [last] * looked_at.count(index)
        if used is op:
            return Solution(last, FIXED_COUNT, n_steps, (), on_the_way=tuple(kept))
        return RefinedSolution(last, FIXED_COUNT, n_steps, (), op=used, on_the_way=tuple(kept))
