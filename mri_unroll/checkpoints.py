"""The weights that come with the package: what they are, and whether they are whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from mri_unroll.errors import ModelError
from mri_unroll.nets import imported, model
from mri_unroll.nets.refinement import measured
from mri_unroll.physics.sense import SenseOperator
from mri_unroll.recon.reconstructor import shipped_models, weights_folder

DIGESTS = "DIGESTS"  # beside the weights: one line `SHA256  NAME.safetensors` each
_REINSTALL = "Install mri_unroll again."


def shipped_names() -> list[str]:
    """Names of all weights that are there, or that `DIGESTS` says should be."""
    return sorted({*shipped_models(), *_expected_digests()})


def find_checkpoint(name_or_path: str) -> Path:
    """The file of shipped weights, or of a checkpoint given by its path.

    Raises
    ------
    ModelError
        If there is neither; the shipped names are given.
    """
    shipped = shipped_models()
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
    network, config, card = imported.load(path) if imported.is_imported(path) else model.load(path)
    return {
        "name": path.stem,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bytes": sum(file.stat().st_size for file in model.files(path)),
        "digest": model.digest(path),
        "config": dataclasses.asdict(config),
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
    if path.parent != weights_folder() or expected is None:
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
    network, config, _ = model.load(path)
    _try_out(network, config.n_strength, name)
    return found


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
        digests[words[1].removeprefix("*").removesuffix(".safetensors")] = "sha256:" + words[0].lower()
    return digests


def _try_out(network: torch.nn.Module, n_strength: int, name: str) -> None:
    """Run a network on a small problem of odd size with two coils and every second column."""
    generator = torch.Generator().manual_seed(0)
    sens_maps = torch.randn(1, 2, 27, 21, dtype=torch.complex64, generator=generator)
    sens_maps = sens_maps / torch.linalg.vector_norm(sens_maps, dim=1, keepdim=True)
    image = torch.randn(1, 27, 21, dtype=torch.complex64, generator=generator)
    op = SenseOperator(sens_maps, (torch.arange(21) % 2 == 0).view(1, 1, 1, 21))
    with torch.inference_mode():
        kspace = op.forward(image)
        value = network(op.adjoint(kspace), measured(network, op, kspace), torch.zeros(1, n_strength)).value
    if not bool(torch.isfinite(torch.view_as_real(value)).all()):
        raise ModelError(f"The weights of {name!r} give values that are not finite.", _REINSTALL)
