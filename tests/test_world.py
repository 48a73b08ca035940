"""Who reads: ranks and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lmdbpipe.errors import ConfigError
from lmdbpipe.world import Ranks, Workers, given_ranks, resolve_ranks, resolve_workers
from tests.helpers import FEW_CORES


class Resolving(IterableDataset[Any]):
    """Gives what a worker finds out about itself."""

    def __iter__(self) -> Any:
        yield tuple(resolve_workers()), tuple(resolve_ranks(None, Ranks(1, 7)))


class Mesh:
    """What is used of a DeviceMesh."""

    def __init__(self, *shape: int) -> None:
        self.ndim = len(shape)
        self._size = shape[0]

    def size(self) -> int:
        """How many processes."""
        return self._size

    def get_local_rank(self) -> int:
        """This one's place."""
        return 1


def test_given_ranks_hold() -> None:
    """A rank and world size that are given are taken, even where others are inherited."""
    assert given_ranks(2, 3) == Ranks(2, 3)
    assert given_ranks(None, None) is None
    assert given_ranks(np.int64(2), np.int64(3)) == Ranks(2, 3)  # type: ignore[arg-type]
    assert resolve_ranks(Ranks(2, 3), Ranks(0, 5)) == Ranks(2, 3)


def test_mesh_gives_the_rank() -> None:
    """A DeviceMesh of one dimension gives rank and world size; another one, or both ways at once, are errors."""
    assert given_ranks(None, None, Mesh(4)) == Ranks(1, 4)
    with pytest.raises(ConfigError, match="one dimension"):
        given_ranks(None, None, Mesh(2, 2))
    with pytest.raises(ConfigError, match="either mesh, or"):
        given_ranks(0, 2, Mesh(4))


@pytest.mark.parametrize(
    ("rank", "world_size", "message"),
    [
        (None, 2, "go together, got rank=None and world_size=2"),
        (0, None, "go together, got rank=0 and world_size=None"),
        (-1, 2, "rank must be an integer from 0 to 1, got -1"),
        (2, 2, "rank must be an integer from 0 to 1, got 2"),
        (0, 0, "world_size must be an integer of at least 1, got 0"),
        (0.0, 2, "rank must be an integer from 0 to 1, got 0.0"),
        (0, "2", "world_size must be an integer of at least 1, got '2'"),
        (True, 2, "rank must be an integer from 0 to 1, got True"),
    ],
)
def test_impossible_ranks_are_refused(rank: Any, world_size: Any, message: str) -> None:
    """A rank without a world size, outside of it, or no integer, is an error that says what would do."""
    with pytest.raises(ConfigError, match=message):
        given_ranks(rank, world_size)


def test_alone_by_default() -> None:
    """Without torch.distributed and without workers, this process is the only rank and worker."""
    assert resolve_ranks(None) == Ranks(0, 1)
    assert resolve_workers() == Workers(0, 1)
    assert resolve_ranks(None, Ranks(1, 7)) == Ranks(0, 1), "what is inherited holds in workers only"


@pytest.mark.filterwarnings(FEW_CORES)
def test_workers_know_themselves() -> None:
    """A DataLoader's worker finds its number, and the rank that the main process had."""
    loader = DataLoader(Resolving(), batch_size=None, num_workers=3, multiprocessing_context="fork")
    assert sorted(loader) == [[[worker, 3], [1, 7]] for worker in range(3)]


@pytest.mark.filterwarnings(FEW_CORES)
def test_process_group_is_newer_than_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked worker takes the rank of its process group, not one that a copy of the reader found before that."""
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    loader = DataLoader(Resolving(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(loader) == [[[worker, 2], [1, 2]] for worker in range(2)]


def test_rank_of_torch_distributed(tmp_path: Path) -> None:
    """Where torch.distributed is initialised, its rank and world size are taken."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert resolve_ranks(None) == Ranks(0, 1)
        assert resolve_ranks(Ranks(1, 4)) == Ranks(1, 4)
    finally:
        torch.distributed.destroy_process_group()
