"""Decoded pictures in the units of the modality."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, JPEGTransferSyntaxes, RLELossless

from mri_unroll.errors import ConfigError, CorruptScan, InputError, UnsupportedScan
from mri_unroll.io.content import check_size
from mri_unroll.io.dicom.apart import PLUGINS, Apart
from mri_unroll.io.dicom.files import Place, quietly, read_object
from mri_unroll.io.dicom.series import Frame

_APART = Apart()  # starts when it is needed
_INSTALL = "Install decoders with `pip install 'mri-unroll[dicom]'`."


class Decoder:
    """Gives the pictures of frames; the object decoded last is kept, since its frames are asked for in a row."""

    def __init__(self) -> None:
        self._latest: tuple[Place, NDArray, FileDataset] | None = None

    def picture(self, frame: Frame) -> NDArray[np.float32]:
        """``(y, x)`` of a frame after the modality transform.

        Raises
        ------
        CorruptScan
            If pixels are missing or broken.
        UnsupportedScan
            If they are of a kind that is not read.
        ConfigError
            If a decoder is not installed.
        """
        from pathlib import Path

        place = Place(Path(frame.path), frame.member)
        if self._latest is None or self._latest[0] != place:
            dataset = read_object(place, pixels=True)
            self._latest = (place, _decoded(dataset, place), dataset)
        _, stack, dataset = self._latest
        index = 0 if frame.number is None else frame.number - 1
        if index >= len(stack) or stack.shape[1:] != frame.shape:
            raise CorruptScan(f"{place.name} holds other pictures than its header says.", "Export it again.")
        with quietly():
            try:
                values = _within_bits(stack[index], dataset)
                return _in_units(values, frame, dataset)
            except (TypeError, ValueError, ArithmeticError) as error:
                raise CorruptScan(
                    f"{place.name}: its pixel values cannot be scaled ({type(error).__name__}).", "Export it again."
                ) from error


def _decoded(dataset: FileDataset, place: Place) -> NDArray:
    """``(frame, y, x)`` stored values."""
    with quietly():
        try:
            count = int(dataset.get("NumberOfFrames") or 1)
            size = count * int(dataset.Rows) * int(dataset.Columns) * max(int(dataset.BitsAllocated) // 8, 1)
            syntax = UID(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
            check_size(place.name, "the pixel data", size, len(dataset.get("PixelData") or b""))
            if not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & {e.keyword for e in dataset}:
                raise CorruptScan(f"{place.name} holds no pixels.", "Export it again.")
            if (syntax in JPEGTransferSyntaxes or syntax in PLUGINS) and _has_decoder(syntax):
                stack = _APART.decode(place.content(), size)
            else:
                dataset.pixel_array_options(decoding_plugin=PLUGINS.get(syntax, ""))
                stack = dataset.pixel_array
        except InputError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            if "plugin" in str(error) or "handler" in str(error) or "decod" in str(error):
                missing = "missing" in str(error) or "not available" in str(error) or "unable to decode" in str(error)
                if missing and syntax.is_compressed and not _has_decoder(syntax):
                    raise ConfigError(f"{place.name} is compressed as {syntax.name}.", _INSTALL) from error
            raise CorruptScan(f"{place.name}: its pixels cannot be decoded.", "Export it again.") from error
        except Exception as error:  # decoders raise whatever broken data makes them
            raise CorruptScan(
                f"{place.name}: its pixels cannot be decoded ({type(error).__name__}).", "Export it again."
            ) from error
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3:
        raise UnsupportedScan(
            f"{place.name}: its pixels have {stack.ndim} axes.", "Give grey pictures, one or several frames."
        )
    return stack


def decoders() -> dict[str, str]:
    """The kinds of compression that are read, and the decoder of each that is installed; "" for none."""
    kinds = {"RLE": RLELossless, "JPEG": JPEGLosslessSV1, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
    return {kind: _decoder(syntax) for kind, syntax in kinds.items()}


def _has_decoder(syntax: UID) -> bool:
    return bool(_decoder(syntax))


def _decoder(syntax: UID) -> str:
    """Name of the decoder that would be used; "" if none is there."""
    from pydicom.pixels import get_decoder

    try:
        available = get_decoder(syntax).available_plugins
    except NotImplementedError:
        return ""
    if syntax in PLUGINS:
        return PLUGINS[syntax] if PLUGINS[syntax] in available else ""
    return available[0] if available else ""


def _within_bits(values: NDArray, dataset: FileDataset) -> NDArray:
    """Only the bits that hold the value: old files keep overlays in those above."""
    if values.dtype.kind not in "iu":
        return values
    allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if not 1 <= stored < allocated <= 32:
        return values
    masked = values.astype(np.int64) & ((1 << stored) - 1)
    if int(dataset.get("PixelRepresentation") or 0) == 1:
        masked = np.where(masked >> (stored - 1), masked - (1 << stored), masked)
    return masked


def _in_units(values: NDArray, frame: Frame, dataset: FileDataset) -> NDArray[np.float32]:
    slope, intercept = (_finite(frame, keyword, default) for keyword, default in _SCALE)
    picture = values.astype(np.float64) * slope + intercept
    padding = dataset.get("PixelPaddingValue")
    if padding is not None and values.dtype.kind in "iu":
        picture[values == int(padding)] = 0.0  # no measurement, shown as air
    if str(dataset.get("PhotometricInterpretation")) == "MONOCHROME1":
        picture = picture.max() - picture
    if not np.isfinite(picture).all() or np.abs(picture).max(initial=0) > np.finfo(np.float32).max:
        raise ValueError("not finite")
    return picture.astype(np.float32)


_SCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


def _finite(frame: Frame, keyword: str, default: float) -> float:
    value = frame.header.get(keyword)
    if value is None or value == "":
        return default
    number = float(value)
    if not math.isfinite(number) or (keyword == "RescaleSlope" and number == 0):
        raise ValueError(keyword)
    return number
