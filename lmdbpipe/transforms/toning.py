"""Version 2's ``ColorJitter`` of bytes in tensors, compiled by numba, with the bits of torch's kernels.

The arithmetic is that of ``torchvision.transforms.v2.functional``, in floats, rounded where torch rounds: a sum with an
``alpha`` once (FMA), all others after each operation. It needs numba and a processor with FMA, and so is imported only
where there are both, by `lmdbpipe.transforms.tone`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmdbpipe.transforms.fma import fma
from lmdbpipe.transforms.jit import jit
from lmdbpipe.transforms.operations import Operation

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_F, _I, _B = np.float32, np.int32, np.uint8


@jit
def tone(images: Bytes, edits: NDArray[np.float64]) -> None:
    """Do operations to images, in place.

    Args:
        images: [n, C, H * W], C-contiguous; 1 or 3 channels.
        edits: Each image's own, one after the other: [n, k, 2], the number of an `Operation` and its factor.
    """
    grey = np.empty(images.shape[2], np.float32)
    for number in range(len(images)):
        image = images[number]
        for edit in edits[number]:
            operation, ratio, rest = int(edit[0]), _F(edit[1]), _F(1.0 - edit[1])
            if operation == Operation.BRIGHTNESS:
                for plane in image:
                    for x in range(len(plane)):
                        plane[x] = _byte(_F(plane[x]) * ratio)
            elif operation == Operation.CONTRAST:
                level = _mean(image, grey)
                for plane in image:
                    for x in range(len(plane)):
                        plane[x] = _byte(mix(plane[x], ratio, level, rest))
            elif operation == Operation.COLOR and len(image) == 3:
                add_up(image, grey)
                for plane in image:
                    for x in range(len(plane)):
                        plane[x] = _byte(mix(plane[x], ratio, np.floor(grey[x]), rest))
            elif operation == Operation.HUE and len(image) == 3:
                _turn(image[0], image[1], image[2], ratio)


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
def _turn(reds: Bytes, greens: Bytes, blues: Bytes, part: Any) -> None:
    """Turn hues by a part of a whole turn."""
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
