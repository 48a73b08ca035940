"""The two passes of Pillow's resampling and torch's, compiled by numba: the same bits, several times as fast.

The arithmetic is that of Pillow's src/libImaging/Resample.c for bytes. Weights are computed and normalised as doubles,
then rounded to multiples of 2**-22; sums are of 32 bits; what a pass makes is rounded and clipped to bytes before the
other pass takes it up. Sums of integers are the same in any order, which is what leaves room for speed. torch's
antialiased kernel for bytes (aten/src/ATen/native/cpu/UpSampleKernel.cpp) does the same, but its weights have 16 bits,
as many of them after the point as the heaviest one allows.

A pass weighs lines: whole lines of bytes are added up, so that a vector of neighbours is made at once. Down the image
they are the image's own lines. Across it they are columns, so `LINES` lines are transposed first, and back afterwards.
What comes out is CxHxW, in which everything that follows is faster.
Nothing is read outside the rectangle that is resampled.

It needs numba, and so is imported only where that is installed; `lmdbpipe.transforms.resample` uses it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmdbpipe.transforms.jit import jit

LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = (
    int(Image.Resampling[name]) for name in ("LANCZOS", "BILINEAR", "BICUBIC", "BOX", "HAMMING")
)
REACH = (0.0, 3.0, 1.0, 2.0, 0.5, 1.0)
"""Of each filter, by its number, how many pixels to either side it takes in where an image is not made smaller."""
LINES = 64
"""Lines that are transposed together, in three steps of four: enough for a column to fill vectors, and few enough for
those of a photo to stay in a core's own cache."""
PRECISION = 22
"""Bits of a weight after the point."""
HALF = 1 << (PRECISION - 1)
TAKEN = 4
"""Lines that are added up at once."""
_HAMMING = float(np.float32(0.54)), float(np.float32(0.46))  # floats in C

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Weights = tuple[Ints, NDArray[np.int32]]
"""For each output, the first line it takes in and their number [n, 2], and their weights [n, m], zeros at the end."""
_U: Any = np.uint64  # numba sees that indices are not negative
_I: Any = np.int32


@jit
def resample(
    memory: Bytes,
    begins: Ints,
    full: Ints,
    top: Ints,
    left: Ints,
    sizes: Ints,
    hflip: Bools,
    vflip: Bools,
    targets: Ints,
    wanted: Ints,
    layout: tuple[int, int],
    kind: int,
    vertical_first: bool,
    short: bool,
    out: Bytes,
) -> None:
    """Resample rectangles of images, an image at a time.

    Args:
        memory: uint8 bytes.
        begins: int64 [n], the byte at which each image begins.
        full: int64 [n, 2], heights and widths of the images.
        top: int64 [n], where the rectangles begin; they lie within the images.
        left: int64 [n].
        sizes: int64 [n, 2], heights and widths of the rectangles.
        hflip: bool [n], whether a rectangle is mirrored left to right before it is resampled.
        vflip: bool [n], or top to bottom.
        targets: int64 [n], the byte of ``out`` at which each result begins.
        wanted: int64 [n, 2], heights and widths of the results.
        layout: Planes of an image, and bytes of a pixel in a plane: (1, C) or (C, 1).
        kind: The number of Pillow's filter.
        vertical_first: Whether images that lose more than twice as many lines as columns are first made lower, as
            Pillow does from version 13 on; else all are first made narrower.
        short: Whether weights have 16 bits, as torch's.
        out: uint8 bytes; each result is CxHxW, whatever the layout.
    """
    planes, pixel = layout
    for i in range(len(begins)):
        (tall, wide), (height, width), (rows, columns) = full[i], sizes[i], wanted[i]
        across, down = _weights(width, columns, kind, short), _weights(height, rows, kind, short)
        pitch = wide * pixel
        begin, to = begins[i] + top[i] * pitch + left[i] * pixel, targets[i]
        if vflip[i]:
            begin, pitch = begin + (height - 1) * pitch, -pitch
        lower = vertical_first and height - rows > max(0, 2 * (width - columns))
        middle = np.empty((rows * width if lower else height * columns) * pixel, np.uint8)
        for _ in range(planes):
            if lower:
                _weigh(memory, begin, pitch, width * pixel, down, middle, 0)
                _across(middle, 0, width * pixel, (rows, width, pixel), across, hflip[i], out, to)
            else:
                _across(memory, begin, pitch, (height, width, pixel), across, hflip[i], middle, 0)
                for k in range(pixel):
                    _weigh(middle, k * height * columns, columns, columns, down, out, to + k * rows * columns)
            begin += tall * wide
            to += rows * columns * pixel


@jit
def _weights(size: int, wanted: int, kind: int, short: bool) -> Weights:
    """Say what each of ``wanted`` outputs takes from ``size`` inputs."""
    scale = size / wanted
    stretch = max(scale, 1.0)
    reach = REACH[kind] * stretch
    inverse = 1.0 / stretch
    most = math.ceil(reach) * 2 + 1
    taken = np.empty((wanted, 2), np.int64)
    values = np.empty((wanted, most))
    heaviest = 0.0
    for output in range(wanted):
        center = (output + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        count = min(int(center + reach + 0.5), size) - first
        total = 0.0
        for k in range(count):
            values[output, k] = _filter((k + first - center + 0.5) * inverse, kind)
            total += values[output, k]
        for k in range(count):
            values[output, k] /= total if total != 0.0 else 1.0
            heaviest = max(heaviest, values[output, k])
        taken[output, 0], taken[output, 1] = first, count  # a slice would compile for a second
    precision = PRECISION
    while short and int(0.5 + heaviest * (1 << precision)) >= 1 << 15:
        precision -= 1
    weights = np.zeros((wanted, most + TAKEN), np.int32)
    for output in range(wanted):
        for k in range(taken[output, 1]):
            value = values[output, k] * (1 << precision)
            weights[output, k] = int(value - 0.5 if value < 0 else value + 0.5) << (PRECISION - precision)
    return taken, weights


@jit
def _filter(x: float, kind: int) -> float:
    """The value of a filter at a distance from its middle."""
    if kind == BOX:
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    if kind == LANCZOS:
        return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0
    x = abs(x)
    if kind == BILINEAR:
        return 1.0 - x if x < 1.0 else 0.0
    if kind == HAMMING:
        return _sinc(x) * (_HAMMING[0] + _HAMMING[1] * math.cos(x * math.pi)) if x < 1.0 else 0.0
    if x < 1.0:  # bicubic, with a = -0.5
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


@jit
def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x *= math.pi
    return math.sin(x) / x


@jit
def _weigh(lines: Bytes, begin: int, pitch: int, length: int, weighing: Weights, out: Bytes, to: int) -> None:
    """Make weighted sums of lines.

    Args:
        lines: uint8 bytes.
        begin: The byte at which the first line begins.
        pitch: Bytes from a line to the next.
        length: Bytes of a line.
        weighing: `Weights`.
        out: uint8; the results follow each other.
        to: The byte at which they begin.
    """
    taken, weights = weighing
    sums = np.empty(length, np.int32)
    for output in range(len(taken)):
        first, count = taken[output]
        at, last, z = begin + first * pitch, count - 1, _U(to + output * length)
        begun = _four(at, pitch, last, weights, output, 0)
        if count <= TAKEN:
            for j in range(_U(length)):
                out[z + j] = _clip(_I(HALF + _sum(lines, begun, j)))
            continue
        for j in range(_U(length)):
            sums[j] = _I(HALF + _sum(lines, begun, j))
        tail = last // TAKEN * TAKEN
        for k in range(TAKEN, tail, TAKEN):
            more = _four(at, pitch, last, weights, output, k)
            for j in range(_U(length)):
                sums[j] = _I(sums[j] + _sum(lines, more, j))
        rest = _four(at, pitch, last, weights, output, tail)
        for j in range(_U(length)):
            out[z + j] = _clip(_I(sums[j] + _sum(lines, rest, j)))


@jit
def _four(at: int, pitch: int, last: int, weights: Any, output: int, k: int) -> Any:
    """Where line ``k`` and the three after it begin, and their weights; beyond the last line weights are 0."""
    one, two, three = at + min(k + 1, last) * pitch, at + min(k + 2, last) * pitch, at + min(k + 3, last) * pitch
    row = weights[output]
    return _U(at + k * pitch), _U(one), _U(two), _U(three), row[k], row[k + 1], row[k + 2], row[k + 3]


@jit
def _sum(lines: Bytes, four: Any, j: Any) -> Any:
    """The weighted sum of byte ``j`` of four lines."""
    a, b, c, d, p, q, r, s = four
    return p * lines[a + j] + q * lines[b + j] + r * lines[c + j] + s * lines[d + j]


@jit
def _clip(x: Any) -> Any:
    """The byte nearest to a sum of weighted bytes, `HALF` included: int32 to uint8."""
    return np.uint8(min(max(x >> _I(PRECISION), _I(0)), _I(255)))


@jit
def _across(
    lines: Bytes,
    begin: int,
    pitch: int,
    shape: tuple[int, int, int],
    weighing: Weights,
    mirrored: bool,
    out: Bytes,
    to: int,
) -> None:
    """Resample lines, in each of which pixels follow each other.

    Args:
        lines: uint8 bytes.
        begin: The byte at which the first line begins.
        pitch: Bytes from a line to the next.
        shape: The number of lines, pixels of a line, and bytes of a pixel.
        weighing: `Weights`.
        mirrored: Whether lines are to be mirrored first.
        out: uint8; a plane of resampled lines for each byte of a pixel.
        to: The byte at which they begin.
    """
    count, width, pixel = shape
    columns, length = len(weighing[0]), width * pixel
    quarter, column, last = LINES // 4, LINES * pixel, count - 1
    space = max(LINES * length, columns * column)
    one, two = np.empty(space, np.uint8), np.empty(space, np.uint8)
    for y in range(0, count, LINES):
        for k in range(quarter):  # where there are fewer lines, the last is taken again
            a, b = begin + min(y + k, last) * pitch, begin + min(y + k + quarter, last) * pitch
            c, d = begin + min(y + k + 2 * quarter, last) * pitch, begin + min(y + k + 3 * quarter, last) * pitch
            _weave(lines, a, b, c, d, one, k * 4 * length, length)
        n = quarter * length
        _weave(one, 0, n, 2 * n, 3 * n, two, 0, n)
        _weave(two, 0, n, 2 * n, 3 * n, one, 0, n)
        if mirrored:
            _weigh(one, (width - 1) * column, -column, column, weighing, two, 0)
        else:
            _weigh(one, 0, column, column, weighing, two, 0)
        n = quarter * columns * pixel
        _unweave(two, n, one)
        _unweave(one, n, two)
        _unweave(two, n, one)
        _part(one, min(LINES, count - y), columns, pixel, out, to + y * columns, count * columns)


@jit
def _part(source: Bytes, count: int, columns: int, pixel: int, out: Bytes, to: int, plane: int) -> None:
    """Part the channels of pixels that follow each other, into planes so many bytes apart."""
    n, apart, at = _U(count * columns), _U(plane), _U(to)
    if pixel == 3:  # the compiler knows how to part three
        for j in range(n):
            out[at + j] = source[_U(3) * j]
            out[at + apart + j] = source[_U(3) * j + _U(1)]
            out[at + apart + apart + j] = source[_U(3) * j + _U(2)]
        return
    for k in range(_U(pixel)):
        for j in range(n):
            out[at + k * apart + j] = source[_U(pixel) * j + k]


@jit
def _weave(source: Bytes, a: int, b: int, c: int, d: int, out: Bytes, to: int, length: int) -> None:
    """Take bytes from four places by turns; done thrice, what was 64 lines is columns."""
    a, b, c, d, to = _U(a), _U(b), _U(c), _U(d), _U(to)
    for j in range(_U(length)):
        out[to + _U(4) * j] = source[a + j]
        out[to + _U(4) * j + _U(1)] = source[b + j]
        out[to + _U(4) * j + _U(2)] = source[c + j]
        out[to + _U(4) * j + _U(3)] = source[d + j]


@jit
def _unweave(source: Bytes, length: int, out: Bytes) -> None:
    """Deal bytes out to four places, each of ``length``: the inverse of `_weave`."""
    n = _U(length)
    for j in range(n):
        out[j] = source[_U(4) * j]
        out[n + j] = source[_U(4) * j + _U(1)]
        out[_U(2) * n + j] = source[_U(4) * j + _U(2)]
        out[_U(3) * n + j] = source[_U(4) * j + _U(3)]
