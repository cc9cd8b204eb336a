"""Layouts in which networks of other packages are found, and what their weights say about the network.

Hyperparameters are told from the shapes of weights; names are brought to those of our modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mri_unroll.errors import ConfigError, ModelError
from mri_unroll.nets.imported import ImportedConfig, misfit

MAX_BYTES = 4 * 2**30  # of a checkpoint, and of the weights in it; the largest published ones have 2 GB
LAYOUTS = {
    "fastmri-varnet": "the state dict of fastmri's VarNet (`cascades.0.dc_weight`, ...), plain, under `model`, or "
    "under `state_dict` with the prefix `varnet.` as Lightning saves it",
    "fastmri-unet": "the state dict of fastmri's Unet with one channel (`down_sample_layers.0.layers.0.weight`, ...), "
    "plain, under `model`, under `state_dict` with the prefix `unet.` as Lightning saves it, or in the trunk of a "
    "`classy_state_dict`",
    "direct-varnet": "a checkpoint of DIRECT's EndToEndVarNet: `model` (`layers_list.0.learning_rate`, ...) and, if it "
    "refines coil maps, `sensitivity_model`",
}
_WRAPPERS = ("module.", "_orig_mod.")  # of distributed and of compiled modules

Found = tuple[dict[str, Tensor], str]  # weights under our names, and the layout they came in


def recognise(kind: str, content: Any, settings: dict[str, Any]) -> tuple[dict[str, Tensor], ImportedConfig, str]:
    """Weights under our names, the configuration that they tell, and the layout they came in.

    Parameters
    ----------
    kind
        One of `LAYOUTS`.
    content
        What the checkpoint holds.
    settings
        Of `ImportedConfig`, beyond what shapes tell.

    Raises
    ------
    ModelError
        If that is none of the layouts of ``kind``.
    """
    tensors, layout = _RECOGNISE[kind](content, kind)
    config = _configuration(kind, tensors, settings)
    odd = None if config is None else misfit(config, tensors)
    if config is None or odd is not None:
        raise _unknown(kind, content, "its weights do not fit together" + (f", first at `{odd}`" if odd else ""))
    return tensors, config, layout


def _of_fastmri(content: Any, kind: str) -> Found:
    """Weights of fastmri's networks, from any of the containers they are found in."""
    prefix = "varnet." if kind == "fastmri-varnet" else "unet."
    layout = "plain state dict"
    if isinstance(content, Mapping):
        if isinstance(inner := content.get("state_dict"), Mapping):
            content, layout = inner, "Lightning checkpoint, `state_dict`"
        elif isinstance(inner := content.get("model"), Mapping):
            content, layout = inner, "checkpoint with `model`"
        elif kind == "fastmri-unet" and isinstance(inner := _trunk(content), Mapping):
            content, layout, prefix = inner, "trunk of a `classy_state_dict`", "_feature_blocks.unetblock."
    tensors = _weights(content, kind)
    if any(name.startswith(prefix) for name in tensors):
        # What else such a module holds, the loss with its window and the counters of metrics, is not of the network.
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if kind == "fastmri-unet":
        tensors = {f"unet.{name}": tensor for name, tensor in tensors.items()}
    return tensors, layout


def _trunk(content: Mapping[str, Any]) -> Any:
    for key in ("classy_state_dict", "base_model", "model", "trunk"):
        inner = content.get(key)
        if not isinstance(inner, Mapping):
            return None
        content = inner
    return content


def _of_direct(content: Any, kind: str) -> Found:
    """Weights of DIRECT's network; its later layout of U-Nets is brought to the first."""
    refining: Any = None
    layout = "plain state dict"
    if isinstance(content, Mapping) and isinstance(inner := content.get("model"), Mapping):
        refining = content.get("sensitivity_model")
        layout = "DIRECT checkpoint, `model`" + ("" if refining is None else " and `sensitivity_model`")
        content = inner
    tensors = _weights(content, kind)
    if refining is not None:
        tensors |= {
            f"sensitivity_model.{name.replace('unet2d.', 'unet.', 1) if name.startswith('unet2d.') else name}": tensor
            for name, tensor in _weights(refining, kind).items()
        }
    if any(".layer_1.conv." in name for name in tensors):
        layout += ", U-Nets with `layer_1`"
    return {_first_name(name, tensors): tensor for name, tensor in tensors.items()}, layout


def _first_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    """The name that a weight of a U-Net had in DIRECT's first layout, which is fastmri's."""
    found = re.fullmatch(r"((?:.*?\.)??)(up_conv|up_transpose_conv|down_sample_layers|conv|conv_out)\.(.+)", name)
    if found is None:
        return name
    start, part, rest = found.groups()
    last = _count(tensors, f"{start}up_conv.") - 1
    if part == "conv_out":
        return f"{start}up_conv.{last}.1.{rest}"
    if part == "up_transpose_conv":
        return f"{start}{part}." + re.sub(r"^(\d+)\.conv\.", r"\1.layers.0.", rest)
    if not re.search(r"\blayer_[12]\.conv\.", rest):
        return name
    if part == "up_conv":
        rest = re.sub(rf"^{last}\.layer_", f"{last}.0.layer_", rest)
    return f"{start}{part}.{rest.replace('layer_1.conv.', 'layers.0.').replace('layer_2.conv.', 'layers.4.')}"


_RECOGNISE: dict[str, Callable[[Any, str], Found]] = {
    "fastmri-varnet": _of_fastmri,
    "fastmri-unet": _of_fastmri,
    "direct-varnet": _of_direct,
}


def _weights(content: Any, kind: str) -> dict[str, Tensor]:
    """A state dict that is one, without the prefixes of wrappers."""
    if not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        raise _unknown(kind, content, "there is no state dict at any of these places")
    # A tensor may stand for more numbers than the file holds, by strides of zero.
    if sum(4 * value.numel() for value in content.values()) > MAX_BYTES:
        raise ModelError(
            f"The checkpoint's weights are larger than {MAX_BYTES / 2**30:.0f} GiB.", "Save single precision alone."
        )
    tensors = {}
    for name, value in content.items():
        for wrapper in _WRAPPERS:
            name = name.removeprefix(wrapper)
        tensors[name] = value
    return tensors


def _configuration(kind: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> ImportedConfig | None:
    """Hyperparameters from the shapes of weights; None if what tells them is missing or not of floating point."""
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        return None
    try:
        if kind == "fastmri-unet":
            width, n_pools = _unet(tensors, "unet.")
            return ImportedConfig(kind, width, n_pools)
        cascades, inner, maps = (
            ("cascades.", "model.unet.", "sens_net.norm_unet.unet.")
            if kind == "fastmri-varnet"
            else ("layers_list.", "regularizer_model.", "sensitivity_model.")
        )
        n_cascades = _count(tensors, cascades)
        width, n_pools = _unet(tensors, f"{cascades}0.{inner}")
        normalised = any(name.startswith(f"{maps}unet.") for name in tensors)
        refines = kind == "fastmri-varnet" or any(name.startswith(maps) for name in tensors)
        maps_width, maps_pools = _unet(tensors, f"{maps}unet." if normalised else maps) if refines else (0, 0)
        return ImportedConfig(
            kind, width, n_pools, n_cascades, maps_width, maps_pools, maps_normalised=normalised, **settings
        )
    except (KeyError, IndexError, ConfigError):
        return None


def _unet(tensors: Mapping[str, Tensor], prefix: str) -> tuple[int, int]:
    """Width and levels of one U-Net."""
    width = tensors[f"{prefix}down_sample_layers.0.layers.0.weight"].shape[0]
    return int(width), _count(tensors, f"{prefix}down_sample_layers.")


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered entries of a list there are."""
    numbers = {match[1] for name in tensors if (match := re.match(re.escape(prefix) + r"(\d{1,4})\.", name))}
    return max(map(int, numbers), default=-1) + 1


def _unknown(kind: str, content: Any, reason: str) -> ModelError:
    if isinstance(content, Mapping):
        names = [str(name)[:60] for name in content]
        came = f"a mapping of {len(names)} entries ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    else:
        came = f"an object of type {type(content).__name__}"
    return ModelError(
        f"Expected {LAYOUTS[kind]}; got {came}, and {reason}.",
        f"Other kinds: {', '.join(other for other in LAYOUTS if other != kind)}.",
    )
