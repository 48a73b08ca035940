"""Output memory that is used again once nobody can see it.

Fresh memory is the dearest part of a transform: the kernel hands it out page by page and zeroes every one. A tensor
from here lies over a NumPy array that dies with the last tensor, view, slice, storage or array over it; its memory then
goes back on a shelf. So what a caller holds is never written to again, for as long as it is held in any way.

Safe in threads without a lock, because only single appends and pops of deques are shared (a collector may run the
giving back in any thread, at any instruction). A forked child has its own copy of the shelves.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmdbpipe.ring import lend

SMALLEST = 1 << 18
"""Bytes. The allocator itself keeps smaller blocks."""
DEAR = 16 << 20
"""Bytes. From here on the allocator maps memory anew for every batch, page by page."""

_NUMPY = {
    torch.bool: np.bool_,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.int8: np.int8,
    torch.uint16: np.uint16,
    torch.uint8: np.uint8,
}


class Pool:
    """Shelves of free buffers, by size.

    Args:
        limit: The most bytes to keep on the shelves; what comes back beyond that is freed.
        per_size: The most buffers of one size to keep.
    """

    def __init__(self, limit: int = 512 << 20, per_size: int = 8) -> None:
        self._limit = limit
        self._per_size = per_size
        self._shelves: dict[int, deque[NDArray[np.uint8]]] = {}

    def __repr__(self) -> str:
        return f"Pool({self.held} bytes free, limit={self._limit})"

    @property
    def held(self) -> int:
        """Bytes on the shelves now."""
        return sum(size * len(shelf) for size, shelf in list(self._shelves.items()))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Give an uninitialised C-contiguous CPU tensor, like `torch.empty`; in a worker, in memory that travels."""
        kind = _NUMPY.get(dtype)
        size = math.prod(shape) * dtype.itemsize
        if kind is None or size < SMALLEST:
            return torch.empty(shape, dtype=dtype, device="cpu")
        lent = lend(size)
        if lent is not None:
            return torch.from_numpy(lent.view(kind).reshape(shape))
        try:
            buffer = self._shelves[size].pop()
        except (KeyError, IndexError):
            buffer = np.empty(size, np.uint8)
        array: NDArray[Any] = buffer.view(kind).reshape(shape)
        weakref.finalize(array, self._back, buffer).atexit = False
        return torch.from_numpy(array)

    def clear(self) -> None:
        """Free what is on the shelves."""
        self._shelves.clear()

    def _back(self, buffer: NDArray[np.uint8]) -> None:
        shelf = self._shelves.setdefault(buffer.nbytes, deque(maxlen=self._per_size))
        if len(shelf) == self._per_size:
            return
        if self.held + buffer.nbytes > self._limit:
            self._shelves.clear()  # what other sizes left behind goes first
            shelf = self._shelves.setdefault(buffer.nbytes, deque(maxlen=self._per_size))
        if buffer.nbytes <= self._limit:
            shelf.append(buffer)


POOL = Pool()
"""The pool that lowered transforms take their outputs from."""
