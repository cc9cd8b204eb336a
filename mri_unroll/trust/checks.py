"""Which faults of an acquisition a scan looks like, and whether its picture and its measurements belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_unroll.image import Evidence
from mri_unroll.trust.context import terms
from mri_unroll.trust.heads import Heads

FALSE_ALARMS = 0.05  # share of faultless scans on which any check may say "look"
SURE = 0.01  # and on which any may say "do not use"

# What each fault is called in the sidecar, and what to tell a person.
SAYS = {
    "swapped coils": ("coil_order", "Coils seem to have changed places during the scan."),
    "shifted mask": ("mask", "Some lines seem to lie elsewhere than the mask says."),
    "missing coil": ("coils", "A coil seems to give no signal, or lost it during the scan."),
    "wrong normalisation": ("scale", "Some lines seem to be scaled otherwise than the centre of k-space."),
    "added ghost": ("ghost", "Every other line seems to have another phase, which shows as a ghost."),
    "motion": ("motion", "Lines disagree with each other as if the patient had moved."),
    "lesion removed": ("agreement", "The picture lacks, or adds, something that the measurements do not bear out."),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One question, and how it went."""

    name: str
    score: float
    limit: float  # above it: look at the picture
    hard_limit: float  # above it: do not use it; infinite where it is only a reason to look
    says: str  # what is wrong if it is

    @property
    def verdict(self) -> str:
        """``go``, ``check`` or ``no-go``."""
        return "go" if self.score <= self.limit else "check" if self.score <= self.hard_limit else "no-go"


def fault_checks(evidence: Sequence[Evidence], heads: Heads) -> list[Check]:
    """One check for each fault that the calibration knows; over a volume the mean over its parts, by energy."""
    with torch.inference_mode():
        scores = fault_scores(heads.standard([part.features for part in evidence]), heads)
    mean = _shares(evidence) @ scores
    limits = heads.limits.tolist()
    return [
        Check(name, float(mean[i]), limits[0][i], limits[1][i], says)
        for i, (name, says) in enumerate(SAYS[fault] for fault in heads.fault_names)
    ]


def appearance_check(evidence: Sequence[Evidence], limit: float) -> Check:
    """Whether it shows a body that is known: what is only unfamiliar may be right, a reason to look, none to refuse."""
    score = float(_shares(evidence) @ torch.tensor([part.unfamiliarity for part in evidence]))
    says = "The picture looks like no brain, knee or heart: nothing else was learned from or calibrated on."
    return Check("appearance", score, limit, math.inf, says)


def _shares(evidence: Sequence[Evidence]) -> Tensor:
    """Of the parts in the energy of all, ``(part,)``."""
    weights = torch.tensor([part.energy for part in evidence], dtype=torch.float32)
    return weights / weights.sum()


def fault_scores(features: Tensor, heads: Heads) -> Tensor:
    """How much each part looks like each fault, ``(n, fault)``.

    Log-odds against none, less what is usual for such a scan, in units of how far they usually are from that: a body
    that fills its field of view, much noise or many coils raise some of them without any fault.
    """
    context = terms(features, heads.names)
    return (heads.faults(features) - context @ heads.usual) / (context @ heads.log_usual_spread).exp()
