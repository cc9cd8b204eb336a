"""The factory: a method's name or a checkpoint becomes something that reconstructs scans."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import torch

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, DeviceError, ModelError
from mri_unroll.image import Image
from mri_unroll.nets import model
from mri_unroll.nets.imported import is_imported
from mri_unroll.nets.weights import named_as_part
from mri_unroll.recon import learned, peers
from mri_unroll.recon.calibrate import FAST_COILS, MAX_COILS
from mri_unroll.recon.imported import make_imported
from mri_unroll.recon.methods import CLASSICAL, NOTHING_TO_SET, PEERS, SUMMARIES, ClassicalMethod, function
from mri_unroll.recon.slicewise import Progress, SlicewiseReconstructor, quiet
from mri_unroll.scan import Scan


class Reconstructor(Protocol):
    """Anything that turns a scan into pictures."""

    @property
    def name(self) -> str:
        """As the user calls it."""
        ...

    def reconstruct(self, scan: Scan, *, progress: Progress = quiet) -> Image:
        """Reconstruct every slice."""
        ...


def weights_folder() -> Path:
    """Where the shipped weights lie."""
    return Path(str(resources.files("mri_unroll") / "weights"))


def shipped_models() -> dict[str, Path]:
    """Names and (first) files of the weights that come with the package."""
    found = sorted(weights_folder().glob("*.safetensors"))
    return {path.stem: path for path in found if not named_as_part(path)}


def described_methods() -> list[dict[str, Any]]:
    """Name, kind, whether it is the default and whether it can run here, and one line about each method."""
    kinds = dict.fromkeys(PEERS, "peer") | dict.fromkeys(CLASSICAL, "classical")
    kinds |= {name: kind for name, (_, kind, _) in NOTHING_TO_SET.items()}
    program = peers.bart_program()
    found = f"found here: {peers.bart_version(program) or 'it does not run'}" if program else "not installed here"
    return [
        {
            "name": name,
            "kind": kinds.get(name, "learned"),
            "default": name == ReconstructionConfig().method,
            "installed": program is not None or name != "bart-pics",
            "summary": summary + (f" ({found})" if name == "bart-pics" else ""),
        }
        for name, summary in SUMMARIES.items()
    ]


def make_reconstructor(name_or_checkpoint: str, config: ReconstructionConfig | None = None) -> Reconstructor:
    """A method, ready to reconstruct scans.

    Parameters
    ----------
    name_or_checkpoint
        A name of `SUMMARIES`, or the path of a ``.safetensors`` checkpoint.
    config
        Device, and weight and iterations of classical methods; defaults if None.

    Raises
    ------
    ConfigError
        If there is no such method, the nearest name is given; if it does not take a setting that was made; or if it is
        somebody else's program, and that is not installed.
    ModelError
        If the checkpoint cannot be used, or shipped weights are missing.
    DeviceError
        If the device is absent.
    """
    config = config or ReconstructionConfig()
    device = choose_device(config.device)
    if name_or_checkpoint in (*CLASSICAL, *PEERS, *NOTHING_TO_SET) and (config.denoise or config.effort != "normal"):
        raise ConfigError(
            f"The method {name_or_checkpoint!r} has no setting of how much noise to remove or effort to spend.",
            "Leave these out, or choose a trained network (`mri-unroll methods`).",
        )
    if name_or_checkpoint not in (*CLASSICAL, *PEERS) and (
        config.reg_weight is not None or config.n_iterations is not None
    ):
        raise ConfigError(
            f"The method {name_or_checkpoint!r} has no regularisation weight and no number of iterations to set.",
            f"Leave them out, or choose one of {', '.join((*CLASSICAL, *PEERS))}.",
        )
    if name_or_checkpoint in NOTHING_TO_SET:
        reconstructor: Reconstructor = function(NOTHING_TO_SET[name_or_checkpoint][0])(device)
        return reconstructor
    if name_or_checkpoint in CLASSICAL:
        return _classical(name_or_checkpoint, CLASSICAL[name_or_checkpoint], config, device)
    if name_or_checkpoint in PEERS:
        if config.device == "cuda":
            raise ConfigError(
                f"The method {name_or_checkpoint!r} runs on the CPU.",
                "Leave --device out: it takes a GPU where it can.",
            )
        if name_or_checkpoint == "bart-pics":
            peers.require_bart()  # said before any scan is read
        return _classical(name_or_checkpoint, PEERS[name_or_checkpoint], config, torch.device("cpu"))
    path = shipped_models().get(name_or_checkpoint, Path(name_or_checkpoint))
    if name_or_checkpoint in SUMMARIES and path.suffix != ".safetensors":
        raise ModelError(
            f"The weights of {name_or_checkpoint!r} are missing from this installation.",
            "Install mri_unroll again, or choose a classical method (`mri-unroll methods`).",
        )
    if path.suffix != ".safetensors" or not path.is_file():
        near = difflib.get_close_matches(name_or_checkpoint, SUMMARIES, n=1, cutoff=0.4)
        raise ConfigError(
            f"Expected a method ({', '.join(SUMMARIES)}) or an existing .safetensors file, got {name_or_checkpoint!r}.",
            f"Did you mean {near[0]!r}?" if near else "See `mri-unroll methods`.",
        )
    if is_imported(path):
        return make_imported(path.name, path, config, device)
    return _learned(name_or_checkpoint if name_or_checkpoint in shipped_models() else path.name, path, config, device)


def _classical(name: str, method: ClassicalMethod, config: ReconstructionConfig, device: torch.device) -> Reconstructor:
    reg_weight = method.reg_weight if config.reg_weight is None else config.reg_weight
    n_iterations = method.n_iterations if config.n_iterations is None else config.n_iterations
    return SlicewiseReconstructor(
        name=name,
        solve=functools.partial(function(method.solve), reg_weight=reg_weight, n_iterations=n_iterations),
        device=device,
        parameters={"reg_weight": reg_weight, "n_iterations": n_iterations},
    )


def _learned(name: str, path: Path, config: ReconstructionConfig, device: torch.device) -> Reconstructor:
    network, model_config, card = model.load(path)
    if model.task(card) != "reconstruct":
        raise ConfigError(
            f"The network {name!r} restores finished pictures; it does not reconstruct k-space.",
            "Use it as `recon STUDY --mode restore`, or choose another method (`mri-unroll methods`).",
        )
    knows_noise = model_config.n_strength > model.N_STRENGTH
    if config.denoise and not knows_noise:
        raise ConfigError(
            f"The network {name!r} removes noise as it was trained to; it has no choice of how much.",
            "Leave out the setting, or choose a network that was trained with n_strength = 3 or 4.",
        )
    # bfloat16 moves a picture by some 7e-4 of its norm: less than noise, more than units of k-space may.
    precision = learned.fitting_precision(device) if config.effort == "fast" else None
    noise_kept = 1.0 - config.denoise if knows_noise else None
    solve = functools.partial(
        learned.run_network,
        network=network.to(device),
        noise_kept=noise_kept,
        precision=precision,
        best=config.effort == "best",
    )
    settings = {"effort": config.effort, "prior_precision": str(precision or torch.float32).removeprefix("torch.")}
    return SlicewiseReconstructor(
        name=name,
        solve=solve,
        device=device,
        parameters=dataclasses.asdict(model_config) | settings | ({"denoise": config.denoise} if knows_noise else {}),
        weights_digest=model.digest(path),
        planar=True,
        max_coils=FAST_COILS if config.effort == "fast" else MAX_COILS,
        magnitude=functools.partial(learned.as_fully_sampled, noise_kept=noise_kept or 0.0),
    )


def choose_device(choice: str) -> torch.device:
    """``auto`` takes a GPU where one is, else the CPU.

    Raises
    ------
    DeviceError
        If a GPU is asked for and none is there.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "A GPU was asked for, but torch sees none.", "Use --device cpu, or check `mri-unroll doctor`."
        )
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
