"""A shuffled epoch over a billion samples, which lie nowhere: small states, loaded anywhere, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lmdbpipe import LMDBIterableDataset
from lmdbpipe.order import BaseOrder
from lmdbpipe.steps import FixedSteps

LENGTH, CHUNK, BATCH = 10**9, 340, 256
POSITIONS = (0, 1, 10**4, LENGTH // 3, LENGTH // 2 + 17, LENGTH - 5000)


class Keyspace:
    """Records without a file: a batch is the numbers of its samples."""

    fingerprint = "0123456789abcdef" * 4
    chunk_length = CHUNK
    databases: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return LENGTH

    def steps(self, indices: Any) -> tuple[()]:
        """There is nothing to read ahead."""
        return ()

    def gather(self, indices: Any) -> torch.Tensor:
        """The numbers, int64 ``[n]``."""
        return torch.as_tensor(np.asarray(indices))


class Simulated:
    """What can be streamed."""

    records: Any = Keyspace()

    def stream_steps(self) -> FixedSteps:
        """No transforms."""
        return FixedSteps(())


def stream(**options: Any) -> LMDBIterableDataset:
    """A shuffled stream of all of it, in global batches of 256."""
    return LMDBIterableDataset(Simulated(), shuffle=True, seed=2**63, **{"batch_size": BATCH, **options})


@pytest.fixture
def traced() -> Iterator[None]:
    """Count allocations, NumPy's included."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("buffer_size", [10_000, 100_000])
def test_any_position(position: int, buffer_size: int) -> None:
    """A state of less than 1 KB is loaded by two ranks at any position, and the order goes on in less than 64 MiB."""
    order = BaseOrder(length=LENGTH, shuffle=True, seed=2**63, epoch=7, block=CHUNK, buffer_size=buffer_size)
    before = stream(buffer_size=buffer_size)
    before.set_epoch(7)
    before.skip(position // BATCH)
    state = before.state_dict(batches=0)
    text = json.dumps(state)
    assert len(text) < 1024
    assert state["position"] == position // BATCH * BATCH
    tracemalloc.reset_peak()
    ranks = [stream(buffer_size=buffer_size, batch_size=BATCH // 2, rank=rank, world_size=2) for rank in range(2)]
    found = []
    for rank in ranks:
        rank.load_state_dict(json.loads(text))
    iterators = list(map(iter, ranks))
    for _ in range(16):
        found += [batch.tolist() for iterator in iterators if (batch := next(iterator, None)) is not None]
    _, peak = tracemalloc.get_traced_memory()
    start = state["position"]
    seen = [index for batch in found for index in batch]
    assert seen == order.indices(start, start + len(seen)).tolist()
    assert len(seen) == 16 * BATCH
    assert peak < 64 * 2**20


def test_the_end_leads_to_the_next_epoch() -> None:
    """The last batches of a billion, and the first of the next epoch."""
    last = stream(batch_size=300)
    last.skip(len(last) - 1)
    (batch,) = last
    assert len(batch) == LENGTH % 300
    following = next(iter(last))
    order = BaseOrder(length=LENGTH, shuffle=True, seed=2**63, epoch=1, block=CHUNK)
    assert following.tolist() == order.indices(0, 300).tolist()
