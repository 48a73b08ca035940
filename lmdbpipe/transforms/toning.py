"""Version 2's operations on bytes in tensors, compiled by numba, with the bits of torch's kernels.

The arithmetic is that of ``torchvision.transforms.v2.functional``, in floats, rounded where torch rounds: a sum with an
``alpha`` once (FMA), all others after each operation. Sharpening's blur is rounded to whole levels, from which no sum
of such weights is far enough for floats to matter; tables are Pillow's, but for ``autocontrast``. It needs numba and a
processor with FMA, and so is imported only where there are both, by `lmdbpipe.transforms.tone`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmdbpipe.transforms.editing import copy, look_up, table
from lmdbpipe.transforms.fma import fma
from lmdbpipe.transforms.jit import jit
from lmdbpipe.transforms.operations import Operation

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_F, _I, _B = np.float32, np.int32, np.uint8


@jit
def tone(images: Bytes, width: int, edits: NDArray[np.float64], fill: Bytes) -> None:
    """Do operations to images, in place.

    Args:
        images: [n, C, H * W], C-contiguous; 1 or 3 channels.
        width: In pixels.
        edits: Each image's own, one after the other: [n, k, 7]; see `lmdbpipe.transforms.operations.Edit`.
        fill: The colour of pixels from outside: [C].
    """
    count, channels, pixels = images.shape
    grey, scratch = np.empty(pixels, np.float32), np.empty((channels, pixels), np.uint8)
    for number in range(count if pixels else 0):
        image = images[number]
        for edit in edits[number]:
            operation, values = int(edit[0]), edit[1:]
            ratio, rest = _F(values[0]), _F(1.0 - values[0])
            if operation in (Operation.BRIGHTNESS, Operation.CONTRAST):
                level = _mean(image, grey) if operation == Operation.CONTRAST else _F(0.0)
                _blend(image, ratio, level, rest)
            elif operation == Operation.COLOR:
                _saturate(image, grey, ratio, rest)
            elif operation == Operation.HUE:
                _turn(image, ratio)
            elif operation in (Operation.SHARPNESS, Operation.AFFINE, Operation.QUARTERS):
                copy(image, scratch)
                if operation == Operation.SHARPNESS:
                    _sharpen(scratch, image, width, rest)
                elif operation == Operation.AFFINE:
                    _move(scratch, image, width, values, fill)
                else:
                    _rotate(scratch, image, width, int(values[0]))
            elif operation != Operation.IDENTITY:
                _replace(image, operation, values[0])


@jit
def _blend(image: Bytes, ratio: Any, level: Any, rest: Any) -> None:
    for plane in image:
        for x in range(len(plane)):
            plane[x] = _byte(mix(plane[x], ratio, level, rest))


@jit
def _saturate(image: Bytes, grey: Floats, ratio: Any, rest: Any) -> None:
    if len(image) == 3:
        add_up(image, grey)
        for plane in image:
            for x in range(len(plane)):
                plane[x] = _byte(mix(plane[x], ratio, np.floor(grey[x]), rest))


@jit
def _sharpen(image: Bytes, out: Bytes, width: int, rest: Any) -> None:
    """Go on from a blurred image; edges stay, and so do images without pixels between them."""
    for channel in range(len(image) if width > 2 else 0):
        plane = image[channel]
        for begin in range(width, len(plane) - width, width):
            above, line, below = plane[begin - width :], plane[begin:], plane[begin + width :]
            for x in range(1, width - 1):
                total = _I(above[x - 1]) + _I(above[x]) + _I(above[x + 1]) + _I(below[x - 1]) + _I(below[x])
                total += _I(below[x + 1]) + _I(line[x - 1]) + _I(line[x + 1]) + 5 * _I(line[x])
                out[channel, begin + x] = _byte(sharper(line[x], (2 * total + 13) // 26, rest))


@jit
def sharper(value: Any, blurred: Any, rest: Any) -> Any:
    """``value.add_(blurred.sub_(value), alpha=rest)``."""
    return fma(_F(blurred) - _F(value), rest, _F(value))


@jit
def sharpened(image: Bytes, blurred: Bytes, rest: float) -> Floats:
    """Sharpen each pixel, as `sharper` does: float32 [C, H, W]."""
    out = np.empty(image.shape, np.float32)
    for at in np.ndindex(image.shape):
        out[at] = sharper(image[at], blurred[at], _F(rest))
    return out


@jit
def _replace(image: Bytes, operation: int, value: float) -> None:
    """Replace each level of each channel."""
    for plane in image:
        if operation == Operation.AUTOCONTRAST:
            look_up(plane, _stretched(_F(plane.min()), _F(plane.max())))
        else:
            look_up(plane, table(plane, operation, float(_F(value))))


@jit
def _stretched(low: Any, high: Any) -> Bytes:
    """Stretch levels to all that there are."""
    results, scale = np.empty(256, np.uint8), (high - low) * _F(1.0 / 255.0)
    for level in range(256):
        results[level] = level if low == high else _byte((_F(level) - low) / scale)
    return results


@jit
def _move(image: Bytes, out: Bytes, width: int, values: NDArray[np.float64], fill: Bytes) -> None:
    """Take the nearest pixels by ``grid_sample``."""
    height = image.shape[1] // width
    places = np.empty(width, np.int64)
    for row in range(height):
        for column in range(width):
            x, y = place(row, column, height, width, values)
            x, y = np.rint((x + _F(1)) * _F(width / 2) - _F(0.5)), np.rint((y + _F(1)) * _F(height / 2) - _F(0.5))
            is_inside = _F(-1) < x < _F(width) and _F(-1) < y < _F(height)
            places[column] = int(y) * width + int(x) if is_inside else -1
        for channel in range(len(image)):
            for column in range(width):
                at = places[column]
                out[channel, row * width + column] = image[channel, at] if at >= 0 else fill[channel]


@jit
def place(row: int, column: int, height: int, width: int, values: NDArray[np.float64]) -> Any:
    """Where a pixel comes from, from -1 to 1: a row of ``torchvision.transforms.v2.functional._affine_grid``."""
    right, down = _F(column - (width - 1) * 0.5), _F(row - (height - 1) * 0.5)
    across, along = _F(0.5 * width), _F(0.5 * height)
    x = right * (_F(values[0]) / across) + down * (_F(values[1]) / across) + _F(values[2]) / across
    y = right * (_F(values[3]) / along) + down * (_F(values[4]) / along) + _F(values[5]) / along
    return x, y


@jit
def places(height: int, width: int, values: NDArray[np.float64]) -> Floats:
    """Where all pixels come from: float32 [height, width, 2]."""
    out = np.empty((height, width, 2), np.float32)
    for row in range(height):
        for column in range(width):
            out[row, column, 0], out[row, column, 1] = place(row, column, height, width, values)
    return out


@jit
def _rotate(image: Bytes, out: Bytes, width: int, quarters: int) -> None:
    """``rot90``, anticlockwise; of squares by any number, of others by an even one."""
    height = image.shape[1] // width
    for row in range(height):
        for column in range(width):
            y, x = row, column
            if quarters == 1:
                y, x = column, width - 1 - row
            elif quarters == 2:
                y, x = height - 1 - row, width - 1 - column
            elif quarters == 3:
                y, x = height - 1 - column, row
            for channel in range(len(image)):
                out[channel, row * width + column] = image[channel, y * width + x]


@jit
def mix(value: Any, ratio: Any, level: Any, rest: Any) -> Any:
    """``value.mul(ratio).add_(level, alpha=rest)``."""
    return fma(level, rest, _F(value) * ratio)


@jit
def mixed(image: Bytes, ratio: float, levels: Floats, rest: float) -> Floats:
    """Mix each plane of an image [C, n] with levels, as `mix` does: float32 [C, n]."""
    out = np.empty(image.shape, np.float32)
    for channel in range(len(image)):
        for x in range(len(levels)):
            out[channel, x] = mix(image[channel, x], _F(ratio), levels[x], _F(rest))
    return out


@jit
def add_up(image: Bytes, out: Floats) -> None:
    """Make grey of colours [3, n]: float32 [n], not rounded to whole levels."""
    reds, greens, blues = image[0], image[1], image[2]
    for x in range(len(out)):
        out[x] = fma(_F(blues[x]), _F(0.114), fma(_F(greens[x]), _F(0.587), _F(reds[x]) * _F(0.2989)))


@jit
def _mean(image: Bytes, grey: Floats) -> Any:
    """The mean of grey in whole levels; of so few pixels that floats hold their sum."""
    total = 0
    if len(image) == 3:
        add_up(image, grey)
        for x in range(len(grey)):
            total += int(grey[x])
    else:
        for x in range(len(grey)):
            total += image[0, x]
    return _F(total) / _F(len(grey))


@jit
def _byte(level: Any) -> Any:
    return _B(_I(min(max(level, _F(0.0)), _F(255.0))))


@jit
def _turn(image: Bytes, part: Any) -> None:
    """Turn hues by a part of a whole turn; grey has none."""
    if len(image) == 1:
        return
    reds, greens, blues = image[0], image[1], image[2]
    for x in range(len(reds)):
        r, g, b = _F(reds[x]) * _F(1.0 / 255.0), _F(greens[x]) * _F(1.0 / 255.0), _F(blues[x]) * _F(1.0 / 255.0)
        value, least = max(r, g, b), min(r, g, b)
        spread = value - least
        is_grey = value == least
        saturation = spread / (_F(1.0) if is_grey else value)
        divisor = _F(1.0) if is_grey else spread
        red, green, blue = (value - r) / divisor, (value - g) / divisor, (value - b) / divisor
        hue = blue - green if value == r else red + _F(2.0) - blue if value == g else green + _F(4.0) - red
        hue = hue * _F(1.0 / 6.0) + _F(1.0)
        hue = (hue - _F(1.0) if hue >= _F(1.0) else hue) + part
        hue = hue - _F(1.0) if hue >= _F(1.0) else hue + _F(1.0) if hue < _F(0.0) else hue
        place = hue * _F(6.0)
        sector = _I(place)
        rest = place - _F(sector)
        sector = _I(0) if sector == 6 else sector
        product, pale = saturation * rest, _F(1.0) - saturation
        falling, rising, low = _scale(_F(1.0) - product, value), _scale(product + pale, value), _scale(pale, value)
        # One condition after the other, since what is chosen at once for several pixels must not branch.
        red = falling if sector == 1 else rising if sector == 4 else low if sector & 6 == 2 else value
        green = rising if sector == 0 else falling if sector == 3 else low if sector > 3 else value
        blue = rising if sector == 2 else falling if sector == 5 else low if sector < 2 else value
        reds[x], greens[x], blues[x] = _level(red), _level(green), _level(blue)


@jit
def _scale(part: Any, value: Any) -> Any:
    return min(max(part * value, _F(0.0)), _F(1.0))


@jit
def _level(value: Any) -> Any:
    """A byte, of 0 to 1."""
    return _B(_I(value * _F(255.999)))
