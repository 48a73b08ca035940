"""The IterableDataset face: streams for plain torch DataLoaders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset

from lmdbpipe.checks import whole
from lmdbpipe.contents import Contents
from lmdbpipe.device import Device
from lmdbpipe.errors import ConfigError
from lmdbpipe.files import Paths, open_files
from lmdbpipe.order import Uneven, balance
from lmdbpipe.pipeline import ReadOptions, StepsFor
from lmdbpipe.reader import StreamReader
from lmdbpipe.records import Records
from lmdbpipe.steps import fixed_steps
from lmdbpipe.stream import Pass, StreamOptions
from lmdbpipe.structure import Path
from lmdbpipe.world import Ranks, given_ranks, resolve_ranks, resolve_workers
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

    It and its iterators have ``state_dict`` and ``load_state_dict``, so that torchdata's ``StatefulDataLoader`` resumes
    it by itself. With a plain DataLoader the loop counts; the state loads with any number of ranks and workers:

        >>> from torch.utils.data import DataLoader
        >>> dataset = LMDBIterableDataset("train.lmdb", batch_size=8, shuffle=True)  # of 40 samples
        >>> for step, batch in enumerate(DataLoader(dataset, batch_size=None), start=1):
        ...     if step == 3:
        ...         state = dataset.state_dict(batches=step)  # 3 batches of this epoch are done; save it
        ...         break
        >>> dataset = LMDBIterableDataset("train.lmdb", batch_size=8, shuffle=True)
        >>> dataset.load_state_dict(state)
        >>> len(list(DataLoader(dataset, batch_size=None)))  # the rest of that epoch
        2
        >>> dataset.skip(3)  # or without a state: leave out what was done
        >>> len(list(DataLoader(dataset, batch_size=None)))
        2

    Args:
        path_or_dataset: A file's path, a pattern (``"train-*.lmdb"``), a list of these, or an `LMDBDataset`, whose live
            transforms are then applied. Several files are one sequence. `lmdbpipe.Part`, alone or in the list, says how
            much of a file is in an epoch; paths beside parts count as ``Part(path, repeat=1)``. Shuffled, all samples
            are mixed; unshuffled, parts come in turn, each spread evenly over the epoch, in file order.
        epoch_size: Samples in an epoch, where parts have proportions; as many as their files hold by default.
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
        mesh: Instead of both, one dimension of a `DeviceMesh` (``mesh["dp"]``), whose positions are the ranks:
            processes that differ in other dimensions only get the same samples.
        with_mask: Give pairs ``(batch, mask)``, where ``mask`` is bool ``[n]`` and False for samples that `uneven`
            repeats, so that a metric can be exact; without a `batch_size` pairs of a sample and a bool.
        transform: Applied to the input of each sample.
        target_transform: Applied to the target.
        transforms: Applied to both together, instead.
        collate_fn: Makes a batch of a list of samples, instead of the default: tensors for leaves of one size (images
            without a transform as uint8 N×C×H×W), lists for leaves whose sizes vary.
        lower: Apply transforms of images to whole batches where that can be done, with the same bits.
        exact: Give torchvision's bits in all steps; if not, resizing may differ where that is faster
            (`lmdbpipe.transforms` says by how much).
        num_threads: Threads that read and transform batches ahead, in each process that iterates; 0 works when the next
            batch is asked for, and so does every number, with a warning, where something has no batched form: the
            global generators are seeded for it, which threads would share with the caller. With a `batch_size` only.
        device: Where batches go: ``"cuda"``, ``"cuda:1"``, ``"cpu"``, a `torch.device`. Bytes go to a GPU from pinned
            memory, one batch ahead, and batched steps that no other step follows compute there. With a `batch_size`
            only; a GPU not in worker processes (use `num_threads`), and without a loader's ``pin_memory``.
        db_cfg: How files are opened: an `LMDBConfig`, a mapping, or an object with such attributes.

    Raises:
        ConfigError: An option has a value that cannot be used.
        DatabaseNotFoundError: There is no such file.
        FormatError: A file is not a finished database.
        DatabaseMismatchError: Several files hold samples of different structures.
    """

    def __init__(
        self,
        path_or_dataset: Paths | Streamable,
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
        if isinstance(path_or_dataset, Streamable):
            contents, steps_for = Contents(path_or_dataset.records), path_or_dataset.stream_steps()
            if transform is not None or target_transform is not None or transforms is not None:
                raise ConfigError("an LMDBDataset streams with its own transforms: set them there, or give its path")
            if epoch_size is not None:
                raise ConfigError(
                    "epoch_size needs parts with proportions, not an LMDBDataset: give lmdbpipe.Part(path)"
                )
        else:
            contents = open_files(path_or_dataset, db_cfg, epoch_size)
            steps_for = fixed_steps(contents.records, transform, target_transform, transforms)
        options = StreamOptions(
            batch_size=batch_size,
            shuffle=shuffle,
            buffer_size=buffer_size,
            seed=seed,
            drop_last=drop_last,
            uneven=uneven,
            with_mask=with_mask,
        )
        self._given_ranks = given_ranks(rank, world_size, mesh)
        self._inherited_ranks: Ranks | None = None
        read_options = ReadOptions(lower=lower, exact=exact, num_threads=num_threads, device=device)
        self._reader = StreamReader(contents, steps_for, options, collate_fn, read_options)

    def __repr__(self) -> str:
        return f"LMDBIterableDataset({self.records}, {self._reader.options})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_inherited_ranks": self._ranks()}

    def __len__(self) -> int:
        """Batches (or samples, without a batch size) that this rank gets in a whole epoch, with all its workers."""
        return self._reader.options.items(self._reader.contents.length, self._ranks())

    def __iter__(self) -> Pass:
        return self._reader.start(self._ranks(), resolve_workers())

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one. Not needed: every pass is the next epoch anyway.

        Raises:
            ConfigError: It is not an integer of at least 0.
            StateError: A state of another epoch was loaded, and not used yet.
        """
        self._reader.set_epoch(epoch)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Say where the epoch stands that was begun last: a few integers and strings, JSON-able.

        Args:
            batches: How many batches the loop has got of this pass. Needed where a plain DataLoader has workers, which
                read ahead of the loop; otherwise the last iterator knows.

        Returns:
            New objects. Every rank's state speaks for all, as long as they are in step; see also
            `lmdbpipe.merge_states`. ``position`` is how many samples of the epoch all ranks together have taken.

        Raises:
            ConfigError: `batches` is given without a `batch_size`.
            StateError: Workers read, and `batches` is not given, is more than there are, or is 0 and so does not say
                whether it counts the last pass or the next.
        """
        return self._reader.state(self._ranks(), batches).to_json_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next pass go on from a state, in this process or in the workers of a loader, kept ones included.

        The pass reads what remained of its epoch, dealt anew to the ranks and workers that there are now; those after
        it are whole. The state's seed holds from now on. A finished epoch's state begins the next epoch.

        Args:
            state_dict: As `state_dict` gave it, on any face, any rank, any number of ranks and workers.

        Raises:
            StateError: It is damaged, of another file, another order or a newer version; it is of one of several
                workers (use `lmdbpipe.merge_states`); or `set_epoch` has told another epoch.
        """
        self._reader.load(state_dict, self._ranks())

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass: what the loop had got of it before it was stopped.

        To leave out the first `k` samples in every epoch is to choose the others: ``subset(range(k, length))``.

        Raises:
            ConfigError: There is no `batch_size`, or `batches` is not an integer of at least 0.
            StateError: The pass has fewer batches.
        """
        self._reader.skip(batches, self._ranks())

    def subset(self, indices: Iterable[int]) -> LMDBIterableDataset:
        """Stream some samples only, in this order or shuffled.

        Args:
            indices: Which samples of this stream, counted as they lie in its files. One that is given several times
                occurs as often, and transforms draw anew for each of its copies.

        Returns:
            A new dataset with the same options, which counts epochs by itself. Its states are its own.

        Raises:
            ConfigError: Indices are not integers, or this stream is weighted or mixed: those draw last.
            OutOfRangeError: There is no such sample.
        """
        return self._with(self._reader.contents.select(indices))

    def take(self, count: int) -> LMDBIterableDataset:
        """Stream the first samples only, as `subset` does; all, if there are fewer.

        Raises:
            ConfigError: `count` is not an integer of at least 0, or this stream is weighted or mixed.
        """
        return self.subset(range(min(whole("count", count), self._reader.contents.length)))

    def filter(self, leaf: str | int | Path, keep: Callable[[Any], bool]) -> LMDBIterableDataset:
        """Stream the samples that have certain values only, as `subset` does; reads that column, and no image.

        Args:
            leaf: The column, by its path in a sample: ``1``, ``"label"``, ``("target", "area")``.
            keep: Says of one of its values, as stored, whether the sample stays.

        Raises:
            ConfigError: There is no such column.
        """
        values = self._reader.contents.values(leaf)
        values = values if isinstance(values, list) else values.tolist() if values.ndim == 1 else list(values)
        return self.subset([place for place, value in enumerate(values) if keep(value)])

    def repeat(self, times: int) -> LMDBIterableDataset:
        """Stream every sample several times an epoch; transforms draw anew for each of its copies.

        Args:
            times: How often, 1 or more. Unshuffled, the copies of the whole follow each other; shuffled, all are mixed.

        Returns:
            A new dataset, as `subset` gives one.

        Raises:
            ConfigError: It is not an integer of at least 1, or this stream is weighted or mixed.
        """
        return self._with(self._reader.contents.repeat(times))

    def weighted(self, weights: npt.ArrayLike | str, num_samples: int | None = None) -> LMDBIterableDataset:
        """Draw samples with replacement, anew in every epoch, some more likely than others.

        What stands at a position depends on (seed, epoch, position) alone, and transforms draw anew each time that a
        sample is drawn. Every draw is independent of the others, so `shuffle` has nothing to add. Neighbours lie
        anywhere in the file, which then should fit into memory, or lie on a fast disk.

        Args:
            weights: How likely each sample of this stream is, relative to the others, counted as they lie in its files:
                ``[n]``, finite, 0 or more. Or the name of a column that holds them.
            num_samples: Draws in an epoch; by default as many as this stream has samples.

        Returns:
            A new dataset, as `subset` gives one.

        Raises:
            ConfigError: There is no such column, weights are not as many finite numbers of at least 0, all are 0,
                `num_samples` is not an integer of at least 1, or this stream is weighted or mixed already.
        """
        given = self._reader.contents.values(weights) if isinstance(weights, str) else weights
        return self._with(self._reader.contents.weighted(given, num_samples))

    def balanced(self, leaf: str | int | Path, num_samples: int | None = None) -> LMDBIterableDataset:
        """Draw samples with replacement, so that every class is equally likely; see `weighted`.

        Args:
            leaf: The column of classes, by its path in a sample, as `filter` takes it: one number or string a sample.
            num_samples: Draws in an epoch; by default as many as this stream has samples.

        Raises:
            ConfigError: There is no such column, its values are no classes, or as `weighted` raises.
        """
        classes = self._reader.contents.values(leaf)
        if isinstance(classes, list):
            numbers: dict[Any, int] = {}
            try:
                classes = np.array([numbers.setdefault(value, len(numbers)) for value in classes], dtype=np.int64)
            except TypeError as error:
                raise ConfigError(f"the values of leaf {leaf!r} are no classes: {error}") from error
        if classes.ndim != 1:
            raise ConfigError(f"the values of leaf {leaf!r} are no classes, but arrays of shape {classes.shape[1:]}")
        return self._with(self._reader.contents.weighted(balance(classes), num_samples))

    @property
    def records(self) -> Records:
        """The samples, without order and transforms."""
        return self._reader.contents.records

    def _with(self, contents: Contents) -> LMDBIterableDataset:
        dataset = copy.copy(self)
        dataset._reader = self._reader.over(contents)
        return dataset

    def _ranks(self) -> Ranks:
        return resolve_ranks(self._given_ranks, self._inherited_ranks)
