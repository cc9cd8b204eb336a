"""The witness that a reconstruction runs beside: what it saw becomes the verdict."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri_unroll.config import ReconstructionConfig
from mri_unroll.image import Evidence, Image
from mri_unroll.nets import model
from mri_unroll.nets.model import Network
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.calibrate import Problem
from mri_unroll.recon.reconstructor import Reconstructor, choose_device, shipped_models, weights_folder
from mri_unroll.recon.slicewise import SlicewiseReconstructor
from mri_unroll.scan import Scan
from mri_unroll.solvers.solution import Solution
from mri_unroll.trust import familiarity
from mri_unroll.trust import heads as calibrations
from mri_unroll.trust.acquisition import AcquisitionChecks
from mri_unroll.trust.checks import appearance_check, fault_checks
from mri_unroll.trust.evidence import gather, second_opinion
from mri_unroll.trust.heads import Heads
from mri_unroll.trust.prediction import error_map, predict
from mri_unroll.trust.verdict import Verdict, judge

SECOND = "unrolled-small"
SUFFIX = ".trust.safetensors"  # of the calibration beside a checkpoint


@functools.lru_cache(maxsize=2)
def second_network(device: torch.device) -> Network:
    """The small shipped network that every picture is held against, in evaluation mode."""
    return model.load(shipped_models()[SECOND])[0].to(device)


def calibrated_methods() -> dict[str, Path]:
    """Names of the methods whose error can be predicted, and where their calibrations lie."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted((weights_folder() / "trust").glob(f"*{SUFFIX}"))}


class Witness:
    """Watches one scan being reconstructed, part by part, and then judges.

    Parameters
    ----------
    reconstructor
        Any method. Where its error can be predicted, `reconstructor` of the witness is the same, watched.
    config
        With which settings it was made.
    """

    def __init__(self, reconstructor: Reconstructor, config: ReconstructionConfig) -> None:
        self.reconstructor = reconstructor
        self._coverage = config.coverage
        self._checks = AcquisitionChecks()
        self._heads, self._reasons = _heads_for(reconstructor, config)
        if self._heads is not None and isinstance(reconstructor, SlicewiseReconstructor):
            self._network = second_network(choose_device(config.device))
            self.reconstructor = dataclasses.replace(reconstructor, witness=self._see)

    def watch(self, scan: Scan) -> None:
        """Look at some slices of the scan, as they are about to be reconstructed."""
        self._checks.see(scan)

    def _see(self, problem: Problem, solution: Solution, op: LinearOperator) -> tuple[Evidence, Tensor | None] | None:
        assert self._heads is not None
        if not isinstance(problem.op, SenseOperator) or not isinstance(op, SenseOperator) or solution.value.ndim != 3:
            return None
        evidence, pictures = gather(problem, solution, op, second_opinion(problem, self._network))
        features = self._heads.standard([evidence.features])
        return evidence, error_map(pictures.cpu(), features, self._heads, self._coverage)

    def verdict(self, image: Image) -> Verdict:
        """What to think of the volume that was made of all that was watched."""
        checks, reasons, predicted = self._checks.judged(), list(self._reasons), None
        if self._heads is not None:
            evidence = image.diagnostics.evidence
            if evidence:
                predicted = predict(evidence, self._heads, self._coverage)
                checks += [*fault_checks(evidence, self._heads), appearance_check(evidence, familiarity.limit())]
            else:
                reasons.append(
                    "No error is predicted: that is possible only for scans on a grid that fall apart into planes, and "
                    "where something was measured."
                )
        return judge(predicted, checks, reasons, bool(np.isfinite(image.pixels).all()))


def _heads_for(reconstructor: Reconstructor, config: ReconstructionConfig) -> tuple[Heads | None, list[str]]:
    """The calibration of a method, or why there is none."""
    if not isinstance(reconstructor, SlicewiseReconstructor):
        return None, [f"No error is predicted for the method {reconstructor.name!r}."]
    path = calibrated_methods().get(config.method)
    if config.method.endswith(".safetensors"):
        beside = Path(config.method).with_suffix(SUFFIX)
        path = beside if beside.is_file() else None
    if path is None:
        known = ", ".join(calibrated_methods())
        return None, [f"No error is predicted for {reconstructor.name!r}: calibrated are {known} (docs/trust.md)."]
    if config.denoise or config.reg_weight is not None or config.n_iterations is not None:
        return None, [f"No error is predicted: {reconstructor.name!r} was calibrated with its own settings only."]
    heads = calibrations.load(path)
    if heads.about.get("weights_digest") != reconstructor.weights_digest:
        return None, [f"No error is predicted: the calibration of {reconstructor.name!r} belongs to other weights."]
    if reconstructor.weights_digest is None and heads.about.get("settings") != dict(reconstructor.parameters):
        return None, [f"No error is predicted: {reconstructor.name!r} was calibrated with other settings."]
    return heads, []
