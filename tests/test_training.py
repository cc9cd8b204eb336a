"""Simulation, losses, and a loop that a kill does not change."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import tiny, write_images

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.nets import ModelConfig
from mri_unroll.nets.model import load
from mri_unroll.physics.sampling import varies_along
from mri_unroll.training.dataset import SimulatedScans, find_volumes
from mri_unroll.training.examples import CalibratedScans, prepare
from mri_unroll.training.loop import learning_rate, train
from mri_unroll.training.losses import ssim_loss, unrolled_loss, weighted_nrmse
from mri_unroll.training.simulate import coil_maps, simulate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path)


def test_people_are_split_by_pattern(folder: Path) -> None:
    training, validation = find_volumes(folder, "b:[12]|c")
    assert [(v.path.stem, v.first, v.last) for v in training] == [("a", 0, 2), ("b", 0, 1)]
    assert [(v.path.stem, v.first, v.last) for v in validation] == [("b", 1, 3), ("c", 0, 1)]
    with pytest.raises(InputError, match="leaves 0 training"):
        find_volumes(folder, ".*")
    with pytest.raises(InputError, match=r"index\.json"):
        find_volumes(folder / "absent", "c")


def test_items_depend_on_seed_and_index_alone(folder: Path) -> None:
    training, _ = find_volumes(folder, "c")
    one, two = SimulatedScans(training, 0, 9), SimulatedScans(training, 0, 9)
    np.testing.assert_array_equal(one[3].kspace, two[3].kspace)
    other = SimulatedScans(training, 1, 9)[3].kspace
    assert other.shape != one[3].kspace.shape or not np.array_equal(other, one[3].kspace)


def test_simulated_kspace_is_that_of_its_coil_images() -> None:
    y, x = np.mgrid[-1:1:150j, -1:1:140j]
    image = 1000.0 * (np.hypot(y, x) < 0.6)
    for seed in range(4):
        acquired = simulate(image, np.random.default_rng(seed))
        example = prepare(acquired, None, np.random.default_rng(0), 0.0)
        assert not acquired.kspace[..., ~acquired.mask].any()
        assert acquired.body.mean() > 0.05
        truth = torch.from_numpy(acquired.coil_images)
        axes = (-2, -1)
        transformed = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(truth, dim=axes), norm="ortho"), dim=axes)
        error = (transformed - torch.from_numpy(acquired.kspace))[..., torch.from_numpy(acquired.mask)]
        assert float(error.abs().square().mean().sqrt()) < 0.3 * float(truth.abs().max())  # only noise is left
        assert (
            float(weighted_nrmse(example.coil_combined.abs(), example.rss, example.body)) < 0.25
        )  # the maps explain it


def test_coil_maps_are_smooth_and_shade_within_reason() -> None:
    for seed in range(6):
        maps = coil_maps(6, (64, 80), np.random.default_rng(seed))
        rss = np.linalg.norm(maps, axis=0)
        assert rss.max() / rss[10:-10, 10:-10].min() < 60
        steps = np.abs(np.diff(maps[:, 16:-16, 16:-16], axis=-1)).mean() / np.abs(maps[:, 16:-16, 16:-16]).mean()
        assert steps < 0.15


def test_losses_are_zero_for_the_truth_and_known_otherwise() -> None:
    truth = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))
    body = torch.ones(1, 20, 20, dtype=torch.bool)
    assert float(weighted_nrmse(truth, truth, body)) == 0
    assert float(weighted_nrmse(1.1 * truth, truth, body)) == pytest.approx(0.1, rel=1e-4)
    assert float(ssim_loss(truth, truth, body)) == pytest.approx(0, abs=1e-5)
    assert float(ssim_loss(truth.flip(-1), truth, body)) > 0.5
    image = truth.to(torch.complex64)
    assert float(unrolled_loss([0.5 * image, image, image], image, truth, body)) == pytest.approx(0, abs=1e-5)


def test_ssim_loss_equals_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    truth, image = torch.rand(20, 24, generator=generator).double(), torch.rand(20, 24, generator=generator).double()
    _, full = structural_similarity(truth.numpy(), image.numpy(), data_range=float(truth.max()), full=True)
    ours = ssim_loss(image[None], truth[None], torch.ones(1, 20, 24, dtype=torch.bool))
    assert float(ours) == pytest.approx(1 - full[3:-3, 3:-3].mean(), abs=1e-6)


def test_strip_agrees_with_the_whole_slice() -> None:
    """Rows decouple: the normal operator of a strip is the strip of the normal operator."""
    y, x = np.mgrid[-1:1:150j, -1:1:140j]
    acquired = simulate(1000.0 * (np.hypot(y, x) < 0.6), np.random.default_rng(1))
    whole = prepare(acquired, None, np.random.default_rng(0), 0.0)
    assert not varies_along(acquired.mask)
    strip = prepare(acquired, 40, np.random.default_rng(0), 0.0)
    assert strip.rss.shape[-2] == 40
    starts = [i for i in range(whole.rss.shape[-2] - 39) if torch.equal(whole.rss[:, i : i + 40], strip.rss)]
    rows = slice(starts[0], starts[0] + 40)
    torch.testing.assert_close(
        strip.op.normal(strip.coil_combined), whole.op.normal(whole.coil_combined)[:, rows], rtol=1e-4, atol=1e-5
    )


def test_learning_rate_rises_then_falls(folder: Path) -> None:
    config = dataclasses.replace(tiny(folder, folder), n_steps=100, warm_up=10, cool_down=60, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert math.isclose(rates[9], 1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.009 < rates[-1] < 0.02


def test_interrupted_training_ends_with_identical_weights(folder: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    straight = train(tiny(folder, tmp_path / "straight"), events.append)
    assert [event["skipped"] for event in events if event["event"] == "saved"] == [0, 0]

    class Killed(Exception):
        """Stands for a kill."""

    half = tiny(folder, tmp_path / "half")

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == 4:
            raise Killed

    with pytest.raises(Killed):  # step 4 is told of before its checkpoint is written: that of step 2 is on the disk
        train(half, stop)
    assert torch.load(tmp_path / "half" / "checkpoint.pt", weights_only=True)["step"] == 2
    resumed = train(half, events.append)
    for name, parameter in load(straight)[0].named_parameters():
        assert torch.equal(parameter, dict(load(resumed)[0].named_parameters())[name]), name


def test_checkpoint_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    config = tiny(folder, tmp_path / "run")
    train(dataclasses.replace(config, n_steps=1, save_every=1), lambda event: None)
    with pytest.raises(ConfigError, match="another model"):
        train(dataclasses.replace(config, model=ModelConfig(n_steps=2, widths=(4,))), lambda event: None)


def test_an_acquisition_serves_several_steps(folder: Path) -> None:
    training, _ = find_volumes(folder, "c")
    scans = SimulatedScans(training, 0, 4)
    once, thrice = (CalibratedScans(scans, 32, 3, repeats) for repeats in (1, 3))
    assert (len(once), len(thrice)) == (4, 12)
    assert [thrice[i].op.sens_maps.shape[-1] for i in (3, 4, 5)] == [once[1].op.sens_maps.shape[-1]] * 3
    assert thrice[7].op.sens_maps.shape[-1] == once[2].op.sens_maps.shape[-1]
    assert len({float(thrice[i].rss.sum()) for i in range(3)}) == 3
    again = CalibratedScans(scans, 32, 3, 3)[4]  # what came before an item does not change it
    assert torch.equal(again.rss, thrice[4].rss)


def test_share_of_two_dimensional_masks(folder: Path) -> None:
    training, _ = find_volumes(folder, "c")
    lines, discs = (SimulatedScans(training, 0, 6, poisson=share) for share in (0.0, 1.0))
    assert not any(varies_along(lines[i].mask) for i in range(6))
    assert sum(varies_along(discs[i].mask) for i in range(6)) >= 4  # some are fully sampled
