"""Noise covariance of the coils, from the noise readouts of ISMRMRD data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mri_unroll.io.mrd_acquisitions import Acquisitions
from mri_unroll.io.mrd_selection import Selection

_MIN_SAMPLES = 4  # for each coil; fewer give a covariance that is mostly chance
_MIN_RATIO = 1e-10  # smallest over largest eigenvalue; below, a coil is silent or a copy of another


def noise_covariance(
    found: Acquisitions, selection: Selection, bandwidth: float | None, n_averages: float
) -> tuple[NDArray[np.complex64] | None, list[str]]:
    r"""Covariance of one k-space sample between coils, :math:`\Psi_{ij} = \langle n_i n_j^*\rangle`.

    Noise power grows with bandwidth: :math:`\Psi = \Psi_\text{noise}\,T_\text{noise} / (\beta\,T)` with the sample
    times of noise and imaging readouts and the share :math:`\beta` of its nominal bandwidth that a noise readout really
    has. Averaging ``m`` times divides it by ``m``.

    Parameters
    ----------
    found, selection
        All readouts, and which of them hold noise.
    bandwidth
        :math:`\beta`; None: 1.
    n_averages
        How often a sample was measured, typically.

    Returns
    -------
        ``(coil, coil)``, or None with a warning where noise was measured but cannot be used.

    Notes
    -----
    Kellman and McVeigh, Magn. Reson. Med. 54, 1439 (2005), doi:10.1002/mrm.20713.
    """
    if selection.noise.size == 0:
        return None, []
    n_coils = int(found.heads["active_channels"][selection.imaging[0]])
    if (found.head("active_channels")[selection.noise] != n_coils).any():
        return None, [f"Noise was measured with other coils than the {n_coils} of the scan: it is not used."]
    noise = np.concatenate([found.samples(int(one)) for one in selection.noise], axis=1).astype(np.complex128)
    if not np.isfinite(noise.view(np.float64)).all():
        return None, ["The noise readouts hold NaN or infinite values: they are not used."]
    if noise.shape[1] < _MIN_SAMPLES * n_coils:
        return None, [f"The {noise.shape[1]} noise samples are too few for {n_coils} coils: they are not used."]
    covariance = noise @ noise.conj().T / noise.shape[1]
    powers = np.linalg.eigvalsh(covariance)
    if not powers[0] > _MIN_RATIO * powers[-1]:
        return None, ["The noise readouts are not independent between coils: they are not used."]
    times = [np.unique(found.head("sample_time_us")[which]) for which in (selection.noise, selection.imaging)]
    scale, warnings = 1.0, []
    if all(time.size == 1 and 0 < time[0] < 1e6 for time in times):
        scale = float(times[0][0]) / (float(times[1][0]) * (bandwidth or 1.0))
    else:
        warnings.append("Sample times of noise and scan are not given: the noise level is taken as it stands.")
    return (covariance * (scale / n_averages)).astype(np.complex64), warnings
