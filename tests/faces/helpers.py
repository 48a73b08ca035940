"""What the tests of the streaming faces share: a small source, simulated workers, and ways to read."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import worker as torch_worker

from lmdbpipe import LMDBIterableDataset

CORES_WARNING = "ignore:This DataLoader will create 3 worker processes"


class Numbered(Dataset[tuple[Image.Image, int]]):
    """Images of 4×6 pixels that differ from each other, with their number as the label."""

    def __init__(self, length: int, first: int = 0) -> None:
        self.length = length
        self.first = first

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        number = self.first + index
        pixels = (np.arange(4 * 6 * 3, dtype=np.int64) * 7 + number * 13) % 251
        return Image.fromarray(pixels.astype(np.uint8).reshape(4, 6, 3)), number


@contextlib.contextmanager
def as_worker(worker: int, num_workers: int, seed: int = 1000) -> Iterator[None]:
    """Be one of a DataLoader's workers, without a process; 0 workers is the main process."""
    before = torch_worker._worker_info
    if num_workers:
        torch_worker._worker_info = torch_worker.WorkerInfo(
            id=worker, num_workers=num_workers, seed=seed + worker, dataset=Numbered(0)
        )
    try:
        yield
    finally:
        torch_worker._worker_info = before


def round_robin(iterators: Iterable[Iterator[Any]]) -> list[Any]:
    """Take an item of each in turn, as a DataLoader asks its workers."""
    missing = object()
    turns = itertools.zip_longest(*iterators, fillvalue=missing)
    return [item for item in itertools.chain.from_iterable(turns) if item is not missing]


def simulate(dataset: LMDBIterableDataset, num_workers: int, seed: int = 1000) -> list[Any]:
    """One pass as a DataLoader with some workers would give it, in this process."""
    iterators = []
    for worker in range(max(num_workers, 1)):
        with as_worker(worker, num_workers, seed):
            iterators.append(iter(dataset))
    return round_robin(iterators)


def loader(dataset: Any, num_workers: int = 0, **options: Any) -> DataLoader[Any]:
    """A DataLoader that hands on what the dataset gives; forks unless told otherwise."""
    if num_workers:
        options.setdefault("multiprocessing_context", "fork")
    return DataLoader(dataset, batch_size=None, num_workers=num_workers, **options)


def numbers(items: Iterable[Any]) -> list[list[int]]:
    """The labels of batches."""
    return [item[1].tolist() for item in items]


def flat(batches: Iterable[Iterable[int]]) -> list[int]:
    """Join batches."""
    return list(itertools.chain.from_iterable(batches))


def equal(left: Any, right: Any) -> bool:
    """Whether two items are the same, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple | list):
        return type(left) is type(right) and len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, Image.Image):
        return (left.mode, left.size, left.tobytes()) == (right.mode, right.size, right.tobytes())
    return type(left) is type(right) and bool(left == right)


def run_jobs(module: str, path: str, folder: Path) -> Path:
    """Run a module of jobs on several ranks, in a process of its own; the folder of what they wrote."""
    command = [sys.executable, "-m", module, path, str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def results(folder: Path, name: str, world_size: int) -> list[Any]:
    """What each rank of a job returned."""
    return [json.loads(Path(folder, f"{name}-{rank}.json").read_text()) for rank in range(world_size)]
