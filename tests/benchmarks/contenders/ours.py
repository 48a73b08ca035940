"""lmdbpipe itself, used as its README says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ..contender import Epochs, Get, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source

FILE = "data.lmdb"


class LMDBPipe:
    """The stream for batches, the map-style wrapper for ``get`` and ``loader``."""

    name = folder = "lmdbpipe"
    kind: Kind = "ours"

    def available(self) -> str | None:
        """Needs itself."""
        return missing("lmdbpipe")

    def build(self, source: Source, folder: Path) -> None:
        """Write one file, in this process."""
        module("lmdbpipe").build(source, folder / FILE, progress=False)

    def open(self, source: Source, folder: Path) -> Reader:
        """Nothing is opened before the first batch."""
        return _Reader(folder)


class LMDBPipeInexact(LMDBPipe):
    """With ``exact=False``: torchvision's tensor kernels where the exact path is PIL a sample at a time."""

    name = "lmdbpipe exact=False"

    def open(self, source: Source, folder: Path) -> Reader:
        """Only for varying sizes: elsewhere every step has an exact batched form."""
        return _Inexact(folder)


def stream(folder: Path, job: Job, *, shuffle: bool, **options: Any) -> Epochs:
    """The reader itself, or an unchanged DataLoader over it where ``job`` asks for worker processes."""
    reader = module("lmdbpipe").LMDBIterableDataset(
        folder / FILE,
        batch_size=job.batch_size,
        shuffle=shuffle,
        buffer_size=job.buffer_size,
        transform=job.transform,
        **({"num_threads": job.threads} if job.threads else {}),
        **options,
    )
    loaded: Epochs = DataLoader(reader, batch_size=None, num_workers=job.workers) if job.workers else reader
    return loaded


class _Reader(Reader):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sequential(self, job: Job) -> Epochs:
        return stream(self.folder, job, shuffle=False)

    def shuffled(self, job: Job) -> Epochs:
        return stream(self.folder, job, shuffle=True)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(module("lmdbpipe").LMDBDataset.from_path(self.folder / FILE), indices)

    def train(self, job: Job) -> Epochs:
        return stream(self.folder, job, shuffle=True)

    def loader(self, job: Job) -> Epochs:
        dataset = module("lmdbpipe").LMDBDataset.from_path(self.folder / FILE, transform=job.transform)
        return DataLoader(dataset, batch_size=job.batch_size, shuffle=True, num_workers=job.workers)

    def carry(self, job: Job) -> Epochs:
        return stream(self.folder, job, shuffle=False)


class _Inexact(_Reader):
    def sequential(self, job: Job) -> Epochs:
        raise Unsupported("as lmdbpipe")

    def shuffled(self, job: Job) -> Epochs:
        raise Unsupported("as lmdbpipe")

    def loader(self, job: Job) -> Epochs:
        raise Unsupported("as lmdbpipe")

    def carry(self, job: Job) -> Epochs:
        raise Unsupported("as lmdbpipe")

    def get(self, indices: Sequence[int]) -> Epochs:
        raise Unsupported("as lmdbpipe")

    def train(self, job: Job) -> Epochs:
        steps = getattr(job.transform, "transforms", ())
        if not any(type(step).__name__ == "RandomResizedCrop" for step in steps):
            raise Unsupported("as lmdbpipe: every step has an exact batched form")
        return stream(self.folder, job, shuffle=True, exact=False)
