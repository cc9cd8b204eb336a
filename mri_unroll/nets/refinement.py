r"""Coil maps that a network refines: estimated from few, noisy lines, they are what limits a good prior.

Other maps make another operator, and another :math:`A^H y`: a network that refines needs what was measured, not only
its sum over coils. `MeasuredOperator` brings it along, so that such networks are called like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.errors import ModelError, ShapeError
from mri_unroll.nets.complex import from_channels, inside_fence, to_channels
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.nufft import NufftOperator
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.solvers.solution import Solution

_SLOPE = 0.1  # of the leaky rectifiers
_REDUCTION = 4  # pixels, along each axis, that are one of the correction: maps are smooth


class MeasuredOperator(LinearOperator):
    r"""A forward operator with what was measured through it, kept as the zero-filled picture of each coil.

    As pictures, :math:`z_c = F^H M y_c`, measurements can be cut and turned together with the maps, and
    :math:`A^H y = \sum_c \bar S_c z_c` for whatever maps.

    Parameters
    ----------
    op
        The operator, with coil maps ``(batch, coil, y, x)``.
    coil_images
        ``z``, of the shape of the maps; see `measured`.

    Raises
    ------
    ShapeError
        If maps and coil images differ in shape.
    """

    def __init__(self, op: SenseOperator | NufftOperator, coil_images: Tensor) -> None:
        if coil_images.shape != op.sens_maps.shape or coil_images.ndim != 4:
            raise ShapeError(
                f"Expected maps and coil images of one shape (batch, coil, y, x), got {tuple(op.sens_maps.shape)} "
                f"and {tuple(coil_images.shape)}."
            )
        self.op = op
        self.image_ndim = op.image_ndim
        self.coil_images = coil_images

    @property
    def n_coils(self) -> int:
        """Coils."""
        return self.op.n_coils

    @property
    def sens_maps(self) -> Tensor:
        """Of the operator, ``(batch, coil, y, x)``."""
        return self.op.sens_maps

    def forward(self, image: Tensor) -> Tensor:
        """As the operator's."""
        return self.op.forward(image)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """As the operator's."""
        return self.op.adjoint(kspace)

    def normal(self, image: Tensor) -> Tensor:
        """As the operator's."""
        return self.op.normal(image)

    def gradient(self, image: Tensor, adjoint_kspace: Tensor) -> Tensor:
        """As the operator's."""
        return self.op.gradient(image, adjoint_kspace)

    def adjoint_kspace(self) -> Tensor:
        """``A^H y``, complex ``(batch, y, x)``."""
        return (self.sens_maps.conj() * self.coil_images).sum(-3)

    def with_maps(self, sens_maps: Tensor) -> MeasuredOperator:
        """The same measurements, seen through other maps."""
        return MeasuredOperator(self.op.with_maps(sens_maps), self.coil_images)

    def reversed(self, axes: tuple[int, ...]) -> MeasuredOperator:
        """As `SenseOperator.reversed`, for pictures and measurements that are reversed along ``axes``."""
        if not isinstance(self.op, SenseOperator):
            raise ShapeError("Expected measurements on a grid, got a trajectory: its reversal is another one.")
        return MeasuredOperator(self.op.reversed(axes), self.coil_images.flip(axes))


def measured(network: nn.Module, op: SenseOperator | NufftOperator, kspace: Tensor) -> LinearOperator:
    """The operator to call a network with: with what was measured if it refines coil maps, else as it is.

    Parameters
    ----------
    network
        Any network of `mri_unroll.nets.model.build`.
    op
        The operator with estimated maps, ``(batch, coil, y, x)``.
    kspace
        Measurements that belong to the operator, ``(batch, coil, ...)``.
    """
    return MeasuredOperator(op, op.coil_images(kspace)) if refines_maps(network) else op


def refines_maps(network: nn.Module) -> bool:
    """Whether a network needs a `MeasuredOperator`."""
    return any(isinstance(module, MapRefiner) for module in network.modules())


class MapRefiner(nn.Module):
    r"""Correct coil maps by what they leave unexplained of the measurements.

    .. math:: S'_c = n\,\bigl(S_c + r_c\,V(S_c / r_c, g_c / r_c, |x|, s)\bigr), \qquad
              g_c = \bar x \bigl(F^H M F\,(S_c x) - z_c\bigr)

    ``g`` is the gradient of the data term by the map, ``r_c`` the root mean square of a map over the picture, and ``n``
    the real factor per pixel that gives the maps the norm over coils which they had. ``V`` works coil by coil on
    pictures reduced by four, as maps are smooth, and sees the other coils through the mean of their features, weighted
    by :math:`r_c^2`. So it serves any number of coils in any order, a coil without signal changes nothing, and a single
    coil keeps its modulus. It begins with :math:`V = 0`: the maps as they were.

    Parameters
    ----------
    n_strength
        Length of the strength vector.
    width
        Channels.

    Notes
    -----
    Maps and picture refined in turns by networks: Arvinte et al., MICCAI 2021, doi:10.1007/978-3-030-87231-1_34; maps
    estimated by a network inside the reconstruction: Sriram et al. (E2E-VarNet), MICCAI 2020,
    doi:10.1007/978-3-030-59713-9_7. Here a network corrects the estimate of a calibration, and only smoothly.
    """

    def __init__(self, n_strength: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(5 + n_strength, width, 3, padding=1)
        self.middle = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        for module in (self.first, self.middle):
            nn.init.kaiming_normal_(module.weight, a=_SLOPE)
            nn.init.zeros_(module.bias if module.bias is not None else module.weight)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias if self.last.bias is not None else self.last.weight)

    def forward(self, image: Tensor, op: LinearOperator, strength: Tensor) -> MeasuredOperator:
        """The operator with refined maps.

        Parameters
        ----------
        image
            The picture so far, complex ``(batch, y, x)``.
        op
            A `MeasuredOperator`.
        strength
            ``(batch, n_strength)``.

        Raises
        ------
        ModelError
            If ``op`` does not know what was measured.
        """
        if not isinstance(op, MeasuredOperator):
            raise ModelError(
                f"Expected what was measured, for this network refines coil maps; got a bare {type(op).__name__}.",
                "Call it with `nets.refinement.measured(network, op, kspace)`.",
            )
        maps = op.sens_maps
        gradient = image.conj().unsqueeze(-3) * (op.op.sampled(maps * image.unsqueeze(-3)) - op.coil_images)
        size = _root(_power(maps).mean(dim=(-2, -1), keepdim=True))  # (batch, coil, 1, 1)
        change = size * self._change(maps, gradient, size, image.abs(), strength)
        return op.with_maps(_with_norm_of(maps + change, maps))

    def _change(self, maps: Tensor, gradient: Tensor, size: Tensor, brightness: Tensor, strength: Tensor) -> Tensor:
        """``V`` of every coil, complex ``(batch, coil, y, x)``."""
        n_batch, n_coils, height, width = maps.shape
        # Reduced first, as all that follows is then a sixteenth of the work.
        pair = torch.cat([_reduced(maps.flatten(0, 1)), _reduced(gradient.flatten(0, 1))], dim=1)
        low = torch.cat(
            [pair / size.clamp_min(1e-6).flatten(0, 1).unsqueeze(1), _each(_reduced(brightness), n_coils)], dim=1
        )  # (batch * coil, 5, y / 4, x / 4)
        conditions = _each(strength, n_coils)[:, :, None, None].expand(-1, -1, *low.shape[-2:])
        weight = size.square() / size.square().sum(1, keepdim=True).clamp_min(1e-12)
        with inside_fence(low.device):
            features = functional.leaky_relu(self.first(torch.cat([low, conditions], dim=1)), _SLOPE)
            shared = (features.unflatten(0, (n_batch, n_coils)) * weight.unsqueeze(2).to(features.dtype)).sum(1)
            features = torch.cat([features, _each(shared, n_coils)], dim=1)
            features = self.last(functional.leaky_relu(self.middle(features), _SLOPE))
        smooth = functional.interpolate(
            features.to(low.dtype), scale_factor=_REDUCTION, mode="bilinear", align_corners=False
        )
        return from_channels(smooth[..., :height, :width])[:, 0].unflatten(0, (n_batch, n_coils))


@dataclass(frozen=True, slots=True, eq=False)
class RefinedSolution(Solution):
    """A picture with the operator whose maps it was made with."""

    op: LinearOperator


def _reduced(pictures: Tensor) -> Tensor:
    """Real or complex ``(n, y, x)`` to real channels, ``(n, 1 or 2, y / 4, x / 4)``, by means; edges are repeated."""
    channels = to_channels(pictures.unsqueeze(1)) if pictures.is_complex() else pictures.unsqueeze(1)
    pad = (0, -pictures.shape[-1] % _REDUCTION, 0, -pictures.shape[-2] % _REDUCTION)
    return functional.avg_pool2d(functional.pad(channels, pad, mode="replicate") if any(pad) else channels, _REDUCTION)


def _each(x: Tensor, n_coils: int) -> Tensor:
    """``(batch, ...)`` repeated for every coil, ``(batch * coil, ...)``."""
    return x.unsqueeze(1).expand(-1, n_coils, *x.shape[1:]).flatten(0, 1)


def _with_norm_of(maps: Tensor, original: Tensor) -> Tensor:
    """Maps with the norm over coils that others have at each pixel; zero stays zero."""
    wanted, found = (_root(_power(x).sum(-3, keepdim=True)) for x in (original, maps))
    return maps * (wanted / found.clamp_min(1e-12))


def _power(x: Tensor) -> Tensor:
    """Squared magnitude; many times faster than torch's norms of complex numbers."""
    return torch.view_as_real(x).square().sum(-1)


def _root(power: Tensor) -> Tensor:
    """Square root with derivative zero at zero."""
    return power.clamp_min(1e-24).sqrt() * (power > 0)
