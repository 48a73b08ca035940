"""One dense leaf, copied out of the map once: of one file, or of several that store it alike.

Consecutive rows are copied in runs, one a chunk; others by NumPy or torch, which index all places where a row could
begin, so that Python takes no step a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lmdbpipe.arena import Bytes
from lmdbpipe.codecs import Array, Column
from lmdbpipe.copying import COPIER
from lmdbpipe.indices import Indices
from lmdbpipe.mapped import view
from lmdbpipe.ring import SMALLEST, travels
from lmdbpipe.store import Database
from lmdbpipe.transforms.pool import DEAR, POOL
from lmdbpipe.transforms.raw import gather_bytes

Split: TypeAlias = Callable[[Indices], tuple[list[tuple[int, Indices]], npt.NDArray[np.int64] | None]]
"""Deals samples to files: each file's number and its own indices; and in which order these are the samples, or None."""

MOST_WINDOWS = 2**62
"""Bytes that a view of all places of a row may seem to have; beyond int64, neither NumPy nor torch can make it."""


class DenseLeaf:
    """A dense leaf of one file.

    Args:
        database: The file.
        leaf: Which leaf.
        column: Its column with the rows.
    """

    def __init__(self, database: Database, leaf: int, column: Column) -> None:
        self.database = database
        self.leaf = leaf
        self.column = column
        self.row_bytes = column.row_bytes or 0
        self.shape = column.shape or ()
        self.dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
        self._codec = database.manifest.schema.codecs[leaf]
        self._index = database.manifest.schema.index(leaf, column.role)
        self._chunk_length = database.manifest.chunk_length
        self._windows: tuple[Bytes | None, Bytes | None] = (None, None)
        sizes = range(1, len(self.shape) + 2)
        batch = self._codec.stack(torch.empty(tuple(sizes), dtype=self.dtype))
        # The order in which a batch names the axes of rows; None if it is more than an order that changes.
        self.axes = tuple(sizes.index(size) for size in batch.shape) if batch.dtype == self.dtype else None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_windows": (None, None)}

    @property
    def is_plain(self) -> bool:
        """Whether the stored numbers are the samples' own, not those of a dtype that NumPy lacks."""
        return self.axes is not None

    def gather(self, indices: Indices) -> torch.Tensor:
        """Copy rows into memory of the caller's own: ``[n, ...]``, as the codec stacks them."""
        size = len(indices) * self.row_bytes
        is_run = isinstance(indices, range) and 0 < size < DEAR
        if is_run and self.axes is not None and (run := self._run(indices)) is not None:  # type: ignore[arg-type]
            return torch.from_numpy(COPIER.copy(run).transpose(self.axes))  # NumPy turns axes sooner than torch
        if self.axes is None:
            return self._codec.stack(self._fill(POOL.empty((len(indices), *self.shape), self.dtype), indices))
        lent = size >= SMALLEST and not isinstance(indices, range) and travels()
        if size >= DEAR or lent:  # torch can write to memory that is lent
            return self._fill(POOL.empty((len(indices), *self.shape), self.dtype), indices).permute(self.axes)
        if not size:
            rows: Array = np.empty(0, np.uint8)
        elif not isinstance(indices, range):
            rows = self._pick(indices)
        else:
            rows = COPIER.join(self.runs(indices))
        rows = rows.view(self.column.dtype).reshape(len(indices), *self.shape)
        return torch.from_numpy(rows.transpose(self.axes))

    def whole(self) -> Array:
        """Copy the column of the whole file: ``[length, *shape]``, as stored."""
        chunks = range(self.database.manifest.num_chunks)
        return np.concatenate([self.database.column(chunk, self._index, self.column) for chunk in chunks])

    def offsets(self, indices: Indices) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        """View the part of the map that holds some rows, at least one, and say where in it each begins."""
        addresses = self.addresses(indices)
        low = int(addresses.min())
        return view(self, low, int(addresses.max()) - low + self.row_bytes), addresses - low

    def addresses(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Look up where in memory rows begin."""
        chunks, rows = np.divmod(indices, self._chunk_length)
        addresses: npt.NDArray[np.int64] = self.database.addresses(chunks, self._index, self.column)
        return addresses + np.asarray(rows * self.row_bytes, np.int64)

    def _run(self, indices: range) -> Array | None:
        """View consecutive rows in the map, ``[n, *shape]``; None if they lie in several chunks."""
        chunk, row = divmod(indices.start, self._chunk_length)
        if row + len(indices) > self._chunk_length:
            return None
        memory, begin = self.database.start(chunk, self._index, self.column)
        return np.ndarray((len(indices), *self.shape), self.column.dtype, memory, begin + row * self.row_bytes)

    def runs(self, indices: range) -> list[Bytes]:
        """View consecutive rows in the map as bytes, chunk by chunk."""
        runs, start, length = [], indices.start, self._chunk_length
        while start < indices.stop:
            chunk, row = divmod(start, length)
            stop = min(indices.stop, start - row + length)
            memory, begin = self.database.start(chunk, self._index, self.column)
            runs.append(memory[begin + row * self.row_bytes : begin + (row + stop - start) * self.row_bytes])
            start = stop
        return runs

    def _pick(self, indices: npt.NDArray[np.int64]) -> Bytes:
        """Copy rows from anywhere, as bytes of their number: NumPy is quicker than torch to begin."""
        addresses = self.addresses(indices)
        base, memory = self.database.memory()
        windows = self._windows
        if windows[0] is not memory:
            windows = self._windows = memory, _windows(memory, self.row_bytes)
        return _pick(memory, windows[1], addresses - base, self.row_bytes)

    def _fill(self, out: torch.Tensor, indices: Indices) -> torch.Tensor:
        """Copy rows into memory of their shape; torch shares such work among its threads."""
        flat = out.view(-1).view(torch.uint8)
        if not len(flat):
            return out
        if isinstance(indices, range):
            torch.cat(list(map(torch.from_numpy, self.runs(indices))), out=flat)
            return out
        memory, offsets = self.offsets(indices)
        if len(memory) * self.row_bytes >= MOST_WINDOWS:
            torch.cat([memory[place : place + self.row_bytes] for place in offsets.tolist()], out=flat)
        else:
            gather_bytes(memory, offsets, self.row_bytes, flat)
        return out


class JoinedLeaf(DenseLeaf):
    """A dense leaf of several files that store it alike: rows of all are copied at once, as if they were one file.

    Args:
        leaves: The leaf in each file; see `alike`.
        split: Deals samples to the files.
    """

    def __init__(self, leaves: Sequence[DenseLeaf], split: Split) -> None:
        super().__init__(leaves[0].database, leaves[0].leaf, leaves[0].column)
        self._leaves = leaves
        self._split = split

    def whole(self) -> Array:
        """Copy the column of all files, one after the other."""
        return np.concatenate([leaf.whole() for leaf in self._leaves])

    def addresses(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Look up where in memory rows begin."""
        parts, order = self._split(indices)
        addresses = np.concatenate([self._leaves[number].addresses(local) for number, local in parts])
        return addresses if order is None else addresses[order]

    def _run(self, indices: range) -> Array | None:
        """View consecutive rows in one chunk of one file."""
        ((number, local), *more), _ = self._split(indices)
        return None if more else self._leaves[number]._run(local)  # type: ignore[arg-type]

    def runs(self, indices: range) -> list[Bytes]:
        """View consecutive rows as bytes, file by file and chunk by chunk."""
        parts, _ = self._split(indices)
        return [run for number, local in parts for run in self._leaves[number].runs(local)]  # type: ignore[arg-type]

    def _pick(self, indices: npt.NDArray[np.int64]) -> Bytes:
        """Copy rows from anywhere, as bytes of their number."""
        memory, offsets = self.offsets(indices)
        array = memory.numpy()
        return _pick(array, _windows(array, self.row_bytes), offsets, self.row_bytes)


def _windows(memory: Bytes, row_bytes: int) -> Bytes | None:
    """View all places of a row, ``[len(memory) - row_bytes + 1, row_bytes]``; None where that is beyond int64."""
    if len(memory) * row_bytes >= MOST_WINDOWS:
        return None
    return np.lib.stride_tricks.as_strided(memory, (len(memory) - row_bytes + 1, row_bytes), (1, 1))


def _pick(memory: Bytes, windows: Bytes | None, places: npt.NDArray[np.int64], row_bytes: int) -> Bytes:
    """Copy the rows that begin at some places."""
    if windows is None:
        return COPIER.join([memory[place : place + row_bytes] for place in places.tolist()])
    picked: Bytes = windows[places]
    return picked


def alike(leaves: Sequence[DenseLeaf]) -> bool:
    """Whether files whose samples fit each other store the rows of a leaf in the same way."""
    return len({(leaf.column, leaf.axes) for leaf in leaves}) == 1
