"""Bytes on the move: gather, crop, flip, lay out as CxHxW and compute are one pass, compiled by numba.

What elementwise steps make of a byte depends on its value and its channel alone. So they are done for the 256 bytes
there are, by the very operations that would do it for each pixel. Where a formula of a few vector instructions gives
the same 256 results, bit for bit, it computes the pixels; otherwise they are looked up. Only where numba is installed
(the extra ``jit``); without it `lmdbpipe.transforms.batch` computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmdbpipe.transforms import streams
from lmdbpipe.transforms.arithmetic import LEVELS, Arithmetic, Bits, bits_of, compute
from lmdbpipe.transforms.gather import Source, Store, source_dtype, store_of
from lmdbpipe.transforms.jit import jit
from lmdbpipe.transforms.raw import RawImages, outside_error
from lmdbpipe.transforms.windows import Windows

Formulas = NDArray[np.float32]
"""For each channel: how to divide (or multiply), what to subtract, and how to divide again; see `_formulas`."""

_DIVISION, _SUBTRACTION, _SECOND_DIVISION = slice(0, 3), slice(3, 4), slice(4, 7)
"""Where in a formula its parts stand."""
_PARTS = {"div_": (_DIVISION, _SECOND_DIVISION), "mul_": (_DIVISION, _SECOND_DIVISION), "sub_": (_SUBTRACTION,)}
"""Which of them an operation can be."""


def compute_bytes(source: Source, windows: Windows, operations: tuple[Arithmetic, ...], out: Tensor) -> bool:
    """Move bytes as `gather` does, and compute.

    Args:
        source: Where they lie.
        windows: Which rectangles; all of one size.
        operations: What to compute; nothing, if there are none.
        out: [n, C, H, W], C-contiguous, of the dtype of their results.

    Returns:
        Whether it was done; False where there is no numba, where pixels are no bytes in plain memory, or few.

    Raises:
        TransformError: If images reach over the memory's ends.
    """
    count, channels, height, width = out.shape
    if count * height * width < LEVELS or source_dtype(source) != torch.uint8:
        return False
    store = store_of(source)
    if store is None or _kernel() is None:
        return False
    outside = _move(store, windows, _ways(operations, channels), out)
    if outside >= 0:
        height, width = store.size if isinstance(store.size, tuple) else store.size[windows.rows[outside]]
        begin = int(store.offsets[windows.rows[outside]])
        raise outside_error(store.memory, begin, int(height * width) * channels)
    return True


def _move(store: Store, windows: Windows, ways: tuple[Bits, Formulas], out: Tensor) -> int:
    """Call the kernel."""
    count, channels, height, width = out.shape
    flips = np.zeros(count, np.bool_)
    outside: int = _kernel()(
        store.memory.numpy(),
        store.offsets[windows.rows],
        np.array([store.size]) if isinstance(store.size, tuple) else store.size[windows.rows],
        not store.hwc,
        windows.top,
        windows.left,
        flips if windows.hflip is None else windows.hflip,
        flips if windows.vflip is None else windows.vflip,
        np.array(windows.fill or (0,) * channels, np.uint8),
        *ways,
        bits_of(out.view(-1)),
        (channels, height, width),
    )
    return outside


@lru_cache(maxsize=64)
def _ways(operations: tuple[Arithmetic, ...], channels: int) -> tuple[Bits, Formulas]:
    """Say what becomes of each byte in each channel, [C, 256] bits; and how to compute it, or 0 formulas."""
    if not operations:
        return np.empty((0, LEVELS), np.uint8), np.empty((0, 7), np.float32)
    levels = torch.arange(LEVELS, dtype=torch.uint8, device="cpu").repeat(channels).view(1, channels, 1, LEVELS)
    results = compute(operations, levels)
    bits, formulas = bits_of(results)[0, :, 0], _formulas(operations, channels)
    store = store_of(levels)
    if len(formulas) and store is not None:
        computed = torch.empty_like(results)
        _move(store, Windows.full(1, (1, LEVELS)), (bits, formulas), computed)
        if not torch.equal(computed.view(torch.int32), results.view(torch.int32)):
            formulas = formulas[:0]
    return bits, formulas


def _formulas(operations: Sequence[Arithmetic], channels: int) -> Formulas:
    """Write operations as ``(x / a - b) / c``.

    Returns:
        [C, 7]: 1 / a, a, 1 / a, b, 1 / c, c, 1 / c. A quotient by the reciprocal is corrected by what then remains:
        Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor", 1990. A factor has 0 in
        place of the third number. Of 0 rows for other operations.
    """
    formulas = np.tile(np.array([1, 1, 0, 0, 1, 1, 0], np.float32), (channels, 1))
    end = 0
    for operation in operations[1:]:
        part = next((part for part in _PARTS.get(operation.name, ()) if part.start >= end), None)
        if part is None:
            return formulas[:0]
        end = part.stop
        number = np.asarray(operation.operand, np.float32).reshape(-1, 1)
        formulas[:, part] = number
        if operation.name == "mul_":
            formulas[:, part.stop - 1] = 0
        elif operation.name == "div_":
            with np.errstate(over="ignore", divide="ignore"):
                formulas[:, [part.start, part.stop - 1]] = 1 / number
    return formulas if operations[0] == Arithmetic("to", torch.float32) else formulas[:0]


@cache
def prepare() -> None:
    """Let numba load or compile, where it is installed, what bytes move and become floats with, and what draws."""
    image = RawImages(np.zeros(LEVELS, np.uint8), np.zeros(1, np.int64), (1, LEVELS), "L")
    windows, floats = Windows.full(1, (1, LEVELS)), torch.empty(1, 1, 1, LEVELS)
    compute_bytes(image, windows, (Arithmetic("to", torch.float32),), floats)
    compute_bytes(image, windows, (), floats.to(torch.uint8))
    streams.prepare()


@cache
def _kernel() -> Any:
    try:
        from lmdbpipe.transforms.moving import move  # noqa: PLC0415 it needs numba

        return jit(move)
    except ImportError:
        return None
