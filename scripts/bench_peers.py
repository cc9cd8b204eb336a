"""The same operators in other packages, each as its own documentation has them used: who is not installed is left out.

Every function takes one problem and returns ``name -> call``, all for the same maps, mask and picture, with results as
arrays of the picture's (or the samples') shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmark import has
from torch import Tensor

Call = Callable[[], Any]


def normal_operators(sens_maps: Tensor, mask: Tensor, image: Tensor) -> dict[str, Callable[[Tensor], Any]]:
    """``x -> A^H A x`` of every peer; maps ``(coil, [z,] y, x)``, a boolean mask that broadcasts to a coil."""
    ndim = image.ndim
    peers: dict[str, Callable[[Tensor], Any]] = {"sigpy": _sigpy_normal(sens_maps, mask)}
    if ndim == 2 and has("fastmri"):
        peers["fastmri"] = _fastmri_normal(sens_maps, mask)
    if has("deepinv"):
        peers["deepinv"] = _deepinv_normal(sens_maps, mask)
    if has("mrpro"):
        peers["mrpro"] = _mrpro_normal(sens_maps, mask)
    return peers


def _sigpy_normal(sens_maps: Tensor, mask: Tensor) -> Callable[[Tensor], Any]:
    import sigpy.mri  # not part of `import sigpy`

    normal = sigpy.mri.linop.Sense(sens_maps.numpy(), weights=mask.numpy().astype(np.float32)).N
    return lambda x: normal(x.numpy())


def _fastmri_normal(sens_maps: Tensor, mask: Tensor) -> Callable[[Tensor], Any]:
    import fastmri

    maps = torch.view_as_real(sens_maps)
    keep, zero = mask[..., None], torch.zeros(())

    def normal(x: Tensor) -> Tensor:  # as its VarNet expands, masks and reduces
        kspace = fastmri.fft2c(fastmri.complex_mul(torch.view_as_real(x)[None], maps))
        coils = fastmri.ifft2c(torch.where(keep, kspace, zero))
        return torch.view_as_complex(fastmri.complex_mul(coils, fastmri.complex_conj(maps)).sum(0))

    return normal


def _deepinv_normal(sens_maps: Tensor, mask: Tensor) -> Callable[[Tensor], Any]:
    import deepinv

    spatial = sens_maps.shape[1:]
    full = mask.expand(spatial).to(torch.float32)[None, None].expand(1, 2, *spatial).contiguous()
    physics = deepinv.physics.MultiCoilMRI(
        mask=full, coil_maps=sens_maps[None], img_size=tuple(spatial), three_d=len(spatial) == 3
    )

    def normal(x: Tensor) -> Tensor:
        pair = physics.A_adjoint_A(torch.view_as_real(x).movedim(-1, 0)[None])
        return torch.complex(pair[0, 0], pair[0, 1])

    return normal


def _mrpro_normal(sens_maps: Tensor, mask: Tensor) -> Callable[[Tensor], Any]:
    from mrpro.data import KTrajectory, SpatialDimension
    from mrpro.operators import FourierOp, SensitivityOp

    flat = sens_maps.ndim == 3
    maps = sens_maps[:, None] if flat else sens_maps  # (coil, z, y, x)
    n_z, n_y, n_x = maps.shape[1:]
    lines = mask.reshape(-1, n_x).expand(n_z, n_x).nonzero()  # the mask does not depend on y, the readout
    k_z, k_x = (lines[:, axis] - n // 2 for axis, n in enumerate((n_z, n_x)))
    trajectory = KTrajectory(
        kz=k_z.reshape(1, 1, 1, -1, 1).float(),
        ky=(torch.arange(n_y) - n_y // 2).reshape(1, 1, 1, 1, -1).float(),
        kx=k_x.reshape(1, 1, 1, -1, 1).float(),
    )
    matrix = SpatialDimension(n_z, n_y, n_x)
    coils = SensitivityOp(maps[None])
    operator = coils.H @ FourierOp(matrix, matrix, trajectory).gram @ coils
    return lambda x: operator(x.reshape(1, 1, n_z, n_y, n_x))[0].reshape(x.shape)


def nuffts(sens_maps: Tensor, coordinates: Tensor, image: Tensor, kspace: Tensor) -> dict[str, dict[str, Call]]:
    """Forward, adjoint and (where offered, with everything prepared) normal of every peer, 2-D, unit weights.

    Coordinates are ``(sample, 2)`` in cycles per field of view; the transform is unitary on the Cartesian grid.
    """
    peers = {"sigpy": _sigpy_nufft(sens_maps, coordinates, image, kspace)}
    if has("finufft"):
        for tolerance in (1e-3, 1e-6):
            peers[f"finufft {tolerance:.0e}"] = _finufft(sens_maps, coordinates, image, kspace, tolerance)
    if has("mrinufft") and has("finufft"):
        peers["mri-nufft (finufft)"] = _mri_nufft(sens_maps, coordinates, image, kspace)
    if has("torchkbnufft"):
        peers["torchkbnufft"] = _torchkbnufft(sens_maps, coordinates, image, kspace)
    if has("mrpro"):
        peers["mrpro"] = _mrpro_nufft(sens_maps, coordinates, image, kspace)
    return peers


def _sigpy_nufft(sens_maps: Tensor, coordinates: Tensor, image: Tensor, kspace: Tensor) -> dict[str, Call]:
    import sigpy.mri

    operator = sigpy.mri.linop.Sense(sens_maps.numpy(), coord=coordinates.numpy())
    x, y = image.numpy(), kspace.numpy()
    adjoint = operator.H
    return {"forward": lambda: operator(x), "adjoint": lambda: adjoint(y), "normal": lambda: adjoint(operator(x))}


def _finufft(
    sens_maps: Tensor, coordinates: Tensor, image: Tensor, kspace: Tensor, tolerance: float
) -> dict[str, Call]:
    import finufft

    maps, shape = sens_maps.numpy(), tuple(image.shape)
    threads = torch.get_num_threads()
    points = [(2 * np.pi / n * coordinates[:, i].numpy()).astype(np.float32) for i, n in enumerate(shape)]
    options = {"n_trans": len(maps), "eps": tolerance, "dtype": "complex64", "nthreads": threads}
    to_samples = finufft.Plan(2, shape, isign=-1, **options)
    to_picture = finufft.Plan(1, shape, isign=1, **options)
    for plan in (to_samples, to_picture):
        plan.setpts(*points)
    scale = np.float32(1 / math.sqrt(math.prod(shape)))
    x, y, conj = image.numpy(), kspace.numpy(), maps.conj()

    def forward() -> Any:
        return to_samples.execute(maps * (scale * x))

    def back(samples: Any) -> Any:
        return scale * (conj * to_picture.execute(samples)).sum(0)

    return {"forward": forward, "adjoint": lambda: back(y), "normal": lambda: back(forward())}


def _mri_nufft(sens_maps: Tensor, coordinates: Tensor, image: Tensor, kspace: Tensor) -> dict[str, Call]:
    import mrinufft

    shape = tuple(image.shape)
    samples = (coordinates / torch.tensor(shape)).numpy().astype(np.float32)
    operator = mrinufft.get_operator("finufft")(
        samples, shape, n_coils=len(sens_maps), smaps=sens_maps.numpy(), squeeze_dims=True
    )
    # It divides by sqrt(prod(shape) * 2**ndim).
    scale, x, y = np.float32(math.sqrt(2 ** len(shape))), image.numpy(), kspace.numpy()
    return {"forward": lambda: scale * operator.op(x), "adjoint": lambda: scale * operator.adj_op(y)}


def _torchkbnufft(sens_maps: Tensor, coordinates: Tensor, image: Tensor, kspace: Tensor) -> dict[str, Call]:
    import torchkbnufft

    shape = tuple(image.shape)
    turns = (coordinates * (2 * math.pi / torch.tensor(shape))).T.contiguous().float()
    to_samples, to_picture = torchkbnufft.KbNufft(im_size=shape), torchkbnufft.KbNufftAdjoint(im_size=shape)
    toeplitz = torchkbnufft.ToepNufft()
    kernel = torchkbnufft.calc_toeplitz_kernel(turns, im_size=shape, norm="ortho")
    # Its "ortho" is unitary on the oversampled grid.
    scale = math.sqrt(math.prod(to_samples.grid_size.tolist()) / math.prod(shape))
    x, y, maps = image[None, None], kspace[None], sens_maps[None]
    return {
        "forward": lambda: scale * to_samples(x, turns, smaps=maps, norm="ortho"),
        "adjoint": lambda: scale * to_picture(y, turns, smaps=maps, norm="ortho"),
        "normal": lambda: scale**2 * toeplitz(x, kernel, smaps=maps, norm="ortho"),
    }


def _mrpro_nufft(sens_maps: Tensor, coordinates: Tensor, image: Tensor, kspace: Tensor) -> dict[str, Call]:
    from mrpro.data import KTrajectory, SpatialDimension
    from mrpro.operators import FourierOp, SensitivityOp

    n_y, n_x = image.shape
    k_y, k_x = (coordinates[:, axis].reshape(1, 1, 1, 1, -1).float() for axis in (0, 1))
    matrix = SpatialDimension(1, n_y, n_x)
    fourier = FourierOp(matrix, matrix, KTrajectory(kz=torch.zeros(1, 1, 1, 1, 1), ky=k_y, kx=k_x))
    coils = SensitivityOp(sens_maps[None, :, None])
    operator, normal = fourier @ coils, coils.H @ fourier.gram @ coils
    x, y = image.reshape(1, 1, 1, n_y, n_x), kspace.reshape(1, -1, 1, 1, len(coordinates))
    return {
        "forward": lambda: operator(x)[0],
        "adjoint": lambda: operator.adjoint(y)[0],
        "normal": lambda: normal(x)[0],
    }
