"""Hugging Face datasets: Arrow files, pixels as Array3D, photos as their JPEG files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..contender import Epochs, Get, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source
from ..pixels import apply, record, stack

_SHARDS = 8  # a shuffled stream mixes shards before it mixes samples


class HuggingFaceDatasets:
    """``Dataset.save_to_disk`` and ``load_from_disk``."""

    name = folder = "datasets"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs datasets."""
        return missing("datasets")

    def build(self, source: Source, folder: Path) -> None:
        """Write Arrow files; what it caches on the way is removed again."""
        datasets = module("datasets")
        datasets.disable_progress_bars()
        image = datasets.Value("binary") if source.shape is None else datasets.Array3D((3, *source.shape), "uint8")
        features = datasets.Features({"image": image, "label": datasets.Value("int64")})
        cache = str(folder / "cache")
        written = datasets.Dataset.from_generator(
            _rows, features=features, gen_kwargs={"source": source}, cache_dir=cache
        )
        written.save_to_disk(str(folder / "arrow"))
        shutil.rmtree(cache)

    def open(self, source: Source, folder: Path) -> Reader:
        """Map the Arrow files."""
        return _Reader(module("datasets").load_from_disk(str(folder / "arrow")), pixels=source.shape is not None)


def _rows(source: Source) -> Iterator[dict[str, Any]]:
    for index in range(len(source)):
        stored, label = record(source, index)
        yield {"image": stored, "label": label}


class _Batches:
    """Batches of a dataset's own ``iter`` in Arrow's format, copied; another order each epoch where it shuffles.

    Its NumPy format casts bytes to int64, or with ``dtype=uint8`` takes three times as long for the same.
    """

    def __init__(self, data: Any, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size
        self.epoch = 0

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(self.epoch)
            self.epoch += 1
        for batch in self.data.iter(self.batch_size):
            images = batch["image"].combine_chunks()
            pixels = (images if hasattr(images, "storage") else images.chunk(0)).to_numpy(zero_copy_only=True)
            yield [torch.from_numpy(pixels.copy()), torch.from_numpy(batch["label"].to_numpy().copy())]


class _Collate:
    """Rows to a batch, transformed on the way."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
        return stack([apply(self.transform, row["image"], row["label"]) for row in rows])


class _Reader(Reader):
    def __init__(self, data: Any, *, pixels: bool) -> None:
        self.data = data
        self.rows = data.with_format("numpy", dtype=np.uint8) if pixels else data

    def sequential(self, job: Job) -> Epochs:
        return _Batches(self.data.with_format("arrow"), job.batch_size)

    def shuffled(self, job: Job) -> Epochs:
        stream = self.data.to_iterable_dataset(num_shards=_SHARDS).with_format("arrow")
        return _Batches(stream.shuffle(seed=0, buffer_size=job.buffer_size), job.batch_size)

    def get(self, indices: Sequence[int]) -> Epochs:
        return Get(self.rows, indices)

    def train(self, job: Job) -> Epochs:
        if job.threads:
            raise Unsupported("no threads")
        collate = _Collate(job.transform)
        return DataLoader(
            self.rows, batch_size=job.batch_size, shuffle=True, num_workers=job.workers, collate_fn=collate
        )
