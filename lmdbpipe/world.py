"""Who reads: which rank of how many, and which worker of that rank."""

from __future__ import annotations

from typing import NamedTuple

import torch.distributed
from torch.utils.data import get_worker_info

from lmdbpipe.errors import ConfigError


class Ranks(NamedTuple):
    """A rank and the number of ranks."""

    rank: int
    world_size: int


class Workers(NamedTuple):
    """A worker and the number of workers of its rank."""

    worker: int
    num_workers: int


def resolve_ranks(rank: int | None, world_size: int | None, inherited: Ranks | None = None) -> Ranks:
    """Find out the rank: as given, else from torch.distributed where it is initialised, else the only one.

    Args:
        rank: As given by the user, together with `world_size`, or not at all.
        world_size: As given by the user.
        inherited: In a worker process: the main process's.

    Raises:
        ConfigError: Only one is given, or they do not fit.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank and world_size go together, got rank={rank} and world_size={world_size}")
    if rank is not None and world_size is not None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"rank must be from 0 to world_size - 1, got rank={rank} and world_size={world_size}")
        return Ranks(rank, world_size)
    if inherited is not None and get_worker_info() is not None:
        return inherited
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Ranks(0, 1)


def resolve_workers() -> Workers:
    """Find out which of a DataLoader's workers this process, or thread, is; outside of one it is the only one."""
    info = get_worker_info()
    return Workers(0, 1) if info is None else Workers(info.id, info.num_workers)
