"""What a solver gives back: a value and what happened on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

CONVERGED = "Converged to the tolerance."
FIXED_COUNT = "Ran the set number of iterations."
STOPPED_SHORT = "Stopped at the iteration limit above the tolerance; allow more iterations or a looser tolerance."


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Result of an iterative method."""

    value: Tensor  # the solution, shape of the unknown
    status: str  # a sentence of advice
    n_iterations: int
    residuals: tuple[float, ...]  # one a iteration, the largest over the batch; what it measures is the solver's to say
    on_the_way: tuple[Tensor, ...] = field(default=(), kw_only=True)  # some iterates, like the value
