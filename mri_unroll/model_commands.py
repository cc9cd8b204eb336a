"""The commands ``mri-unroll models ...``: the trained weights that come along."""

from __future__ import annotations

from typing import Annotated

import typer

from mri_unroll.config import ReconstructionConfig
from mri_unroll.terminal import AsJson, Debug, guarded, put_json, put_record, put_table, tell

_LISTED = ("name", "parameters", "bytes", "digest")

models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog="Example: mri-unroll models verify")


@models_app.command("list", epilog="Example: mri-unroll models list")
@guarded
def list_models(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the weights that come along."""
    from mri_unroll.checkpoints import shipped_models, summarise

    found = [summarise(path) for path in shipped_models().values()]
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
    name: Annotated[str, typer.Argument(help="A name that `models list` gives, or a .safetensors file.")],
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
    name: Annotated[str | None, typer.Argument(help="A name that `models list` gives.", show_default="all")] = None,
    debug: Debug = False,
) -> None:
    """Check digests of weights, that they load, and that they run."""
    from mri_unroll.checkpoints import find_checkpoint, shipped_names, verify

    names = [name] if name else shipped_names()
    if not names:
        find_checkpoint(ReconstructionConfig().method)  # says that it is missing
    put_table([[each, "verified", verify(each)] for each in names])
