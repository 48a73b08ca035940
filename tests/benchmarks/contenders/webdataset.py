"""webdataset: tar shards, a member a field; pixels as ``.npy``, photos as their JPEG files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ..contender import Epochs, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source
from ..pixels import apply, record, stack

_SHARDS = 8  # a worker process takes whole shards


class WebDataset:
    """``ShardWriter`` and the ``WebDataset`` pipeline."""

    name = folder = "webdataset"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs webdataset."""
        return missing("webdataset")

    def build(self, source: Source, folder: Path) -> None:
        """Write shards of equal length."""
        pattern = str(folder / "data-%06d.tar")
        with module("webdataset").ShardWriter(pattern, maxcount=-(-len(source) // _SHARDS), verbose=0) as writer:
            for index in range(len(source)):
                stored, label = record(source, index)
                field = "bin" if isinstance(stored, bytes) else "npy"
                writer.write({"__key__": f"{index:08d}", field: stored, "cls": label})

    def open(self, source: Source, folder: Path) -> Reader:
        """List the shards."""
        return _Reader(sorted(str(shard) for shard in folder.glob("*.tar")), "npy" if source.shape else "bin")


def _transformed(transform: Any, sample: tuple[Any, int]) -> Any:
    return apply(transform, *sample)


class _Reader(Reader):
    def __init__(self, shards: list[str], field: str) -> None:
        self.shards = shards
        self.field = field

    def _pipeline(self, job: Job, *, shuffle: bool) -> Any:
        shards = len(self.shards) if shuffle else False
        data = module("webdataset").WebDataset(self.shards, shardshuffle=shards)
        if shuffle:
            data = data.shuffle(job.buffer_size)
        data = data.decode().to_tuple(self.field, "cls")
        if job.transform is not None:
            data = data.map(partial(_transformed, job.transform))
        data = data.batched(job.batch_size, collation_fn=stack)
        return DataLoader(data, batch_size=None, num_workers=job.workers) if job.workers else data

    def sequential(self, job: Job) -> Epochs:
        return self._pipeline(job, shuffle=False)  # type: ignore[no-any-return]

    def shuffled(self, job: Job) -> Epochs:
        return self._pipeline(job, shuffle=True)  # type: ignore[no-any-return]

    def train(self, job: Job) -> Epochs:
        if job.threads:
            raise Unsupported("no threads")
        return self._pipeline(job, shuffle=True)  # type: ignore[no-any-return]
