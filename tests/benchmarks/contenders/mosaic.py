"""mosaicml-streaming: MDS shards, pixels as an ndarray column, photos as their JPEG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ..contender import Epochs, Get, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source
from ..pixels import apply, record, stack


class MosaicStreaming:
    """``MDSWriter`` and ``StreamingDataset``."""

    name = folder = "mosaicml-streaming"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs streaming."""
        return missing("streaming")

    def build(self, source: Source, folder: Path) -> None:
        """Write shards, in this process."""
        image = "bytes" if source.shape is None else "ndarray:uint8:3,{},{}".format(*source.shape)
        with module("streaming").MDSWriter(out=str(folder / "mds"), columns={"image": image, "label": "int"}) as writer:
            for index in range(len(source)):
                stored, label = record(source, index)
                writer.write({"image": stored, "label": label})

    def open(self, source: Source, folder: Path) -> Reader:
        """A stream is made by what is asked of it; shared memory that a killed run left is cleared first."""
        module("streaming.base.util").clean_stale_shared_memory()
        return _Reader(str(folder / "mds"))


class _Collate:
    """Rows to a batch, transformed where there is a transform."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Any:
        if self.transform is None:
            return stack([(row["image"], row["label"]) for row in rows])
        return stack([apply(self.transform, row["image"], row["label"]) for row in rows])


class _Reader(Reader):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def _data(self, job: Job, *, shuffle: bool) -> Any:
        return module("streaming").StreamingDataset(
            local=self.folder, batch_size=job.batch_size, shuffle=shuffle, num_canonical_nodes=1
        )

    def _loader(self, job: Job, *, shuffle: bool) -> Epochs:
        data = self._data(job, shuffle=shuffle)
        return DataLoader(data, batch_size=job.batch_size, num_workers=job.workers, collate_fn=_Collate(job.transform))

    def sequential(self, job: Job) -> Epochs:
        return self._loader(job, shuffle=False)

    def shuffled(self, job: Job) -> Epochs:
        return self._loader(job, shuffle=True)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(self._data(Job(batch_size=1), shuffle=False), indices)

    def train(self, job: Job) -> Epochs:
        if job.threads:
            raise Unsupported("no threads")
        return self._loader(job, shuffle=True)
