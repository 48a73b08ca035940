"""The other floor: the same array read from its file front to back, without a map; a batch is one read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..contender import Epochs, Job, Reader
from ..data import Source
from .memmap import Batch, Memmap


class FileRead(Memmap):
    """Reads what the floor of copies has built."""

    name = "file read"

    def open(self, source: Source, folder: Path) -> Reader:
        """Nothing is opened before an epoch."""
        return _Reader(folder)


class _Read:
    """Batches in order, each read into fresh memory that the caller owns."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.file = folder / "images.npy"
        self.batch_size = batch_size
        mapped = np.load(self.file, mmap_mode="r")
        self.shape, self.start = mapped.shape, mapped.offset
        self.labels = torch.from_numpy(np.load(folder / "labels.npy"))

    def __iter__(self) -> Iterator[Batch]:
        length, *row = self.shape
        with self.file.open("rb", buffering=0) as opened:
            opened.seek(self.start)
            for start in range(0, length, self.batch_size):
                count = min(self.batch_size, length - start)
                images = np.empty((count, *row), np.uint8)
                opened.readinto(images.data)
                yield [torch.from_numpy(images), self.labels[start : start + count].clone()]


class _Reader(Reader):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sequential(self, job: Job) -> Epochs:
        return _Read(self.folder, job.batch_size)
