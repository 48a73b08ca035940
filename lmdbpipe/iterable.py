"""The IterableDataset face: streams for plain torch DataLoaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import IterableDataset

from lmdbpipe.errors import ConfigError
from lmdbpipe.order import Uneven
from lmdbpipe.pipeline import StepsFor
from lmdbpipe.reader import PathLike, StreamReader, fixed_steps, open_records
from lmdbpipe.records import Records
from lmdbpipe.stream import StreamOptions
from lmdbpipe.world import Ranks, resolve_ranks, resolve_workers
from lmdbpipe.wrapped import Transform


@runtime_checkable
class Streamable(Protocol):
    """What can be streamed besides a file: the map-style `LMDBDataset`."""

    records: Records

    def stream_steps(self) -> StepsFor:
        """Its live transforms, by the physical position of a sample."""
        ...


class LMDBIterableDataset(IterableDataset[Any]):
    """Streams a database in cursor order or shuffled, dealt to ranks and workers.

    Give it to a DataLoader with ``batch_size=None`` and let `batch_size` here make the batches: then the sequence of
    batches does not depend on the number of workers, and there is one short batch in an epoch. Every pass is the next
    epoch, in the main process as in workers, kept or not.

    Args:
        path_or_dataset: A file's path, a pattern (``"train-*.lmdb"``), a list of these, or an `LMDBDataset`, whose live
            transforms are then applied. Several files are one sequence.
        batch_size: Samples in a batch. None gives single samples, exactly as the source gave them.
        shuffle: Shuffle anew in every epoch: chunks over the whole dataset, then samples within `buffer_size`.
        buffer_size: Samples that are mixed with each other; as large as the dataset, it gives a uniform permutation.
            Only indices are held, never samples.
        seed: Seeds the order, and what transforms draw.
        drop_last: Leave out a last, smaller batch.
        uneven: When samples do not divide by the ranks: ``"pad"`` repeats the first ones of the epoch, so that every
            rank gets as many; ``"drop"`` leaves the last ones out; ``"allow"`` gives each sample exactly once, so that
            ranks may differ by one, which collective operations must tolerate.
        rank: This process's rank; from torch.distributed where that is initialised, else the only one.
        world_size: Number of ranks; goes with `rank`.
        transform: Applied to the input of each sample.
        target_transform: Applied to the target.
        transforms: Applied to both together, instead.
        collate_fn: Makes a batch of a list of samples, instead of the default: tensors for leaves of one size (images
            without a transform as uint8 N×C×H×W), lists for leaves whose sizes vary.
        db_cfg: How files are opened: an `LMDBConfig`, a mapping, or an object with such attributes.

    Raises:
        ConfigError: An option has a value that cannot be used.
        DatabaseNotFoundError: There is no such file.
        FormatError: A file is not a finished database.
        DatabaseMismatchError: Several files hold samples of different structures.
    """

    def __init__(
        self,
        path_or_dataset: PathLike | Iterable[PathLike] | Streamable,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        buffer_size: int = 10_000,
        seed: int = 0,
        drop_last: bool = False,
        uneven: Uneven = "pad",
        rank: int | None = None,
        world_size: int | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        transforms: Transform | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        db_cfg: object = None,
    ) -> None:
        super().__init__()
        given = transform is not None or target_transform is not None or transforms is not None
        if isinstance(path_or_dataset, Streamable):
            records, steps_for = path_or_dataset.records, path_or_dataset.stream_steps()
            if given:
                raise ConfigError("an LMDBDataset streams with its own transforms: set them there, or give its path")
        else:
            records = open_records(path_or_dataset, db_cfg)
            steps_for = fixed_steps(records, transform, target_transform, transforms)
        options = StreamOptions(
            batch_size=batch_size,
            shuffle=shuffle,
            buffer_size=buffer_size,
            seed=seed,
            drop_last=drop_last,
            uneven=uneven,
        )
        self._given_ranks = resolve_ranks(rank, world_size) if rank is not None or world_size is not None else None
        self._inherited_ranks: Ranks | None = None
        self._reader = StreamReader(records, steps_for, options, collate_fn)

    def __repr__(self) -> str:
        return f"LMDBIterableDataset({self._reader.records}, {self._reader.options})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_inherited_ranks": self._ranks()}

    def __len__(self) -> int:
        """Batches (or samples, without a batch size) that this rank gets in an epoch, with all its workers."""
        return self._reader.options.items(len(self._reader.records), self._ranks())

    def __iter__(self) -> Iterator[Any]:
        reader = self._reader
        return reader.start(reader.options, reader.epochs.begin(), self._ranks(), resolve_workers())

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one. Not needed: every pass is the next epoch anyway.

        Raises:
            ConfigError: It is not an integer of at least 0.
        """
        self._reader.epochs.set(epoch)

    @property
    def records(self) -> Records:
        """The samples, without order and transforms."""
        return self._reader.records

    def _ranks(self) -> Ranks:
        return self._given_ranks or resolve_ranks(None, None, self._inherited_ranks)
