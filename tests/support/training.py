"""Small training data, and runs that take a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from mri_unroll.nets import ModelConfig
from mri_unroll.training.settings import TrainingConfig


def write_images(folder: Path) -> Path:
    """Three people's image volumes, discs of different size, with the index that training reads."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[-1:1:120j, -1:1:110j]
    entries = []
    for name, count in (("a", 2), ("b", 3), ("c", 1)):
        discs = [
            (np.hypot(y, x / 0.8) < 0.5 + 0.1 * i) * (2000 + 1500 * (np.hypot(y - 0.2, x) < 0.2)) for i in range(count)
        ]
        np.savez(folder / f"{name}.npz", images=np.array(discs, dtype=np.uint16))
        entries.append({"file": f"{name}.npz", "shape": [count, 120, 110]})
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def tiny(folder: Path, out: Path, **changes: Any) -> TrainingConfig:
    """Four steps of a network of a few weights."""
    settings: dict[str, Any] = {
        "data": str(folder),
        "out": str(out),
        "held_out": "b:[12]|c",
        "model": ModelConfig(n_steps=1, n_cg=2, n_start_cg=2, widths=(4,)),
        "n_steps": 4,
        "warm_up": 1,
        "strip": 32,
        "n_workers": 0,
        "save_every": 2,
        "n_validation": 1,
        "tensorboard": False,
    }
    return TrainingConfig(**(settings | changes))


def toml_of(config: TrainingConfig) -> str:
    """A file that `mri-unroll train` reads into ``config``."""
    model = config.model
    return (
        f"data = {json.dumps(config.data)}\nout = {json.dumps(config.out)}\nheld_out = {json.dumps(config.held_out)}\n"
        f"n_steps = {config.n_steps}\nwarm_up = {config.warm_up}\nstrip = {config.strip}\n"
        f"n_workers = {config.n_workers}\nsave_every = {config.save_every}\nn_validation = {config.n_validation}\n"
        f"batch = {config.batch}\ntensorboard = {str(config.tensorboard).lower()}\n"
        f"[model]\nn_steps = {model.n_steps}\nn_cg = {model.n_cg}\nn_start_cg = {model.n_start_cg}\n"
        f"widths = {list(model.widths)}\n"
    )


def state_of(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's checkpoint by name: weights, their average and the optimiser's."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    found = {f"{part}.{name}": value for part in ("network", "average") for name, value in state[part].items()}
    for index, values in state["optimiser"]["state"].items():
        found |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs ended alike, bit for bit."""
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def write_kspace(path: Path, seed: int, person: str, lines: slice | None = None, n_coils: int = 4) -> None:
    """A fastMRI-style file of two slices, readout oversampled twice; ``lines`` leaves out the others."""
    rng = np.random.default_rng(seed)
    height, width = 72, 60
    y, x = np.mgrid[-1 : 1 : 2 * height * 1j, -1 : 1 : width * 1j]
    coils = np.array([np.exp(-((2 * y - np.sin(a)) ** 2) - (x - np.cos(a)) ** 2 + 1j * a) for a in range(n_coils)])
    pictures = np.stack(
        [(np.hypot(2 * y, x / 0.8) < radius) * (1 + (np.hypot(2 * y - 0.2, x) < 0.2)) for radius in (0.6, 0.8)]
    )
    images = coils * pictures[:, None]
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=axes), norm="ortho"), axes=axes)
    kspace += 0.02 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    rss = np.linalg.norm(images, axis=1)[:, height // 2 : height // 2 + height]
    with h5py.File(path, "w") as file:
        if lines is not None:
            mask = np.zeros(width, bool)
            mask[lines] = True
            mask[width // 2 - 6 : width // 2 + 6] = True
            kspace = kspace * mask
            file["mask"] = mask
        else:
            file["reconstruction_rss"] = rss.astype(np.float32)
        file["kspace"] = kspace.astype(np.complex64)
        file.attrs["patient_id"] = person
