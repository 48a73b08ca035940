"""The orders that shuffles give, as integers, and statistics that tell them from a uniform permutation.

The orders of peers come from their own libraries, with their defaults, over integers instead of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmdbpipe.order import BaseOrder

from .contender import missing, module

Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """How well an order is shuffled.

    Attributes:
        displacement: Mean way between a sample's place in the file and in the order; 1 is a uniform permutation's,
            which is a third of the length.
        neighbours: Share of samples that are followed by the sample that follows them in the file.
        chunks: Chunks of the file that the samples of a batch come from, on average.
        classes: Classes in a batch, on average, where the file is sorted by class.
    """

    displacement: float
    neighbours: float
    chunks: float
    classes: float


def quality(order: Order, *, batch_size: int, chunk_length: int, class_length: int) -> Quality:
    """Measure an order, int64 ``[n]``, which holds each of ``range(n)`` once."""
    length = len(order)
    if not np.array_equal(np.sort(order), np.arange(length)):
        raise ValueError("an order must hold every sample once")
    whole = order[: length // batch_size * batch_size].reshape(-1, batch_size)
    return Quality(
        displacement=float(np.abs(order - np.arange(length)).mean() / (length / 3)),
        neighbours=float((np.diff(order) == 1).mean()),
        chunks=_distinct(whole // chunk_length),
        classes=_distinct(whole // class_length),
    )


def ours(length: int, chunk_length: int, buffer_size: int, seed: int = 0) -> Order:
    """Our order with a buffer of some samples."""
    order = BaseOrder(length=length, shuffle=True, seed=seed, block=chunk_length, buffer_size=buffer_size)
    return order.indices(0, length)


def uniform(length: int, seed: int = 0) -> Order:
    """A uniform permutation."""
    return np.random.default_rng(seed).permutation(length)


def webdataset(length: int, shard_length: int, seed: int = 0) -> Order | str:
    """The order of webdataset: shards are shuffled, then samples in a buffer of 1000; or why there is none."""
    reason = missing("webdataset")
    if reason is not None:
        return reason
    library = module("webdataset")

    def samples(shards: Iterator[dict[str, str]]) -> Iterator[int]:
        for shard in shards:
            yield from _shard(int(shard["url"]), length, shard_length)

    shards = [str(start) for start in range(0, length, shard_length)]
    stages = library.shuffle(100, seed=seed), samples, library.shuffle(1000, seed=seed)
    return _as_order(library.DataPipeline(library.SimpleShardList(shards), *stages))


def huggingface(length: int, shard_length: int, seed: int = 0) -> Order | str:
    """The order of ``IterableDataset.shuffle(seed)`` of datasets, over shards; or why there is none."""
    reason = missing("datasets")
    if reason is not None:
        return reason

    def samples(shards: list[int]) -> Iterator[dict[str, int]]:
        for start in shards:
            for index in _shard(start, length, shard_length):
                yield {"index": index}

    starts = list(range(0, length, shard_length))
    stream = module("datasets").IterableDataset.from_generator(samples, gen_kwargs={"shards": starts})
    return _as_order(row["index"] for row in stream.shuffle(seed=seed))


def _shard(start: int, length: int, shard_length: int) -> range:
    return range(start, min(start + shard_length, length))


def _as_order(indices: Iterator[int]) -> Order:
    return np.fromiter(indices, dtype=np.int64)


def _distinct(batches: Order) -> float:
    """The mean number of distinct values in a row."""
    rows = np.sort(batches, axis=1)
    return float(1 + (np.diff(rows, axis=1) != 0).sum(axis=1).mean())
