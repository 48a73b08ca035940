"""What most people have now: torchvision's CIFAR10 (pixels in memory) or ImageFolder (JPEG files), and a DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from ..contender import Epochs, Get, Job, Kind, Reader, Unsupported
from ..data import Pixels, Source


class Torchvision:
    """No storage of its own."""

    name = folder = "torchvision"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Always: lmdbpipe depends on it."""
        return None

    def build(self, source: Source, folder: Path) -> None:
        """Write the pixels as one array, or copy the photos."""
        if source.shape is None:
            classes = len(str(max(source.labels)))
            for index, label in enumerate(source.labels):
                file = folder / f"{label:0{classes}d}" / f"{index:08d}.jpg"
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(source.encoded(index) or b"")
            return
        shape = (len(source), *source.shape, 3)
        images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        for index in range(len(source)):
            images[index] = np.asarray(source[index][0])
        images.flush()
        np.save(folder / "labels.npy", np.asarray(source.labels, dtype=np.int64))

    def open(self, source: Source, folder: Path) -> Reader:
        """Read the array into memory, as CIFAR10 does; list the photos, as ImageFolder does."""
        return _Reader(folder)


class _InMemory(Dataset[tuple[Any, int]]):
    """Line by line what ``torchvision.datasets.CIFAR10`` does with an index."""

    def __init__(self, images: Pixels, labels: list[int], transform: Any) -> None:
        self.data = images
        self.targets = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image: Any = Image.fromarray(self.data[index])
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index]


class _Reader(Reader):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = np.load(folder / "images.npy") if (folder / "images.npy").exists() else None
        self.labels = np.load(folder / "labels.npy").tolist() if self.images is not None else []

    def _dataset(self, transform: Any) -> Any:
        if self.images is None:
            return datasets.ImageFolder(str(self.folder), transform)
        return _InMemory(self.images, self.labels, transform)

    def _loader(self, job: Job, transform: Any, *, shuffle: bool) -> Epochs:
        dataset = self._dataset(transform)
        return DataLoader(dataset, batch_size=job.batch_size, shuffle=shuffle, num_workers=job.workers)

    def sequential(self, job: Job) -> Epochs:
        return self._loader(job, transforms.PILToTensor(), shuffle=False)

    def shuffled(self, job: Job) -> Epochs:
        return self._loader(job, transforms.PILToTensor(), shuffle=True)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(self._dataset(None), indices)

    def train(self, job: Job) -> Epochs:
        if job.threads:
            raise Unsupported("no threads")
        return self._loader(job, job.transform, shuffle=True)

    def loader(self, job: Job) -> Epochs:
        return self._loader(job, job.transform, shuffle=True)
