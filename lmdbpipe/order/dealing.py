"""Who reads which positions of an epoch's order: dealing to ranks and workers. Integers only, O(1) a batch.

With a ``batch_size``, all ranks together take ``world_size * batch_size`` positions a step, and the workers of a rank
take steps in turn, as a DataLoader asks them:

    positions   0 1 2 3 | 4 5 6 7 | 8 9        (batch_size=2, world_size=2)
    rank 0      0 1     | 4 5     | 8
    rank 1          2 3 |     6 7 |   9
    worker      0       | 1       | 0          (num_workers=2)

so the sequence of batches does not depend on the number of workers, nor the global batches on the world size where
``world_size * batch_size`` is the same. Without a ``batch_size`` each rank, and in it each worker, takes one contiguous
range, so that it is one sequential cursor; the sequence then depends on both numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lmdbpipe.checks import flag, whole
from lmdbpipe.errors import ConfigError
from lmdbpipe.order.base import BaseOrder, join
from lmdbpipe.order.permute import Int64Array
from lmdbpipe.order.segments import LENGTH_LIMIT, Segments, count, cut, even_split, make_segments

Uneven = Literal["pad", "drop", "allow"]


@dataclass(frozen=True)
class Batch:
    """The positions of some samples that one worker reads together.

    Attributes:
        step: Number of the step, counted over all workers; without a ``batch_size``, number of the first sample in
            the worker's range.
        ranges: ``(start, stop)`` positions of the epoch's order, to be read one after the other.
        repeats: How many samples at the end are padding: the first samples of the epoch once more.
    """

    step: int
    ranges: Segments
    repeats: int = 0

    def __len__(self) -> int:
        return count(self.ranges)

    def positions(self) -> Int64Array:
        """Return the positions in the epoch's order, int64 ``[n]``."""
        return join([np.arange(start, stop, dtype=np.int64) for start, stop in self.ranges])

    def indices(self, order: BaseOrder) -> Int64Array:
        """Return the samples, int64 ``[n]``, a new array. Costs what `BaseOrder.indices` does."""
        return join([order.indices(start, stop) for start, stop in self.ranges])

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return bool ``[n]``: True for a sample that counts, False for padding. So a metric can be exact."""
        return padding_mask(len(self), self.repeats)


def padding_mask(size: int, repeats: int) -> npt.NDArray[np.bool_]:
    """Return bool ``[size]``: True for a sample that counts, False for padding, which comes last."""
    return np.arange(size) < size - repeats


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """What one worker of one rank reads of an epoch, or of what remains of it.

    Args:
        length: Number of samples of the epoch.
        batch_size: Samples a rank takes in a step; None deals single samples in contiguous ranges.
        world_size: Number of ranks, 1 or more.
        rank: Which rank, from 0.
        num_workers: Number of workers of each rank, 1 or more (a loader without workers is one worker).
        worker: Which worker of the rank, from 0.
        uneven: What happens to the last positions where ranks would not get equally many.
            ``"pad"``: the first samples of the epoch are read again, fewer than ``world_size`` in a dealing.
            ``"drop"``: the last ones are left out, fewer than ``world_size`` in a dealing.
            ``"allow"``: every position exactly once; ranks may differ by one sample, and by one batch.
        drop_last: Leave out a last batch that is smaller than ``batch_size``.
        remaining: What remains of the epoch, ascending disjoint ``(start, stop)`` pairs of positions; None for all.

    Raises:
        ConfigError: An argument is not in its range, or ``drop_last`` is set without a ``batch_size``.
    """

    length: int
    batch_size: int | None = None
    world_size: int = 1
    rank: int = 0
    num_workers: int = 1
    worker: int = 0
    uneven: Uneven = "pad"
    drop_last: bool = False
    remaining: Segments | None = None

    def __post_init__(self) -> None:
        checked: dict[str, int | None] = {
            "length": whole("length", self.length, 0, LENGTH_LIMIT),
            "batch_size": self.batch_size if self.batch_size is None else whole("batch_size", self.batch_size, 1),
            "world_size": whole("world_size", self.world_size, 1),
            "num_workers": whole("num_workers", self.num_workers, 1),
        }
        checked["rank"] = whole("rank", self.rank, 0, self.world_size - 1)
        checked["worker"] = whole("worker", self.worker, 0, self.num_workers - 1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.uneven not in get_args(Uneven):
            raise ConfigError(f"uneven must be one of {', '.join(get_args(Uneven))}, not {self.uneven!r}")
        if flag("drop_last", self.drop_last) and self.batch_size is None:
            raise ConfigError("drop_last needs a batch_size: without one there are no batches to drop")
        pairs = ((0, self.length),) if self.remaining is None else self.remaining
        object.__setattr__(self, "remaining", make_segments(pairs, self.length))

    @property
    def segments(self) -> Segments:
        """What is dealt: ``remaining``, checked, and all of the epoch where it was not given."""
        return self.remaining or ()

    def __len__(self) -> int:
        """Return how many batches, or samples without a ``batch_size``, this worker reads."""
        if self.batch_size is None:
            start, stop = self.own_range()
            return stop - start
        return len(range(self.worker, self.num_batches, self.num_workers))

    @property
    def num_batches(self) -> int:
        """How many batches this rank reads with all its workers.

        Raises:
            ConfigError: There is no ``batch_size``.
        """
        full, _, _ = self._steps()
        return full + (self._last_size(self.rank) > 0)

    @property
    def num_samples(self) -> int:
        """How many samples this rank reads with all its workers, padding included."""
        if self.batch_size is None:
            start, stop = self._share(count(self.segments), self.rank)
            return stop - start
        full, _, _ = self._steps()
        return full * self.batch_size + self._last_size(self.rank)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Iterate over this worker's batches, from its own batch number ``first`` on.

        Raises:
            ConfigError: There is no ``batch_size``, or ``first`` is not from 0 to ``len``.
        """
        numbers = range(self.worker, self.num_batches, self.num_workers)
        return self._iterate(numbers[whole("first", first, 0, len(numbers)) :])

    def _iterate(self, steps: range) -> Iterator[Batch]:
        full, group, _ = self._steps()
        size = group // self.world_size
        offset = self.rank * size
        if len(self.segments) == 1:  # the usual case, in as little time as Python takes
            offset += self.segments[0][0]
            for step in steps[: len(range(steps.start, full, steps.step))]:
                start = step * group + offset
                yield Batch(step, ((start, start + size),))
            steps = steps[len(range(steps.start, full, steps.step)) :]
        yield from map(self._batch, steps)

    def runs(self, first: int = 0, size: int = 1024) -> Iterator[Batch]:
        """Iterate over this worker's samples in pieces of at most ``size``, from its own sample number ``first`` on.

        Raises:
            ConfigError: There is a ``batch_size``, ``first`` is not from 0 to ``len``, or ``size`` is below 1.
        """
        start, stop = self.own_range()
        first = whole("first", first, 0, stop - start)
        size = whole("size", size, 1)
        lows = range(start + first, stop, size)
        return (self._piece(low - start, low, min(low + size, stop)) for low in lows)

    def consecutive(self, first: int = 0) -> range | None:
        """Return the positions from this worker's own batch number ``first`` on, if they are one range."""
        if self.batch_size is None or len(self.segments) != 1 or self.world_size > 1 or self.num_workers > 1:
            return None
        return range(*self.segments[0])[first * self.batch_size : self.num_samples]

    def own_range(self) -> tuple[int, int]:
        """Return the range of this worker in what is dealt, laid end to end; padding lies past the end.

        Raises:
            ConfigError: There is a ``batch_size``.
        """
        if self.batch_size is not None:
            raise ConfigError(f"with a batch_size of {self.batch_size} a worker has no range of its own: use batches()")
        start, stop = self._share(count(self.segments), self.rank)
        low, high = even_split(stop - start, self.num_workers, self.worker)
        return start + low, start + high

    def remaining_after(self, steps: int) -> Segments:
        """Return what no rank has been given once all ranks, with all their workers, have taken ``steps`` steps.

        Raises:
            ConfigError: ``steps`` is negative, or there is no ``batch_size``.
        """
        full, group, rest = self._steps()
        given = min(whole("steps", steps), full) * group
        if steps > full and self._last_size(0):
            given += self._share(rest, self.world_size - 1)[1]
        return cut(self.segments, given, self.length)

    def position_after(self, steps: int) -> int:
        """Return how many samples of the whole epoch are consumed after ``steps`` steps; see `remaining_after`."""
        return self.length - count(self.remaining_after(steps))

    def _steps(self) -> tuple[int, int, int]:
        """Return how many steps are full, how many positions a full step takes, and how many are left over."""
        if self.batch_size is None:
            raise ConfigError("without a batch_size there are no batches: use runs() and num_samples")
        group = self.world_size * self.batch_size
        full, rest = divmod(count(self.segments), group)
        return full, group, rest

    def _share(self, total: int, rank: int) -> tuple[int, int]:
        """Return a rank's contiguous share of ``total`` positions that do not fill a step; padding lies past them."""
        if self.uneven == "allow":
            return even_split(total, self.world_size, rank)
        size = total // self.world_size if self.uneven == "drop" else -(-total // self.world_size)
        return rank * size, (rank + 1) * size

    def _last_size(self, rank: int) -> int:
        """Return the size of a rank's batch after the full ones, 0 if it has none; rank 0 has the largest."""
        start, stop = self._share(self._steps()[2], rank)
        size = stop - start
        return 0 if self.drop_last and size < (self.batch_size or 0) else size

    def _batch(self, step: int) -> Batch:
        full, group, rest = self._steps()
        size = group // self.world_size
        start, stop = (self.rank * size, (self.rank + 1) * size) if step < full else self._share(rest, self.rank)
        return self._piece(step, step * group + start, step * group + stop)

    def _piece(self, step: int, start: int, stop: int) -> Batch:
        """Return numbers ``start`` to ``stop`` of what is dealt; past its end, the epoch's first samples again."""
        total = count(self.segments)
        ranges = list(cut(self.segments, start, min(stop, total)))
        repeats = max(stop - max(start, total), 0)
        position = max(start, total) - total
        while position < stop - total:
            low = position % self.length
            high = min(low + stop - total - position, self.length)
            ranges.append((low, high))
            position += high - low
        return Batch(step, tuple(ranges), repeats)
