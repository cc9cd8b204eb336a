"""What a network reaches on people whom it is not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.nets.model import Network
from mri_unroll.physics.fourier import use_engine
from mri_unroll.recon.calibrate import calibrate_slice
from mri_unroll.training.blurring import BlurredPictures
from mri_unroll.training.dataset import Scans
from mri_unroll.training.examples import Supervised, prepare, split
from mri_unroll.training.self_supervision import HeldOutExample
from mri_unroll.training.settings import TrainingConfig

IN_BODY = "NMSE in the body"
AT_HELD_OUT = "NMSE of held-out lines"


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Mean scores in decibels, less is better, and example pictures."""

    start: float  # of the least squares that the network starts from
    result: float
    noisy: float  # of the result where the reference holds the noise of a full scan
    pictures: list[tuple[NDArray[np.float32], ...]]  # start, result, truth


class HeldOutPeople:
    """Whole slices of the validation people, acquired and calibrated once.

    Parameters
    ----------
    scans
        Their acquisitions.
    config
        The run.
    refines_maps
        Whether the network needs what was measured.
    device
        Of the network.

    Attributes
    ----------
    score
        What the scores are, in words.
    """

    def __init__(
        self, scans: Scans | BlurredPictures, config: TrainingConfig, refines_maps: bool, device: torch.device
    ) -> None:
        self.device = device
        self.score = IN_BODY
        self.groups: dict[float, list[Supervised | HeldOutExample]] = {}
        if isinstance(scans, BlurredPictures):
            self.groups[0.0] = [scans[index] for index in range(len(scans))]
            return
        n_strength = config.model.n_strength
        acquisitions = [scans[index] for index in range(len(scans))]
        with torch.no_grad(), use_engine("torch"):
            if any(acquired.coil_images is None for acquired in acquisitions):
                self.score = AT_HELD_OUT
                self.groups[1.0] = [
                    split(
                        acquired,
                        calibrate_slice(torch.from_numpy(acquired.kspace), torch.from_numpy(acquired.mask)),
                        config.ssdu_share,
                        None,
                        np.random.default_rng(index),
                        n_strength,
                        refines_maps,
                    )
                    for index, acquired in enumerate(acquisitions)
                ]
                return
            # A network that learned from what was measured alone was never asked for a picture without noise.
            asked = config.supervision == "reference" and acquisitions[0].noise_images is not None
            for noise_kept in (0.0, 1.0) if asked else (1.0,):
                self.groups[noise_kept] = [
                    prepare(acquired, None, np.random.default_rng(0), noise_kept, n_strength, refines_maps=refines_maps)
                    for acquired in acquisitions
                ]

    @torch.no_grad()
    def examine(self, network: Network, n_pictures: int) -> Findings:
        """Score a network; draw the first ``n_pictures`` slices, with the noise of a full scan where there is one."""
        means: list[tuple[float, float]] = []
        pictures: list[tuple[NDArray[np.float32], ...]] = []
        for examples in self.groups.values():
            scores: list[tuple[float, float]] = []
            pictures = []
            for example in examples:
                there = example.to(self.device)
                iterates = list(network.iterates(there.adjoint_kspace, there.op, there.strength))
                scores.append((score(iterates[0], there), score(iterates[-1], there)))
                if len(pictures) < n_pictures:
                    truth = there.rss if isinstance(there, Supervised) else there.adjoint_kspace.abs()
                    shown = (iterates[0].abs(), iterates[-1].abs(), truth)
                    pictures.append(tuple(picture[0].float().cpu().numpy() for picture in shown))
            means.append((float(np.mean([s for s, _ in scores])), float(np.mean([r for _, r in scores]))))
        return Findings(means[0][0], means[0][1], means[-1][1], pictures)


def score(image: Tensor, example: Supervised | HeldOutExample) -> float:
    """NMSE in decibels: of the magnitude in the body, or of the k-space that was held out."""
    if isinstance(example, HeldOutExample):
        return 10 * math.log10(max(example.error(image), 1e-30))
    reference = example.rss * example.body
    error = (image.abs() * example.body - reference).square().sum() / reference.square().sum()
    return 10 * math.log10(float(error))
