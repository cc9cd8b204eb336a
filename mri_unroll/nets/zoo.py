"""Named networks: the ones that ship, and one for each choice that `ModelConfig` offers, a change at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mri_unroll.nets.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """A configuration, and what it is or how it differs from ``unrolled``."""

    config: ModelConfig
    summary: str


UNROLLED = ModelConfig(n_steps=11, n_cg=3, n_strength=4, counts_coils=True)

ZOO: dict[str, Entry] = {
    "unrolled": Entry(UNROLLED, "11 steps, U-Net priors, conjugate gradients"),
    "unrolled-small": Entry(
        ModelConfig(n_steps=4, n_cg=3, n_start_cg=6, widths=(32, 48, 64), n_strength=3), "4 steps, narrower priors"
    ),
    "five-steps": Entry(ModelConfig(), "5 steps, no choice of noise; the first that shipped"),
    "tied": Entry(replace(UNROLLED, tied=True), "one set of weights for all steps"),
    "shared": Entry(replace(UNROLLED, n_priors=1), "one prior; each step has weight, scales and shifts of its own"),
    "two-priors": Entry(replace(UNROLLED, n_priors=2), "two priors of six and five steps, as `shared`"),
    "momentum": Entry(replace(UNROLLED, momentum="learned"), "a skip connection past each step"),
    "gradient": Entry(replace(UNROLLED, data_term="gradient", counts_coils=False), "one gradient step for the data"),
    "resnet": Entry(replace(UNROLLED, prior="resnet", widths=(64,) * 5), "residual blocks at half size"),
    "resnet-full": Entry(
        replace(UNROLLED, prior="resnet", widths=(32,) * 5, fold=1), "residual blocks at full size, half as wide"
    ),
    "dncnn": Entry(replace(UNROLLED, prior="dncnn", widths=(64,) * 8), "a plain chain of convolutions at half size"),
    "unet-folded-4": Entry(replace(UNROLLED, widths=(64, 96), fold=4), "a U-Net that begins at a quarter of the size"),
    "refined-once": Entry(replace(UNROLLED, map_refinement="once"), "coil maps refined at the start"),
    "refined-each": Entry(replace(UNROLLED, map_refinement="each"), "coil maps refined before each step"),
    "equilibrium": Entry(
        ModelConfig(
            kind="equilibrium",
            n_steps=1,
            n_in_turn=3,
            n_cg=3,
            n_strength=4,
            counts_coils=True,
            contraction=0.98,
            contraction_slope=0.75,
            tolerance=5e-5,
            n_iterations=100,
            backward="neumann",
            n_terms=6,
            sees_start=True,
        ),
        "the fixed point of three steps in turn, to a tolerance",
    ),
}
