"""The ways in which a file is read: each goes on without end, epoch after epoch, and counts the samples."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lmdbpipe.bench.report import COPY, READ
from lmdbpipe.codecs import ImageCodec
from lmdbpipe.dataset import LMDBDataset
from lmdbpipe.iterable import LMDBIterableDataset
from lmdbpipe.records import Records
from lmdbpipe.steps import fixed_steps
from lmdbpipe.wrapped import Transform, touched

Counts: TypeAlias = Iterator[float]
"""Reads on with every step, without end or for one epoch, and says how many samples that were."""

_THREADS = 2
_BLOCK = 1024**2
_SMALL = 64
"""Up to this many pixels a side, crops are made from a padded border."""
_CROP = 224
_KEPT: dict[str, Any] = {"persistent_workers": True}
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and for how long.

    Attributes:
        batch_size: Samples in a batch.
        workers: Worker processes, where there are any.
        seconds: How long each way is read in all.
        transform: What is applied to images; None takes one that suits them.
        transform_name: What it is called.
    """

    batch_size: int = 256
    workers: int = 2
    seconds: float = 1.0
    transform: Transform | None = None
    transform_name: str = ""


class Way(NamedTuple):
    """A way to read."""

    what: str
    how: str
    parallel: int
    """Batches that are made at once, by threads or processes; 0 if the reader itself makes them."""
    ahead: int
    """Batches that may be ready when a turn begins."""
    open: Callable[[], Counts]


def all_ways(file: Path, length: int, options: Options) -> list[Way]:
    """All ways in which a cached file is read, in the order of the table."""
    size = options.batch_size
    epoch = epoch_sizes(length, size)

    def stream(*, how: str = "inline", **given: Any) -> Counts:
        reader = LMDBIterableDataset(file, batch_size=size, num_threads=_THREADS if how == "threads" else 0, **given)
        if how == "workers":
            return _endless(DataLoader(reader, batch_size=None, num_workers=options.workers, **_KEPT), epoch)
        return _endless(reader, epoch)

    def wrapped(*, how: str) -> Counts:
        dataset = LMDBDataset.from_path(file, transform=options.transform)
        workers: dict[str, Any] = {"num_workers": options.workers, **_KEPT} if how == "workers" else {}
        return _endless(DataLoader(dataset, batch_size=size, shuffle=True, **workers), epoch)

    def each(what: str, opener: Callable[..., Counts], hows: Sequence[str] = ("inline", "threads", "workers")) -> None:
        for how in hows:
            if how == "workers" and not options.workers:
                continue
            parallel = {"inline": 0, "threads": _THREADS, "workers": options.workers}[how]
            ahead = {"inline": 0, "threads": _THREADS + 1, "workers": 2 * options.workers}[how]
            name = how if how == "inline" else f"{parallel} {how}"
            ways.append(Way(what, name, parallel, ahead, functools.partial(opener, how=how)))

    ways = [
        Way(COPY, "inline", 0, 0, functools.partial(_copies, file, length, epoch)),
        Way(READ, "inline", 0, 0, functools.partial(blocks, file, length)),
    ]
    each("stream in order", stream)
    each("stream, shuffled", functools.partial(stream, shuffle=True))
    ways.append(Way("random samples, dataset[i]", "inline", 0, 0, functools.partial(_samples, file, length)))
    if options.transform is not None:
        each("stream, shuffled, transformed", functools.partial(stream, shuffle=True, transform=options.transform))
        each("DataLoader(dataset, shuffle=True), transformed", wrapped, ("inline", "workers"))
    return ways


def epoch_sizes(length: int, batch_size: int) -> list[float]:
    """How many samples each batch of an epoch has."""
    return [float(min(batch_size, length - start)) for start in range(0, length, batch_size)]


def _endless(batches: Iterable[Any], epoch: Sequence[float]) -> Counts:
    """Take epoch after epoch, holding one batch until the next is there, as a training loop does."""
    while True:
        for batch, count in zip(batches, epoch, strict=True):  # noqa: B007
            yield count


def _samples(file: Path, length: int) -> Counts:
    dataset, rng = LMDBDataset.from_path(file), np.random.default_rng(0)
    while True:
        for index in rng.integers(length, size=1024).tolist():
            dataset[index]
            yield 1.0


def _copies(file: Path, length: int, epoch: Sequence[float]) -> Counts:
    """Copy as many bytes for a batch as it has in the file, into fresh memory."""
    memory = np.memmap(file, mode="r").view(np.ndarray)
    ends = (np.cumsum([0.0, *epoch]) * (len(memory) / length)).astype(np.int64).tolist()
    while True:
        for (start, end), count in zip(itertools.pairwise(ends), epoch, strict=True):
            batch = memory[start:end].copy()  # noqa: F841 - held, as a training loop does
            yield count


def blocks(file: Path, length: int, *, once: bool = False) -> Counts:
    """Read the file in blocks; in samples, by its bytes a sample."""
    buffer, per_byte = bytearray(_BLOCK), length / file.stat().st_size
    with file.open("rb", buffering=0) as opened:
        while True:
            while count := opened.readinto(buffer):
                yield count * per_byte
            if once:
                return
            opened.seek(0)


def usual_transform(codec: ImageCodec) -> v2.Compose | None:
    """The transform that most people would train such images with; None for modes of which there is no such custom."""
    channels = _CHANNELS.get(codec.mode or "")
    if channels is None:
        return None
    steps: list[Any] = []
    if codec.size is None:
        steps.append(v2.RandomResizedCrop(_CROP))
    elif max(codec.size) <= _SMALL:
        steps.append(v2.RandomCrop(codec.size, padding=4))
    steps += [v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize([0.5] * channels, [0.25] * channels)])


def with_transform(records: Records, options: Options, notes: list[str]) -> Options:
    """The options with a transform, if the file has images for it."""
    if options.transform is not None:
        return options
    places = touched(fixed_steps(records, _nothing, None, None).steps)
    codecs = zip(records.schema.structure.paths, records.schema.codecs, strict=True)
    images = [codec for path, codec in codecs if path in places and isinstance(codec, ImageCodec)]
    transform = usual_transform(images[0]) if images else None
    if transform is None:
        modes = ", ".join(codec.mode or "several modes" for codec in images)
        reason = f"its images are of {modes}" if images else "there are no images where transforms act"
        notes.append(f"no transform is measured, since {reason}; --transform takes one")
        return options
    name = ", ".join(type(step).__name__ for step in transform.transforms)
    return dataclasses.replace(options, transform=transform, transform_name=name)


def _nothing(image: Any) -> Any:
    return image
