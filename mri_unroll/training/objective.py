"""From a configuration to the number that a training step lowers."""

from __future__ import annotations

import torch
from torch import Tensor

from mri_unroll.nets.contraction import contraction_penalty, drift
from mri_unroll.nets.equilibrium import Equilibrium
from mri_unroll.nets.model import Network
from mri_unroll.physics.fourier import centred_fft
from mri_unroll.solvers.fixed_point import Map
from mri_unroll.training.examples import Example, Supervised
from mri_unroll.training.losses import (
    kspace_loss,
    picture_weights,
    ssim_loss,
    unrolled_loss,
    weighted_l1,
)
from mri_unroll.training.self_supervision import HeldOutExample
from mri_unroll.training.settings import TrainingConfig


class Objective:
    """The loss of a network on one example.

    ============  ====================================================================================================
    ``relative``  relative error of the complex pictures and of the last magnitude, over the error of the start; and
                  structural similarity of the last
    ``l1``        mean absolute error of the magnitudes
    ``ssim``      one minus structural similarity of the magnitudes, in the body
    ``mixed``     both, ``ssim_weight`` of the latter; Zhao et al., IEEE Trans. Comput. Imaging 3, 47 (2017),
                  doi:10.1109/TCI.2016.2644865
    ``kspace``    error of the k-space of every coil: of all samples, of the measured or of those that were not
    ============  ====================================================================================================

    All are sums over the pictures ``x_1 ... x_K`` with the weights of ``deep_supervision``; of an equilibrium, over as
    many early pictures as there are weights before the last, and itself. An example without a
    reference, whose measured lines were split, has the k-space error of the held-out lines as its loss. To that of an
    equilibrium comes a penalty on a step that does not contract where its picture lies, `contraction_penalty`.

    Parameters
    ----------
    config
        The run.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def __call__(self, network: Network, example: Supervised | HeldOutExample) -> Tensor:
        """The loss, a scalar with a graph."""
        problem = example.adjoint_kspace, example.op, example.strength
        if isinstance(network, Equilibrium):
            iterates = list(network.iterates(*problem, n_early=len(self.config.deep_supervision) - 1))
        else:
            iterates = list(network.iterates(*problem))
        loss = self._error(iterates, example)
        if self.config.contraction_penalty and isinstance(network, Equilibrium):
            penalty = self._penalty(network.step_of(*problem, iterates[0]), iterates[-1].detach())
            loss = loss + self.config.contraction_penalty * penalty
        return loss

    def _penalty(self, step: Map, image: Tensor) -> Tensor:
        limit = self.config.contraction_limit
        if self.config.contraction_along == "drift":
            return contraction_penalty(step, image, limit, drift(step, image), n_iterations=0)[0]
        return contraction_penalty(step, image, limit)[0]

    def _error(self, iterates: list[Tensor], example: Supervised | HeldOutExample) -> Tensor:
        if isinstance(example, Supervised) and self.config.loss == "relative":
            weights = self.config.deep_supervision
            return unrolled_loss(iterates, example.coil_combined, example.rss, example.body, weights)
        loss = torch.zeros((), device=iterates[0].device)
        weights_of = picture_weights(self.config.deep_supervision, len(iterates) - 1)
        for weight, image in zip(weights_of, iterates[1:], strict=True):
            if weight:
                loss = loss + weight * self._distance(image, example)
        return loss

    def _distance(self, image: Tensor, example: Supervised | HeldOutExample) -> Tensor:
        if isinstance(example, HeldOutExample):
            return example.loss(image)
        if self.config.loss == "kspace":
            assert isinstance(example, Example)  # the settings see to it
            return _coil_kspace_error(image, example, self.config.kspace_samples)
        magnitude, share = image.abs(), {"l1": 0.0, "ssim": 1.0}.get(self.config.loss, self.config.ssim_weight)
        loss = torch.zeros((), device=image.device)
        if share < 1:
            loss = loss + (1 - share) * weighted_l1(magnitude, example.rss, example.body)
        if share > 0:
            loss = loss + share * ssim_loss(magnitude, example.rss, example.body)
        return loss


def _coil_kspace_error(image: Tensor, example: Example, samples: str) -> Tensor:
    # A strip has k-space too: along the readout nothing was left out, so that rows stand each for themselves.
    predicted, wanted = (
        centred_fft(x, (-2, -1)) for x in (example.op.sens_maps * image.unsqueeze(-3), example.coil_images)
    )
    if samples != "all":
        compared = example.mask if samples == "measured" else ~example.mask
        predicted, wanted = predicted * compared, wanted * compared
    return kspace_loss(predicted, wanted)
