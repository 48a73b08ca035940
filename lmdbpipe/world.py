"""Who reads: which rank of how many, and which worker of that rank."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.distributed
from torch.utils.data import get_worker_info

from lmdbpipe.checks import whole
from lmdbpipe.errors import ConfigError


class Ranks(NamedTuple):
    """A rank and the number of ranks."""

    rank: int
    world_size: int


class Workers(NamedTuple):
    """A worker and the number of workers of its rank."""

    worker: int
    num_workers: int


def given_ranks(rank: int | None, world_size: int | None, mesh: Any = None) -> Ranks | None:
    """Take the rank that the user gives; None if they give none.

    Args:
        rank: Together with `world_size`, or not at all.
        world_size: The number of ranks.
        mesh: A `DeviceMesh` of one dimension instead, such as ``mesh["dp"]``: the position in it is the rank. Ranks
            that differ in other dimensions only (tensor or pipeline parallel) read the same samples.

    Raises:
        ConfigError: Only one is given, or they do not fit.
    """
    if mesh is not None:
        if rank is not None or world_size is not None:
            raise ConfigError("give either mesh, or rank and world_size")
        if getattr(mesh, "ndim", None) != 1:
            raise ConfigError(f"mesh must be a DeviceMesh of one dimension, such as mesh['dp'], got {mesh!r}")
        return Ranks(mesh.get_local_rank(), mesh.size())
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise ConfigError(f"rank and world_size go together, got rank={rank} and world_size={world_size}")
    world_size = whole("world_size", world_size, 1)
    return Ranks(whole("rank", rank, 0, world_size - 1), world_size)


def resolve_ranks(given: Ranks | None, inherited: Ranks | None = None) -> Ranks:
    """Find out the rank: as given, else from torch.distributed where it is initialised, else the only one.

    Args:
        given: By the user.
        inherited: What a copy of a reader found when it was made: that holds in a worker process whose start method
            did not bring torch.distributed along. A copy may be older than the process group, so it comes last.
    """
    if given is not None:
        return given
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return inherited if inherited is not None and get_worker_info() is not None else Ranks(0, 1)


def resolve_workers() -> Workers:
    """Find out which of a DataLoader's workers this process, or thread, is; outside of one it is the only one."""
    info = get_worker_info()
    return Workers(0, 1) if info is None else Workers(info.id, info.num_workers)
