"""Put trained weights into the package: model card inside, digest beside.

    python scripts/export_model.py runs/unrolled/model.safetensors --card scripts/unrolled_card.toml

The card's text comes from the TOML file; what the training run recorded (settings, steps done, validation) is kept
under ``run``. Rewrites ``mri_unroll/weights/NAME.safetensors`` (with ``NAME.2.safetensors`` and so on where one file
would be too large for a source repository) and ``mri_unroll/weights/DIGESTS``. Runs that began one from another lie in
one valley, and the mean of their weights is often better than each (Wortsman et al., ICML 2022, arXiv:2203.05482):

    python scripts/export_model.py runs/unrolled-stage7/model.safetensors runs/unrolled-stage8/model.safetensors \
        runs/unrolled/model.safetensors --card scripts/unrolled_card.toml

An equilibrium is trained to a looser tolerance, and with less of the shrinkage that brings it to rest, than it is to
run with:

    python scripts/export_model.py runs/equilibrium-stage2/model.safetensors runs/equilibrium/model.safetensors \
        --card scripts/equilibrium_card.toml --name equilibrium --tolerance 5e-5 --iterations 100 \
        --contraction 0.98 --slope 0.75
"""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mri_unroll.checkpoints import DIGESTS, digest_list
from mri_unroll.nets import model
from mri_unroll.nets.transfer import transfer
from mri_unroll.recon.reconstructor import weights_folder

MAX_BYTES = 4_900_000  # of a file


def averaged(paths: Sequence[Path]) -> tuple[model.Network, model.ModelConfig, dict[str, Any]]:
    """The mean of trained networks, with configuration and card of the last; what earlier ones lack counts as none."""
    network, config, run = model.load(paths[-1])
    if len(paths) == 1:
        return network, config, run
    aligned = [model.build(config) for _ in paths]
    for path, target in zip(paths, aligned, strict=True):
        transfer(model.load(path)[0], target)
    weights = [dict(target.named_parameters()) for target in aligned]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.stack([known[name] for known in weights]).mean(0))
    return network, config, run | {"mean_of": len(paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "trained",
        type=Path,
        nargs="+",
        help="model.safetensors of a training run; of several, one begun from another, the mean of their weights",
    )
    parser.add_argument("--card", type=Path, required=True, help="TOML file with the text of the model card")
    parser.add_argument("--name", default="unrolled", help="name that users give to --method")
    parser.add_argument(
        "--tolerance", type=float, help="of an equilibrium as it is to run; as it was trained unless given"
    )
    parser.add_argument("--iterations", type=int, help="the same: at most so many")
    parser.add_argument("--contraction", type=float, help="the same: its contraction at fourfold undersampling")
    parser.add_argument("--slope", type=float, help="the same: its contraction_slope")
    arguments = parser.parse_args()
    network, config, run = averaged(arguments.trained)
    asked = {
        "tolerance": arguments.tolerance,
        "n_iterations": arguments.iterations,
        "contraction": arguments.contraction,
        "contraction_slope": arguments.slope,
    }
    config = dataclasses.replace(config, **{name: value for name, value in asked.items() if value is not None})
    card = tomllib.loads(arguments.card.read_text(encoding="utf-8")) | {"run": run}
    folder = weights_folder()
    path = folder / f"{arguments.name}.safetensors"
    model.save(network, config, card, path, MAX_BYTES)
    for file in model.files(path):
        file.chmod(0o644)  # safetensors writes for the owner alone; a service runs as another user
        print(f"{file.stat().st_size:>10}  {file.name}")
    digests = digest_list()
    (folder / DIGESTS).write_text(digests, encoding="utf-8")
    print(digests, end="")


if __name__ == "__main__":
    main()
