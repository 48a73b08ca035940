"""Copies are right whoever makes them, and are made alone where sharing them is slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.copying import Copier

LARGE = np.arange(600_000, dtype=np.int64).view(np.uint8)


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=4))
def test_pieces_are_joined(sizes: list[int]) -> None:
    """The bytes of all pieces come end to end in memory of their own, small or large, one piece or several."""
    pieces = [LARGE[size : 2 * size] for size in sizes]
    joined = Copier().join(pieces)
    assert np.array_equal(joined, np.concatenate(pieces))
    assert joined.flags.writeable and not np.shares_memory(joined, LARGE)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which copies were shared; there are two threads, and a shared copy takes ten seconds."""
    clock, times, cat = [0.0], [], torch.cat

    def slow(*args: Any, **kwargs: Any) -> torch.Tensor:
        times.append(clock[0])
        clock[0] += 10
        return cat(*args, **kwargs)

    def now() -> float:
        clock[0] += 0.1
        return clock[0]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "cat", slow)
    monkeypatch.setattr("lmdbpipe.copying.time.perf_counter", now)
    return times


def test_slow_copies_are_made_alone(shared: list[float]) -> None:
    """After a shared copy that took long the next are made alone, for twice the time after every other one."""
    copier = Copier()
    for _ in range(100):
        assert np.array_equal(copier.join([LARGE]), LARGE)
    pauses = np.diff(shared) - 10
    assert len(pauses) >= 3
    assert (pauses[1:] > 1.5 * pauses[:-1]).all()


def test_one_thread_shares_nothing(shared: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are small copies shared."""
    Copier().join([LARGE[:100_000]])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    Copier().join([LARGE])
    assert not shared
