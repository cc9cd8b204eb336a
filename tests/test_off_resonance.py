"""Time-segmented off-resonance: operator properties, the exact model with its dense phase, segments, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from support.operators import check_derivatives, check_operator, random_complex
from torch import Tensor

from mri_unroll.errors import ConfigError, ShapeError
from mri_unroll.physics import LinearOperator, NufftOperator, OffResonanceOperator, SenseOperator, operator_norm
from mri_unroll.solvers.cg import cg

DURATION = 20e-3  # seconds


class DenseOperator(LinearOperator):
    """Multi-coil Fourier sums at any coordinates, with the phase of each sample's own time: slow and exact."""

    def __init__(self, sens_maps: Tensor, coordinates: Tensor, field_map: Tensor, times: Tensor) -> None:
        self.sens_maps = sens_maps  # (coil, y, x)
        y, x = torch.meshgrid(*((torch.arange(n).double() - n // 2) / n for n in sens_maps.shape[-2:]), indexing="ij")
        turns = (
            coordinates[:, :1] * y.flatten() + coordinates[:, 1:] * x.flatten() + times[:, None] * field_map.flatten()
        )
        self.matrix = torch.exp(-2j * math.pi * turns) / math.sqrt(y.numel())

    def forward(self, image: Tensor) -> Tensor:
        return (self.sens_maps * image.unsqueeze(-3)).flatten(-2) @ self.matrix.mT

    def adjoint(self, kspace: Tensor) -> Tensor:
        coils = (kspace @ self.matrix.conj()).unflatten(-1, self.sens_maps.shape[-2:])
        return (self.sens_maps.conj() * coils).sum(-3)


def unit_maps(shape: tuple[int, int], dtype: torch.dtype = torch.complex128) -> Tensor:
    maps = random_complex((3, *shape), dtype, 0)
    return maps / torch.linalg.vector_norm(maps, dim=-3, keepdim=True)


def field(shape: tuple[int, int]) -> Tensor:
    """A slope with a bump, -90 to 120 Hz."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape), indexing="ij")
    return 90 * y + 120 * torch.exp(-4 * ((y - 0.3) ** 2 + x**2)) * (1 - y.clamp_min(0))


def cartesian(shape: tuple[int, int]) -> Tensor:
    """Coordinates of every grid point, ky slowest, zero frequency at ``n // 2``."""
    ky, kx = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - n // 2 for n in shape), indexing="ij")
    return torch.stack([ky.flatten(), kx.flatten()], 1)


def readout(n: int) -> Tensor:
    return torch.linspace(0, DURATION, n, dtype=torch.float64)[:, None]


def relative(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(8, 8), (9, 7)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_operator_properties(dtype: torch.dtype, shape: tuple[int, int], batch: tuple[int, ...]) -> None:
    mask = torch.rand(1, 1, shape[1], generator=torch.Generator().manual_seed(0)) < 0.6
    # Half of the usual maps: the phase in time can add to the norm of a unitary transform.
    op = OffResonanceOperator(SenseOperator(unit_maps(shape, dtype) / 2, mask), field(shape), readout(shape[0]))
    assert op.n_coils == unit_maps(shape, dtype).shape[-3]
    kspace = random_complex((*batch, 3, *shape), dtype, 2)
    check_operator(op, random_complex((*batch, *shape), dtype, 1), kspace)
    assert op.adjoint(kspace).dtype == dtype


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("shape", [(16, 16), (21, 18)])
def test_cartesian_keeps_to_the_exact_model(shape: tuple[int, int], tolerance: float) -> None:
    maps, image = unit_maps(shape), random_complex((2, *shape), torch.complex128, 1)
    op = OffResonanceOperator(
        SenseOperator(maps, torch.ones(1, 1, 1)), field(shape), readout(shape[0]), tolerance=tolerance
    )
    times = readout(shape[0]).expand(shape).flatten()
    exact = DenseOperator(maps, cartesian(shape), field(shape), times)
    kspace = exact.forward(image)
    assert relative(op.forward(image).flatten(-2), kspace) <= tolerance
    assert relative(op.adjoint(kspace.unflatten(-1, shape)), exact.adjoint(kspace)) <= tolerance


@pytest.mark.parametrize("shape", [(14, 14), (13, 16)])
def test_trajectory_keeps_to_the_exact_model(shape: tuple[int, int]) -> None:
    """A spiral whose time runs along it."""
    maps, image = unit_maps(shape), random_complex(shape, torch.complex128, 1)
    turn = torch.linspace(0, 1, 300, dtype=torch.float64)
    angle = 2 * math.pi * 8 * turn
    coordinates = torch.stack([turn * torch.sin(angle), turn * torch.cos(angle)], 1) * (min(shape) // 2 - 0.5)
    times = 2e-3 + DURATION * turn
    resonant = NufftOperator(maps, coordinates, tolerance=1e-7)
    exact = DenseOperator(maps, coordinates, field(shape), times)
    op = OffResonanceOperator(resonant, field(shape), times)
    kspace = exact.forward(image)
    assert relative(op.forward(image), kspace) <= 1e-3
    assert relative(op.adjoint(kspace), exact.adjoint(kspace)) <= 1e-3
    assert relative(resonant.forward(image), exact.forward(image)) > 0.5  # the field matters here


def test_normal_equations_undo_the_field() -> None:
    """What the exact model measured is reconstructed; without the field it is not."""
    shape = (16, 16)
    maps, image = unit_maps(shape), random_complex(shape, torch.complex128, 1)
    exact = DenseOperator(maps, cartesian(shape), field(shape), readout(16).expand(shape).flatten())
    kspace = exact.forward(image).unflatten(-1, shape)
    resonant = SenseOperator(maps, torch.ones(1, 1, 1))
    op = OffResonanceOperator(resonant, field(shape), readout(16), tolerance=1e-6)
    found = cg(op.normal, op.adjoint(kspace), n_iterations=40).value
    assert relative(found, image) < 1e-3
    assert relative(resonant.adjoint(kspace), image) > 0.5


def test_more_segments_for_less_error_and_longer_readouts() -> None:
    resonant = SenseOperator(unit_maps((16, 16)), torch.ones(1, 1, 1))
    counts = [
        OffResonanceOperator(resonant, field((16, 16)), scale * readout(16), tolerance=tolerance).n_segments
        for scale, tolerance in ((0.5, 1e-3), (1, 1e-3), (2, 1e-3), (2, 1e-5))
    ]
    assert counts == sorted(set(counts))
    given = OffResonanceOperator(resonant, field((16, 16)), readout(16), n_segments=2)
    assert given.n_segments == 2
    assert given.error > 0.1  # and it says so
    assert 0 < given.segment_times[0] < given.segment_times[1] < DURATION


def test_a_rare_frequency_is_fitted_too() -> None:
    """One pixel far off, as near a sinus; all signal comes from it."""
    shape = (12, 12)
    far = torch.zeros(shape, dtype=torch.float64)
    far[3, 4] = 400.0
    image = torch.zeros(shape, dtype=torch.complex128)
    image[3, 4] = 1
    maps = unit_maps(shape)
    op = OffResonanceOperator(SenseOperator(maps, torch.ones(1, 1, 1)), far, readout(12))
    exact = DenseOperator(maps, cartesian(shape), far, readout(12).expand(shape).flatten())
    assert relative(op.forward(image).flatten(-2), exact.forward(image)) <= 1e-3
    assert op.n_segments <= 8  # not the dozen and more that the whole range would take
    filled = torch.linspace(0, 400, 144, dtype=torch.float64).reshape(shape)
    assert OffResonanceOperator(SenseOperator(maps, torch.ones(1, 1, 1)), filled, readout(12)).n_segments > 11


@pytest.mark.parametrize("value", [0.0, 35.0])
def test_a_constant_field_takes_few_segments(value: float) -> None:
    resonant = SenseOperator(unit_maps((6, 5)), torch.ones(1, 1, 1))
    op = OffResonanceOperator(resonant, torch.full((6, 5), value, dtype=torch.float64), readout(6))
    image = random_complex((6, 5), torch.complex128, 1)
    expected = resonant.forward(image) * torch.exp(-2j * math.pi * value * readout(6))
    assert relative(op.forward(image), expected) <= 1e-3
    assert op.n_segments <= 3


def test_field_map_for_each_slice() -> None:
    shape = (8, 9)
    resonant = SenseOperator(unit_maps(shape), torch.ones(1, 1, 1))
    fields = torch.stack([field(shape), -field(shape)])
    images = random_complex((2, *shape), torch.complex128, 1)
    together = OffResonanceOperator(resonant, fields, readout(8), tolerance=1e-6).forward(images)
    for i in range(2):
        alone = OffResonanceOperator(resonant, fields[i], readout(8), tolerance=1e-6).forward(images[i])
        assert relative(together[i], alone) < 1e-5


def test_derivatives() -> None:
    shape = (2, 2)
    op = OffResonanceOperator(
        SenseOperator(unit_maps(shape)[:2], torch.ones(1, 1, 1)), field(shape), readout(2), n_segments=2
    )
    check_derivatives(op, random_complex(shape, torch.complex128, 1), random_complex((2, *shape), torch.complex128, 2))


def test_gradient_reaches_the_field_map() -> None:
    """By the exact model's derivative: the coefficients are held fixed, the phases are not."""
    shape = (6, 5)
    maps, image = unit_maps(shape), random_complex(shape, torch.complex128, 1)
    times = readout(6).expand(shape).flatten()
    gradients = []
    for kind in ("segmented", "exact"):
        f = field(shape).requires_grad_()
        if kind == "exact":
            kspace = DenseOperator(maps, cartesian(shape), f, times).forward(image)
        else:
            resonant = SenseOperator(maps, torch.ones(1, 1, 1))
            kspace = OffResonanceOperator(resonant, f, readout(6), tolerance=1e-6).forward(image).flatten(-2)
        weights = random_complex(tuple(kspace.shape), torch.complex128, 3)
        (weights * kspace).sum().abs().square().backward()
        assert f.grad is not None
        gradients.append(f.grad)
    assert relative(gradients[0], gradients[1]) < 1e-3


def test_norm_is_that_of_the_acquisition_without_a_field() -> None:
    resonant = SenseOperator(unit_maps((6, 5)), torch.ones(1, 1, 1))
    op = OffResonanceOperator(resonant, torch.zeros(6, 5, dtype=torch.float64), readout(6))
    assert float(operator_norm(op, random_complex((6, 5), torch.complex128, 0))) == pytest.approx(1, abs=1e-6)


def test_refusals_say_what_was_expected() -> None:
    resonant = SenseOperator(unit_maps((6, 5)), torch.ones(1, 1, 1))
    good, times = field((6, 5)), readout(6)
    with pytest.raises(ShapeError, match="real field map of 2 axes"):
        OffResonanceOperator(resonant, good[0], times)
    with pytest.raises(ShapeError, match="real field map"):
        OffResonanceOperator(resonant, good + 0j, times)
    with pytest.raises(ShapeError, match="real times"):
        OffResonanceOperator(resonant, good, times[:0])
    with pytest.raises(ConfigError, match="finite"):
        OffResonanceOperator(resonant, good / 0, times)
    for arguments in ({"tolerance": 0.0}, {"tolerance": math.nan}, {"n_segments": 0}):
        with pytest.raises(ConfigError, match="tolerance >= 1e-06 and n_segments >= 1"):
            OffResonanceOperator(resonant, good, times, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="turns in 20 s, more than 64"):
        OffResonanceOperator(resonant, good, 1e3 * times)  # milliseconds taken for seconds
    op = OffResonanceOperator(resonant, good, torch.zeros(4, 6, 1, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"measurements \(3, 6, 5\), got \(4, 6, 1\)"):
        op.forward(random_complex((6, 5), torch.complex128, 1))
    with pytest.raises(ShapeError, match=r"measurements \(3, 6, 5\), got \(4, 6, 1\)"):
        op.adjoint(random_complex((3, 6, 5), torch.complex128, 1))
