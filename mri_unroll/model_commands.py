"""The commands ``mri-unroll models ...``: the trained weights that come along, and those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mri_unroll.config import ReconstructionConfig
from mri_unroll.terminal import AsJson, Debug, guarded, put, put_json, put_record, put_table, tell

ForeignKind = Literal["fastmri-varnet", "fastmri-unet", "direct-varnet"]  # as nets.layouts.LAYOUTS, which needs torch
_LISTED = ("name", "parameters", "bytes", "digest")

models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog="Example: mri-unroll models verify")


@models_app.command("list", epilog="Example: mri-unroll models list")
@guarded
def list_models(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the weights that come along."""
    from mri_unroll.checkpoints import shipped_files, summarise

    found = [summarise(path) for path in shipped_files().values()]
    if as_json:
        put_json([{name: model[name] for name in _LISTED} for model in found], indent=2)
    elif found:
        put_table(
            [[m["name"], f"{m['parameters']:,}", f"{m['bytes'] / 1e6:.1f} MB", m["digest"][:19]] for m in found],
            ("name", "parameters", "size", "digest"),
        )
    else:
        tell("no weights are shipped with this installation")


@models_app.command("show", epilog="Example: mri-unroll models show unrolled")
@guarded
def show_model(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that `mri-unroll models list` gives, or a .safetensors file.")
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the model card of weights: what they were trained on, and what they are for."""
    from mri_unroll.checkpoints import find_checkpoint, summarise

    found = summarise(find_checkpoint(name))
    if as_json:
        put_json(found, indent=2)
    else:
        put_record(found)


@models_app.command("verify", epilog="Example: mri-unroll models verify unrolled")
@guarded
def verify_models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A name that `mri-unroll models list` gives.", show_default="all"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Check digests of weights, that they load, and that they run."""
    from mri_unroll.checkpoints import find_checkpoint, shipped_names, verify

    names = [name] if name else shipped_names()
    if not names:
        find_checkpoint(ReconstructionConfig().method)  # says that it is missing
    put_table([[each, "verified", verify(each)] for each in names])


@models_app.command(
    "import",
    epilog="Example: mri-unroll models import fastmri-varnet knee_leaderboard_state_dict.pt -o varnet.safetensors\n\n"
    "Example: mri-unroll recon knee.h5 -o out --method varnet.safetensors",
)
@guarded
def import_model(
    kind: Annotated[ForeignKind, typer.Argument(metavar="KIND", help="fastmri-varnet, fastmri-unet or direct-varnet.")],
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="What torch.save wrote: .pt, .ckpt. Nothing in it is run.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.safetensors", help="The file to write.")],
    scale_percentile: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of DIRECT: its scale_percentile.", show_default="0.99"),
    ] = None,
    maps_sigma: Annotated[
        float | None,
        typer.Option(metavar="SIGMA", help="Of DIRECT: its sensitivity_maps_gaussian.", show_default="no window"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Convert a network that others trained, so that it runs wherever a method is named.

    Layouts: a state dict, plain or as Lightning or DIRECT save it; sizes are told from the weights.
    """
    from mri_unroll.checkpoints import summarise
    from mri_unroll.nets.foreign import import_checkpoint

    import_checkpoint(
        kind, checkpoint, out, overwrite=overwrite, scale_percentile=scale_percentile, maps_sigma=maps_sigma
    )
    found = summarise(out)
    if as_json:
        put_json(found, indent=2)
        return
    put(str(out))
    tell(f"{kind} with {found['parameters']:,} parameters, from a {found['card']['layout']}")
    for assumption in found["card"]["assumed"]:
        tell(f"assumed: {assumption}")
    tell(f"licence: {found['card']['licence']}")
