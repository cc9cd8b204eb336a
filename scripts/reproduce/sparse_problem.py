r"""The sparse recovery problem of Borgerding and Schniter, its seeds, its measures of error and its trained networks.

``y = A x + noise``: ``A`` is 250 x 500 with i.i.d. entries N(0, 1/250), coefficients of ``x`` are not zero with
probability 0.1 and then N(0, 1), the noise is 40 dB below the signal. One ``A`` for all, drawn from a fixed seed.
IEEE Trans. Signal Process. 65, 4293 (2017), doi:10.1109/TSP.2017.2708040.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mri_unroll.errors import ModelError
from mri_unroll.nets.amp import LearnedAMP
from mri_unroll.nets.lista import ListaNetwork
from mri_unroll.solvers.shrinkage import SoftThreshold
from mri_unroll.solvers.state_evolution import ScaleMixture, state_evolution

WEIGHTS = Path(__file__).parent / "weights"
TEST_SEED, VALIDATION_SEED, TRAINING_SEED = 1, 2, 3
MATRIX_SEED = 0
MATRIX_DIGEST = "sha256:64a5bc1a7a9649c7d205ed031e48078efcb474e36d01c72f38dd948f499e2fc5"
KINDS = {"lista": ListaNetwork, "amp": LearnedAMP}


@dataclass(frozen=True)
class SparseProblem:
    """A matrix with the statistics of signals and noise."""

    matrix: Tensor  # (m, n), columns of norm near 1
    sparsity: float = 0.1
    snr_db: float = 40.0

    @property
    def undersampling(self) -> float:
        """``m / n``."""
        return self.matrix.shape[0] / self.matrix.shape[1]

    @property
    def noise_var(self) -> float:
        """Variance of each measurement's noise."""
        return self.sparsity / self.undersampling * 10 ** (-self.snr_db / 10)

    def draw(self, n_signals: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Signals ``(n_signals, n)`` and their measurements ``(n_signals, m)``."""
        m, n = self.matrix.shape
        active = torch.rand(n_signals, n, generator=generator) < self.sparsity
        signals = (active * torch.randn(n_signals, n, generator=generator)).to(self.matrix)
        noise = self.noise_var**0.5 * torch.randn(n_signals, m, generator=generator).to(self.matrix)
        return signals, signals @ self.matrix.mT + noise

    def test_set(self, n_signals: int = 1000, seed: int = TEST_SEED) -> tuple[Tensor, Tensor]:
        """Signals and measurements that no training has seen."""
        return self.draw(n_signals, torch.Generator().manual_seed(seed))


def gaussian_problem(
    m: int = 250, n: int = 500, *, seed: int = MATRIX_SEED, dtype: torch.dtype = torch.float32, **of: Any
) -> SparseProblem:
    """A problem with an i.i.d. Gaussian matrix, ``of`` a sparsity and an SNR."""
    rows = np.random.default_rng(seed).standard_normal((m, n)) / m**0.5
    return SparseProblem(torch.from_numpy(rows.astype(np.float32)).to(dtype), **of)


@dataclass(frozen=True)
class Errors:
    """NMSE in dB of a batch, by the three conventions; they differ where a few signals fail."""

    ratio_of_sums: float  # sum of squared errors over sum of squared signals
    mean_of_ratios: float
    median: float  # of the ratios


def nmse(signals: Tensor, estimates: Tensor) -> Errors:
    """NMSE of ``(n_signals, n)`` in dB."""
    error, power = (estimates - signals).double().square().sum(-1), signals.double().square().sum(-1)
    ratios = error / power
    values = torch.stack([error.sum() / power.sum(), ratios.mean(), ratios.median()])
    return Errors(*(10 * values.log10()).tolist())


def calibrated_weight(problem: SparseProblem) -> float:
    r"""The l1 weight whose minimiser AMP with the default soft threshold converges to.

    By state evolution, :math:`w = \alpha\tau_*(1 - \langle\eta'\rangle/\delta)` at the fixed point: Donoho, Maleki and
    Montanari, IEEE Trans. Inf. Theory 57, 6920 (2011), doi:10.1109/TIT.2011.2165823.
    """
    denoiser = SoftThreshold()
    prior = ScaleMixture.bernoulli_gauss(problem.sparsity)
    of = {"undersampling": problem.undersampling, "noise_var": problem.noise_var}
    error = state_evolution(prior, denoiser, n_iterations=300, **of).value[-1]
    level = problem.noise_var + error / problem.undersampling
    slope = prior.risk(denoiser, level)[1]
    return float(denoiser.alpha * level.sqrt() * (1 - slope / problem.undersampling))


def build(config: dict[str, Any], matrix: Tensor) -> nn.Module:
    """The network that ``config`` describes: its ``kind`` and its arguments."""
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name != "kind"}
    return KINDS[config["kind"]](matrix, **arguments)


def digest(matrix: Tensor) -> str:
    """``sha256:...`` of the entries as float32."""
    return "sha256:" + hashlib.sha256(matrix.float().contiguous().numpy().tobytes()).hexdigest()


def save(network: nn.Module, config: dict[str, Any], path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights; matrices in ``dtype``, scalars as they are."""
    tensors = {k: (v.to(dtype) if v.ndim > 1 else v).contiguous() for k, v in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"config": json.dumps(config), "matrix": digest(network.matrix)})


def trained(folder: Path = WEIGHTS) -> list[str]:
    """Names of the networks whose weights are there."""
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def load(name: str, problem: SparseProblem, folder: Path = WEIGHTS) -> nn.Module:
    """A trained network by its name.

    Raises
    ------
    ModelError
        If it was trained for another matrix.
    """
    path = folder / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if metadata["matrix"] != digest(problem.matrix):
        raise ModelError(
            f"Expected the matrix {metadata['matrix'][:19]}... that {path.name} was trained for, "
            f"got {digest(problem.matrix)[:19]}...",
            "Another version of NumPy may draw other numbers from the same seed: train again with train_sparse.py.",
        )
    network = build(json.loads(metadata["config"]), problem.matrix)
    network.load_state_dict(tensors)
    return network.eval()
