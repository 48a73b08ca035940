"""What the benchmark asks of a contender: build a dataset once, open it, and give epochs of batches.

An epoch is any iterable; iterating over it again is the next epoch. A batch is ``[images, labels]`` with images
NCHW: uint8 where nothing is transformed, float32 where the train transforms ran. What a contender cannot do it
refuses with [Unsupported][], and the report says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from .data import Source

Epochs = Iterable[Any]
Kind = Literal["ours", "floor", "peer"]


class Unsupported(Exception):
    """The contender has no such thing; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one epoch does."""

    batch_size: int
    transform: Callable[[Any], Any] | None = None
    buffer_size: int = 10_000
    threads: int = 0
    workers: int = 0


class Reader:
    """One built dataset, opened. Every method here refuses; a contender overrides what it has."""

    def sequential(self, job: Job) -> Epochs:
        """Batches in order, nothing transformed."""
        raise Unsupported("no sequential batches")

    def shuffled(self, job: Job) -> Epochs:
        """Batches in another order each epoch, nothing transformed; a buffer of ``job.buffer_size`` suffices."""
        raise Unsupported("no shuffled batches")

    def get(self, indices: Sequence[int]) -> Epochs:
        """One sample after the other by index, in the order given: ``(image, label)`` as the contender has them."""
        raise Unsupported("no access by index")

    def train(self, job: Job) -> Epochs:
        """Shuffled batches with ``job.transform``; with ``job.threads`` threads or ``job.workers`` processes."""
        raise Unsupported("no transforms")

    def loader(self, job: Job) -> Epochs:
        """The same through an unchanged ``DataLoader(dataset, batch_size, shuffle=True)`` over a map-style dataset."""
        raise Unsupported("no map-style wrapper")

    def carry(self, job: Job) -> Epochs:
        """Sequential batches through an unchanged ``DataLoader(stream, batch_size=None)`` with worker processes."""
        raise Unsupported("no batches from worker processes")

    def close(self) -> None:
        """Let go of files."""


class Get:
    """Samples of a map-style dataset, one index after the other."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __iter__(self) -> Iterator[Any]:
        dataset = self.dataset
        for index in self.indices:
            yield dataset[index]


class Contender(Protocol):
    """One way to store and read a dataset."""

    @property
    def name(self) -> str:
        """As the table shows it."""

    @property
    def kind(self) -> Kind:
        """What the figures are to the reader."""

    @property
    def folder(self) -> str:
        """Where it builds; contenders that name the same folder share one build."""

    def available(self) -> str | None:
        """None where it can run (its package is imported then), else why not."""

    def build(self, source: Source, folder: Path) -> None:
        """Write the dataset into an empty folder."""

    def open(self, source: Source, folder: Path) -> Reader:
        """Open what [build][] wrote of ``source``."""


def missing(*modules: str) -> str | None:
    """Import modules; say why the first that fails does."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name.split(".", maxsplit=1)[0]:
                return f"{name} is not installed"
            return f"{name} does not import: {error}"
        except Exception as error:  # a peer may break in any way, and the others go on
            return f"{name} does not import: {type(error).__name__}: {error}"
    return None


def module(name: str) -> Any:
    """A peer's module, untyped: peers are optional and mostly without stubs."""
    return importlib.import_module(name)
