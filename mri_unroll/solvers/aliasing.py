r"""The noise that random undersampling makes: how strong it is in each wavelet band, and where."""

from __future__ import annotations

import torch
from torch import Tensor

from mri_unroll.solvers.wavelet import WaveletBands


class Aliasing:
    r"""Predicts the noise that undersampling makes, by band and place, from the residual of the measurements.

    A band's noise has the covariance between coils :math:`C_b = \sum_k |\psi_b(k)|^2 M_k \left[
    \tfrac{1-p_k}{p_k^2} z_k z_k^H + \tfrac{\sigma^2}{p_k} I\right]`, and where the coils see with sensitivities ``s``
    the variance :math:`s^H C_b s`. That maps are smooth against wavelets is the one approximation; for a single coil
    there is none, and this is the :math:`\tau_b^2` of the paper.

    Parameters
    ----------
    mask, probability, sens_maps, noise_var, bands
        As for `vdamp`.
    """

    def __init__(
        self, mask: Tensor, probability: Tensor, sens_maps: Tensor, noise_var: float, bands: WaveletBands
    ) -> None:
        self._at = mask.flatten().nonzero().squeeze(1)
        inverse = 1 / probability.flatten()[self._at]
        spectra = [(along_y[:, None] * along_x).flatten()[self._at] for along_y, along_x in bands.spectra]
        self._weights = [((inverse - 1) * inverse * spectrum).clamp_min(0).sqrt() for spectrum in spectra]
        self._noise = [noise_var * float((inverse * spectrum).sum()) for spectrum in spectra]
        self._sens_maps = sens_maps
        self._power = sens_maps.abs().square().sum(0)

    def variances(self, residual: Tensor) -> list[Tensor]:
        """Variance at each pixel, ``(y, x)``, band by band, from the residual ``(coil, ky, kx)``."""
        measured = residual.flatten(1)[:, self._at]
        found = []
        for weight, noise in zip(self._weights, self._noise, strict=True):
            weighted = measured * weight
            seen = torch.tensordot(weighted @ weighted.mH, self._sens_maps, 1)
            found.append((self._sens_maps.conj() * seen).sum(0).real + noise * self._power)
        return found
