"""The experiments on pictures: their small versions run, and what they share is right."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mri_unroll.physics import TruncationOperator

FOLDER = Path(__file__).resolve().parent.parent / "scripts" / "reproduce"


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import iteration_curves

    return iteration_curves


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deblurring", "mri_iterations"])
def test_quick_version_runs_and_the_network_gains(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--out", str(tmp_path)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    with (tmp_path / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"].startswith("learned")]
    psnr = [float(row["psnr_db"]) for row in rows]
    cost = [float(row["normal_applications"]) for row in rows]
    assert psnr[-1] > psnr[0] + 0.5  # the learned steps improve on the start
    assert cost == sorted(set(cost))
    assert (tmp_path / "figure.png").stat().st_size < 150_000
    assert "learned" in (tmp_path / "seen.txt").read_text() or "network" in (tmp_path / "seen.txt").read_text()


def test_tv_prox_is_a_minimum(curves: ModuleType) -> None:
    """No small change lowers half the squared distance plus the weighted total variation."""
    generator = torch.Generator().manual_seed(0)
    noisy = torch.zeros(1, 9, 8, dtype=torch.float64)
    noisy[:, 2:6, 3:] = 1
    noisy += 0.1 * torch.randn(noisy.shape, dtype=torch.float64, generator=generator)
    prox = curves.tv_prox(0.1, n_inner=2000)

    def objective(x: torch.Tensor) -> float:
        down, right = torch.zeros_like(x), torch.zeros_like(x)
        down[:, :-1], right[..., :-1] = x.diff(dim=-2), x.diff(dim=-1)
        return float((x - noisy).square().sum() / 2 + 0.1 * torch.hypot(down, right).sum())

    smooth = prox(noisy)
    for scale in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            change = scale * torch.randn(noisy.shape, dtype=torch.float64, generator=generator)
            assert objective(smooth + change) > objective(smooth)
    assert objective(smooth) < objective(noisy) - 0.1
    torch.testing.assert_close(prox(noisy), smooth, atol=1e-6, rtol=0)  # going on from the kept dual changes nothing


def test_wavelet_prox_without_a_threshold_changes_nothing(curves: ModuleType) -> None:
    image = torch.randn(2, 20, 17, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(curves.wavelet_prox(0.0, (20, 17))(image), image, atol=1e-5, rtol=0)
    assert float(curves.wavelet_prox(100.0, (20, 17))(image).abs().max()) == 0


def test_every_application_is_counted(curves: ModuleType) -> None:
    op = curves.CountedOperator(TruncationOperator((8, 8), (4, 4)))
    image = torch.ones(8, 8, dtype=torch.complex64)
    op.gradient(op.normal(op.adjoint(op.forward(image))), image)
    assert op.count == 3
    curve = curves.follow("three", (op.normal(image) for _ in range(3)), op, lambda x: float(x.abs().max()))
    assert curve.cost == [1, 2, 3]
    assert curve.cost_of(curve.best) == 1
    assert curve.cost_of(np.inf) is None
