"""Streams of some samples: subsets, the first ones, and those with certain values; shuffled, dealt and resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lmdbpipe import LMDBIterableDataset
from lmdbpipe.errors import ConfigError, OutOfRangeError, StateError

from .conftest import FileOf
from .helpers import equal, flat, loader, numbers, simulate


def test_subsets_keep_their_order_or_shuffle(file_of: FileOf) -> None:
    """In cursor order a subset comes as given; shuffled, each sample once; batches hold what the whole stream gives."""
    chosen = [40, 3, 59, 17, 5, 0, 22]
    plain = LMDBIterableDataset(file_of(60), batch_size=3).subset(chosen)
    assert (flat(numbers(plain)), len(plain)) == (chosen, 3)
    shuffled = LMDBIterableDataset(file_of(60), batch_size=3, shuffle=True).subset(np.array(chosen))
    first, second = numbers(shuffled), numbers(shuffled)
    assert sorted(flat(first)) == sorted(flat(second)) == sorted(chosen)
    assert first != second
    assert [label for _, label in LMDBIterableDataset(file_of(60)).subset(chosen)] == chosen


def test_subsets_are_dealt_and_resumed(file_of: FileOf) -> None:
    """Ranks and workers share a subset as they share a file; its state resumes it, and nothing else."""
    chosen = range(1, 60, 2)

    def make(**options: Any) -> LMDBIterableDataset:
        return LMDBIterableDataset(file_of(60), shuffle=True, batch_size=4, **options).subset(chosen)

    expected = [list(stream) for stream in [make()] for _ in range(2)]
    ranks = [make(rank=rank, world_size=3, uneven="allow") for rank in range(3)]
    assert sorted(flat(flat(numbers(simulate(rank, 2))) for rank in ranks)) == list(chosen)
    before = make()
    batches = loader(before, 2)
    iterator = iter(batches)
    seen = [next(iterator) for _ in range(3)]
    state = before.state_dict(batches=3)
    after = make()
    after.load_state_dict(state)
    assert equal(expected, [seen + list(after), list(after)])
    with pytest.raises(StateError, match="another"):
        LMDBIterableDataset(file_of(60), shuffle=True, batch_size=4).subset(range(30)).load_state_dict(state)


def test_take_and_filter(file_of: FileOf) -> None:
    """The first samples; those whose column passes; one after the other."""
    stream = LMDBIterableDataset(file_of(60), batch_size=7)
    assert flat(numbers(stream.take(10))) == list(range(10))
    assert flat(numbers(stream.take(100))) == list(range(60))
    thirds = stream.filter(1, lambda label: label % 3 == 0)
    assert flat(numbers(thirds)) == list(range(0, 60, 3))
    assert flat(numbers(thirds.filter("1", lambda label: label > 30).take(2))) == [33, 36]
    assert numbers(stream.filter(1, lambda label: False)) == []
    assert flat(numbers(stream)) == list(range(60))


def test_wrong_subsets_are_refused(file_of: FileOf) -> None:
    """Indices that do not exist, or are no integers."""
    stream = LMDBIterableDataset(file_of(13), batch_size=7)
    for outside in (-1, 13):
        with pytest.raises(OutOfRangeError, match=f"sample {outside} does not exist"):
            stream.subset([0, outside])
    wrong: list[Any] = [[0.5], [[1]], ["a"]]
    for indices in wrong:
        with pytest.raises(ConfigError, match="ind"):
            stream.subset(indices)
    for count in (-3, 2.5):
        with pytest.raises(ConfigError, match="count must be an integer of at least 0"):
            stream.take(count)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no leaf"):
        stream.filter("size", bool)
