"""What the streaming faces share: records, transforms, options, the rank, and the count of epochs."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from lmdbpipe.config import LMDBConfig
from lmdbpipe.epochs import EpochCounter
from lmdbpipe.errors import ConfigError, DatabaseNotFoundError
from lmdbpipe.pipeline import Pipeline, Steps, StepsFor
from lmdbpipe.records import Records
from lmdbpipe.stream import Pass, StreamOptions
from lmdbpipe.world import Ranks, Workers
from lmdbpipe.wrapped import Step, Transform, standard_paths

PathLike: TypeAlias = str | os.PathLike[str]


class FixedSteps(NamedTuple):
    """The same transforms for every sample."""

    steps: Steps

    @property
    def uniform(self) -> bool:
        """Whether all samples have the same."""
        return True

    def __call__(self, index: int) -> Steps:
        """Give them."""
        return self.steps


def fixed_steps(
    records: Records, transform: Transform | None, target_transform: Transform | None, transforms: Transform | None
) -> FixedSteps:
    """Put transforms where the source applied its own, which its file remembers, or where torchvision would.

    Raises:
        ConfigError: Both a joint transform and one for a part are given.
    """
    if transforms is not None and (transform is not None or target_transform is not None):
        raise ConfigError("give either transforms, or transform and target_transform")
    recorded = records.databases[0].manifest.provenance.get("transforms", {})
    paths = standard_paths(records.schema.structure)
    paths |= {name: tuple(tuple(path) for path in found) for name, found in recorded.items() if name != "transforms"}
    given = {"transform": transform, "target_transform": target_transform, "transforms": transforms}
    return FixedSteps(tuple(Step(function, paths[name]) for name, function in given.items() if function is not None))


def expand(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """List the files that a path, a pattern, or several of them name.

    Raises:
        ConfigError: There is none.
        DatabaseNotFoundError: A pattern matches no file.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    expanded: list[str] = []
    for path in map(os.path.expanduser, map(os.fspath, given)):
        found = sorted(glob.glob(path)) if glob.has_magic(path) and not os.path.exists(path) else [path]  # noqa: PTH207, PTH110
        if not found:
            raise DatabaseNotFoundError(f"{path}: no file matches")
        expanded += found
    if not expanded:
        raise ConfigError("give the path of at least one database")
    return expanded


class StreamReader:
    """Starts passes over records.

    Args:
        records: What is read.
        steps_for: The transforms that act on a sample.
        options: How it is ordered and dealt.
        collate_fn: Makes a batch of a list of samples.
    """

    def __init__(
        self,
        records: Records,
        steps_for: StepsFor,
        options: StreamOptions,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if collate_fn is not None and options.batch_size is None:
            raise ConfigError("collate_fn needs a batch_size: without one there are no batches to make")
        self.records = records
        self.options = options
        self.pipeline = Pipeline(records, steps_for, collate_fn)
        self.epochs = EpochCounter()
        options.order(1, 1, 0), options.dealing(1, Ranks(0, 1), Workers(0, 1))  # raises on a wrong option now

    def start(self, options: StreamOptions, epoch: int, ranks: Ranks, workers: Workers) -> Pass:
        """Start one worker's pass over an epoch."""
        order = options.order(len(self.records), self.records.chunk_length, epoch)
        return Pass(self.pipeline, order, options.dealing(len(self.records), ranks, workers))


def open_records(paths: PathLike | Iterable[PathLike], db_cfg: object) -> Records:
    """Open files by path, pattern, or a list of these."""
    return Records(expand(paths), LMDBConfig.of(db_cfg))


