"""Blurring of bytes, compiled by numba, with the bits of torch's ``conv2d``.

torch adds up the ky * kx products of a pixel one after the other, in floats, each with one rounding (FMA), and rounds
the sum to a byte. The same number can be had with ky + kx products, first along rows and then along columns, but for
its last bits. These matter only where it lies so near the middle between two bytes that the roundings of the long sum
could carry it across: less than one pixel in a hundred, which is then summed up as torch does it.

It needs numba and a processor with FMA, and so is imported only where there are both, by `lmdbpipe.transforms.blur`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmdbpipe.transforms.fma import fma
from lmdbpipe.transforms.jit import jit

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_F = np.float32
_ROUNDING = 2.0**-24
"""What rounding to a float changes at most, in parts of the number."""
_LITTLE = 2e-9
"""A weight that may be left out, if what that can change is allowed for."""


@jit
def blur(images: Bytes, rows: Floats, columns: Floats) -> None:
    """Blur images in place; beyond their edges they are mirrored.

    Args:
        images: [n, C, H, W], C-contiguous.
        rows: Each image's weights along its height: [n, ky], ky odd and less than 2 * H. None is negative, and they sum
            up to about 1.
        columns: The same along its width: [n, kx].
    """
    height, width = images.shape[2:]
    padded = np.empty((height + rows.shape[1] - 1, width + columns.shape[1] - 1), np.float32)
    lines, sums = np.empty((height, width), np.float32), np.empty(width, np.float32)
    near, places, levels = np.empty(width, np.uint8), np.empty(width, np.int64), np.empty(width + 3, np.float32)
    for number in range(len(images)):
        kernel = multiply(rows[number], columns[number])
        above, before = _first(rows[number]), _first(columns[number])
        down, across = rows[number, above : rows.shape[1] - above], columns[number, before : columns.shape[1] - before]
        parts, rest = _roundings(kernel)
        slack = _F((parts + len(down) + len(across) + 4) * _ROUNDING)
        least = _F(255 * (rest + 2 * (above + before) * _LITTLE) + 1e-6)
        for plane in images[number]:
            pad(plane, padded)
            for y in range(height):
                _weigh_along(padded[y + rows.shape[1] // 2, before:], across, lines[y])
            for y in range(height):
                _weigh_across(lines, down, y, sums)
                line, count = plane[y], 0
                for x in range(width):
                    level = np.int32(sums[x] + _F(0.5))
                    line[x] = np.uint8(level)
                    near[x] = np.uint8(_F(0.5) - abs(sums[x] - _F(level)) <= sums[x] * slack + least)
                for x in range(width):
                    count += near[x]
                if count > 0:
                    found = 0
                    for x in range(width):
                        places[found] = x
                        found += near[x]
                    add_up(padded[y:], kernel, places[:count], levels)
                    for i in range(count):
                        line[places[i]] = np.uint8(np.rint(levels[i]))


@jit
def multiply(rows: Floats, columns: Floats) -> Floats:
    """Make the kernel [ky, kx] of weights for rows and for columns, with one rounding, as torch does."""
    kernel = np.empty((len(rows), len(columns)), np.float32)
    for row in range(len(rows)):
        for column in range(len(columns)):
            kernel[row, column] = rows[row] * columns[column]
    return kernel


@jit
def pad(plane: Bytes, out: Floats) -> None:
    """Mirror a plane beyond its edges, at the middle of its outer pixels: ``reflect``, as torch calls it."""
    height, width = plane.shape
    above, before = (len(out) - height) // 2, (out.shape[1] - width) // 2
    for row in range(len(out)):
        line, target = plane[_inside(row - above, height)], out[row]
        for x in range(width):
            target[before + x] = line[x]
        for x in range(before):
            target[x] = target[2 * before - x]
            target[before + width + x] = target[before + width - 2 - x]


@jit
def add_up(padded: Floats, kernel: Floats, places: Ints, out: Floats) -> None:
    """Sum up products as torch does, one after the other, for some places of a row.

    Args:
        padded: What lies under the kernel there, and below: rows of a padded plane.
        kernel: [ky, kx].
        places: Columns, int64 [n], at least one.
        out: The sums; at least [n + 3], of which the last three are spoilt.
    """
    last = len(places) - 1
    for first in range(0, len(places), 4):  # four at a time, since each product waits for the one before
        a, b = places[first], places[min(first + 1, last)]
        c, d = places[min(first + 2, last)], places[min(first + 3, last)]
        w, x, y, z = _F(0.0), _F(0.0), _F(0.0), _F(0.0)
        for row in range(len(kernel)):
            weights, line = kernel[row], padded[row]
            for column in range(len(weights)):
                weight = weights[column]
                w, x = fma(line[a + column], weight, w), fma(line[b + column], weight, x)
                y, z = fma(line[c + column], weight, y), fma(line[d + column], weight, z)
        out[first], out[first + 1], out[first + 2], out[first + 3] = w, x, y, z


@jit
def _roundings(kernel: Floats) -> tuple[int, float]:
    """Bound what roundings can change in torch's sum of bytes with the weights of a kernel.

    The sum so far is at most the last one, and at most 255 times the weights so far. When a product is added, what is
    rounded away is at most 2**-24 of the new sum, and at most the product, since the old sum is a float.

    Returns:
        How many times 2**-24 of the last sum it is, and besides, how much for bytes of 1.
    """
    so_far, parts, rest = 0.0, 0, 0.0
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            weight = np.float64(kernel[row, column])
            so_far += weight
            most = min(so_far * _ROUNDING, weight)
            if most > _ROUNDING / 2:
                parts += 1
            else:
                rest += most
    return parts, rest


@jit
def _first(weights: Floats) -> int:
    """Find the first weight that counts; as many at the end do not."""
    first = 0
    while first < len(weights) // 2 and max(weights[first], weights[len(weights) - 1 - first]) < _LITTLE:
        first += 1
    return first


@jit
def _weigh_along(line: Floats, weights: Floats, out: Floats) -> None:
    """Sum up what lies under weights, from each place of a line on."""
    for x in range(len(out)):
        out[x] = _F(0.0)
    single = len(weights) % 4
    for i in range(single):
        for x in range(len(out)):
            out[x] = fma(line[x + i], weights[i], out[x])
    for i in range(single, len(weights), 4):  # four at a time, since sums are fetched and put back
        first, second, third, fourth = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for x in range(len(out)):
            half = fma(line[x + i + 1], second, fma(line[x + i], first, out[x]))
            out[x] = fma(line[x + i + 3], fourth, fma(line[x + i + 2], third, half))


@jit
def _weigh_across(lines: Floats, weights: Floats, y: int, out: Floats) -> None:
    """Sum up lines around one of them."""
    for x in range(len(out)):
        out[x] = _F(0.0)
    top, height, single = y - len(weights) // 2, len(lines), len(weights) % 4
    for i in range(single):
        line, weight = lines[_inside(top + i, height)], weights[i]
        for x in range(len(out)):
            out[x] = fma(line[x], weight, out[x])
    for i in range(single, len(weights), 4):
        first, second, third, fourth = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        a, b = lines[_inside(top + i, height)], lines[_inside(top + i + 1, height)]
        c, d = lines[_inside(top + i + 2, height)], lines[_inside(top + i + 3, height)]
        for x in range(len(out)):
            out[x] = fma(d[x], fourth, fma(c[x], third, fma(b[x], second, fma(a[x], first, out[x]))))


@jit
def _inside(place: int, length: int) -> int:
    """Where a place beyond an edge lies, mirrored."""
    if place < 0:
        return -place
    return place if place < length else 2 * (length - 1) - place
