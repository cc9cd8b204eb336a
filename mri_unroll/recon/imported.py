"""Reconstruction by networks of others, each on the data that it was trained on.

Such networks know nothing of our calibration: they take k-space as the file has it, with its readout oversampling, not
whitened, not compressed, and find coil maps by themselves. The picture is cropped at the end or, for the network on
magnitude pictures, at the beginning, by fastMRI's rules.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, ShapeError, UnsupportedScan
from mri_unroll.image import Image
from mri_unroll.nets import imported
from mri_unroll.nets.instance_unet import MagnitudeUNet
from mri_unroll.nets.varnet import DirectVarNet, FastmriVarNet, symmetric_centre, whole_centre
from mri_unroll.nets.weights import digest
from mri_unroll.physics.fourier import centred_ifft
from mri_unroll.physics.sampling import varies_along
from mri_unroll.recon.parts import Part, Parts
from mri_unroll.recon.slicewise import PartResult, Progress, quiet, run_parts
from mri_unroll.scan import Scan

_FEW_LINES = 8  # central lines below which coil maps are doubtful


class ImportedReconstructor:
    """A network of others as a method.

    Parameters
    ----------
    name
        As the user calls it.
    path
        A checkpoint that `nets.imported.save` wrote.
    device
        Where it runs.

    Raises
    ------
    ModelError
        If the checkpoint cannot be used.
    """

    def __init__(self, name: str, path: Path, device: torch.device) -> None:
        self.name = name
        network, self.config, _ = imported.load(path)
        network = network.to(device)
        self.device = device
        self.weights_digest = digest(path)
        self._run: Callable[[Part, Scan], PartResult] = (
            functools.partial(_from_magnitude, network=network)
            if isinstance(network, MagnitudeUNet)
            else functools.partial(_from_kspace, network=network, n_cascades=self.config.n_cascades)
        )

    def reconstruct(self, scan: Scan, *, progress: Progress = quiet) -> Image:
        """Reconstruct a scan.

        Raises
        ------
        UnsupportedScan
            If it is not Cartesian and two-dimensional, too small for the network, or, for a variational network, not
            sampled in whole lines that include the central one.
        DeviceError
            If the device runs out of memory.
        """
        mask = scan.mask
        if mask is None or scan.ndim != 2:
            raise UnsupportedScan(
                f"The network {self.name!r} was made for Cartesian slices, but this scan is "
                f"{'not Cartesian' if mask is None else 'three-dimensional'}.",
                "Choose another method (`mri-unroll methods`).",
            )

        def take(index: int) -> Part:
            kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index], dtype=np.complex64))
            return Part(kspace, torch.from_numpy(np.array(mask if mask.ndim == 2 else mask[index])))

        parts = Parts(scan.n_slices, take, scan.geometry.recon_shape)
        parameters = dataclasses.asdict(self.config)

        def reconstruct_part(part: Part) -> PartResult:
            try:
                return self._run(part, scan)
            except ShapeError as error:
                raise UnsupportedScan(
                    f"The scan is too small for the network {self.name!r}. {error.message}",
                    "Choose another method (`mri-unroll methods`).",
                ) from error

        return run_parts(
            self.name, reconstruct_part, scan, parts, self.device, parameters, self.weights_digest, progress
        )


def make_imported(name: str, path: Path, config: ReconstructionConfig, device: torch.device) -> ImportedReconstructor:
    """An `ImportedReconstructor`, after a look at settings that it has not.

    Raises
    ------
    ConfigError
        If one of these was set.
    ModelError
        If the checkpoint cannot be used.
    """
    if config.denoise or config.effort != "normal":
        raise ConfigError(
            f"The imported network {name!r} has no setting of how much noise to remove or effort to spend.",
            "Leave these out: it runs as it was trained.",
        )
    return ImportedReconstructor(name, path, device)


def _measured(part: Part) -> tuple[Tensor, Tensor, float]:
    """K-space of the coils that received anything, near 1; the mask; and what k-space was divided by.

    That is a power of two, which changes no digit and keeps squares of very small or large units in range. A coil
    without a signal would be divided by its own deviation, zero.
    """
    mask = part.sampling
    assert isinstance(mask, Tensor)  # the scan is Cartesian
    kspace = torch.where(mask, part.kspace, 0)
    kspace = kspace[(kspace != 0).any(-1).any(-1)]
    scale = 2.0 ** math.frexp(float(kspace.abs().max()))[1]
    return kspace / scale, mask, scale


def _rss(kspace: Tensor) -> Tensor:
    return torch.linalg.vector_norm(centred_ifft(kspace), dim=0)


def _from_magnitude(part: Part, scan: Scan, network: MagnitudeUNet) -> PartResult:
    kspace, _, scale = _measured(part)
    height, width = scan.geometry.recon_shape
    image = _rss(kspace)
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    picture = network(image[top : top + height, left : left + width])
    # A magnitude has no phase to compare with the measurements.
    return PartResult(picture * scale, "U-Net on the zero-filled magnitude.", 1, math.nan, scale, ())


def _from_kspace(part: Part, scan: Scan, network: FastmriVarNet | DirectVarNet, n_cascades: int) -> PartResult:
    kspace, mask, scale = _measured(part)
    lines = mask[0]
    if varies_along(mask.cpu().numpy()) or not bool(lines[lines.numel() // 2]):
        raise UnsupportedScan(
            "A variational network needs whole lines, the central one among them, but this scan's mask has not.",
            "Choose a method that calibrates by itself (`mri-unroll methods`).",
        )
    centre = (symmetric_centre if isinstance(network, FastmriVarNet) else whole_centre)(lines)
    n_lines = int(lines[centre].sum())
    predicted = network(kspace, lines)
    error = torch.where(mask, predicted - kspace, 0)
    warnings = (
        (f"Only {n_lines} central lines gave the coil maps, which may be wrong; such networks expect 8 or more.",)
        if n_lines < _FEW_LINES and kspace.shape[0] > 1
        else ()
    )
    return PartResult(
        picture=_rss(predicted) * scale,
        status=f"{n_cascades} cascades, coil maps from {n_lines} central lines.",
        n_iterations=n_cascades,
        data_residual=float(torch.linalg.vector_norm(error) / torch.linalg.vector_norm(kspace)),
        scale=scale,
        warnings=warnings,
    )
