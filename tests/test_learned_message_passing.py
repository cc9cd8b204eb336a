"""Message passing whose denoiser is a network: slopes and errors of a black box, the network, and the method."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from support.operators import random_complex
from support.scattered import bernoulli, density, phantom_scan
from torch import Tensor

from mri_unroll import checkpoints
from mri_unroll.errors import ModelError, UnsupportedScan
from mri_unroll.metrics import nmse
from mri_unroll.nets import band_shrinkage
from mri_unroll.nets.band_shrinkage import BandShrinkage
from mri_unroll.nets.model import load
from mri_unroll.nets.weights import digest
from mri_unroll.physics.fourier import centred_fft, centred_ifft
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.physics.sampling import make_mask
from mri_unroll.recon import reconstructor
from mri_unroll.recon.message_passing import shipped_denoiser
from mri_unroll.recon.reconstructor import make_reconstructor, shipped_models
from mri_unroll.solvers.shrinkage import soft_threshold
from mri_unroll.solvers.sure import DenoisedBand, denoise_band, denoise_bands, sure_threshold
from mri_unroll.solvers.vdamp import vdamp_iterates
from mri_unroll.solvers.wavelet import wavelet_bands


def test_the_slopes_and_risks_of_a_whole_denoiser_are_those_of_its_bands() -> None:
    """Soft thresholds as a black box: one nudge finds what is known in closed form."""
    noisy, noise_vars, thresholds, exact = [], [], [], []
    for band, size in enumerate(((60, 50), (80, 90), (120, 100))):
        signal = 5 * random_complex(size, torch.complex128, band) * (torch.rand(size, generator=_seeded(band)) < 0.2)
        variance = 0.3 + torch.rand(size, dtype=torch.float64, generator=_seeded(band + 10))
        noisy.append(signal + variance.sqrt() * random_complex(size, torch.complex128, band + 20))
        noise_vars.append(variance)
        thresholds.append(sure_threshold(noisy[-1], variance)[0] * variance.sqrt())
        exact.append(denoise_band(noisy[-1], variance))

    def denoiser(bands: list[Tensor], _: list[Tensor]) -> list[Tensor]:
        return [soft_threshold(band, level) for band, level in zip(bands, thresholds, strict=True)]

    found = denoise_bands(denoiser, noisy, noise_vars, _seeded(1))
    for ours, known, band in zip(found, exact, noisy, strict=True):
        torch.testing.assert_close(ours.estimate, known.estimate)
        assert ours.error == pytest.approx(known.error, rel=0.06)
        assert float((ours.message - known.message).norm()) < 0.05 * float(band.norm())
    plain = denoise_bands(denoiser, noisy, noise_vars, _seeded(1), onsager=False)
    assert all(isinstance(one, DenoisedBand) and one.message is one.estimate for one in plain)


def test_message_passing_with_any_denoiser_foretells_its_error() -> None:
    """Thresholds that nobody tuned, in wavelets other than those of the bands: the error is foretold all the same."""
    shape = (144, 140)
    kspace = torch.from_numpy(phantom_kspace(shape, 1)[0, 0]).to(torch.complex128)
    kspace = kspace / kspace.abs().square().mean().sqrt()
    sampled, bands = torch.from_numpy(bernoulli(shape, 3.0, 0)), wavelet_bands(shape, dtype=torch.float64)
    measured = ((kspace + 1e-2 * random_complex(shape, torch.complex128, 3)) * sampled)[None]
    truth, others = bands.analyse(centred_ifft(kspace)), wavelet_bands(shape, "haar", dtype=torch.float64)

    def denoiser(noisy: list[Tensor], variances: list[Tensor]) -> list[Tensor]:
        pairs = zip(others.analyse(bands.synthesise(noisy)), variances, strict=True)
        picture = others.synthesise([soft_threshold(band, 1.3 * float(v.mean()) ** 0.5) for band, v in pairs])
        return bands.analyse(picture)

    def gaps(*, onsager: bool) -> list[tuple[float, float]]:
        """Believed over true error in decibels, of the noisy picture and of the estimate, iteration by iteration."""
        found = []
        iterates = vdamp_iterates(
            lambda image: (centred_fft(image) * sampled)[None],
            lambda k: centred_ifft(k[0] * sampled),
            *(measured, sampled, torch.from_numpy(density(shape, 3.0)), torch.ones_like(measured), 1e-4, bands),
            denoiser=denoiser,
            onsager=onsager,
        )
        for iterate in itertools.islice(iterates, 6):
            estimate = bands.analyse(iterate.estimate)
            noisy, denoised = (
                sum(float((a - b).abs().square().sum()) for a, b in zip(coefficients, truth, strict=True))
                for coefficients in (iterate.noisy, estimate)
            )
            told = max(sum(iterate.errors), 1e-9)  # an estimate of a square may fall below zero
            found.append((10 * math.log10(iterate.believed / noisy), 10 * math.log10(told / denoised)))
        return found

    with_onsager = gaps(onsager=True)
    assert all(abs(noisy) < 0.6 and abs(estimate) < 1.0 for noisy, estimate in with_onsager), with_onsager
    assert max(abs(estimate) for _, estimate in gaps(onsager=False)) > 2.0


@torch.no_grad()
def test_the_network_keeps_shares_that_do_not_depend_on_units_or_phase() -> None:
    torch.manual_seed(0)
    network = BandShrinkage(8, 3)
    torch.nn.init.normal_(network.layers[-1].weight, std=0.1)
    bands = wavelet_bands((48, 32))
    noisy = bands.analyse(random_complex((48, 32), torch.complex64, 0))
    variances = [0.1 + torch.rand(band.shape, generator=_seeded(index)) for index, band in enumerate(noisy)]
    kept = network(noisy, variances)
    assert kept[0] is noisy[0]
    for estimate, band in zip(kept[1:], noisy[1:], strict=True):
        share = estimate / band
        assert float(share.imag.abs().max()) < 1e-5
        assert bool(((share.real > 0) & (share.real < 1)).all())
    turned = network([2j * band for band in noisy], [4 * variance for variance in variances])
    for ours, other in zip(turned, kept, strict=True):
        torch.testing.assert_close(ours, 2j * other, rtol=1e-4, atol=1e-5)
    rolled = network([band.roll((1, 2), (0, 1)) for band in noisy], [v.roll((1, 2), (0, 1)) for v in variances])
    moved = zip(rolled[1:4], kept[1:4], strict=True)  # of one level alone: finer ones would have to move by more
    assert all(torch.allclose(ours, other.roll((1, 2), (0, 1)), rtol=1e-4, atol=1e-5) for ours, other in moved)


def test_weights_are_written_and_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = BandShrinkage(6, 3)
    band_shrinkage.save(network, {"title": "a test"}, tmp_path / "denoiser.safetensors")
    again, card = band_shrinkage.load(tmp_path / "denoiser.safetensors")
    assert card == {"title": "a test"}
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(again.state_dict()[name].equal(value) for name, value in network.state_dict().items())
    with pytest.raises(ModelError, match="no denoiser of wavelet bands"):
        band_shrinkage.load(shipped_models()["unrolled-small"])


def test_the_shipped_denoiser_is_listed_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "vdamp-cnn" in checkpoints.shipped_names()
    assert checkpoints.verify("vdamp-cnn") == digest(shipped_denoiser())
    found = checkpoints.summarise(checkpoints.find_checkpoint("vdamp-cnn"))
    assert found["parameters"] == sum(p.numel() for p in band_shrinkage.load(shipped_denoiser())[0].parameters())
    assert "known_failures" in found["card"]
    with pytest.raises(ModelError, match="holds 'mri_unroll band shrinkage"):
        load(shipped_denoiser())
    network = BandShrinkage()
    network.layers[0].weight.data[0] = float("nan")
    (tmp_path / "message_passing").mkdir()
    band_shrinkage.save(network, {}, tmp_path / "message_passing" / "vdamp-cnn.safetensors")
    for module in (reconstructor, checkpoints):
        monkeypatch.setattr(module, "weights_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="No digest"):
        checkpoints.verify("vdamp-cnn")
    (tmp_path / checkpoints.DIGESTS).write_text(checkpoints.digest_list())
    with pytest.raises(ModelError, match="not finite"):
        checkpoints.verify("vdamp-cnn")


@pytest.mark.parametrize("n_coils", [1, 4])
def test_the_shipped_denoiser_beats_wavelets(n_coils: int) -> None:
    scan, truth = phantom_scan(bernoulli((128, 120), 4.0, 0), n_coils)
    pictures = {name: make_reconstructor(name).reconstruct(scan) for name in ("vdamp", "vdamp-cnn")}
    errors = {name: nmse(truth, picture.pixels) for name, picture in pictures.items()}
    assert errors["vdamp-cnn"] < errors["vdamp"]
    status = pictures["vdamp-cnn"].diagnostics.status[0]
    predicted = float(status.split("Predicted NMSE ")[1].split(" dB")[0])
    assert abs(predicted - 10 * math.log10(errors["vdamp-cnn"])) < 3


def test_masks_that_wavelets_refuse_the_network_refuses() -> None:
    lines, _ = phantom_scan(make_mask("equispaced", (48, 44), 3.0, 0.1, seed=0), 2)
    with pytest.raises(UnsupportedScan, match="lines or a lattice"):
        make_reconstructor("vdamp-cnn").reconstruct(lines)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
