"""The DataPipe face: `LMDBWriter` (``.write_lmdb``) and `LMDBReader` (``.read_lmdb``)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterDataPipe, functional_datapipe
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES

from lmdbpipe.build import build
from lmdbpipe.device import Device
from lmdbpipe.errors import ConfigError
from lmdbpipe.files import PathLike, Paths, open_files
from lmdbpipe.order import Uneven
from lmdbpipe.parts import check_epoch_size
from lmdbpipe.pipeline import ReadOptions
from lmdbpipe.reader import StreamReader, check_batched
from lmdbpipe.steps import fixed_steps
from lmdbpipe.stream import StreamOptions
from lmdbpipe.world import Ranks, Workers, given_ranks, resolve_ranks, resolve_workers
from lmdbpipe.wrapped import Transform


def _functional(name: str) -> Callable[[type], type]:
    """Register a functional form, but once: a second import of this module is no error."""
    return functional_datapipe(name) if name not in IterDataPipe.functions else lambda cls: cls


@_functional("write_lmdb")
class LMDBWriterIterDataPipe(IterDataPipe[str]):
    """Writes what a pipe gives into a file, and yields the file's path when it is complete.

    An ``IterableWrapper`` around a map-style dataset is read by index, so that its build can be resumed. If the file is
    complete already, its path is yielded at once.

    Args:
        source_datapipe: A pipe of samples; a dataset or another iterable will do.
        path: Where the file goes.
        build_options: As `lmdbpipe.build` takes them.

    Raises:
        LMDBPipeError: On iteration, as `lmdbpipe.build` raises.
    """

    def __init__(self, source_datapipe: Any, path: PathLike, **build_options: Any) -> None:
        super().__init__()
        self.source_datapipe = source_datapipe
        self.path = str(Path(path).expanduser().absolute())
        self.build_options = build_options

    def __iter__(self) -> Iterator[str]:
        build(self.source_datapipe, self.path, **self.build_options)
        yield self.path

    def __len__(self) -> int:
        return 1


@_functional("read_lmdb")
class LMDBReaderIterDataPipe(IterDataPipe[Any]):
    """Streams databases; shards and shuffles by itself, with no Shuffler or sharding_filter added.

    ``DataLoader(reader, batch_size=None, num_workers=2, shuffle=True)`` deals the stream to workers and ranks, and
    shuffles it by a seed that torch draws anew for every epoch (``torch.manual_seed`` or the loader's ``generator``
    make it repeat); outside of a DataLoader, `seed` and the count of epochs decide. A state resumes it, in a loader or
    alone. torchdata's ``StatefulDataLoader`` does not see it, since a DataLoader wraps every DataPipe in one that hides
    its ``state_dict``: a shuffled reader refuses to be read there. Stream with an `LMDBIterableDataset` instead.

        >>> pipe = LMDBReader("train.lmdb", batch_size=8)  # of 40 samples
        >>> batch = next(iter(pipe))
        >>> state = pipe.state_dict()  # with workers: state_dict(batches=1)
        >>> pipe = LMDBReader("train.lmdb", batch_size=8)
        >>> pipe.load_state_dict(state)
        >>> len(list(pipe))
        4

    Args:
        source_datapipe: A path, a pattern, a `Part`, a list of these, or a pipe of them, one sequence in all.
        epoch_size, batch_size, shuffle, buffer_size, seed, drop_last, uneven, rank, world_size, mesh, with_mask,
            transform, target_transform, transforms, collate_fn, lower, exact, num_threads, device, db_cfg: As
            `LMDBIterableDataset` takes them.

    Raises:
        ConfigError: An option has a value that cannot be used.
        LMDBPipeError: On first use, as `LMDBIterableDataset` raises.
    """

    def __init__(
        self,
        source_datapipe: Paths,
        *,
        epoch_size: int | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        buffer_size: int = 10_000,
        seed: int = 0,
        drop_last: bool = False,
        uneven: Uneven = "pad",
        rank: int | None = None,
        world_size: int | None = None,
        mesh: Any = None,
        with_mask: bool = False,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        transforms: Transform | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        lower: bool = True,
        exact: bool = True,
        num_threads: int = 0,
        device: Device | None = None,
        db_cfg: object = None,
    ) -> None:
        super().__init__()
        self.source_datapipe = source_datapipe
        self._options = StreamOptions(
            batch_size=batch_size,
            shuffle=shuffle,
            buffer_size=buffer_size,
            seed=seed,
            drop_last=drop_last,
            uneven=uneven,
            with_mask=with_mask,
        )
        self._transforms = (transform, target_transform, transforms)
        self._collate_fn = collate_fn
        self._read_options = ReadOptions(lower=lower, exact=exact, num_threads=num_threads, device=device)
        self._db_cfg = db_cfg
        self._epoch_size = epoch_size
        check_epoch_size(epoch_size)
        self._given_ranks = given_ranks(rank, world_size, mesh)
        self._sharding: dict[SHARDING_PRIORITIES, tuple[int, int]] = {}
        self._loader_seed: int | None = None
        self._reader: StreamReader | None = None
        check_batched(self._options, collate_fn, self._read_options)

    def __iter__(self) -> Iterator[Any]:
        if self._options.shuffle and _in_stateful_loader():
            raise ConfigError(
                "torchdata's StatefulDataLoader does not see the state of a DataPipe, and would resume a shuffled one "
                "in another order: stream with LMDBIterableDataset, or use torch's DataLoader and state_dict(batches=n)"
            )
        seed, self._loader_seed = self._loader_seed, None
        yield from self._open().start(*self._instance(), seed=seed)

    def __len__(self) -> int:
        """Batches (or samples, without a batch size) that this rank gets in an epoch, with all its workers."""
        return self._open().options.items(self._open().contents.length, self._instance()[0])

    def set_shuffle(self, shuffle: bool = True) -> LMDBReaderIterDataPipe:
        """Turn shuffling on or off; what ``DataLoader(shuffle=...)`` calls."""
        self._change(shuffle=shuffle)
        return self

    def set_seed(self, seed: int) -> LMDBReaderIterDataPipe:
        """Seed the next pass; what a DataLoader calls before every epoch, alike for all ranks and workers."""
        self._loader_seed = seed
        return self

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one, for passes outside of a DataLoader.

        Raises:
            ConfigError: It is not an integer of at least 0.
            StateError: A state of another epoch was loaded, and not used yet.
        """
        self._open().set_epoch(epoch)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Say where the last pass stands, as `LMDBIterableDataset.state_dict` does.

        It holds the seed that the DataLoader drew for the pass.
        """
        return self._open().state(self._instance()[0], batches).to_json_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next pass go on from a state, as `LMDBIterableDataset.load_state_dict` does.

        That pass takes the state's seed, whatever a DataLoader draws; later passes take what it draws.
        """
        self._open().load(state_dict, self._instance()[0])

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass, as `LMDBIterableDataset.skip` does; outside of a DataLoader."""
        self._open().skip(batches, self._instance()[0])

    def apply_sharding(
        self,
        num_of_instances: int,
        instance_id: int,
        sharding_group: SHARDING_PRIORITIES = SHARDING_PRIORITIES.DEFAULT,
    ) -> None:
        """Deal to instances; what a DataLoader calls in every worker.

        Args:
            num_of_instances: Ranks, workers, or both multiplied, as the group says.
            instance_id: Which of them; in torch's default group ``worker * world_size + rank``.
            sharding_group: ``DISTRIBUTED`` for ranks, ``MULTIPROCESSING`` for workers, ``DEFAULT`` for both.

        Raises:
            ConfigError: The instance is out of range.
            RuntimeError: Groups are mixed with the default one.
        """
        if not 0 <= instance_id < num_of_instances:
            raise ConfigError(f"instance_id must be from 0 to {num_of_instances - 1}, got {instance_id}")
        default = SHARDING_PRIORITIES.DEFAULT
        if self._sharding and (sharding_group is default) != (default in self._sharding):
            raise RuntimeError("ShardingFilter cannot mix DEFAULT with DISTRIBUTED or MULTIPROCESSING groups")
        self._sharding[sharding_group] = (num_of_instances, instance_id)

    def _instance(self) -> tuple[Ranks, Workers]:
        """Which rank and worker this is: as dealt by `apply_sharding`, else as found out."""
        workers, ranks = resolve_workers(), self._given_ranks
        if SHARDING_PRIORITIES.DEFAULT in self._sharding:
            total, instance = self._sharding[SHARDING_PRIORITIES.DEFAULT]
            world_size = max(total // workers.num_workers, 1)
            return ranks or Ranks(instance % world_size, world_size), workers
        if SHARDING_PRIORITIES.MULTIPROCESSING in self._sharding:
            total, instance = self._sharding[SHARDING_PRIORITIES.MULTIPROCESSING]
            workers = Workers(instance, total)
        if SHARDING_PRIORITIES.DISTRIBUTED in self._sharding:
            total, instance = self._sharding[SHARDING_PRIORITIES.DISTRIBUTED]
            return ranks or Ranks(instance, total), workers
        return resolve_ranks(ranks), workers

    def _change(self, **changes: Any) -> None:
        self._options = dataclasses.replace(self._options, **changes)
        if self._reader is not None:
            self._reader.options = self._options

    def _open(self) -> StreamReader:
        """Open the files on first use, which may wait until they are built."""
        if self._reader is None:
            source = self.source_datapipe
            paths = list(source) if isinstance(source, IterDataPipe) else source
            contents = open_files(paths, self._db_cfg, self._epoch_size)
            steps = fixed_steps(contents.records, *self._transforms)
            self._reader = StreamReader(contents, steps, self._options, self._collate_fn, self._read_options)
        return self._reader


LMDBWriter = LMDBWriterIterDataPipe
LMDBReader = LMDBReaderIterDataPipe


def _in_stateful_loader() -> bool:
    """Whether a StatefulDataLoader asks, here or in its worker: it tells nobody, but it is among the callers."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("torchdata.stateful_dataloader"):
            return True
        frame = frame.f_back
    return False
