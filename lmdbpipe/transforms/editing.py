"""Pillow's operations on bytes, compiled by numba: the same bits, a batch of images at a time, in place.

The arithmetic is that of Pillow's ImageEnhance, ImageOps and libImaging (Blend.c, Convert.c, Filter.c, Geometry.c):
floats where it has floats, doubles where it has doubles, rounded and cut off at the same places. Images are CxHxW, so
that the colours of neighbouring pixels fill vectors; what has no effect on greyscale images does nothing to them.

It needs numba, and so is imported only where that is installed; `lmdbpipe.transforms.edits` uses it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmdbpipe.transforms.jit import jit
from lmdbpipe.transforms.operations import Operation

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_F: Any = np.float32
_D: Any = np.float64
_I: Any = np.int32
_B: Any = np.uint8


@jit
def edit(images: Bytes, width: int, edits: Floats, fill: Bytes) -> None:
    """Apply operations to images in place, each image's own one after the other.

    Args:
        images: [n, channels, height * width], C-contiguous.
        width: In pixels.
        edits: [n, k, 7]; see `lmdbpipe.transforms.operations.Edit`.
        fill: The colour of pixels from outside: [channels].
    """
    count, channels, pixels = images.shape
    height = pixels // max(width, 1)
    scratch = np.empty((channels, pixels), np.uint8)
    for i in range(count if pixels else 0):
        for j in range(edits.shape[1]):
            image, operation, values = images[i], int(edits[i, j, 0]), edits[i, j, 1:]
            if operation == Operation.BRIGHTNESS:
                _blend_level(image, 0, values[0])
            elif operation == Operation.CONTRAST:
                _blend_level(image, _mean(image, scratch[0]), values[0])
            elif operation == Operation.COLOR:
                _saturate(image, scratch[0], values[0])
            elif operation == Operation.HUE:
                _shift_hue(image, int(values[0]))
            elif operation == Operation.SHARPNESS:
                _sharpen(image, scratch[0], width, values[0])
            elif operation == Operation.AFFINE:
                copy(image, scratch)
                _transform(scratch, image, height, width, values, fill)
            elif operation == Operation.BILINEAR:
                copy(image, scratch)
                _interpolate(scratch, image, height, width, values, fill)
            elif operation != Operation.IDENTITY:
                for channel in range(channels):
                    look_up(image[channel], table(image[channel], operation, values[0]))


@jit
def copy(image: Bytes, out: Bytes) -> None:
    """Copy planes; an assignment of slices would compile for seconds, for the sake of its error's message."""
    for channel in range(len(image)):
        for x in range(image.shape[1]):
            out[channel, x] = image[channel, x]


@jit
def _blend_level(image: Bytes, level: int, factor: float) -> None:
    """Pillow's ``ImagingBlend`` from an image of one level of grey."""
    for channel in range(len(image)):
        plane = image[channel]
        for x in range(len(plane)):
            plane[x] = _mix(_F(level), plane[x], _F(factor))


@jit
def _blend(start: Bytes, end: Bytes, factor: float) -> None:
    """``ImagingBlend`` of two planes into the second."""
    for x in range(len(end)):
        end[x] = _mix(_F(start[x]), end[x], _F(factor))


@jit
def _mix(start: Any, end: Any, factor: Any) -> Any:
    """Go from one level to another, or on in that direction. Factors of 0 and 1, which Pillow copies, come out so."""
    mixed = start + factor * (_F(end) - start)
    return _B(_I(min(max(mixed, _F(0.0)), _F(255.0))))


@jit
def _saturate(image: Bytes, scratch: Bytes, factor: float) -> None:
    """``ImageEnhance.Color``: from grey to colour; grey itself stays."""
    if len(image) == 1:
        return
    _grey(image, scratch)
    for channel in range(len(image)):
        _blend(scratch, image[channel], factor)


@jit
def _sharpen(image: Bytes, scratch: Bytes, width: int, factor: float) -> None:
    """``ImageEnhance.Sharpness``: from smooth to sharp. Without pixels between edges, nothing is smoothed."""
    for channel in range(len(image)):
        _smooth(image[channel], scratch, width)
        _blend(scratch, image[channel], factor)


@jit
def _grey(image: Bytes, out: Bytes) -> None:
    """Pillow's ``L24``; its sums are below 2**24, so floats hold them exactly."""
    for x in range(image.shape[1]):
        weighted = _F(image[0, x]) * _F(19595) + _F(image[1, x]) * _F(38470) + _F(image[2, x]) * _F(7471) + _F(0x8000)
        out[x] = _B(_I(weighted * _F(2.0**-16)))


@jit
def _mean(image: Bytes, scratch: Bytes) -> int:
    """The mean level of grey, rounded as ``ImageEnhance.Contrast`` does."""
    plane = image[0]
    if len(image) > 1:
        _grey(image, scratch)
        plane = scratch
    total = 0
    for x in range(len(plane)):
        total += plane[x]
    return int(total / len(plane) + 0.5)


@jit
def _shift_hue(image: Bytes, shift: int) -> None:
    """To HSV as ``rgb2hsv`` does, add to the hue modulo 256, and back as ``hsv2rgb`` does; grey stays."""
    if len(image) == 1:
        return
    reds, greens, blues = image[0], image[1], image[2]
    for x in range(len(reds)):
        red, green, blue = _F(reds[x]), _F(greens[x]), _F(blues[x])
        value = max(red, green, blue)
        spread = value - min(red, green, blue)
        divisor = max(spread, _F(1.0))  # where all are equal, nothing comes of the hue
        r, g, b = (value - red) / divisor, (value - green) / divisor, (value - blue) / divisor
        third = _F(_D(4.0) + _D(g) - _D(r))
        second = _F(_D(2.0) + _D(r) - _D(b))
        turns = _D(b - g if red == value else second if green == value else third) / 6.0 + 1.0
        hue = (int(_D(_F(turns - math.floor(turns))) * 255.0) + shift) & 255
        saturation = int(_D(spread / max(value, _F(1.0))) * 255.0)
        place = _D(_F(hue)) * 6.0 / 255.0
        sector = math.floor(place)
        rest = _F(place - sector)
        strength = _F(_D(saturation) / 255.0)
        low = _rounded(_D(value) * (1.0 - _D(strength)))
        falling = _rounded(_D(value) * (1.0 - _D(strength * rest)))
        rising = _rounded(_D(value) * (1.0 - _D(strength) * (1.0 - _D(rest))))
        top = _B(_I(value))
        if sector == 1.0:
            reds[x], greens[x], blues[x] = falling, top, low
        elif sector == 2.0:
            reds[x], greens[x], blues[x] = low, top, rising
        elif sector == 3.0:
            reds[x], greens[x], blues[x] = low, falling, top
        elif sector == 4.0:
            reds[x], greens[x], blues[x] = rising, low, top
        elif sector == 5.0:
            reds[x], greens[x], blues[x] = top, low, falling
        else:
            reds[x], greens[x], blues[x] = top, rising, low


@jit
def _rounded(level: float) -> int:
    """C's ``round`` of a number from 0 to 255."""
    whole = math.floor(level)
    return _B(_I(whole + (1.0 if level - whole >= 0.5 else 0.0)))  # type: ignore[no-any-return]


@jit
def _smooth(plane: Bytes, out: Bytes, width: int) -> None:
    """``ImageFilter.SMOOTH``: a weighted mean of 3x3 pixels, added up in Pillow's order; edges stay."""
    side, centre = _F(1.0) / _F(13.0), _F(5.0) / _F(13.0)
    for x in range(len(plane)):
        out[x] = plane[x]
    for y in range(1, len(plane) // width - 1):
        begin, end = y * width, (y + 1) * width
        above, middle, below = plane[begin - width : begin], plane[begin:end], plane[end : end + width]
        line = out[begin:end]
        for x in range(1, width - 1):
            total = _F(0.5) + (_F(below[x - 1]) * side + _F(below[x]) * side + _F(below[x + 1]) * side)
            total += _F(middle[x - 1]) * side + _F(middle[x]) * centre + _F(middle[x + 1]) * side
            total += _F(above[x - 1]) * side + _F(above[x]) * side + _F(above[x + 1]) * side
            line[x] = _B(_I(min(max(total, _F(0.0)), _F(255.0))))


@jit
def look_up(plane: Bytes, results: Bytes) -> None:
    """Replace each level of a channel."""
    for x in range(len(plane)):
        plane[x] = results[plane[x]]


@jit
def table(plane: Bytes, operation: int, value: float) -> Bytes:
    """What ``ImageOps`` makes of each level of a channel."""
    results = np.empty(256, np.uint8)
    counts = np.zeros(256, np.int64)
    if operation in (Operation.AUTOCONTRAST, Operation.EQUALIZE):
        for x in range(len(plane)):
            counts[plane[x]] += 1
    low, high = 0, 255
    while low < 255 and counts[low] == 0:
        low += 1
    while high > low and counts[high] == 0:
        high -= 1
    scale = 255.0 / max(high - low, 1)
    step = (len(plane) - counts[high]) // 255
    reached = step // 2
    for level in range(256):
        new = level
        if operation == Operation.INVERT or (operation == Operation.SOLARIZE and level >= value):
            new = 255 - level
        elif operation == Operation.POSTERIZE:
            new = level & (256 - (1 << (8 - int(value))))
        elif operation == Operation.AUTOCONTRAST and high > low:
            new = min(max(int(level * scale + -low * scale), 0), 255)
        elif operation == Operation.EQUALIZE and step > 0:
            new = min(reached // step, 255)
            reached += counts[level]
        results[level] = new
    return results


@jit
def _transform(old: Bytes, new: Bytes, height: int, width: int, matrix: Floats, fill: Bytes) -> None:
    """``Image.transform`` by the nearest pixel: along the axes by doubles, else by multiples of 2**-16."""
    a, b, c, d, e, f = matrix
    places = np.empty(width, np.int64)
    if b == 0.0 and d == 0.0:
        columns, down = _steps(c + a * 0.5, a, width), _steps(f + e * 0.5, e, height)
        for y in range(height):
            for x in range(width):
                places[x] = down[y] * width + columns[x] if down[y] >= 0 and columns[x] >= 0 else -1
            _pick(old, new, y * width, places, fill)
        return
    row_x, row_y = _fixed(c + a * 0.5 + b * 0.5), _fixed(f + d * 0.5 + e * 0.5)
    for y in range(height):
        at_x, at_y = row_x, row_y
        for x in range(width):
            from_x, from_y = at_x >> 16, at_y >> 16
            inside = 0 <= from_x < width and 0 <= from_y < height
            places[x] = from_y * width + from_x if inside else -1
            at_x += _fixed(a)
            at_y += _fixed(d)
        _pick(old, new, y * width, places, fill)
        row_x += _fixed(b)
        row_y += _fixed(e)


@jit
def _interpolate(old: Bytes, new: Bytes, height: int, width: int, matrix: Floats, fill: Bytes) -> None:
    """``Image.transform`` by ``bilinear_filter8``, in doubles; beyond the outer pixels' middles they go on."""
    corners = np.empty((4, width), np.int64)
    right, down = np.empty(width), np.empty(width)
    for y in range(height):
        for x in range(width):
            at_x = matrix[0] * (x + 0.5) + matrix[1] * (y + 0.5) + matrix[2]
            at_y = matrix[3] * (x + 0.5) + matrix[4] * (y + 0.5) + matrix[5]
            column, row = math.floor(at_x - 0.5), math.floor(at_y - 0.5)
            right[x], down[x] = (at_x - 0.5) - column, (at_y - 0.5) - row
            left, top = max(column, 0), max(row, 0) * width
            after, below = min(column + 1, width - 1), min(row + 1, height - 1) * width
            inside = 0.0 <= at_x < width and 0.0 <= at_y < height
            corners[0, x], corners[1, x] = top + left if inside else -1, top + after
            corners[2, x], corners[3, x] = below + left, below + after
        for channel in range(len(new)):
            plane, line, nothing = old[channel], new[channel, y * width : (y + 1) * width], fill[channel]
            for x in range(width):
                if corners[0, x] < 0:
                    line[x] = nothing
                    continue
                upper, lower = _D(plane[corners[0, x]]), _D(plane[corners[2, x]])
                upper += (_D(plane[corners[1, x]]) - upper) * right[x]
                lower += (_D(plane[corners[3, x]]) - lower) * right[x]
                line[x] = _B(_I(upper + (lower - upper) * down[x]))


@jit
def _pick(old: Bytes, new: Bytes, begin: int, places: Ints, fill: Bytes) -> None:
    """Fill a line of each channel from places in it, -1 for none."""
    for channel in range(len(new)):
        source, line, nothing = old[channel], new[channel, begin : begin + len(places)], fill[channel]
        for x in range(len(places)):
            line[x] = source[places[x]] if places[x] >= 0 else nothing


@jit
def _steps(at: float, step: float, count: int) -> Ints:
    """Which pixels lie at some steps, -1 for those outside; added up, as Pillow does."""
    places = np.empty(count, np.int64)
    for i in range(count):
        places[i] = int(at) if 0.0 <= at < count else -1
        at += step
    return places


@jit
def _fixed(value: float) -> int:
    return math.floor(value * 65536.0 + 0.5)
