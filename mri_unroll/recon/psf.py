"""How a finished picture lost its sharpness, in words and as an operator on its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll.errors import ConfigError, InputError, UnsupportedScan
from mri_unroll.physics.blur import BlurOperator, gaussian_psf
from mri_unroll.physics.resolution import TruncationOperator

PsfKind = Literal["gaussian", "measured", "kspace-truncation"]

FORMS = "gaussian:FWHM_MM, measured:FILE or kspace-truncation:R"
_EXAMPLES = "Examples: gaussian:1.5, measured:psf.npy, kspace-truncation:1.6."
_NARROWEST = 0.1  # pixels; a Gaussian below it does nothing
_LARGEST_FACTOR = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class PsfSpec:
    """What lies between the sharp picture and the one that is there."""

    kind: PsfKind
    value: float | None  # full width at half maximum in millimetres, or the factor of truncation; None: measured
    samples: NDArray[np.float32] | None = None  # (y, x) of a measured one, sum 1, on the picture's own grid
    digest: str | None = None  # "sha256:..." of the samples of a measured one

    @property
    def text(self) -> str:
        """As it was asked for, without the path of a file."""
        return f"{self.kind}:{self.digest[:19] if self.digest else self.value:{'' if self.digest else 'g'}}"

    @property
    def sentence(self) -> str:
        """For people."""
        if self.kind == "gaussian":
            return f"a Gaussian of {self.value:g} mm full width at half maximum, in the plane of each slice"
        if self.kind == "kspace-truncation":
            return f"k-space cut to 1/{self.value:g} of its extent along both axes and filled with zeros"
        assert self.samples is not None
        return f"a measured point spread function of {self.samples.shape[0]} x {self.samples.shape[1]} pixels"

    def kernel(self, shape: tuple[int, int], spacing: tuple[float, float] | None) -> torch.Tensor:
        """The point spread function on the grid of a picture, real ``(y, x)`` of odd sides and sum 1.

        Parameters
        ----------
        shape
            Of the picture.
        spacing
            Millimetres from pixel to pixel along y and x; None: unknown.

        Raises
        ------
        UnsupportedScan
            If the picture is smaller than the function, or its pixels have no known size where a size is needed.
        ConfigError
            If there is none: a cut of k-space is no convolution with a short function.
        """
        if self.kind == "kspace-truncation":
            raise ConfigError(
                "A cut of k-space has no short point spread function.", "Choose the method restore, tv or wavelet."
            )
        if self.samples is not None:
            psf = torch.from_numpy(self.samples)
        else:
            assert self.value is not None
            if spacing is None:
                raise UnsupportedScan(
                    "A width in millimetres was asked for, but the size of a pixel is unknown.",
                    "Give a measured function on the picture's own grid.",
                )
            width = (self.value / spacing[0], self.value / spacing[1])
            if min(width) < _NARROWEST:
                raise ConfigError(
                    f"A width of {self.value:g} mm is less than {_NARROWEST} pixels of {spacing[0]:.3g} x "
                    f"{spacing[1]:.3g} mm: there is nothing to restore.",
                    "Widths are in millimetres; give the blur of the whole chain.",
                )
            psf = gaussian_psf(width)
        if not all(n_psf <= n for n_psf, n in zip(psf.shape, shape, strict=True)):
            raise UnsupportedScan(
                f"The point spread function covers {tuple(psf.shape)} pixels, more than the picture {shape}.",
                "Check the width; it is in millimetres.",
            )
        return psf

    def operator(
        self, shape: tuple[int, int], spacing: tuple[float, float] | None
    ) -> BlurOperator | TruncationOperator:
        """From a sharp picture ``(1, y, x)`` to what was measured of it; parameters as for `kernel`."""
        if self.kind != "kspace-truncation":
            return BlurOperator(self.kernel(shape, spacing), shape)
        assert self.value is not None
        return TruncationOperator(shape, kept_shape(shape, self.value))


def kept_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """The block of k-space that a cut by ``factor`` leaves of each axis."""
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def parse_psf(text: str) -> PsfSpec:
    """Read ``gaussian:FWHM_MM``, ``measured:FILE`` or ``kspace-truncation:R``.

    A measured function is a two-dimensional array in ``.npy`` or NIfTI, sampled on the picture's grid, its origin in
    the middle of odd sides. It is scaled to the sum 1, so that brightness stays.

    Raises
    ------
    ConfigError
        If the text is none of these, or a number is out of range.
    InputError
        If the file cannot be used.
    """
    kind, colon, rest = text.partition(":")
    if kind == "measured" and rest:
        return _measured(Path(rest))
    if kind not in ("gaussian", "kspace-truncation") or not colon:
        raise ConfigError(f"Expected a point spread function {FORMS}, got {text!r}.", _EXAMPLES)
    try:
        value = float(rest)
    except ValueError:
        raise ConfigError(f"Expected a number after {kind}:, got {rest!r}.", _EXAMPLES) from None
    low, high = (0.0, math.inf) if kind == "gaussian" else (1.0, _LARGEST_FACTOR)
    if not (low < value <= high and math.isfinite(value)):
        wanted = "a width above 0 mm" if kind == "gaussian" else f"a factor above 1, at most {_LARGEST_FACTOR:g}"
        raise ConfigError(f"Expected {wanted}, got {rest}.", _EXAMPLES)
    return PsfSpec(kind, value)  # type: ignore[arg-type]  # one of the two was checked for


def _measured(path: Path) -> PsfSpec:
    import hashlib

    samples = np.squeeze(_array(path))
    if samples.ndim != 2 or not all(n % 2 == 1 for n in samples.shape):
        raise InputError(
            f"Expected a point spread function (y, x) of odd sides in {path.name}, got {samples.shape}.",
            "Cut it so that its origin is the middle pixel.",
        )
    if not np.isrealobj(samples) or not np.isfinite(samples).all():
        raise InputError(f"The point spread function in {path.name} is not real and finite.", "Write it again.")
    total = float(samples.sum(dtype=np.float64))
    if total <= 1e-6 * float(np.abs(samples).sum(dtype=np.float64)):
        raise InputError(
            f"The point spread function in {path.name} has the sum {total:g}.", "Write one whose sum is above 0."
        )
    samples = np.ascontiguousarray(samples / total, dtype=np.float32)
    digest = hashlib.sha256(repr(samples.shape).encode() + samples.tobytes()).hexdigest()
    return PsfSpec("measured", None, samples, f"sha256:{digest}")


def _array(path: Path) -> NDArray[np.floating]:
    if not path.is_file():
        raise InputError(f"There is no file {path} with a point spread function.", "Check the path.")
    name = path.name.lower()
    try:
        if name.endswith(".npy"):
            loaded: NDArray[np.floating] = np.load(path, allow_pickle=False)
            return loaded
        if name.endswith((".nii", ".nii.gz")):
            import nibabel

            # NIfTI counts x first, pictures here y.
            return np.asarray(nibabel.nifti1.load(path).get_fdata(dtype=np.float64)).T
    except Exception as error:  # nibabel and NumPy raise whatever a broken file makes them
        raise InputError(f"{path.name} cannot be read as an array: {error}.", "Write it again.") from error
    raise InputError(f"{path.name} is neither .npy nor NIfTI.", "Write the point spread function as one of these.")
