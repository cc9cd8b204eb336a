"""Multi-coil Cartesian MRI as a linear operator, A = M F S."""

from __future__ import annotations

import torch
from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.physics.fourier import centring_phases, fft, ifft
from mri_unroll.physics.linop import LinearOperator


class SenseOperator(LinearOperator):
    r"""Multi-coil Cartesian acquisition, :math:`A = M F S`.

    ``F`` is the centred unitary transform in its shift-free form: its phase before the FFT is folded into the maps, and
    its phase after the FFT cancels in :math:`A^H A`. Where the mask does not depend on the readout, the transform along
    the readout cancels too, and the normal operator needs one 1-D FFT pair per coil.

    Parameters
    ----------
    sens_maps
        Coil sensitivities, complex, ``(*batch, coil, y, x)``; the sum over coils of ``abs(sens_maps)**2`` is 1 in the
        body. Gradients flow to them.
    mask
        True where measured (or real weights), broadcastable to ``(*batch, 1, ky, kx)``; readout is ``ky``.

    Raises
    ------
    ShapeError
        If maps and mask do not broadcast, naming both shapes.

    Notes
    -----
    Pruessmann et al., Magn. Reson. Med. 42, 952 (1999),
    doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S.
    """

    def __init__(self, sens_maps: Tensor, mask: Tensor) -> None:
        if sens_maps.ndim < 3 or not sens_maps.is_complex():
            raise ShapeError(
                f"Expected complex maps (*batch, coil, y, x), got {tuple(sens_maps.shape)} {sens_maps.dtype}."
            )
        shape = (*sens_maps.shape[:-3], 1, *sens_maps.shape[-2:])
        try:
            fits = torch.broadcast_shapes(mask.shape, shape) == torch.Size(shape)
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(f"Expected a mask that broadcasts to {shape}, got {tuple(mask.shape)}.")
        mask = mask.to(device=sens_maps.device, dtype=sens_maps.real.dtype)
        # A mask that says the same for every readout index is kept as one row; see `normal`.
        same_along_readout = mask.shape[-2] == 1 or bool((mask == mask[..., :1, :]).all())
        self.mask = mask[..., :1, :] if same_along_readout else mask
        self.sens_maps = sens_maps
        pre, self._post = centring_phases(tuple(sens_maps.shape[-2:]), sens_maps.device, sens_maps.dtype)
        self._folded_maps = sens_maps * pre
        self._normal_axes = (-1,) if same_along_readout else (-2, -1)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a picture, ``(*batch, y, x)``."""
        return (*self.sens_maps.shape[:-3], *self.sens_maps.shape[-2:])

    def forward(self, image: Tensor) -> Tensor:
        """``M F S x``: ``(*batch, y, x)`` to ``(*batch, coil, ky, kx)``."""
        self._check(image)
        return self.mask * self._post * fft(self._folded_maps * image.unsqueeze(-3))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """``S^H F^H M y``: ``(*batch, coil, ky, kx)`` to ``(*batch, y, x)``."""
        if kspace.shape[-3:] != self.sens_maps.shape[-3:]:
            raise ShapeError(
                f"Expected k-space (..., {', '.join(map(str, self.sens_maps.shape[-3:]))}), got {tuple(kspace.shape)}."
            )
        return (self._folded_maps.conj() * ifft(self._post.conj() * self.mask * kspace)).sum(-3)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``, by 1-D transforms where the mask allows it."""
        self._check(image)
        axes = self._normal_axes
        # M is applied as M^2 to hold the identity for weights other than 0 and 1.
        coils = fft(self._folded_maps * image.unsqueeze(-3), axes)
        return (self._folded_maps.conj() * ifft(self.mask * self.mask * coils, axes)).sum(-3)

    def _check(self, image: Tensor) -> None:
        if image.shape[-2:] != self.sens_maps.shape[-2:] or not image.is_complex():
            raise ShapeError(
                f"Expected a complex picture (..., {self.sens_maps.shape[-2]}, {self.sens_maps.shape[-1]}), "
                f"got {tuple(image.shape)} {image.dtype}."
            )
