"""The torchdata node face: threads instead of processes.

A node gives what `LMDBIterableDataset` gives in a loader without workers, and its state is the same state. Reading and
lowered transforms let other threads run while they copy and compute, so a few threads go a long way; transforms in
Python do not, and want the processes of a DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torchdata.nodes import BaseNode, Loader, ParallelMapper, PinMemory, Prefetcher

from lmdbpipe.checks import whole
from lmdbpipe.device import Transfer, is_gpu
from lmdbpipe.errors import ConfigError
from lmdbpipe.files import Paths
from lmdbpipe.iterable import LMDBIterableDataset, Streamable
from lmdbpipe.order import padding_mask
from lmdbpipe.pipeline import Keys
from lmdbpipe.reader import StreamReader
from lmdbpipe.records import Indices
from lmdbpipe.stream import Plan, Progress, requests
from lmdbpipe.world import Workers

Task: TypeAlias = tuple[Indices, int, int, Keys, Any]
"""Samples to read; the seed, epoch and keys of what is drawn for them; and their mask."""


class LMDBNode(BaseNode[Any]):  # type: ignore[misc]
    """Streams a database as a node of torchdata.nodes: batches, or samples without a batch size.

    Every reset without a state begins the next epoch, so a ``Loader`` around it gives one epoch a pass. The state is
    that of the other faces: it loads into them, and theirs into it. torchdata's own nodes go around it:

        >>> from torchdata.nodes import Loader, MultiNodeWeightedSampler, Prefetcher
        >>> nodes = {name: LMDBNode(f"{name}.lmdb", batch_size=8, num_threads=1) for name in ("train", "more")}
        >>> mixed = MultiNodeWeightedSampler(nodes, {"train": 3.0, "more": 1.0}, rank=0, world_size=1)
        >>> batches = Loader(Prefetcher(mixed, 2))
        >>> images, labels = next(iter(batches))
        >>> images.shape, labels.shape
        (torch.Size([8, 3, 4, 6]), torch.Size([8]))

    Args:
        path_or_dataset: A path, a pattern, a `Part`, a list of these, or an `LMDBDataset`; or an `LMDBIterableDataset`,
            whose options then hold.
        num_threads: Threads that read batches and transform them, through torchdata's ``ParallelMapper``. 0 reads when
            the next batch is asked for; so does every number where `LMDBIterableDataset` says that none can.
        prefetch: Batches that wait ready, through torchdata's ``Prefetcher``; on a GPU at least one does.
        options: As `LMDBIterableDataset` takes them.

    Raises:
        ConfigError: An option has a value that cannot be used, or threads are wanted without a ``batch_size``.
        LMDBPipeError: As `LMDBIterableDataset` raises.
    """

    def __init__(
        self,
        path_or_dataset: Paths | Streamable | LMDBIterableDataset,
        *,
        num_threads: int = 0,
        prefetch: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(path_or_dataset, LMDBIterableDataset):
            if options:
                raise ConfigError(f"an LMDBIterableDataset has its own options: set {', '.join(options)} there")
            dataset = path_or_dataset
        else:
            dataset = LMDBIterableDataset(path_or_dataset, **options)
        num_threads, prefetch = whole("num_threads", num_threads), whole("prefetch", prefetch)
        if is_gpu(dataset._reader.pipeline.options.torch_device):
            prefetch = max(prefetch, 1)  # so that a batch goes over while the one before is used
        if not dataset._reader.pipeline.threads(num_threads + prefetch):
            num_threads = prefetch = 0
        self.dataset = dataset
        self._source = _Tasks(dataset._reader)
        node: BaseNode[Any] = ParallelMapper(self._source, self._source.read, num_workers=num_threads)
        self._node = Prefetcher(node, prefetch) if prefetch else node
        self._progress: Progress | None = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"LMDBNode({self.dataset})"

    def __len__(self) -> int:
        """Batches (or samples, without a batch size) of a whole epoch."""
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the one that the next reset begins.

        Raises:
            ConfigError: It is not an integer of at least 0.
            StateError: A state of another epoch was loaded, and not used yet.
        """
        self.dataset.set_epoch(epoch)

    def reset(self, initial_state: Mapping[str, Any] | None = None) -> None:
        """Begin the next epoch, or go on from a state.

        Raises:
            StateError: The state is damaged, of another file or order, or of one of several workers; or it is of
                another epoch than the one that was set.
        """
        super().reset(initial_state)
        reader, ranks, workers = self.dataset._reader, self.dataset._ranks(), Workers(0, 1)
        if initial_state is not None:
            plan = reader.load_plan(initial_state, ranks, workers)
        else:
            plan = reader.plan(ranks, workers)
        self._progress, self._error = Progress(plan, plan.first, plan.ended), None
        reader.follow(self._progress)
        self._source.plan = plan
        self._source.transfer = Transfer(reader.pipeline.options.torch_device)
        self._node.reset()

    def next(self) -> Any:
        """Give the next batch or sample; an error again and again, until a reset."""
        if self._error is not None:
            raise self._error
        try:
            item = next(self._node)
        except StopIteration:
            self._current().finished = True
            raise
        except Exception as error:
            self._error = error  # torchdata's nodes would leave out the item, or end, and the count be wrong
            raise
        self._current().done += 1
        return self._source.transfer.arrive(item)

    def get_state(self) -> dict[str, Any]:
        """Say where the node stands after the last item that it has given, whatever its threads have read ahead."""
        return self._current().state().to_json_dict()

    def _current(self) -> Progress:
        if self._progress is None:
            raise ConfigError("the node has not been reset")
        return self._progress


def loader(
    path_or_dataset: Paths | Streamable | LMDBIterableDataset,
    *,
    num_threads: int = 2,
    prefetch: int = 2,
    pin_memory: bool = False,
    **options: Any,
) -> Loader[Any]:
    """Make the usual loader: batches read in threads, some of them ready, one epoch a pass.

    It has ``state_dict`` and ``load_state_dict``:

        >>> batches = loader("train.lmdb", batch_size=8, shuffle=True)  # of 40 samples
        >>> batch = next(iter(batches))
        >>> state = batches.state_dict()
        >>> batches = loader("train.lmdb", batch_size=8, shuffle=True)
        >>> batches.load_state_dict(state)
        >>> len(list(batches))
        4

    Args:
        path_or_dataset: As `LMDBNode` takes it.
        num_threads: Threads that read batches and transform them.
        prefetch: Batches that wait ready.
        pin_memory: Whether they wait in pinned memory.
        options: As `LMDBIterableDataset` takes them; a ``batch_size`` should be among them.

    Raises:
        LMDBPipeError: As `LMDBNode` raises.
    """
    node = LMDBNode(path_or_dataset, num_threads=num_threads, prefetch=prefetch, **options)
    if pin_memory and is_gpu(device := node.dataset._reader.pipeline.options.torch_device):
        raise ConfigError(f"pin_memory=True does not go with device={str(device)!r}: batches are there already")
    return Loader(PinMemory(node) if pin_memory else node)


class _Tasks(BaseNode[Task]):  # type: ignore[misc]
    """Says what is to be read; in threads it runs ahead of the node, which alone counts."""

    def __init__(self, reader: StreamReader) -> None:
        super().__init__()
        self.reader = reader
        self.plan: Plan | None = None
        self.transfer = Transfer(None)

    def reset(self, initial_state: Mapping[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._tasks = iter(()) if self.plan is None else _tasks(self.reader, self.plan)

    def next(self) -> Task:
        return next(self._tasks)

    def get_state(self) -> dict[str, Any]:
        return {}

    def read(self, task: Task) -> Any:
        """Do what a task says."""
        return self.transfer.over(self._read)(task)

    def _read(self, task: Task) -> Any:
        indices, seed, epoch, keys, mask = task
        if self.reader.options.batch_size is None:
            item = self.reader.pipeline.seeded_samples(indices, seed, epoch, keys)[0]
        else:
            item = self.reader.pipeline.batch(indices, seed, epoch, keys)
        return item if mask is None else (item, mask)


def _tasks(reader: StreamReader, plan: Plan) -> Iterator[Task]:
    """Say what a plan reads, item by item."""
    seed, epoch = plan.order.seed, plan.order.epoch
    for indices, repeats, keys in requests(reader.pipeline, plan):
        mask = torch.from_numpy(padding_mask(len(indices), repeats)) if reader.options.with_mask else None
        if plan.dealing.batch_size is not None:
            yield indices, seed, epoch, keys, mask
            continue
        for row in range(len(indices)):
            one = slice(row, row + 1)
            own = keys if keys is None else keys[one]
            yield indices[one], seed, epoch, own, mask if mask is None else bool(mask[row])
