"""The floor: a NumPy memory map of NCHW pixels; a batch is one copy into fresh memory that the caller owns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..contender import Epochs, Job, Kind, Reader, Unsupported
from ..data import Pixels, Source

Batch = list[torch.Tensor]


class Memmap:
    """No format, no order, no checks: what the hardware and one memcpy a batch give."""

    name = folder = "memmap copy"
    kind: Kind = "floor"

    def available(self) -> str | None:
        """Always."""
        return None

    def build(self, source: Source, folder: Path) -> None:
        """Write ``images.npy`` and ``labels.npy``."""
        if source.shape is None:
            raise Unsupported("an array needs images of one size")
        shape = (len(source), 3, *source.shape)
        images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        for index in range(len(source)):
            images[index] = np.asarray(source[index][0]).transpose(2, 0, 1)
        images.flush()
        np.save(folder / "labels.npy", np.asarray(source.labels, dtype=np.int64))

    def open(self, source: Source, folder: Path) -> Reader:
        """Map the files."""
        return _Reader(_Arrays(folder))


class _Arrays:
    """The two maps; pickles as the folder, so that worker processes map for themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: Pixels = np.load(folder / "images.npy", mmap_mode="r").view(np.ndarray)
        self.labels: npt.NDArray[np.int64] = np.load(folder / "labels.npy", mmap_mode="r").view(np.ndarray)

    def __reduce__(self) -> tuple[type[_Arrays], tuple[Path]]:
        return _Arrays, (self.folder,)


class _Stream(IterableDataset[Batch]):
    """Batches in order; with worker processes, dealt round robin, so that a DataLoader gives back the order."""

    def __init__(self, arrays: _Arrays, batch_size: int) -> None:
        self.arrays = arrays
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        images, labels, size = self.arrays.images, self.arrays.labels, self.batch_size
        for start in range(first * size, len(images), step * size):
            stop = start + size
            yield [torch.from_numpy(images[start:stop].copy()), torch.from_numpy(labels[start:stop].copy())]


class _Shuffled:
    """Batches of a permutation of the whole, another one each epoch."""

    def __init__(self, arrays: _Arrays, batch_size: int) -> None:
        self.arrays = arrays
        self.batch_size = batch_size
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[Batch]:
        images, labels = self.arrays.images, self.arrays.labels
        order = self.rng.permutation(len(images))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield [torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen])]


class _Get:
    """Samples by index."""

    def __init__(self, arrays: _Arrays, indices: Sequence[int]) -> None:
        self.arrays = arrays
        self.indices = indices

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        images, labels = self.arrays.images, self.arrays.labels
        for index in self.indices:
            yield images[index].copy(), int(labels[index])


class _Reader(Reader):
    def __init__(self, arrays: _Arrays) -> None:
        self.arrays = arrays

    def sequential(self, job: Job) -> Epochs:
        return _Stream(self.arrays, job.batch_size)

    def shuffled(self, job: Job) -> Epochs:
        return _Shuffled(self.arrays, job.batch_size)

    def get(self, indices: Sequence[int]) -> Epochs:
        return _Get(self.arrays, indices)

    def carry(self, job: Job) -> Epochs:
        return DataLoader(_Stream(self.arrays, job.batch_size), batch_size=None, num_workers=job.workers)
