"""Coil sensitivities from calibration lines (ESPIRiT): one set of maps, or several, in two and three dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mri_unroll.errors import ShapeError
from mri_unroll.physics.bridge import is_tracked
from mri_unroll.physics.compiled import aligned, in_threads, numbers
from mri_unroll.physics.espirit_kernels import leading_vectors
from mri_unroll.physics.fourier import harmonics
from mri_unroll.physics.lanes import LANE_ORDER, N_LANES
from mri_unroll.physics.tile_fft import WIDTH

_BLOCK = {"cpu": 2**20, "cuda": 2**26}  # entries of pixel matrices at a time: on a CPU they stay in cache
_MOST_COILS = 32  # up to which whole matrices are squared, of a single set


def espirit_maps(
    calibration: Tensor,
    shape: tuple[int, ...],
    *,
    kernel_width: int = 6,
    threshold: float = 0.02,
    n_sets: int = 1,
    n_iterations: int = 1,
) -> tuple[Tensor, Tensor]:
    r"""Coil sensitivities from fully sampled calibration lines (ESPIRiT).

    Every patch of the calibration region, ``kernel_width`` samples a side, lies in the span of the leading right
    singular vectors of the matrix of all patches. Projecting each patch of k-space onto that span and averaging is a
    convolution, hence a ``coil x coil`` matrix :math:`G(r)` at each pixel, Hermitian with eigenvalues in [0, 1]; the
    sensitivities at ``r`` are its eigenvector of eigenvalue 1. A second eigenvalue near 1 says that one map cannot
    explain the pixel: the field of view is smaller than the object and folds, or the subject moved. Such pixels need a
    second set; see `soft_weights`.

    Parameters
    ----------
    calibration
        Fully sampled centre of k-space, complex, ``(coil, [nz,] ny, nx)``; only its patches matter, not its exact
        centring.
    shape
        ``([z,] y, x)`` of the maps.
    kernel_width
        Samples a side of a patch; reduced to the calibration size where that is smaller. In 3-D the cost grows with its
        ninth power: 4 or 5 do for more than about 10 coils.
    threshold
        Singular values above ``threshold`` times the largest span the patches.
    n_sets
        Sets of maps, at most the number of coils.
    n_iterations
        Subspace iterations for the eigenvectors, each of four products with ``G`` and a Rayleigh-Ritz step. More than
        one serves only data without structure.

    Returns
    -------
    sens_maps
        ``(coil, [z,] y, x)``, unit norm over coils at *every* pixel, phase relative to the strongest virtual coil. With
        ``n_sets > 1`` they are ``(set, coil, [z,] y, x)``, orthogonal between sets, and the n-th set's phase is
        relative to the n-th strongest virtual coil.
    eigenvalue
        ``([z,] y, x)`` or ``(set, [z,] y, x)``, near 1 where the maps explain the data, small in air; sets are in
        falling order.

    Raises
    ------
    ShapeError
        If the calibration region and ``shape`` differ in dimensions, or there are fewer coils than sets.

    Notes
    -----
    Uecker et al., Magn. Reson. Med. 71, 990 (2014), doi:10.1002/mrm.24751. ``G`` has bandwidth ``2 * width - 1`` and is
    evaluated from its lags by small matrix products instead of ``coil**2`` zero-padded image-sized FFTs; the projector
    comes from the Gram matrix of the patches, which is far smaller than the patch matrix. One set, up to 32 coils, in
    single precision on CPU, is found by `espirit_kernels`. Else the trace of ``G``, below 2 in practice, says that few
    eigenvalues compete, and one subspace iteration on ``n_sets + 3`` vectors is as good as a full decomposition, where
    the power method needs hundreds of steps near the edge of the body.
    """
    n_coils, ndim = calibration.shape[0], len(shape)
    if ndim not in (2, 3) or calibration.ndim != ndim + 1:
        raise ShapeError(
            f"Expected calibration data (coil, [nz,] ny, nx) for maps ([z,] y, x), got {tuple(calibration.shape)} for "
            f"{tuple(shape)}."
        )
    if not 1 <= n_sets <= n_coils:
        raise ShapeError(f"Expected between 1 and {n_coils} sets of maps from {n_coils} coils, got {n_sets}.")
    lags = _projector_lags(calibration, kernel_width, threshold)
    flat = calibration.flatten(1)
    virtual = torch.linalg.eigh(flat @ flat.mH).eigenvectors.flip(-1)  # columns by falling energy
    planes: Sequence[Tensor] = [lags]
    if ndim == 3:
        along_z = harmonics(shape[0], lags.shape[0], lags)
        planes = [torch.tensordot(wave, lags, dims=1) for wave in along_z]
    is_plain = lags.device.type == "cpu" and lags.dtype == torch.complex64 and not is_tracked(lags)
    if n_sets == 1 and n_coils <= _MOST_COILS and is_plain:
        solved = [_compiled_plane(plane, virtual[:, 0], shape[-2:]) for plane in planes]
    else:
        solved = [_solve_plane(plane, virtual, n_sets, n_iterations, shape[-2:]) for plane in planes]
    maps, eigenvalue = (torch.stack(parts, dim=-3) for parts in zip(*solved, strict=True))
    if ndim == 2:
        maps, eigenvalue = maps.squeeze(-3), eigenvalue.squeeze(-3)
    return (maps, eigenvalue) if n_sets > 1 else (maps[0], eigenvalue[0])


def soft_weights(eigenvalue: Tensor, cutoff: float = 0.8) -> Tensor:
    r"""What each set of maps is multiplied by, so that it fades out where the calibration data do not call for it.

    A set whose eigenvalue is not near 1 only adds unknowns and noise, and a hard cut leaves an edge in the picture. The
    weight is :math:`3t^2 - 2t^3` with :math:`t` rising from 0 at ``cutoff`` to 1 halfway between ``cutoff`` and 1;
    weighted maps ``soft_weights(eigenvalue)[:, None] * sens_maps`` keep the norm of the operator at most 1.

    Parameters
    ----------
    eigenvalue
        Of `espirit_maps`, any shape.
    cutoff
        Eigenvalue up to which a set is left out, in [0, 1).

    Notes
    -----
    Several sets, kept where their eigenvalue is near 1: Uecker et al. (2014), doi:10.1002/mrm.24751. The shape of the
    transition is ours.
    """
    rise = _rise(eigenvalue, cutoff, 0.5 * (1.0 + cutoff))
    return rise * rise * (3.0 - 2.0 * rise)


def _projector_lags(calibration: Tensor, kernel_width: int, threshold: float) -> Tensor:
    """Lags of ``G``, ``(*lag, coil, coil)``, each axis ``2 * width - 1`` long with lag 0 in the middle."""
    n_coils = calibration.shape[0]
    widths = [min(kernel_width, n) for n in calibration.shape[1:]]
    patches = calibration
    for axis, width in enumerate(widths, start=1):
        patches = patches.unfold(axis, width, 1)  # (coil, *position, *offset)
    patches = patches.movedim(0, len(widths)).reshape(-1, n_coils * math.prod(widths))
    values, vectors = _eigh(patches.mT @ patches.conj())
    span = vectors[:, values > threshold**2 * values[-1]]
    projector = (span @ span.mH).reshape(n_coils, *widths, n_coils, *widths)
    projector = projector.movedim(0, -len(widths) - 2)  # (*p, coil, coil, *p'), which is summed over equal p - p'
    lags = projector.new_zeros(*(2 * width - 1 for width in widths), n_coils, n_coils)
    offsets = tuple(range(-len(widths), 0))
    for position in itertools.product(*map(range, widths)):
        window = tuple(slice(p, p + width) for p, width in zip(position, widths, strict=True))
        lags[window] += projector[position].flip(offsets).movedim((0, 1), (-2, -1))
    return lags / math.prod(widths)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix."""
    try:
        values, vectors = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # LAPACK may not converge on matrices of next to no rank, as of a single line
        values, vectors = (part.to(gram.dtype) for part in torch.linalg.eigh(gram.to(torch.complex128)))
        values = values.real
    return values, vectors


def _compiled_plane(lags: Tensor, reference: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maps ``(1, coil, y, x)`` and values ``(1, y, x)`` of one plane, by `leading_vectors`."""
    n_coils, (n_rows, n_columns) = lags.shape[-1], shape
    n = n_coils + n_coils % 2
    along_y, along_x = (harmonics(size, n_lags, lags) for size, n_lags in zip(shape, lags.shape[:2], strict=True))
    below = torch.tril_indices(n, n)
    lags = functional.pad(lags, (0, n - n_coils) * 2)[..., below[0], below[1]]
    along_x = functional.pad(along_x, (0, 0, 0, -n_columns % N_LANES))
    columns = torch.einsum("xq,pqi->xpi", along_x, lags).unflatten(0, (-1, N_LANES))[:, LANE_ORDER, :, :]
    split = torch.view_as_real(columns).permute(0, 2, 3, 4, 1)  # (block, lag, entry, part, lane)
    maps = lags.new_empty(n_coils, n_rows, n_columns)
    values = lags.new_empty(n_rows, n_columns)
    arrays = [numbers(tensor) for tensor in (along_y, reference.contiguous(), maps, values)]
    n_blocks, n_threads = len(split), torch.get_num_threads()

    def solve(part: int) -> None:
        work = aligned((3 * n * n + n + 2) * WIDTH)
        blocks = part * n_blocks // n_threads, (part + 1) * n_blocks // n_threads
        leading_vectors(split_lags, *arrays[:2], n, *arrays[2:], n_columns, blocks, work)

    split_lags = split.reshape(-1).numpy()
    in_threads(solve, range(n_threads), n_threads)
    return maps[None], values.real[None]


def _solve_plane(
    lags: Tensor, virtual: Tensor, n_sets: int, n_iterations: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Maps ``(set, coil, y, x)`` and values ``(set, y, x)`` of one plane, by subspace iteration."""
    start = virtual[:, : n_sets + 3].contiguous()
    maps, eigenvalue = lags.new_empty(*shape, len(virtual), n_sets), lags.real.new_empty(*shape, n_sets)
    waves = [harmonics(n, n_lags, lags) for n, n_lags in zip(shape, lags.shape[:2], strict=True)]
    for block, matrix in _pixel_matrices(lags, waves):
        vectors, values = _leading_eigenvectors(matrix, start, n_sets, n_iterations)
        maps[block] = vectors.reshape(-1, *maps.shape[1:])
        eigenvalue[block] = values.reshape(-1, *eigenvalue.shape[1:])
    reference = torch.einsum("...cs,cs->...s", maps, virtual[:, :n_sets].conj())
    maps *= _phase(reference.conj()).unsqueeze(-2)
    return maps.movedim((-1, -2), (0, 1)).contiguous(), eigenvalue.movedim(-1, 0).contiguous()


def _pixel_matrices(lags: Tensor, waves: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of pixels and their ``G``, ``(pixel, coil, coil)``, some at a time."""
    along_y, along_x = waves
    row = torch.einsum("xq,pqcd->pxcd", along_x, lags).flatten(1)
    count = max(1, _BLOCK.get(lags.device.type, 2**20) // row.shape[1])
    for first in range(0, len(along_y), count):
        block = slice(first, first + count)
        yield block, (along_y[block] @ row).reshape(-1, *lags.shape[-2:])


def _rise(x: Tensor, low: float, high: float) -> Tensor:
    """From 0 at ``low`` to 1 at ``high``."""
    return ((x - low) / (high - low)).clamp(0.0, 1.0)


def _phase(x: Tensor) -> Tensor:
    """``x / abs(x)``; 1 where ``x`` is zero."""
    return torch.polar(torch.ones_like(x.real), x.angle())


def _leading_eigenvectors(matrix: Tensor, start: Tensor, n_sets: int, n_iterations: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors ``(pixel, coil, set)`` and values ``(pixel, set)`` of matrices with eigenvalues in [0, 1]."""
    vectors, values = start, start.real
    for _ in range(n_iterations):
        for _ in range(4):
            vectors = matrix @ vectors
        image = matrix @ vectors
        # Directions that have faded below single precision get lost in the regularised Cholesky factor. They belong to
        # eigenvalues far below the largest.
        conjugate = vectors.mH.resolve_conj()
        gram = conjugate @ vectors
        gram.diagonal(dim1=-2, dim2=-1).mul_(1 + 1e-5).add_(1e-30)
        inverse = torch.linalg.inv(torch.linalg.cholesky(gram))
        values, mixture = torch.linalg.eigh(inverse @ (conjugate @ image) @ inverse.mH)
        vectors, _ = _unit(image @ (inverse.mH @ mixture))
    return vectors[..., -n_sets:].flip(-1), values[..., -n_sets:].flip(-1)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of ``(pixel, coil, set)`` over their norms, and those, ``(pixel, 1, set)``."""
    size = torch.view_as_real(vectors).square().sum((-3, -1)).sqrt()[:, None]  # far faster than vector_norm here
    return vectors / size.clamp_min(1e-20), size
