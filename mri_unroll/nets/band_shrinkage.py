"""A learned denoiser of wavelet coefficients, for message passing: how much of each one to keep, by its neighbours."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from mri_unroll.errors import ModelError
from mri_unroll.nets import weights

FORMAT = "mri_unroll band shrinkage 1"
_ORIENTATIONS = 3  # bands of one level
_LEAST_ODDS = 0.05  # of signal against noise, that a coefficient no larger than noise begins with


class BandShrinkage(nn.Module):
    r"""Keeps of each coefficient a share between 0 and 1, found by a small network from magnitudes around it.

    In units of the noise, :math:`u = r/\tau`, all bands and scans look alike, and one network serves every level, noise
    and contrast. It sees :math:`\log(1+|u|^2)` of the three bands of a level and of the next coarser one, at the place
    and around it, and the mean of each band, which is what thresholds that are tuned by band know as well. Its output
    moves the odds :math:`|u|^2 - 1` of Wiener's filter. Phases stay as they are. The coarsest band is kept whole.

    Parameters
    ----------
    width
        Channels.
    n_layers
        Convolutions of 3 x 3, periodic as the wavelets are.

    Notes
    -----
    That magnitudes of neighbours and parents tell signal from noise: Sendur and Selesnick, IEEE Trans. Signal Process.
    50, 2744 (2002), doi:10.1109/TSP.2002.804091; Portilla et al., IEEE Trans. Image Process. 12, 1338 (2003),
    doi:10.1109/TIP.2003.818640.
    """

    def __init__(self, width: int = 32, n_layers: int = 4) -> None:
        super().__init__()
        widths = [3 * _ORIENTATIONS + 1, *[width] * (n_layers - 1), _ORIENTATIONS]
        self.layers = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, padding=1, padding_mode="circular") for n_in, n_out in itertools.pairwise(widths)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)  # it starts as Wiener's filter

    def forward(self, noisy: list[Tensor], noise_vars: list[Tensor]) -> list[Tensor]:
        """Denoise the coefficients of a picture.

        Parameters
        ----------
        noisy
            Complex, of each band ``(y, x)``, the coarsest first, then three bands a level.
        noise_vars
            Mean squared modulus of the noise of each, of the same shapes, positive.
        """
        found = [noisy[0]]
        parent = torch.log1p(_power(noisy[0], noise_vars[0])).float().expand(_ORIENTATIONS, -1, -1)
        n_levels = len(noisy) // _ORIENTATIONS
        for level in range(n_levels):
            here = slice(1 + _ORIENTATIONS * level, 1 + _ORIENTATIONS * (level + 1))
            bands = torch.stack(noisy[here])
            power = _power(bands, torch.stack(noise_vars[here]))
            size = torch.log1p(power).float()
            coarser = parent if level == 0 else parent.repeat_interleave(2, -2).repeat_interleave(2, -1)
            means = size.mean((-2, -1), keepdim=True).expand_as(size)
            depth = size.new_full((1, *size.shape[1:]), n_levels - 1 - level)
            x = torch.cat([size, coarser, means, depth])[None]
            for index, layer in enumerate(self.layers):
                x = layer(x if index == 0 else functional.silu(x))
            odds = (power - 1).clamp_min(_LEAST_ODDS)
            found += (bands * torch.sigmoid(odds.log() + x[0].to(odds.dtype))).unbind()
            parent = size
        return found


def _power(bands: Tensor, variances: Tensor) -> Tensor:
    """In units of the noise."""
    return bands.abs().square() / variances


def save(network: BandShrinkage, card: dict[str, Any], path: Path) -> None:
    """Write weights with their card; a file of that name is replaced."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    weights.write(tensors, {"format": FORMAT, "card": json.dumps(card, sort_keys=True)}, path)


def holds_denoiser(path: Path) -> bool:
    """Whether a file is one that `save` wrote; False for anything else, readable or not."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load(path: Path) -> tuple[BandShrinkage, dict[str, Any]]:
    """Read what `save` wrote: the network in evaluation mode, and its card.

    Raises
    ------
    ModelError
        If the file is missing, or holds something else.
    """
    tensors, metadata = weights.read(path)
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path.name} holds no denoiser of wavelet bands of this version.", "Install mri_unroll again."
        )
    network = BandShrinkage(len(tensors["layers.0.bias"]), len(tensors) // 2)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), json.loads(metadata.get("card", "{}"))
