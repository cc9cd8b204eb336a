"""Multi-coil non-Cartesian MRI as a linear operator, A = sqrt(W) N S."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_unroll.errors import ConfigError, ShapeError, UnsupportedScan
from mri_unroll.physics.bridge import apply_linear, is_tracked
from mri_unroll.physics.linop import LinearOperator
from mri_unroll.physics.nufft_engine import default_engine, make_engine
from mri_unroll.physics.toeplitz import GramOperator


class NufftOperator(LinearOperator):
    r"""Multi-coil acquisition along any trajectory, :math:`A = \sqrt W N S`.

    .. math:: (N x)_s = \frac1{\sqrt{\prod n_a}}
              \sum_j x_j \exp\Bigl(-2\pi i \sum_a k_{sa} \frac{j_a - \lfloor n_a/2 \rfloor}{n_a}\Bigr)

    so that at the points ``index - n // 2`` of the Cartesian grid ``N`` is the centred unitary FFT. Only ``N`` is
    foreign to torch: gradients of every order reach picture, measurements and coil maps.

    Parameters
    ----------
    sens_maps
        Coil sensitivities, complex, ``(*batch, coil, [z,] y, x)``; the sum over coils of ``abs(sens_maps)**2`` is 1 in
        the body.
    coordinates
        Where k-space was sampled, real, ``(sample, ndim)`` with ``ndim`` 2 or 3, in cycles per field of view, within
        ``[-n/2, n/2]``; the last axis is ordered like the axes of the picture, ``([z,] y, x)``.
    weights
        Density compensation, real, ``(sample,)``, 0 or more (see `trajectory.density_compensation`). The measurements
        that belong to this operator are k-space times ``sqrt(weights)``.
    tolerance
        Relative error asked of the transform; what comes is at most three times that. From 1e-4 on, complex64 is also
        transformed in single precision, in 3-D about twice as fast.
    toeplitz
        Compute `normal` as a convolution, without going to k-space: several times faster than forward and adjoint.
    engine
        Of the transform: ``finufft``, ``sigpy/numpy``, ``cufinufft`` or ``sigpy/cupy``; by default the fastest that is
        installed for the device of the maps.

    Attributes
    ----------
    engine : str
        Name of the engine that runs.

    Raises
    ------
    ShapeError
        If maps, coordinates or weights have the wrong shape or type.
    UnsupportedScan
        If coordinates are not finite or outside the picture's k-space, or weights are negative or not finite.
    ConfigError
        If the tolerance is out of range or out of the engine's reach, or there is no such engine.
    DeviceError
        If no engine serves the device.

    References
    ----------
    Pruessmann et al., Magn. Reson. Med. 46, 638 (2001), doi:10.1002/mrm.1241.
    """

    def __init__(
        self,
        sens_maps: Tensor,
        coordinates: Tensor | NDArray[np.floating],
        weights: Tensor | NDArray[np.floating] | None = None,
        *,
        tolerance: float = 1e-6,
        toeplitz: bool = True,
        engine: str | None = None,
    ) -> None:
        coordinates, weights = torch.as_tensor(coordinates), None if weights is None else torch.as_tensor(weights)
        check_coordinates(coordinates, tuple(sens_maps.shape))
        self.image_ndim = coordinates.shape[-1]
        if sens_maps.ndim < self.image_ndim + 1 or not sens_maps.is_complex():
            axes = "z, y, x" if self.image_ndim == 3 else "y, x"
            raise ShapeError(
                f"Expected complex maps (*batch, coil, {axes}), got {tuple(sens_maps.shape)} {sens_maps.dtype}."
            )
        if weights is not None:
            _check_weights(weights, len(coordinates))
        if not 1e-14 <= tolerance < 0.1:
            raise ConfigError(f"Expected a tolerance from 1e-14 to 0.1, got {tolerance:g}.")
        self.sens_maps = sens_maps
        self.coordinates = coordinates.to(sens_maps.device, torch.float64)
        self.weights = None if weights is None else weights.to(sens_maps.device, torch.float64)
        self.tolerance = tolerance
        self.toeplitz = toeplitz
        self.engine = engine or default_engine(sens_maps.device)
        self._nufft = make_engine(self.coordinates, self._grid, tolerance, self.engine)
        self._root_weights = None if self.weights is None else self.weights.sqrt().to(sens_maps.real.dtype)

    @property
    def n_coils(self) -> int:
        """Coils."""
        return int(self.sens_maps.shape[-self.image_ndim - 1])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a picture, ``(*batch, [z,] y, x)``."""
        return (*self.sens_maps.shape[: -self.image_ndim - 1], *self._grid)

    @property
    def _grid(self) -> tuple[int, ...]:
        return tuple(self.sens_maps.shape[-self.image_ndim :])

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(math.prod(self._grid))

    def forward(self, image: Tensor) -> Tensor:
        """``sqrt(W) N S x``: ``(*batch, [z,] y, x)`` to ``(*batch, coil, sample)``."""
        self._check(image)
        coils = self.sens_maps * (self._scale * image).unsqueeze(-self.image_ndim - 1)
        kspace = apply_linear(coils, self._nufft.forward, self._nufft.adjoint)
        return kspace if self._root_weights is None else kspace * self._root_weights

    def adjoint(self, kspace: Tensor) -> Tensor:
        """``S^H N^H sqrt(W) y``: ``(*batch, coil, sample)`` to ``(*batch, [z,] y, x)``."""
        expected = (self.sens_maps.shape[-self.image_ndim - 1], len(self.coordinates))
        if tuple(kspace.shape[-2:]) != expected or not kspace.is_complex():
            raise ShapeError(
                f"Expected complex k-space (..., {expected[0]}, {expected[1]}), "
                f"got {tuple(kspace.shape)} {kspace.dtype}."
            )
        return (self.sens_maps.conj() * self.coil_images(kspace)).sum(-self.image_ndim - 1)

    def coil_images(self, kspace: Tensor) -> Tensor:
        """``N^H sqrt(W) y``, the gridded picture of each coil; the adjoint combines them with the maps."""
        weighted = kspace if self._root_weights is None else kspace * self._root_weights
        return self._scale * apply_linear(weighted, self._nufft.adjoint, self._nufft.forward)

    def sampled(self, coil_images: Tensor) -> Tensor:
        """``N^H W N`` of the picture of each coil: what it would look like gridded."""
        return apply_linear(coil_images, self._gram.apply, self._gram.apply)

    def with_maps(self, sens_maps: Tensor) -> NufftOperator:
        """The same acquisition through other maps of the same shape."""
        if self.toeplitz:
            _ = self._gram  # computed once for both
        other = copy.copy(self)
        other.sens_maps = sens_maps
        other.__dict__.pop("_conj_maps", None)
        return other

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``, by default as a convolution."""
        self._check(image)
        if not self.toeplitz:
            return super().normal(image)
        gram = self._gram
        if is_tracked(self.sens_maps):
            coils = self.sampled(self.sens_maps * image.unsqueeze(-self.image_ndim - 1))
            return (self.sens_maps.conj() * coils).sum(-self.image_ndim - 1)

        def normal(x: Tensor) -> Tensor:
            return gram.normal(x, self.sens_maps, self._conj_maps)

        # With the batch of the maps the map goes from a shape to the same, and is its own adjoint.
        return apply_linear(image.expand(torch.broadcast_shapes(image.shape, self.image_shape)), normal, normal)

    @functools.cached_property
    def _gram(self) -> GramOperator:
        dtype = self.sens_maps.dtype
        return GramOperator(self.coordinates, self.weights, self._grid, dtype, self.tolerance, self.engine)

    @functools.cached_property
    def _conj_maps(self) -> Tensor:
        """Conjugated once: torch would do it again at every multiplication."""
        return self.sens_maps.detach().conj().resolve_conj()

    def _check(self, image: Tensor) -> None:
        if tuple(image.shape[-self.image_ndim :]) != self._grid or not image.is_complex():
            raise ShapeError(
                f"Expected a complex picture (..., {', '.join(map(str, self._grid))}), "
                f"got {tuple(image.shape)} {image.dtype}."
            )


def check_coordinates(coordinates: Tensor, image_shape: tuple[int, ...]) -> None:
    """Refuse positions that are no trajectory through the k-space of a picture ``(..., [z,] y, x)``.

    Raises
    ------
    ShapeError
        If they are not real ``(sample, ndim)`` with ``ndim`` 2 or 3.
    UnsupportedScan
        If one is not finite or lies outside ``[-n/2, n/2]``.
    """
    if coordinates.is_complex() or not coordinates.is_floating_point():
        raise ShapeError(
            f"Expected real floating-point coordinates (sample, ndim), got {coordinates.dtype}.",
            "Stack the axes ([z,] y, x) last.",
        )
    if coordinates.ndim != 2 or coordinates.shape[-1] not in (2, 3) or len(coordinates) == 0:
        raise ShapeError(f"Expected coordinates (sample, 2) or (sample, 3), got {tuple(coordinates.shape)}.")
    if coordinates.requires_grad:
        raise ShapeError("Expected coordinates without gradient, got some that require it.", "Detach them.")
    if not bool(torch.isfinite(coordinates).all()):
        raise UnsupportedScan("Expected finite coordinates, got NaN or infinity.", "Leave those samples out.")
    limits = torch.tensor(image_shape[-coordinates.shape[-1] :], dtype=torch.float64) / 2
    reached = coordinates.detach().abs().amax(0).to("cpu", torch.float64)
    if bool((reached > limits * (1 + 1e-6)).any()):  # n/2 is -n/2; single precision rounds
        raise UnsupportedScan(
            f"Expected coordinates within {[f'+-{limit:g}' for limit in limits.tolist()]} cycles per field of view, "
            f"got up to {[f'{most:g}' for most in reached.tolist()]}.",
            "Scale them to cycles per field of view, choose a larger picture, or leave the outer samples out.",
        )


def _check_weights(weights: Tensor, n_samples: int) -> None:
    if tuple(weights.shape) != (n_samples,) or weights.is_complex():
        raise ShapeError(f"Expected real weights ({n_samples},), got {tuple(weights.shape)} {weights.dtype}.")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise UnsupportedScan("Expected finite weights of 0 or more, got others.", "Compute them again.")
