"""The compiled pass of `lmdbpipe.transforms.bytewise`; that alone imports it, where numba and FMA are there.

Lines of pixels are copied into a small buffer, so that crops, borders and flips are done by copying bytes; what is
mirrored has its lines in reverse order there, and is then read backwards. Channels are taken apart and computed over
many lines at once, in loops so plain that they become vector instructions: of an image of 32x32 a line is too short.

A shuffled batch's images lie anywhere in the map, and the processor fetches ahead only what follows. So the first bytes
of the image after the next are asked for while one is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from lmdbpipe.transforms.fma import fma
from lmdbpipe.transforms.jit import jit

Bytes = NDArray[np.uint8]

_U = np.uint64  # numba sees that indices are not negative
_AHEAD = 2
"""Which image is asked for, counted from the one that is computed."""
_FIRST_BYTES = 4096
"""How much of it; beyond a page the processor sees what follows."""
_CACHE_LINE = 64
"""Bytes."""
_PIXELS = 64 << 10
"""About how many pixels are taken apart before they are computed: few enough for a core's own cache."""


def _prefetch(_: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]``, uint8, which need not exist: LLVM's ``llvm.prefetch``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function: Any = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
        place = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.call(function, [place, number(0), number(3), number(1)])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(array, index), generate


def _copy(_: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Copy bytes, ``target[to : to + count] = source[at : at + count]``, by the system's ``memcpy``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        begin = _place(context, builder, signature.args[2], arguments[2], arguments[3])
        cgutils.raw_memcpy(builder, into, begin, arguments[4], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, to, source, at, count), generate


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


prefetch: Any = intrinsic(_prefetch)
copy: Any = intrinsic(_copy)


def move(memory, begins, sizes, planar, top, left, hflip, vflip, fill, results, formulas, out, shape):  # type: ignore[no-untyped-def]
    """Compute each output's pixels.

    Of an output's line, ``before`` pixels are border, then ``inside`` ones are the image's, and the rest is border.

    Each of ``formulas``, float32 [C, 7], computes pixels; where there are none, ``results`` say what each byte becomes,
    as bits, [C, 256]; where there are none either, bytes stay what they are.

    Returns:
        The first image that is not all in the memory; -1 if all are.
    """
    channels, height, width = shape
    planes, pixel = (channels, 1) if planar else (1, channels)
    block = min(height, max(1, _PIXELS // width))
    split = np.empty((pixel, block * width), np.uint8)
    lines = split[0] if pixel == 1 else np.empty(block * width * pixel, np.uint8)
    backwards = np.empty(block * width, np.uint8)
    edges = _edges(fill, planes, width * pixel)
    for i in range(len(begins)):
        if i + _AHEAD < len(begins):
            for line in range(0, _FIRST_BYTES, _CACHE_LINE):
                prefetch(memory, begins[i + _AHEAD] + line)
        tall, wide = sizes[i if len(sizes) > 1 else 0]
        if begins[i] < 0 or begins[i] + tall * wide * channels > len(memory):
            return i
        before = min(max(0, -left[i]), width)
        inside = max(min(width, wide - left[i]) - before, 0)
        for plane in range(planes):
            begin, edge = begins[i] + plane * tall * wide, edges[plane]
            for first in range(0, height, block):
                rows = min(block, height - first)
                for row in range(rows):
                    y = first + row
                    line = top[i] + (height - 1 - y if vflip[i] else y)
                    is_inside = 0 <= line < tall
                    over, kept = (before, inside) if is_inside else (width, 0)
                    to = (rows - 1 - row if hflip[i] else row) * width
                    copy(lines, to * pixel, edge, 0, over * pixel)
                    at = begin + (line * wide + left[i] + before) * pixel
                    copy(lines, (to + over) * pixel, memory, at, kept * pixel)
                    copy(lines, (to + over + kept) * pixel, edge, 0, (width - over - kept) * pixel)
                _take_apart(lines, split, rows * width)
                for channel in range(plane, plane + pixel):
                    pixels = split[channel - plane, : rows * width]
                    if hflip[i]:
                        _turn(pixels, backwards)
                        pixels = backwards[: rows * width]
                    to = ((i * channels + channel) * height + first) * width
                    target = out[to : to + rows * width]
                    if len(formulas):
                        _compute(pixels, formulas[channel], target)
                    elif len(results):
                        _look_up(pixels, results[channel], target)
                    else:
                        copy(target, 0, pixels, 0, len(target))
    return -1


@jit
def _edges(fill: Bytes, planes: int, length: int) -> Bytes:
    """Give a line of border for each plane."""
    edges = np.empty((planes, length), np.uint8)
    for plane in range(planes):
        for x in range(length):
            edges[plane, x] = fill[plane if planes > 1 else x % len(fill)]
    return edges


@jit
def _take_apart(lines: Bytes, split: Bytes, count: int) -> None:
    """Lay out pixels as one plane for each channel; a single one is laid out so."""
    if len(split) == 3:
        red, green, blue = split[0], split[1], split[2]
        for x in range(count):
            red[x], green[x], blue[x] = lines[3 * x], lines[3 * x + 1], lines[3 * x + 2]
    elif len(split) == 4:
        cyan, magenta, yellow, black = split[0], split[1], split[2], split[3]
        for x in range(count):
            cyan[x], magenta[x] = lines[4 * x], lines[4 * x + 1]
            yellow[x], black[x] = lines[4 * x + 2], lines[4 * x + 3]
    elif len(split) == 2:
        grey, alpha = split[0], split[1]
        for x in range(count):
            grey[x], alpha[x] = lines[2 * x], lines[2 * x + 1]
    elif len(split) > 1:  # by a step that the compiler does not know, and so slowly
        for channel in range(len(split)):
            plane = split[channel]
            for x in range(count):
                plane[x] = lines[x * len(split) + channel]


@jit
def _turn(pixels: Bytes, backwards: Bytes) -> None:
    last = _U(len(pixels) - 1)
    for x in range(_U(len(pixels))):
        backwards[x] = pixels[last - x]


@jit
def _look_up(pixels: Bytes, results: NDArray[Any], target: NDArray[Any]) -> None:
    for x in range(len(target)):
        target[x] = results[pixels[x]]


@jit
def _compute(pixels: Bytes, formula: NDArray[np.float32], target: NDArray[Any]) -> None:
    """Divide, subtract and divide. The quotients are rounded as division rounds them (Markstein's theorem)."""
    over_a, a, more_a, b = formula[0], formula[1], formula[2], formula[3]
    over_c, c, more_c = formula[4], formula[5], formula[6]
    for x in range(len(target)):
        value = np.float32(pixels[x])
        quotient = value * over_a
        difference = fma(fma(-quotient, a, value), more_a, quotient) - b
        quotient = difference * over_c
        target[x] = np.float32(fma(fma(-quotient, c, difference), more_c, quotient)).view(np.int32)
