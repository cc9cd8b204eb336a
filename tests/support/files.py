"""Writers of scan files for tests: sound ones in awkward sizes, and awkward ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

SHAPE = (3, 2, 13, 11)  # (slice, coil, ky, kx), odd and unequal on purpose


def random_kspace(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[np.complex64]:
    """Complex Gaussian samples, none of them exactly zero."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def header_xml(
    encoded: tuple[int, int] = SHAPE[2:],
    recon: tuple[int, int] = (7, 9),
    encoded_fov: tuple[float, float, float] = (260.0, 220.0, 5.0),
    recon_fov: tuple[float, float, float] = (140.0, 180.0, 5.0),
    limits: tuple[int, int] | None = None,
    extra: str = "",
    trajectory: str = "cartesian",
) -> str:
    """An ISMRMRD header; sizes as (readout, phase), ``limits`` as (centre, maximum)."""

    def space(name: str, size: tuple[int, int], fov: tuple[float, float, float]) -> str:
        matrix = f"<matrixSize><x>{size[0]}</x><y>{size[1]}</y><z>1</z></matrixSize>"
        view = f"<fieldOfView_mm><x>{fov[0]}</x><y>{fov[1]}</y><z>{fov[2]}</z></fieldOfView_mm>"
        return f"<{name}>{matrix}{view}</{name}>"

    step = "" if limits is None else f"<minimum>0</minimum><maximum>{limits[1]}</maximum><center>{limits[0]}</center>"
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"{extra}<encoding>{space('encodedSpace', encoded, encoded_fov)}{space('reconSpace', recon, recon_fov)}"
        f"<trajectory>{trajectory}</trajectory>"
        f"<encodingLimits><kspace_encoding_step_1>{step}</kspace_encoding_step_1></encodingLimits>"
        "</encoding></ismrmrdHeader>"
    )


def write_fastmri(
    path: Path, kspace: NDArray[Any] | None = None, attrs: dict[str, Any] | None = None, **more: Any
) -> Path:
    """Write ``kspace`` (random by default) and any further datasets by name."""
    with h5py.File(path, "w") as file:
        file["kspace"] = random_kspace() if kspace is None else kspace
        for name, value in more.items():
            file[name] = value
        file.attrs.update(attrs or {})
    return path


def advice(error: BaseException) -> str:
    """Check that an error is one readable sentence with a hint, and return the sentence."""
    message, hint = error.message, error.hint  # type: ignore[attr-defined]
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 400
    assert hint
    assert hint[0].isupper()
    assert hint.endswith(".")
    return str(message)
