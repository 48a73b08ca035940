"""What a PIL mode's pixels look like in memory: plain facts, no state."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lmdbpipe.errors import TransformError

_BYTE = np.dtype(np.uint8)


class Mode(NamedTuple):
    """The pixels of a PIL mode."""

    dtype: np.dtype[Any]
    channels: int
    raw: str
    """The name of PIL's raw decoder for such pixels."""


MODES = {
    "1": Mode(np.dtype(np.bool_), 1, "1;8"),
    "CMYK": Mode(_BYTE, 4, "CMYK"),
    "F": Mode(np.dtype("<f4"), 1, "F"),
    "HSV": Mode(_BYTE, 3, "HSV"),
    "I": Mode(np.dtype("<i4"), 1, "I"),
    "I;16": Mode(np.dtype("<u2"), 1, "I;16"),
    "L": Mode(_BYTE, 1, "L"),
    "LA": Mode(_BYTE, 2, "LA"),
    "LAB": Mode(_BYTE, 3, "LAB"),
    "La": Mode(_BYTE, 2, "La"),
    "P": Mode(_BYTE, 1, "P"),
    "RGB": Mode(_BYTE, 3, "RGB"),
    "RGBA": Mode(_BYTE, 4, "RGBA"),
    "RGBX": Mode(_BYTE, 4, "RGBX"),
    "RGBa": Mode(_BYTE, 4, "RGBa"),
    "YCbCr": Mode(_BYTE, 3, "YCbCr"),
}

TORCH_DTYPES = {
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.uint16): torch.uint16,
    np.dtype(np.uint8): torch.uint8,
}


def mode_of(name: str) -> Mode:
    """Look a mode up; `TransformError` for one whose pixels have no plain array."""
    try:
        return MODES[name]
    except KeyError:
        raise TransformError(f"PIL mode {name!r} has no array form; the modes are {', '.join(sorted(MODES))}") from None


def pixels_of(image: Image.Image) -> NDArray[Any]:
    """Give a PIL image's pixels as a new HxWxC array in the mode's dtype."""
    mode = mode_of(image.mode)
    return np.array(image, dtype=mode.dtype).reshape(image.height, image.width, mode.channels)


def image_of(pixels: NDArray[Any], mode: str, palette: bytes = b"") -> Image.Image:
    """Make a PIL image, in memory of its own, of HxWxC pixels in the mode's dtype.

    Args:
        pixels: HxWxC, any strides.
        mode: A mode in `MODES`.
        palette: For mode P: one byte that counts a colour's channels (3 or 4), then the colours; empty for none.
    """
    height, width = pixels.shape[:2]
    if height and width:
        data = np.ascontiguousarray(pixels).data
        image = Image.frombytes(mode, (width, height), data, "raw", MODES[mode].raw)
    else:
        image = Image.new(mode, (width, height))
    if mode == "P" and palette:
        image.putpalette(palette[1:], "RGB" if palette[0] == 3 else "RGBA")
    return image


def palette_of(image: Image.Image) -> bytes:
    """Give an image's palette, with its transparency, as `image_of` takes it; empty if it has none."""
    if image.mode != "P" or image.palette is None:
        return b""
    transparency = image.info.get("transparency")
    if transparency is None and image.palette.mode != "RGBA":
        return b"\x03" + bytes(image.getpalette("RGB") or ())
    palette = np.array(image.getpalette("RGBA"), _BYTE).reshape(-1, 4)
    if isinstance(transparency, int):
        palette[transparency : transparency + 1, 3] = 0  # perhaps of a colour that the palette has not got
    elif transparency is not None:
        alpha = np.frombuffer(transparency, _BYTE)[: len(palette)]
        palette[: len(alpha), 3] = alpha
    return b"\x04" + palette.tobytes()
