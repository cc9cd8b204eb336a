r"""End-to-end variational networks that others trained: on the k-space of all coils, with coil maps of their own.

Both forms repeat, for :math:`k` the predicted k-space of all coils, :math:`y` the measured one and :math:`E = F S` from
a picture to the coils' k-space,

.. math:: k \leftarrow k - \eta\, M (k - y) \mp E\, U(E^H k),

with a U-Net :math:`U` and a weight :math:`\eta` in every cascade. The maps :math:`S` come from the central lines,
through a U-Net of their own. The form of the `fastmri` package normalises what its networks see and thereby follows any
unit of k-space; that of DIRECT divides k-space by a percentile of its magnitude first.

Notes
-----
Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020,
doi:10.1007/978-3-030-59713-9_7; Yiasemis et al., DIRECT: deep image reconstruction toolkit, J. Open Source Softw. 7,
4278 (2022), doi:10.21105/joss.04278.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mri_unroll.nets.instance_unet import InstanceUNet, NormalisedUNet, on_complex
from mri_unroll.physics.fourier import centred_fft, centred_ifft

_TOGETHER = 4  # coils that go through the network for maps at a time; it treats each alone, so memory stays bounded
_LEAST = 1e-30  # a norm of zero stands for this, and maps are zero where nothing is


class FastmriVarNet(nn.Module):
    """The variational network of the `fastmri` package; parameters are called as there.

    Parameters
    ----------
    n_cascades
        Repetitions of the step above.
    width, n_pools
        Of the U-Nets in the cascades.
    maps_width, maps_pools
        Of the U-Net for coil maps.
    """

    def __init__(self, n_cascades: int, width: int, n_pools: int, maps_width: int, maps_pools: int) -> None:
        super().__init__()
        self.sens_net = nn.ModuleDict({"norm_unet": NormalisedUNet(maps_width, maps_pools)})
        self.cascades = nn.ModuleList(_FastmriCascade(NormalisedUNet(width, n_pools)) for _ in range(n_cascades))

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Predict all of k-space.

        Parameters
        ----------
        kspace
            Complex ``(coil, ky, kx)``, zero where not measured, any units; zero frequency at ``n // 2``.
        mask
            Boolean ``(kx,)``: the lines measured.

        Returns
        -------
            K-space ``(coil, ky, kx)``; its transform's root sum of squares is the picture.
        """
        sens_maps = _unit_norm(_by_coil(self.sens_net["norm_unet"], central_images(kspace, symmetric_centre(mask))))
        predicted = kspace
        for cascade in self.cascades:
            predicted = cascade(predicted, kspace, mask, sens_maps)
        return predicted


class _FastmriCascade(nn.Module):
    def __init__(self, model: NormalisedUNet) -> None:
        super().__init__()
        self.model = model
        self.dc_weight = nn.Parameter(torch.ones(1))

    def forward(self, predicted: Tensor, kspace: Tensor, mask: Tensor, sens_maps: Tensor) -> Tensor:
        change = self.model(_combined(predicted, sens_maps)[None])[0]
        return predicted - self.dc_weight * torch.where(mask, predicted - kspace, 0) - centred_fft(change * sens_maps)


class DirectVarNet(nn.Module):
    """The variational network of DIRECT; parameters are called as in the first of its layouts.

    Parameters
    ----------
    n_cascades, width, n_pools
        As for `FastmriVarNet`.
    maps_width, maps_pools
        Of the U-Net that refines coil maps; 0: there is none, and for a single coil none is used.
    maps_normalised
        Whether that U-Net is a `NormalisedUNet`.
    scale_percentile
        Share, 0 to 1, of k-space samples (those not measured count as zero) whose magnitude is below what k-space is
        divided by.
    maps_sigma
        Width of a Gaussian window over the central lines, in halves of the width of k-space; None: no window.
    """

    def __init__(
        self,
        n_cascades: int,
        width: int,
        n_pools: int,
        maps_width: int,
        maps_pools: int,
        maps_normalised: bool,
        scale_percentile: float,
        maps_sigma: float | None,
    ) -> None:
        super().__init__()
        self.layers_list = nn.ModuleList(_DirectCascade(InstanceUNet(2, 2, width, n_pools)) for _ in range(n_cascades))
        self.sensitivity_model: nn.Module | None = None
        if maps_width:
            unet = (
                NormalisedUNet(maps_width, maps_pools)
                if maps_normalised
                else InstanceUNet(2, 2, maps_width, maps_pools)
            )
            self.sensitivity_model = unet
        self.maps_normalised = maps_normalised
        self.scale_percentile = scale_percentile
        self.maps_sigma = maps_sigma

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Predict all of k-space; as `FastmriVarNet.forward`, in the units of ``kspace``."""
        scale = self._scale(kspace)
        kspace = kspace / scale
        sens_maps = self._sens_maps(kspace, mask)
        predicted = kspace
        for layer in self.layers_list:
            predicted = layer(predicted, kspace, mask, sens_maps)
        return predicted * scale

    def _scale(self, kspace: Tensor) -> Tensor:
        size = kspace.abs().flatten()
        return -torch.kthvalue(-size, int((1 - self.scale_percentile) * size.numel()) + 1).values

    def _sens_maps(self, kspace: Tensor, mask: Tensor) -> Tensor:
        if self.maps_sigma is not None:
            order = torch.linspace(-1, 1, kspace.shape[-1], device=kspace.device)
            kspace = kspace * torch.exp(-((order / self.maps_sigma) ** 2))
        sens_maps = _unit_norm(central_images(kspace, whole_centre(mask)))
        unet = self.sensitivity_model
        if unet is None or kspace.shape[0] == 1:
            return sens_maps
        if self.maps_normalised:
            return _unit_norm(_by_coil(unet, sens_maps))
        return _unit_norm(torch.cat([on_complex(unet, coils) for coils in sens_maps.split(_TOGETHER)]))


class _DirectCascade(nn.Module):
    def __init__(self, model: InstanceUNet) -> None:
        super().__init__()
        self.regularizer_model = model
        self.learning_rate = nn.Parameter(torch.ones(1))

    def forward(self, predicted: Tensor, kspace: Tensor, mask: Tensor, sens_maps: Tensor) -> Tensor:
        change = on_complex(self.regularizer_model, _combined(predicted, sens_maps)[None])[0]
        error = torch.where(mask, predicted - kspace, 0)
        return predicted - self.learning_rate * error + centred_fft(change * sens_maps)


def symmetric_centre(mask: Tensor) -> slice:
    """Central lines by the rule of the `fastmri` package: as many on either side as the shorter run has, at least one.

    Parameters
    ----------
    mask
        Boolean ``(kx,)``.

    Notes
    -----
    The package counts a half that was measured to its end as empty, and then takes one line; here it counts as long as
    it is. Masks of fastMRI's kinds never reach so far.
    """
    n, centre = mask.numel(), mask.numel() // 2
    lines = max(2 * min(_run(mask[:centre].flip(0)), _run(mask[centre:])), 1)
    start = (n - lines + 1) // 2
    return slice(start, start + lines)


def whole_centre(mask: Tensor) -> slice:
    """Central lines by the rule of DIRECT: the unbroken run that holds the line of zero frequency.

    Parameters
    ----------
    mask
        Boolean ``(kx,)``.
    """
    centre = mask.numel() // 2
    right = _run(mask[centre:])
    return slice(centre - _run(mask[:centre].flip(0)), centre + right) if right else slice(centre, centre)


def central_images(kspace: Tensor, lines: slice) -> Tensor:
    """Pictures of the coils from some lines of k-space alone, ``(coil, y, x)``."""
    central = torch.zeros_like(kspace)
    central[..., lines] = kspace[..., lines]
    return centred_ifft(central)


def _run(mask: Tensor) -> int:
    """How many of its first values are true."""
    return int(mask.int().cumprod(0).sum())


def _combined(kspace: Tensor, sens_maps: Tensor) -> Tensor:
    """:math:`E^H k`, ``(y, x)``."""
    return (sens_maps.conj() * centred_ifft(kspace)).sum(0)


def _by_coil(unet: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([unet(coils) for coils in images.split(_TOGETHER)])


def _unit_norm(sens_maps: Tensor) -> Tensor:
    return sens_maps / torch.linalg.vector_norm(sens_maps, dim=0).clamp_min(_LEAST)
