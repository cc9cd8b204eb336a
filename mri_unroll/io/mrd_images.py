"""A reconstructed volume as MRD images: 16-bit pictures that say where they lie, as a scanner takes them back."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np

from mri_unroll.image import Image
from mri_unroll.io.mrd_stream import IMAGE_HEAD, ImageMessage

_MAGNITUDE = 1  # image_type
_UNSIGNED_SHORT = 1  # data_type
_SERIES = 1


def image_messages(image: Image, verdict: str = "", bits: int = 12) -> Iterator[ImageMessage]:
    """One message a slice, with the readout along x, as ISMRMRD has it: our y.

    Parameters
    ----------
    image
        With geometry as far as it is known; where it is not, the place is nominal and the comment says so.
    verdict
        What to think of the picture, in one line; goes into the comment.
    bits
        That the brightest pixel of the volume fills.
    """
    geometry, (count, height, width) = image.geometry, image.pixels.shape
    brightest = float(image.pixels.max(initial=0)) or 1.0
    scale = (2**bits - 1) / brightest
    fov = geometry.field_of_view or (0.001 * height, 0.001 * width, 0.001)
    is_placed = geometry.orientation is not None and geometry.position is not None
    axes = geometry.orientation if geometry.orientation is not None else np.eye(3)
    nominal = np.arange(count)[:, None] * fov[2] * axes[2]
    places = geometry.position if is_placed and geometry.position is not None else nominal
    top = float(np.percentile(image.pixels, 99.5)) * scale
    told = ("RESEARCH USE ONLY. NOT FOR DIAGNOSIS.", "" if is_placed else "The place is nominal.", verdict)
    comment = " ".join(filter(None, told))
    attributes = {
        "DataRole": "Image",
        "ImageProcessingHistory": f"mri_unroll {image.provenance.method}",
        "Keep_image_geometry": "1",
        "WindowCenter": f"{top / 2:.0f}",
        "WindowWidth": f"{max(top, 1):.0f}",
        "RescaleSlope": f"{1 / scale:.9g}",
        "SeriesDescriptionAdditional": f"[RESEARCH] {image.provenance.method}",
        "SequenceDescriptionAdditional": f"[RESEARCH] {image.provenance.method}",
        "ImageComments": comment,
        "ImageComment": comment,
    }
    for index, pixels in enumerate(image.pixels):
        head = np.zeros((), IMAGE_HEAD)
        head["version"], head["data_type"], head["channels"] = 1, _UNSIGNED_SHORT, 1
        head["matrix_size"] = (height, width, 1)
        head["field_of_view"] = (1000 * fov[0], 1000 * fov[1], 1000 * fov[2])
        head["position"] = 1000 * places[index]
        head["read_dir"], head["phase_dir"], head["slice_dir"] = axes
        head["slice"], head["image_index"], head["image_series_index"] = index, index + 1, _SERIES
        head["image_type"] = _MAGNITUDE
        values = (pixels.T * scale).round().astype("<u2")  # (phase encoding, readout)
        yield ImageMessage(head[()], _meta(attributes), values[None, None])


def _meta(attributes: dict[str, str]) -> str:
    inside = "".join(
        f"<meta><name>{name}</name><value>{escape(text)}</value></meta>" for name, text in attributes.items()
    )
    return f'<?xml version="1.0"?><ismrmrdMeta>{inside}</ismrmrdMeta>'
