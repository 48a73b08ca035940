"""How a database is written and opened: one frozen set of options, known by the names torchlmdb gave them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from lmdbpipe.checks import flag, whole
from lmdbpipe.errors import ConfigError

_TIB = 1024**4


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMDBConfig:
    """Options for writing and opening a database. All have defaults; all are checked when set.

    Attributes:
        map_size: The most bytes a database may grow to while it is written. The file itself is never larger than what
            is in it: the map starts small and grows as needed up to this bound. Default 2 TiB.
        write_frequency: Samples between two commits, at most; large samples are committed more often. After a crash a
            build resumes from the last commit. Default 65,536.
        shuffle_while_writing: Write the samples in a random physical order, so that plain cursor order is already
            shuffled. ``wrapped[i]`` still is sample ``i`` of the source. Default False.
        db_channels_first: Store images C×H×W where the live transform begins with a to-tensor step and sizes are equal.
            Default True.
        rounds: How many passes over the source are written (with ``db_transform`` drawn anew in each). The database's
            length is ``rounds * len(dataset)``. Default 1.
        num_db_attempts: How often to look for a database that another process is still building. Default 10.
        db_attempt_interval: Seconds between two such looks. Default 13.
        max_readers: LMDB's limit of concurrent reader slots; without effect on the lock-free files of this package.
            Default 128.
        readahead: Let the kernel read ahead of random accesses. Turn it off to read at random from a file larger than
            memory; streams advise the kernel themselves either way. All readers of a file in a process share it as the
            first of them opened it. Default True.
        meminit: Zero fresh pages before they are written. Default True.
        max_spare_txns: Read transactions that LMDB keeps for reuse. Default 128.
        access: ``"get"`` looks every chunk up by its key; ``"cursor"`` keeps one cursor and steps it forward, which
            saves the look-up when samples are read in order. Default ``"get"``.
        num_workers: Processes that read and encode the source during a build; 0 does it in this one. Default 0.
    """

    map_size: int = 2 * _TIB
    write_frequency: int = 65536
    shuffle_while_writing: bool = False
    db_channels_first: bool = True
    rounds: int = 1
    num_db_attempts: int = 10
    db_attempt_interval: float = 13.0
    max_readers: int = 128
    readahead: bool = True
    meminit: bool = True
    max_spare_txns: int = 128
    access: Literal["get", "cursor"] = "get"
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        for name in ("shuffle_while_writing", "db_channels_first", "readahead", "meminit"):
            flag(name, getattr(self, name))
        interval = self.db_attempt_interval
        if not isinstance(interval, int | float) or isinstance(interval, bool) or not 0 <= interval < math.inf:
            raise ConfigError(f"db_attempt_interval must be seconds, 0 or more, got {interval!r}")
        if self.access not in ("get", "cursor"):
            raise ConfigError(f'access must be "get" or "cursor", got {self.access!r}')

    @classmethod
    def of(cls, value: object) -> LMDBConfig:
        """Take options as a config, a mapping, None, or any object (or class) that has them as attributes.

        Raises:
            ConfigError: An option is unknown or has a value that cannot be used.
        """
        if value is None:
            return cls()
        if isinstance(value, LMDBConfig):
            return value
        given = _options(value)
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(map(str, given.keys() - set(known))):
            raise ConfigError(f"unknown option {', '.join(unknown)}; the options are {', '.join(known)}")
        return cls(**given)


_LEAST = {
    "map_size": 1,
    "write_frequency": 1,
    "rounds": 1,
    "num_db_attempts": 1,
    "max_readers": 1,
    "max_spare_txns": 0,
    "num_workers": 0,
}


def _options(value: object) -> dict[str, Any]:
    """Read the public, plain attributes of an object, or the items of a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    names = [name for name in dir(value) if not name.startswith("_")]
    return {name: item for name in names if not callable(item := getattr(value, name))}


LMDB_config = LMDBConfig
