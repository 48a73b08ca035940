"""Copying memory: by torch's threads together where cores are free, else by the caller's alone.

Two threads copy a batch in two thirds of the time. But each waits for the other, and where other processes have the
cores that takes a time slice, of milliseconds: after such a copy, the next ones are made alone for a while.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmdbpipe.arena import Bytes
from lmdbpipe.ring import lend, travels

_SHARED_BYTES = 256 * 1024
"""Below this a copy takes no longer than to wake a thread."""
_SLOW = 1e-9
"""Seconds a byte; a core alone takes a fifth of that, unless it waits for a disk."""
_PAUSES = (0.25, 32.0)
"""Seconds without sharing after the first slow copy, and at most: they double."""


class Copier:
    """Copies pieces of memory into one; safe in several threads."""

    def __init__(self) -> None:
        self._alone_until = 0.0
        self._pause = _PAUSES[0]

    def __repr__(self) -> str:
        return f"Copier(pause={self._pause})"

    def copy(self, piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy an array, C-contiguous and not empty, as `join` does."""
        nbytes = piece.nbytes
        if (nbytes < _SHARED_BYTES or torch.get_num_threads() == 1) and not travels():
            return piece.copy()
        return self.join([piece.reshape(-1).view(np.uint8)]).view(piece.dtype).reshape(piece.shape)

    def join(self, pieces: list[Bytes]) -> Bytes:
        """Copy some pieces, at least one, end to end into new memory; in a worker, into memory that travels."""
        size = sum(map(len, pieces))
        lent = lend(size)
        if lent is not None:
            return np.concatenate(pieces, out=lent)
        began = time.perf_counter()
        if size < _SHARED_BYTES or torch.get_num_threads() == 1 or began < self._alone_until:
            return pieces[0].copy() if len(pieces) == 1 else np.concatenate(pieces)
        out = np.empty(size, np.uint8)  # comes faster than torch's memory
        torch.cat(list(map(torch.from_numpy, pieces)), out=torch.from_numpy(out))
        ended = time.perf_counter()
        if ended - began < size * _SLOW:
            self._pause = max(self._pause / 2, _PAUSES[0])
        else:
            self._alone_until = ended + self._pause
            self._pause = min(self._pause * 2, _PAUSES[1])
        return out


COPIER = Copier()
"""The process's own."""
