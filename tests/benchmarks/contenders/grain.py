"""grain over ArrayRecord: a record is eight bytes of label, then the pixels or the photo's JPEG file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..contender import Epochs, Get, Job, Kind, Reader, missing, module
from ..data import Source
from ..pixels import apply, record, stack

_FILE = "data.arrayrecord"
_LABEL = 8


class Grain:
    """``ArrayRecordWriter`` and ``MapDataset``."""

    name = folder = "grain"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs grain and array-record."""
        return missing("grain", "array_record.python.array_record_module")

    def build(self, source: Source, folder: Path) -> None:
        """Write one file, a record a group, as random access wants it."""
        records = module("array_record.python.array_record_module")
        writer = records.ArrayRecordWriter(str(folder / _FILE), "group_size:1")
        for index in range(len(source)):
            stored, label = record(source, index)
            body = stored if isinstance(stored, bytes) else stored.tobytes()
            writer.write(label.to_bytes(_LABEL, "little") + body)
        writer.close()

    def open(self, source: Source, folder: Path) -> Reader:
        """Open the file for access by index."""
        return _Reader(folder / _FILE, source.shape)


class _Decode:
    """A record to its sample, transformed where there is a transform."""

    def __init__(self, shape: tuple[int, int] | None, transform: Any) -> None:
        self.shape = shape
        self.transform = transform

    def __call__(self, record: bytes) -> tuple[Any, int]:
        label = int.from_bytes(record[:_LABEL], "little")
        if self.shape is None:
            stored: Any = record[_LABEL:]
        else:
            stored = np.frombuffer(record, np.uint8, offset=_LABEL).reshape(3, *self.shape)
        return (stored, label) if self.transform is None else apply(self.transform, stored, label)


class _Epochs:
    """One pass over a dataset an epoch; the shuffle's seed is the epoch."""

    def __init__(self, data: Any, job: Job, *, shuffle: bool) -> None:
        self.data = data
        self.job = job
        self.shuffle = shuffle
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        grain, job = module("grain"), self.job
        data = self.data.shuffle(seed=self.epoch) if self.shuffle else self.data
        self.epoch += 1
        # Threads decode records, so batches are made after them; worker processes make whole batches.
        options = grain.ReadOptions(num_threads=job.threads, prefetch_buffer_size=2 * job.batch_size)
        stream = data.to_iter_dataset(options).batch(job.batch_size, batch_fn=stack)
        if job.workers:
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=job.workers, per_worker_buffer_size=2))
        return iter(stream)


class _Reader(Reader):
    def __init__(self, path: Path, shape: tuple[int, int] | None) -> None:
        self.shape = shape
        self.records = module("grain").sources.ArrayRecordDataSource(str(path))

    def _data(self, job: Job) -> Any:
        return module("grain").MapDataset.source(self.records).map(_Decode(self.shape, job.transform))

    def sequential(self, job: Job) -> Epochs:
        return _Epochs(self._data(job), job, shuffle=False)

    def shuffled(self, job: Job) -> Epochs:
        return _Epochs(self._data(job), job, shuffle=True)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(self._data(Job(batch_size=1)), indices)

    def train(self, job: Job) -> Epochs:
        return self.shuffled(job)
