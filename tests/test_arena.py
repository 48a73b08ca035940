"""Shared memory is one memory in every process that it was sent to, and leaves nothing behind."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import pickle
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmdbpipe.arena import Arena, make_arena

SIZE = 1 << 20
MEMFD = hasattr(os, "memfd_create")


@pytest.fixture(params=["memory file", "other system", "refused"])
def arena(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Arena:
    """Memory as Linux has it, and as torch does, where there are no memory files, or they are refused."""

    def refuse(name: str) -> int:
        raise PermissionError(name)

    if request.param == "other system":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif request.param == "refused":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    return make_arena(SIZE)


def travelled(arena: Arena) -> Any:
    """What another process would make of it, here."""
    return pickle.loads(ForkingPickler.dumps(arena))


def answer(connection: Connection) -> None:
    """In another process: write into the memory that is received."""
    received = connection.recv()
    received.bytes[:10] += 1
    connection.send(len(received.bytes))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_one_memory_in_two_processes(arena: Arena, method: str) -> None:
    """What another process writes is seen here."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    arena.bytes[:5] = 7
    ours.send(arena)
    assert ours.recv() == SIZE
    process.join()
    assert arena.bytes[:12].tolist() == [8] * 5 + [1] * 5 + [0, 0]


def test_views_say_when_they_end(arena: Arena) -> None:
    """The end of a view is the end of all that was made of it."""
    ended: list[int] = []
    view = arena.view(4096, 100, ended.append, 3)
    view[:] = 9
    assert arena.bytes[4095:4197].tolist() == [0] + [9] * 100 + [0]
    part = torch.from_numpy(view)[50:]
    del view
    gc.collect()
    assert not ended
    del part
    gc.collect()
    assert ended == [3]


def descriptors() -> int:
    """How many files this process has open."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not MEMFD, reason="memory files are Linux's")
def test_nothing_stays_open() -> None:
    """Memory that nobody has is gone, with its files, where it was made and where it arrived."""
    travelled(make_arena(SIZE))  # the first one starts a server
    before = descriptors()
    arena = make_arena(SIZE)
    arrived = travelled(arena)
    arrived.bytes[5] = 1
    assert arena.bytes[5] == 1
    with pytest.raises(ValueError, match="belongs to another process"):
        ForkingPickler(io.BytesIO()).dump(arrived)
    del arena, arrived
    assert descriptors() == before


@pytest.mark.skipif(not MEMFD, reason="memory files are Linux's")
def test_only_what_is_written_takes_room() -> None:
    """A large arena costs nothing until it is used."""
    arena = make_arena(1 << 40)
    arena.bytes[1 << 39] = 1
    assert np.count_nonzero(arena.bytes[1 << 39 : (1 << 39) + SIZE]) == 1
