"""What kind of scan it is, apart from any fault: what is unusual for one kind is usual for another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Noise, density of samples, coils, whether the mask varies along both axes, size of its centre, and how much of the
# field of view the body fills.
CONTEXT = ("noise", "fraction", "coils", "planar_mask", "centre", "filled_share")


def terms(features: Tensor, names: Sequence[str]) -> Tensor:
    """One, the context, and all products of two of its numbers: ``(n, feature)``, standardised, to ``(n, term)``."""
    found = features[:, [names.index(name) for name in CONTEXT if name in names]]
    first, second = torch.triu_indices(found.shape[1], found.shape[1])
    return torch.cat([torch.ones_like(features[:, :1]), found, found[:, first] * found[:, second]], dim=1)
