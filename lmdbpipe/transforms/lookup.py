"""Arithmetic on bytes by looking up: gather, crop, flip, lay out as CxHxW and compute are one pass, compiled by numba.

What elementwise steps make of a byte depends on its value and its channel alone. So they are done for the 256 bytes
there are, by the very operations that would do it for each pixel, and pixels are looked up: the same bits, in half the
time. Only where numba is installed (the extra ``jit``); without it `lmdbpipe.transforms.batch` computes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmdbpipe.transforms.arithmetic import LEVELS, Arithmetic, bits_of, table
from lmdbpipe.transforms.gather import Source, source_dtype, store_of
from lmdbpipe.transforms.jit import jit
from lmdbpipe.transforms.raw import RawImages, outside_error
from lmdbpipe.transforms.windows import Windows


def look_up(source: Source, windows: Windows, operations: tuple[Arithmetic, ...], out: Tensor) -> bool:
    """Move bytes as `gather` does, and compute.

    Args:
        source: Where they lie.
        windows: Which rectangles; all of one size.
        operations: What to compute.
        out: [n, C, H, W], C-contiguous, of the dtype of their results.

    Returns:
        Whether it was done; False where there is no numba, where pixels are no bytes in plain memory, or few.

    Raises:
        TransformError: If images reach over the memory's ends.
    """
    count, channels, height, width = out.shape
    if count * height * width < LEVELS or source_dtype(source) != torch.uint8:
        return False
    kernel, store = _kernel(), store_of(source)
    if kernel is None or store is None:
        return False
    results, border = table(operations, windows.fill or (0.0,) * channels)
    flips = np.zeros(count, np.bool_)
    begins = store.offsets[windows.rows]
    sizes = np.array([store.size]) if isinstance(store.size, tuple) else store.size[windows.rows]
    outside = kernel(
        store.memory.numpy(),
        begins,
        sizes,
        not store.hwc,
        windows.top,
        windows.left,
        flips if windows.hflip is None else windows.hflip,
        flips if windows.vflip is None else windows.vflip,
        results,
        border,
        bits_of(out.view(-1)),
        (channels, height, width),
    )
    if outside >= 0:
        raise outside_error(store.memory, int(begins[outside]), int(sizes[outside % len(sizes)].prod()) * channels)
    return True


@cache
def prepare() -> None:
    """Let numba load or compile, where it is installed, what bytes become floats with."""
    image = RawImages(np.zeros(LEVELS, np.uint8), np.zeros(1, np.int64), (1, LEVELS), "L")
    look_up(image, Windows.full(1, (1, LEVELS)), (Arithmetic("to", torch.float32),), torch.empty(1, 1, 1, LEVELS))


@cache
def _kernel() -> Any:
    try:
        from lmdbpipe.transforms.moving import move  # noqa: PLC0415 it needs numba

        return jit(move)
    except ImportError:
        return None
