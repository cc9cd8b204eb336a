"""Messages of MRD streaming (ISMRMRD version 1): what a scanner sends while it measures, and what goes back.

Each message is a number (2 bytes) and what belongs to it, everything little-endian; see "MRD Streaming Protocol" and
"MRD Image Data" of the specification. Lengths come from strangers and are bounded here before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_unroll.errors import CorruptScan, UnsupportedScan
from mri_unroll.io.content import MAX_COILS

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT = 1, 2, 3, 4, 5
ACQUISITION, IMAGE, WAVEFORM = 1008, 1022, 1026
_NAME_BYTES = 1024
_MAX_TEXT = 2**20
_MAX_HEADER = 16 * 2**20
_MAX_IMAGE = 2**30

COUNTERS = np.dtype(
    [
        *((name, "<u2") for name in ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast")),
        *((name, "<u2") for name in ("phase", "repetition", "set", "segment")),
        ("user", "<u2", (8,)),
    ]
)
ACQUISITION_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        *((name, "<u4") for name in ("measurement_uid", "scan_counter", "acquisition_time_stamp")),
        ("physiology_time_stamp", "<u4", (3,)),
        *((name, "<u2") for name in ("number_of_samples", "available_channels", "active_channels")),
        ("channel_mask", "<u8", (16,)),
        *((name, "<u2") for name in ("discard_pre", "discard_post", "center_sample", "encoding_space_ref")),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        ("idx", COUNTERS),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
IMAGE_HEAD = np.dtype(
    [
        *((name, "<u2") for name in ("version", "data_type")),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        *((name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set")),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        *((name, "<u2") for name in ("image_type", "image_index", "image_series_index")),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
_WAVEFORM_HEAD = np.dtype(
    {
        "names": ["number_of_samples", "channels"],
        "formats": ["<u2", "<u2"],
        "offsets": [28, 30],
        "itemsize": 40,  # of the library's struct; the documents say otherwise
    }
)
DATA_TYPES = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}
Read = Callable[[int], bytes]  # so many bytes, no fewer


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One readout."""

    head: Any  # a record of `ACQUISITION_HEAD`
    trajectory: bytes  # float32 (sample, dimension)
    samples: bytes  # complex64 (coil, sample)


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """One image: header, attributes as XML, and pixels ``(channel, z, y, x)``."""

    head: Any  # a record of `IMAGE_HEAD`
    attributes: str
    pixels: NDArray[Any]


def messages(read: Read, most_bytes: float) -> Iterator[tuple[int, Any]]:
    """Messages as they come, to CLOSE: the number, and a text, an `Acquisition`, an `ImageMessage` or None.

    What a waveform holds is passed over.

    Parameters
    ----------
    read
        Gives so many bytes of the connection or raises; it is asked for no more than is to be kept.
    most_bytes
        Of all messages together.

    Raises
    ------
    CorruptScan, UnsupportedScan
        If a message is unknown, contradicts itself or is larger than it may be.
    """
    left = most_bytes

    def take(count: int) -> bytes:
        nonlocal left
        left -= count
        if left < 0:
            raise UnsupportedScan(f"The session sends more than {most_bytes:.3g} bytes.", "Split the scan.")
        return read(count)

    while True:
        number = int.from_bytes(take(2), "little")
        if number == CLOSE:
            yield CLOSE, None
            return
        if number == CONFIG_FILE:
            yield number, _text(take(_NAME_BYTES))
        elif number in (CONFIG_TEXT, TEXT, HEADER):
            length = int.from_bytes(take(4), "little")
            if length > (_MAX_HEADER if number == HEADER else _MAX_TEXT):
                most = _MAX_HEADER if number == HEADER else _MAX_TEXT
                raise UnsupportedScan(f"A text of {length} bytes is announced, more than {most}.", "Shorten it.")
            yield number, _text(take(length))
        elif number == ACQUISITION:
            yield number, _acquisition(take)
        elif number == IMAGE:
            yield number, _image(take)
        elif number == WAVEFORM:
            (head,) = np.frombuffer(take(_WAVEFORM_HEAD.itemsize), _WAVEFORM_HEAD)
            rest = 4 * int(head["number_of_samples"]) * int(head["channels"])
            while rest:  # nobody wants it, so that it need not lie in memory
                rest -= len(take(min(rest, _MAX_TEXT)))
            yield number, None
        else:
            raise CorruptScan(
                f"A message of kind {number} is not known here.",
                "Correct what sends it: MRD messages have kinds 1 to 5, 1008, 1022 and 1026.",
            )


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _acquisition(take: Read) -> Acquisition:
    (head,) = np.frombuffer(take(ACQUISITION_HEAD.itemsize), ACQUISITION_HEAD)
    n_samples, n_coils = int(head["number_of_samples"]), int(head["active_channels"])
    dimensions = int(head["trajectory_dimensions"])
    if not (0 < n_coils <= MAX_COILS and n_samples > 0 and dimensions <= 4):
        raise CorruptScan(
            f"A readout of {n_samples} samples, {n_coils} coils and {dimensions} dimensions is announced; expected "
            f"samples, 1 to {MAX_COILS} coils and at most 4 dimensions.",
            "Compress the coils, or correct what sends it.",
        )
    return Acquisition(head, take(4 * n_samples * dimensions), take(8 * n_samples * n_coils))


def _image(take: Read) -> ImageMessage:
    (head,) = np.frombuffer(take(IMAGE_HEAD.itemsize), IMAGE_HEAD)
    length = int.from_bytes(take(8), "little")
    if length > _MAX_HEADER:
        raise UnsupportedScan(f"Attributes of {length} bytes are announced, more than {_MAX_HEADER}.", "Shorten them.")
    attributes = _text(take(length))
    kind = DATA_TYPES.get(int(head["data_type"]))
    shape = (int(head["channels"]), *(int(size) for size in head["matrix_size"][::-1]))
    size = int(np.prod([max(side, 1) for side in shape], dtype=object))
    if kind is None or size * np.dtype(kind).itemsize > _MAX_IMAGE:
        raise UnsupportedScan(
            f"An image {shape} of data type {int(head['data_type'])} is announced, which is unknown or too large.",
            "Send raw data.",
        )
    shape = tuple(max(side, 1) for side in shape)
    return ImageMessage(head, attributes, np.frombuffer(take(size * np.dtype(kind).itemsize), kind).reshape(shape))


def text_message(number: int, text: str) -> bytes:
    """A message of CONFIG_TEXT, TEXT or HEADER."""
    raw = text.encode() + b"\0"
    return number.to_bytes(2, "little") + len(raw).to_bytes(4, "little") + raw


def config_message(name: str) -> bytes:
    """The message that names a configuration."""
    return CONFIG_FILE.to_bytes(2, "little") + name.encode()[: _NAME_BYTES - 1].ljust(_NAME_BYTES, b"\0")


def acquisition_message(one: Acquisition) -> bytes:
    """The message of a readout."""
    return ACQUISITION.to_bytes(2, "little") + one.head.tobytes() + one.trajectory + one.samples


def close_message() -> bytes:
    """The message that nothing more will come."""
    return CLOSE.to_bytes(2, "little")


def image_message(one: ImageMessage) -> bytes:
    """The message of an image; the length of its attributes is put into the header."""
    attributes = one.attributes.encode()
    head = np.array(one.head)
    head["attribute_string_len"] = len(attributes)
    length = len(attributes).to_bytes(8, "little")
    return IMAGE.to_bytes(2, "little") + head.tobytes() + length + attributes + one.pixels.tobytes()
