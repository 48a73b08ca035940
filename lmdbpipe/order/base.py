"""The order of one epoch: which sample stands at which position, whoever reads it.

A pure function of its settings. Sequential; or shuffled: blocks of samples are permuted over the whole dataset, then
samples inside windows of ``buffer_size`` positions. Any position is reached in O(window) time and memory, so that
ranks, workers and resumed runs each compute only their own part. Blocks keep reads in long runs; where that does not
matter (a file in memory) take a ``buffer_size`` of the length, which is a uniform permutation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from lmdbpipe.checks import flag, whole
from lmdbpipe.errors import OutOfRangeError
from lmdbpipe.order.permute import Int64Array, Permutation, Purpose, window_permutation
from lmdbpipe.order.segments import LENGTH_LIMIT


@dataclass(frozen=True, kw_only=True)
class BaseOrder:
    """The order of the samples of one epoch; equal settings give equal orders, in any process, for ever.

    Args:
        length: Number of samples, 0 or more.
        shuffle: Whether the order is shuffled; otherwise it is 0, 1, 2, ...
        seed: Any integer; it counts modulo 2**64.
        epoch: Number of the pass, 0 or more.
        block: Number of neighbouring samples that stay near each other, so that they are read together (a chunk).
            A last, shorter block takes part like the others.
        buffer_size: Number of positions that are mixed with each other. With ``buffer_size >= length`` the order is
            a uniform permutation and ``block`` has no effect. Below ``block`` it only mixes neighbours.

    Raises:
        ConfigError: An argument is not an integer in its range.

    The object remembers the last window, 8 bytes a position; its pickle does not.
    """

    length: int
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    block: int = 1
    buffer_size: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", whole("length", self.length, 0, LENGTH_LIMIT))
        object.__setattr__(self, "shuffle", flag("shuffle", self.shuffle))
        object.__setattr__(self, "seed", whole("seed", self.seed, None))
        object.__setattr__(self, "epoch", whole("epoch", self.epoch, 0, 2**64 - 1))
        object.__setattr__(self, "block", whole("block", self.block, 1, LENGTH_LIMIT))
        object.__setattr__(self, "buffer_size", whole("buffer_size", self.buffer_size, 1, LENGTH_LIMIT))

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was computed: the last window and the tables."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def describe(self) -> str:
        """Say how the order is made; orders of equal description, length, seed and epoch are equal."""
        if not self.shuffle:
            return "sequential"
        if self._uniform:
            return "shuffled"
        return f"shuffled in blocks of {self.block} and windows of {self.buffer_size}"

    def indices(self, start: int, stop: int) -> Int64Array:
        """Return the samples at positions ``start`` to ``stop``, in order.

        Returns:
            int64 ``[stop - start]``, a new array.

        Raises:
            OutOfRangeError: Not ``0 <= start <= stop <= length``.

        Cost: O(stop - start + buffer_size) where it leaves the window of the last call, otherwise a copy.
        """
        return join([piece for _, piece in self.windows(start, stop)])

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Int64Array]]:
        """Iterate over the samples at positions ``start`` to ``stop`` window by window, computing each when asked.

        Yields:
            The position of a piece's first sample, and its samples as a new int64 array of at most ``buffer_size``.

        Raises:
            OutOfRangeError: Not ``0 <= start <= stop <= length``.
        """
        stop = self.length if stop is None else stop
        if not 0 <= start <= stop <= self.length:
            raise OutOfRangeError(f"positions {start} to {stop} do not lie in an order of {self.length} samples")
        return self._pieces(start, stop)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, Int64Array]]:
        while start < stop:
            number, offset = divmod(start, self.buffer_size)
            end = min(stop, start - offset + self.buffer_size)
            if self.shuffle:
                yield start, self._window(number)[offset : offset + end - start].copy()
            else:
                yield start, np.arange(start, end, dtype=np.int64)
            start = end

    @property
    def _uniform(self) -> bool:
        return self.buffer_size >= self.length

    def _window(self, number: int) -> Int64Array:
        """Return the samples of window ``number``, from memory if it was the last one asked for."""
        last: tuple[int, Int64Array] | None = self.__dict__.get("_last")
        if last is not None and last[0] == number:
            return last[1]
        start = number * self.buffer_size
        size = min(self.buffer_size, self.length - start)
        window = window_permutation(size, seed=self.seed, epoch=self.epoch, window=number)
        if not self._uniform:
            window = self._blockwise(start, start + size)[window]
        # One assignment, so that threads sharing the object see a whole pair. It is no setting: the object is frozen.
        self.__dict__["_last"] = (number, window)
        return window

    def _blockwise(self, start: int, stop: int) -> Int64Array:
        """Return the samples at positions ``start`` to ``stop`` of the permuted blocks laid end to end.

        All blocks are ``block`` long but the one in the short slot: past it, positions stand where they would if it
        were whole, ``missing`` further on.
        """
        permutation, short_slot, missing = self._blocks
        positions = np.arange(start, stop, dtype=np.int64)
        positions[max((short_slot + 1) * self.block - missing - start, 0) :] += missing
        slots = positions // self.block
        first = int(slots[0])
        # A block keeps its inner order: its samples move by as much as its slot does.
        moved_from = np.arange(first, int(slots[-1]) + 1, dtype=np.int64)
        shift = (permutation.forward(moved_from) - moved_from) * self.block
        return np.asarray(positions + shift[slots - first], dtype=np.int64)

    @cached_property
    def _blocks(self) -> tuple[Permutation, int, int]:
        """The permutation of the blocks, the slot that holds the last block, and how many samples it is short of."""
        count = -(-self.length // self.block)
        permutation = Permutation(n=count, seed=self.seed, epoch=self.epoch, purpose=Purpose.BLOCKS)
        return permutation, int(permutation.inverse(count - 1)), count * self.block - self.length


def join(pieces: list[Int64Array]) -> Int64Array:
    """Return the pieces end to end; a single piece is returned itself."""
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
