"""Multi-coil Cartesian MRI as a linear operator, A = M F S."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.physics.bridge import apply_linear, is_tracked
from mri_unroll.physics.fourier import centring_phases, conjugate_filter, consume, fft, ifft
from mri_unroll.physics.fused import fused_normal
from mri_unroll.physics.linop import LinearOperator

# Bytes of coil pictures worked on at a time: what stays in a core's cache; on a GPU, what keeps it busy.
_BLOCK_BYTES = {"cpu": 2**20, "cuda": 2**28}
_SMALL_PICTURE = 2**17  # bytes below which calls cost more than work, and coils are better taken together


class SenseOperator(LinearOperator):
    r"""Multi-coil Cartesian acquisition, :math:`A = M F S`, in two or three dimensions.

    No data is ever shifted: the phases that centre the transform multiply the picture and k-space, and in
    :math:`A^H A` they cancel. There, too, the transform cancels along every axis on which the mask does not depend: a
    mask of phase-encoding lines leaves one 1-D FFT pair per coil. On CPU and in single precision `fused` does all of
    that in the processor's cache. Else coils are worked on one after the other (several together where pictures are
    small, or on a GPU) and added up as they come, so that an application needs its result and two coil pictures.

    Parameters
    ----------
    sens_maps
        Coil sensitivities, complex, ``(*batch, coil, [z,] y, x)``; the sum over coils of ``abs(sens_maps)**2`` is 1 in
        the body. Gradients flow to them.
    mask
        True where measured (or real weights), broadcastable to ``(*batch, 1, [kz,] ky, kx)``.
    ndim
        2 or 3: axes of a picture.
    soft
        Several sets of maps (soft ESPIRiT): maps are ``(*batch, set, coil, ...)``, a picture is ``(*batch, set, ...)``
        with one component a set, and the coils see the sum of all sets.

    Raises
    ------
    ShapeError
        If maps and mask do not broadcast, naming both shapes.

    Notes
    -----
    Pruessmann et al., Magn. Reson. Med. 42, 952 (1999),
    doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S; several sets: Uecker et al., Magn. Reson. Med.
    71, 990 (2014), doi:10.1002/mrm.24751.
    """

    def __init__(self, sens_maps: Tensor, mask: Tensor, *, ndim: int = 2, soft: bool = False) -> None:
        axes = "z, y, x" if ndim == 3 else "y, x"
        if ndim not in (2, 3):
            raise ShapeError(f"Expected 2 or 3 dimensions, got {ndim}.")
        if sens_maps.ndim < ndim + 1 + soft or not sens_maps.is_complex():
            raise ShapeError(
                f"Expected complex maps (*batch, {'set, ' if soft else ''}coil, {axes}), "
                f"got {tuple(sens_maps.shape)} {sens_maps.dtype}."
            )
        spatial = sens_maps.shape[-ndim:]
        shape = (*sens_maps.shape[: -ndim - 1 - soft], 1, *spatial)
        try:
            fits = torch.broadcast_shapes(mask.shape, shape) == torch.Size(shape)
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(f"Expected a mask that broadcasts to {shape}, got {tuple(mask.shape)}.")
        mask = mask.to(device=sens_maps.device, dtype=sens_maps.real.dtype)
        mask = mask.reshape((1,) * (ndim + 1 - mask.ndim) + tuple(mask.shape))
        self._ndim = ndim
        self.image_ndim = ndim + soft  # components of a picture are one unknown
        self.soft = soft
        self.sens_maps = sens_maps
        self._pre, post = centring_phases(tuple(spatial), sens_maps.device, sens_maps.dtype)
        self._post_mask = mask * post
        self._normal_axes: tuple[int, ...] = ()
        for axis in range(-ndim, 0):
            if bool((mask == mask.narrow(axis, 0, 1)).all()):
                mask = mask.narrow(axis, 0, 1)
            elif mask.shape[axis] > 1:
                self._normal_axes += (axis,)
        # M is applied as M^2 to hold the identity for weights other than 0 and 1; zero frequency goes to index 0.
        self._response = torch.fft.ifftshift(mask * mask, dim=self._normal_axes) if self._normal_axes else mask * mask
        self._fused = fused_normal(self._response, self._normal_axes, tuple(spatial), sens_maps.dtype)
        self._maps = self._as_sets(sens_maps)

    @property
    def n_coils(self) -> int:
        """Coils."""
        return int(self.sens_maps.shape[-self._ndim - 1])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a picture, ``(*batch, [set,] [z,] y, x)``."""
        return (*self.sens_maps.shape[: -self._ndim - 1], *self.sens_maps.shape[-self._ndim :])

    @property
    def mask(self) -> Tensor:
        """True where measured, boolean ``([kz,] ky, kx)``; of the first problem of a batch."""
        mask = self._post_mask.abs() > 0
        spatial = self.sens_maps.shape[-self._ndim :]
        return mask.expand(*mask.shape[: -self._ndim], *spatial).flatten(0, -self._ndim - 1)[0]

    def forward(self, image: Tensor) -> Tensor:
        """``M F S x``: ``(*batch, [z,] y, x)`` to ``(*batch, coil, [kz,] ky, kx)``."""
        self._check(image)
        if is_tracked(self.sens_maps):
            coils = self.sens_maps * (self._pre * image).unsqueeze(-self._ndim - 1)
            return self._post_mask * fft(coils.sum(-self._ndim - 2) if self.soft else coils, self._axes)
        return apply_linear(self._expand(image), self._forward, self._adjoint)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """``S^H F^H M y``: ``(*batch, coil, [kz,] ky, kx)`` to ``(*batch, [z,] y, x)``."""
        wanted = self.sens_maps.shape[-self._ndim - 1 :]
        if kspace.shape[-self._ndim - 1 :] != wanted:
            raise ShapeError(f"Expected k-space (..., {', '.join(map(str, wanted))}), got {tuple(kspace.shape)}.")
        if is_tracked(self.sens_maps):
            coils = ifft(self._post_mask.conj() * kspace, self._axes)
            coils = coils.unsqueeze(-self._ndim - 2) if self.soft else coils
            return self._pre.conj() * (self.sens_maps.conj() * coils).sum(-self._ndim - 1)
        batch = torch.broadcast_shapes(kspace.shape[: -self._ndim - 1], self._batch)
        return apply_linear(kspace.expand(*batch, *wanted), self._adjoint, self._forward)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``, by transforms along only those axes on which the mask depends."""
        self._check(image)
        if is_tracked(self.sens_maps):
            coils = self.sens_maps * image.unsqueeze(-self._ndim - 1)
            coils = self.sampled(coils.sum(-self._ndim - 2) if self.soft else coils)
            coils = coils.unsqueeze(-self._ndim - 2) if self.soft else coils
            return (self.sens_maps.conj() * coils).sum(-self._ndim - 1)
        return apply_linear(self._expand(image), self._normal, self._normal)

    def gradient(self, image: Tensor, adjoint_kspace: Tensor) -> Tensor:
        r"""Gradient of :math:`\tfrac12\|Ax-y\|^2`, given :math:`A^H y` once; outside autograd in one pass."""
        if is_tracked(self.sens_maps, image, adjoint_kspace):
            return self.normal(image) - adjoint_kspace
        self._check(image)
        return self._add_normal(self._expand(image), -adjoint_kspace)

    def coil_images(self, kspace: Tensor) -> Tensor:
        """``F^H M y``, the zero-filled picture of each coil; the adjoint combines them with the maps."""
        return self._pre.conj() * ifft(self._post_mask.conj() * kspace, self._axes)

    def sampled(self, coil_images: Tensor) -> Tensor:
        """``F^H M^2 F`` of the picture of each coil: what it would look like zero-filled."""
        if not self._normal_axes:
            return self._response * coil_images
        return ifft(self._response * fft(coil_images, self._normal_axes), self._normal_axes)

    def with_maps(self, sens_maps: Tensor) -> SenseOperator:
        """The same acquisition through other maps of the same shape."""
        other = copy.copy(self)
        other.sens_maps = sens_maps
        other._maps = self._as_sets(sens_maps)
        return other

    def reversed(self, axes: tuple[int, ...]) -> SenseOperator:
        """The operator of the same scan of a picture that is reversed along ``axes``, counted from the last, -1.

        Its normal operator, applied to the reversed picture, gives the reversed result. Of k-space it keeps the
        sampling pattern, not the phase: reversal about pixels' edges shifts an even axis by one pixel.
        """
        mask = self._post_mask.abs()
        for axis in axes:
            if mask.shape[axis] > 1:  # zero frequency, at n // 2, stays where it is
                mask = mask.flip(axis).roll(1 - mask.shape[axis] % 2, axis)
        return SenseOperator(self.sens_maps.flip(axes), mask, ndim=self._ndim, soft=self.soft)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self._ndim, 0))

    @property
    def _batch(self) -> torch.Size:
        return self.sens_maps.shape[: -self._ndim - 1 - self.soft]

    def _check(self, image: Tensor) -> None:
        wanted = self.image_shape[len(self._batch) :]
        if image.shape[-len(wanted) :] != wanted or not image.is_complex():
            raise ShapeError(
                f"Expected a complex picture (..., {', '.join(map(str, wanted))}), "
                f"got {tuple(image.shape)} {image.dtype}."
            )

    def _expand(self, image: Tensor) -> Tensor:
        """Picture with the batch of the maps: one adjoint then fits both ways."""
        shape = self.image_shape[len(self._batch) :]
        return image.expand(*torch.broadcast_shapes(image.shape[: -len(shape)], self._batch), *shape)

    def _as_sets(self, sens_maps: Tensor) -> Tensor:
        maps = sens_maps.detach().resolve_conj()
        return maps if self.soft else maps.unsqueeze(-self._ndim - 2)

    # Below: no autograd. Pictures are (*batch, set, ...) inside, with one set where there are no several.

    def _blocks(self) -> Iterator[int | slice]:
        """Yield the coils to work on at a time: one, or several, as a slice, where pictures are small, or on a GPU."""
        n_coils, *spatial = self._maps.shape[-self._ndim - 1 :]
        picture_bytes = math.prod(spatial) * self._maps.element_size()
        if picture_bytes > _SMALL_PICTURE and self._maps.device.type == "cpu":
            yield from range(n_coils)
        else:
            budget = _BLOCK_BYTES.get(self._maps.device.type, _BLOCK_BYTES["cpu"])
            coils = max(1, min(n_coils, budget // picture_bytes))
            for first in range(0, n_coils, coils):
                yield slice(first, first + coils)

    def _problems(self, batch: torch.Size) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Yield index and maps, ``(set, coil, ...)``, of every problem in the batch."""
        maps = self._maps.expand(*batch, *self._maps.shape[-self._ndim - 2 :])
        for index in np.ndindex(*batch):
            yield index, maps[index]

    def _per_problem(self, factor: Tensor, batch: torch.Size) -> Tensor:
        """Mask-like ``(*, 1, ...)`` seen with the whole batch, coil axis kept."""
        return factor.expand(*batch, *factor.shape[-self._ndim - 1 :])

    def _normal(self, image: Tensor) -> Tensor:
        return self._add_normal(image, image.new_zeros(()))

    def _add_normal(self, image: Tensor, start: Tensor) -> Tensor:
        """``A^H A x`` added to ``start``."""
        total = start.resolve_conj().expand(image.shape).clone(memory_format=torch.contiguous_format)
        image = image.resolve_conj().contiguous()
        x, sums = (t if self.soft else t.unsqueeze(-self._ndim - 1) for t in (image, total))
        batch = x.shape[: -self._ndim - 1]
        maps = self._maps.expand(*batch, *self._maps.shape[-self._ndim - 2 :])
        is_plain = image.dtype == maps.dtype == torch.complex64 and maps.device.type == "cpu"  # with_maps may change it
        if self._fused is not None and is_plain and maps[(0,) * len(batch)].is_contiguous():
            self._fused.add_to(sums, x, maps)
            return total
        total.conj_physical_()  # the sum is of conjugates
        response = self._per_problem(self._response, batch)
        for index in np.ndindex(*batch):
            set_maps, sources, totals = maps[index].unbind(), x[index].unbind(), sums[index].unbind()
            filtered = conjugate_filter(sources[0], self._normal_axes, response[index][0])
            for coils in self._blocks():
                blocks = [maps[coils] for maps in set_maps]
                # Nested, so that no name holds on to a workspace longer than it is needed.
                _add_coils(totals, filtered(_combine(blocks, sources)), blocks)
        return total.conj_physical_()

    def _forward(self, image: Tensor) -> Tensor:
        x = image if self.soft else image.unsqueeze(-self._ndim - 1)
        batch = x.shape[: -self._ndim - 1]
        kspace = x.new_empty(*batch, *self._maps.shape[-self._ndim - 1 :])
        weights = self._per_problem(self._post_mask, batch)
        for index, maps in self._problems(batch):
            set_maps, sources, target = maps.unbind(), (x[index] * self._pre).unbind(), kspace[index]
            for coils in self._blocks():
                spectra = consume(_combine([maps[coils] for maps in set_maps], sources), self._axes)
                torch.mul(spectra, weights[index][0], out=target[coils])
        return kspace

    def _adjoint(self, kspace: Tensor) -> Tensor:
        batch = kspace.shape[: -self._ndim - 1]
        conj = kspace.new_zeros(*batch, self._maps.shape[-self._ndim - 2], *kspace.shape[-self._ndim :])
        weights = self._per_problem(self._post_mask.conj().resolve_conj(), batch)
        for index, maps in self._problems(batch):
            set_maps, totals, source = maps.unbind(), conj[index].unbind(), kspace[index]
            for coils in self._blocks():
                _add_coils(
                    totals,
                    consume((source[coils] * weights[index][0]).conj_physical_(), self._axes),
                    [maps[coils] for maps in set_maps],
                )
        result = conj.mul_(self._pre).conj_physical_()
        return result if self.soft else result.squeeze(-self._ndim - 1)


def _combine(blocks: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Coil pictures, in new memory, from the maps and the component of each set."""
    pictures = blocks[0] * parts[0]
    for block, part in zip(blocks[1:], parts[1:], strict=True):
        pictures.addcmul_(block, part)
    return pictures


def _add_coils(totals: Sequence[Tensor], conj_pictures: Tensor, blocks: Sequence[Tensor]) -> None:
    """Add the conjugate of the coil combination to the total of each set."""
    for total, block in zip(totals, blocks, strict=True):
        if block.ndim == total.ndim:  # one coil
            total.addcmul_(conj_pictures, block)
        else:
            total += (conj_pictures * block).sum(0)
