"""Train an unrolled network on simulated acquisitions of magnitude images.

    python scripts/train_unrolled.py scripts/train_unrolled.toml

Killed and started again, it goes on from the last checkpoint. The folder of the run gets ``checkpoint.pt``,
``log.csv`` and ``model.safetensors``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from mri_unroll.config import load_toml
from mri_unroll.errors import MriUnrollError
from mri_unroll.training.loop import TrainingConfig, train


def main() -> int:
    """Train; 0 when the run is complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="TOML file, see scripts/train_unrolled.toml")
    parser.add_argument("--n-steps", type=int, help="run this many steps instead of the configured number")
    arguments = parser.parse_args()
    try:
        config = load_toml(arguments.config, TrainingConfig)
        folder = arguments.config.resolve().parent
        config = dataclasses.replace(
            config,
            data=str((folder / config.data).resolve()),
            out=str((folder / config.out).resolve()),
            start_from=config.start_from and str((folder / config.start_from).resolve()),
            n_steps=arguments.n_steps or config.n_steps,
        )
        print(train(config, lambda line: print(line, file=sys.stderr, flush=True)))
    except MriUnrollError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
