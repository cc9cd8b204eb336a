"""The weights that come with the package: what they are, and whether they are whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mri_unroll.errors import ModelError
from mri_unroll.nets import band_shrinkage, imported, model
from mri_unroll.nets.refinement import measured
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.message_passing import DENOISERS
from mri_unroll.recon.reconstructor import shipped_models, weights_folder

DIGESTS = "DIGESTS"  # beside the weights: one line `SHA256  PATH` each, as sha256sum writes and checks it
_REINSTALL = "Install mri_unroll again."


def shipped_files() -> dict[str, Path]:
    """Names and (first) files of all weights that come along: networks, and the denoiser of message passing."""
    denoisers = sorted((weights_folder() / DENOISERS).glob("*.safetensors"))
    return shipped_models() | {path.stem: path for path in denoisers}


def shipped_names() -> list[str]:
    """Names of all weights that are there, or that `DIGESTS` says should be."""
    return sorted({*shipped_files(), *_expected_digests()})


def find_checkpoint(name_or_path: str) -> Path:
    """The file of shipped weights, or of a checkpoint given by its path.

    Raises
    ------
    ModelError
        If there is neither; the shipped names are given.
    """
    shipped = shipped_files()
    path = shipped.get(name_or_path, Path(name_or_path))
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if name_or_path in shipped_names():
        raise ModelError(f"The weights of {name_or_path!r} are missing from this installation.", _REINSTALL)
    there = f"Shipped: {', '.join(shipped)}." if shipped else "No weights are shipped with this installation."
    raise ModelError(f"There are no weights {name_or_path!r}.", there)


def summarise(path: Path) -> dict[str, Any]:
    """Name, number of parameters, bytes, digest, configuration and model card of a checkpoint, fit for JSON.

    Raises
    ------
    ModelError
        If it cannot be loaded.
    """
    network: nn.Module
    if band_shrinkage.holds_denoiser(path):
        network, card = band_shrinkage.load(path)
        settings: dict[str, Any] = {"kind": "band shrinkage"}
    else:
        network, config, card = imported.load(path) if imported.is_imported(path) else model.load(path)
        settings = dataclasses.asdict(config)
    return {
        "name": path.stem,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bytes": sum(file.stat().st_size for file in model.files(path)),
        "digest": model.digest(path),
        "config": settings,
        "card": card,
    }


def verify(name: str) -> str:
    """Check shipped weights: their digest, that they load, and that they run on a small problem.

    Parameters
    ----------
    name
        One of `shipped_names`.

    Returns
    -------
        The digest, ``sha256:...``.

    Raises
    ------
    ModelError
        If one of these fails; the message says which.
    """
    path = find_checkpoint(name)
    expected = _expected_digests().get(path.stem)
    if path not in shipped_files().values() or expected is None:
        raise ModelError(
            f"No digest of {name!r} is recorded, so its weights cannot be verified.",
            "Name one that `mri-unroll models list` gives.",
        )
    found = model.digest(path)
    if found != expected:
        raise ModelError(
            f"The weights of {name!r} are not those that shipped: expected {expected[:19]}..., got {found[:19]}...",
            _REINSTALL,
        )
    if band_shrinkage.holds_denoiser(path):
        values = _denoised(band_shrinkage.load(path)[0])
    else:
        network, config, _ = model.load(path)
        values = [_reconstructed(network, config.n_strength)]
    if not all(bool(torch.isfinite(torch.view_as_real(value)).all()) for value in values):
        raise ModelError(f"The weights of {name!r} give values that are not finite.", _REINSTALL)
    return found


def digest_list() -> str:
    """What `DIGESTS` is to say of the weights that are there. The digest of a first file covers the others."""
    folder = weights_folder()
    return "".join(
        f"{model.digest(path).removeprefix('sha256:')}  {path.relative_to(folder).as_posix()}\n"
        for path in shipped_files().values()
    )


def _expected_digests() -> dict[str, str]:
    """Digest, ``sha256:...``, of each name in `DIGESTS`; nothing if there is no such file.

    Raises
    ------
    ModelError
        If a line is not as `sha256sum` writes it.
    """
    try:
        lines = (weights_folder() / DIGESTS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The list of digests {DIGESTS} cannot be read: {error}.", _REINSTALL) from error
    digests = {}
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[0]) != 64:
            raise ModelError(
                f"Expected a SHA-256 digest and a name in each line of {DIGESTS}, got {line[:80]!r}.", _REINSTALL
            )
        digests[Path(words[1].removeprefix("*")).stem] = "sha256:" + words[0].lower()
    return digests


@torch.inference_mode()
def _denoised(network: nn.Module) -> list[Tensor]:
    """What a denoiser makes of the wavelet bands of noise, two levels of them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), *[(5, 3)] * 3, *[(10, 6)] * 3]
    bands = [torch.randn(shape, dtype=torch.complex64, generator=generator) for shape in shapes]
    found: list[Tensor] = network(bands, [torch.ones_like(band.real) for band in bands])
    return found


@torch.inference_mode()
def _reconstructed(network: nn.Module, n_strength: int) -> Tensor:
    """What a network makes of a small problem of odd size with two coils and every second column."""
    generator = torch.Generator().manual_seed(0)
    sens_maps = torch.randn(1, 2, 27, 21, dtype=torch.complex64, generator=generator)
    sens_maps = sens_maps / torch.linalg.vector_norm(sens_maps, dim=1, keepdim=True)
    image = torch.randn(1, 27, 21, dtype=torch.complex64, generator=generator)
    op = SenseOperator(sens_maps, (torch.arange(21) % 2 == 0).view(1, 1, 1, 21))
    kspace = op.forward(image)
    value: Tensor = network(op.adjoint(kspace), measured(network, op, kspace), torch.zeros(1, n_strength)).value
    return value
