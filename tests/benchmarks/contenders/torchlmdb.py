"""torchlmdb, the package whose place lmdbpipe takes: one LMDB record a sample, transforms through PIL.

Its file is sparse with an apparent size of ``map_size`` (2 TiB unless told otherwise): here the size asked for is what
the dataset needs, and space on disk is counted in blocks. It keeps two layouts apart, CHW without transforms and
HWC for PIL, so it builds a second file for the train transforms. A pipeline that begins with ToTensor ends in its
NameError, so without transforms its images are what it gives then: float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.utils.data import DataLoader

from ..contender import Epochs, Get, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source

_SPARE = 64 << 20  # bytes of map beyond the pixels, for keys, labels and pages
_PAGES = 4096  # an LMDB value takes whole pages once it is larger than a part of one


class TorchLMDB:
    """``LMDBDataset(dataset, root=...)`` under a DataLoader."""

    name = folder = "torchlmdb"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs torchlmdb."""
        return missing("torchlmdb")

    def build(self, source: Source, folder: Path) -> None:
        """Write the CHW layout; its constructor builds where there is no file."""
        if source.shape is None:
            raise Unsupported("it refuses images of different sizes")
        _open(source, folder, None)

    def open(self, source: Source, folder: Path) -> Reader:
        """Its constructor wants the source dataset again."""
        return _Reader(source, folder)


def _open(source: Source, folder: Path, transform: Any) -> Any:
    torchlmdb = module("torchlmdb")
    if source.shape is None:
        raise Unsupported("it refuses images of different sizes")
    height, width = source.shape
    sample = -(-height * width * 3 // _PAGES) * _PAGES + _PAGES
    options = {name: value for name, value in vars(torchlmdb.LMDB_config).items() if not name.startswith("_")}
    options["map_size"] = len(source) * sample + _SPARE
    options["db_channels_first"] = transform is None
    source.transform = transform
    try:
        return torchlmdb.LMDBDataset(source, root=str(folder), name="bench", db_cfg=SimpleNamespace(**options))
    finally:
        source.transform = None


class _Reader(Reader):
    """One open file a layout: LMDB refuses to open a file twice in a process."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.opened: dict[bool, Any] = {}

    def _dataset(self, transform: Any) -> Any:
        plain = transform is None
        if plain not in self.opened or self.opened[plain].db is None:  # pickling it takes its handle away
            self.opened[plain] = _open(self.source, self.folder, transform)
        self.opened[plain].live_transform = transform
        return self.opened[plain]

    def sequential(self, job: Job) -> Epochs:
        return DataLoader(self._dataset(None), batch_size=job.batch_size, num_workers=job.workers)

    def shuffled(self, job: Job) -> Epochs:
        return DataLoader(self._dataset(None), batch_size=job.batch_size, shuffle=True, num_workers=job.workers)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(self._dataset(None), indices)

    def train(self, job: Job) -> Epochs:
        if job.threads:
            raise Unsupported("no threads")
        return self.loader(job)

    def loader(self, job: Job) -> Epochs:
        dataset = self._dataset(job.transform)
        return DataLoader(dataset, batch_size=job.batch_size, shuffle=True, num_workers=job.workers)

    def close(self) -> None:
        while self.opened:
            _, dataset = self.opened.popitem()
            if dataset.db is not None:
                dataset.db.close()
