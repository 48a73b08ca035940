"""litdata: chunks of serialised samples, pixels as tensors, photos as their JPEG files."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..contender import Epochs, Get, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source
from ..pixels import apply, record, stack

_CHUNK = "64MB"


class LitData:
    """``optimize``, ``StreamingDataset`` and ``StreamingDataLoader``."""

    name = folder = "litdata"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs litdata."""
        return missing("litdata")

    def build(self, source: Source, folder: Path) -> None:
        """Write chunks, in the one process that it starts for it."""
        module("litdata").optimize(
            fn=partial(_sample, source),
            inputs=list(range(len(source))),
            output_dir=str(folder / "chunks"),
            chunk_bytes=_CHUNK,
            num_workers=1,
            start_method=multiprocessing.get_start_method(),  # else it sets its own, for everybody
            verbose=False,
        )

    def open(self, source: Source, folder: Path) -> Reader:
        """A stream is made by what is asked of it."""
        return _Reader(str(folder / "chunks"))


def _sample(source: Source, index: int) -> tuple[Any, int]:
    stored, label = record(source, index)
    return (stored if isinstance(stored, bytes) else torch.from_numpy(stored)), label


def _transformed(transform: Any, sample: tuple[Any, int]) -> Any:
    return apply(transform, *sample)


class _Reader(Reader):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def _loader(self, job: Job, *, shuffle: bool) -> Epochs:
        litdata = module("litdata")
        transform = None if job.transform is None else partial(_transformed, job.transform)
        data = litdata.StreamingDataset(self.folder, shuffle=shuffle, transform=transform)
        return litdata.StreamingDataLoader(  # type: ignore[no-any-return]
            data, batch_size=job.batch_size, num_workers=job.workers, collate_fn=stack
        )

    def sequential(self, job: Job) -> Epochs:
        return self._loader(job, shuffle=False)

    def shuffled(self, job: Job) -> Epochs:
        return self._loader(job, shuffle=True)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(module("litdata").StreamingDataset(self.folder), indices)

    def train(self, job: Job) -> Epochs:
        if job.threads:
            raise Unsupported("no threads")
        return self._loader(job, shuffle=True)
