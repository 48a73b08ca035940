"""Streaming: one worker's pass over one epoch, in the order that it is dealt, with read-ahead."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from lmdbpipe.order import BaseOrder, Batch, Dealing, Segments, Uneven
from lmdbpipe.pipeline import Pipeline
from lmdbpipe.records import Indices
from lmdbpipe.world import Ranks, Workers

_AHEAD_BYTES = 32 * 1024**2
"""How far ahead of the reading the kernel is asked to read."""
_AHEAD_BATCHES = 64
_RUN = 256
"""Samples that are read ahead together where there is no batch size."""
_SEEN_CHUNKS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream is ordered and dealt.

    Attributes:
        batch_size: Samples in a batch; None gives single samples.
        shuffle: Whether the order is shuffled.
        buffer_size: Positions that are mixed with each other, in samples.
        seed: Seeds the order and the draws of transforms.
        drop_last: Leave out a last, smaller batch.
        uneven: What happens to the last samples that do not divide by the ranks: ``pad``, ``drop`` or ``allow``.
    """

    batch_size: int | None = None
    shuffle: bool = False
    buffer_size: int = 10_000
    seed: int = 0
    drop_last: bool = False
    uneven: Uneven = "pad"

    def order(self, length: int, block: int, epoch: int) -> BaseOrder:
        """The order of an epoch."""
        return BaseOrder(
            length=length,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            block=block,
            buffer_size=self.buffer_size,
        )

    def with_seed(self, seed: int) -> StreamOptions:
        """The same options with another seed."""
        return dataclasses.replace(self, seed=seed)

    def dealing(self, length: int, ranks: Ranks, workers: Workers, remaining: Segments | None = None) -> Dealing:
        """What one worker of one rank gets."""
        return Dealing(
            length=length,
            batch_size=self.batch_size,
            world_size=ranks.world_size,
            rank=ranks.rank,
            num_workers=workers.num_workers,
            worker=workers.worker,
            uneven=self.uneven,
            drop_last=self.drop_last,
            remaining=remaining,
        )

    def items(self, length: int, ranks: Ranks) -> int:
        """How many batches, or samples without a batch size, a rank gets in an epoch with all its workers."""
        dealing = self.dealing(length, ranks, Workers(0, 1))
        return dealing.num_samples if self.batch_size is None else dealing.num_batches


class Pass(Iterator[Any]):
    """One worker's pass: gives batches, or samples without a batch size.

    Args:
        pipeline: Reads them.
        order: The epoch's order.
        dealing: The part of it that this worker reads.
        first: How many of its own items to leave out.
    """

    def __init__(self, pipeline: Pipeline, order: BaseOrder, dealing: Dealing, first: int = 0) -> None:
        self.pipeline = pipeline
        self.order = order
        self.dealing = dealing
        self.done = first
        self.finished = False
        items = dealing.runs(first, _RUN) if dealing.batch_size is None else dealing.batches(first)
        self._batches = self._read_ahead(items)
        self._items = self._iterate()

    def __next__(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            self.finished = True
            raise
        self.done += 1
        return item

    def _iterate(self) -> Iterator[Any]:
        seed, epoch = self.order.seed, self.order.epoch
        for indices in self._batches:
            if self.dealing.batch_size is None:
                for index in range(len(indices)):
                    yield self.pipeline.seeded_samples(indices[index : index + 1], seed, epoch)[0]
            else:
                yield self.pipeline.batch(indices, seed, epoch)

    def _indices(self, item: Batch) -> Indices:
        """The samples of an item; as a range where they are consecutive."""
        if self.order.shuffle or len(item.ranges) != 1:
            return item.indices(self.order)
        return range(*item.ranges[0])

    def _read_ahead(self, items: Iterator[Batch]) -> Iterator[Indices]:
        """Give the items' indices, after asking the kernel for those of items to come."""
        records = self.pipeline.records
        sample_bytes = sum(d.manifest.totals["payload_bytes"] for d in records.databases) // max(len(records), 1)
        size = (self.dealing.batch_size or _RUN) * max(sample_bytes, 1)
        count = max(1, min(_AHEAD_BATCHES, _AHEAD_BYTES // size))
        seen: dict[tuple[int, int], None] = {}
        ahead: collections.deque[Indices] = collections.deque()
        for item in items:
            indices = self._indices(item)
            records.advise(indices, seen)
            if len(seen) > 2 * _SEEN_CHUNKS:
                seen = dict.fromkeys(itertools.islice(seen, _SEEN_CHUNKS, None))
            ahead.append(indices)
            if len(ahead) > count:
                yield ahead.popleft()
        yield from ahead

