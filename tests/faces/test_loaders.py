"""The streaming faces through real DataLoaders, with processes started in every way."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lmdbpipe import LMDBIterableDataset

from .conftest import FileOf
from .helpers import CORES_WARNING, equal, flat, loader, numbers

CROP = v2.Compose([v2.PILToTensor(), v2.RandomCrop(3)])


@pytest.mark.filterwarnings(CORES_WARNING)
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("uneven", ["pad", "drop", "allow"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_same_batches_with_any_number_of_workers(
    file_of: FileOf, persistent: bool, uneven: Any, drop_last: bool
) -> None:
    """Two ranks with 0, 1, 2 and 3 workers: the same augmented batches in two epochs, as many as len says."""

    def epochs(num_workers: int, rank: int) -> list[list[Any]]:
        stream = LMDBIterableDataset(
            file_of(29), batch_size=3, shuffle=True, buffer_size=10, drop_last=drop_last, uneven=uneven,
            rank=rank, world_size=2, transform=CROP,
        )  # fmt: skip
        batches = loader(stream, num_workers, persistent_workers=persistent and num_workers > 0)
        found = [list(batches) for _ in range(2)]
        assert list(map(len, found)) == [len(batches)] * 2 == [len(stream)] * 2
        return found

    for rank in range(2):
        expected = epochs(0, rank)
        assert not equal(*expected)
        workers = (1, 2, 3) if rank == 0 and uneven == "pad" else (2,)
        for num_workers in workers:
            assert equal(expected, epochs(num_workers, rank))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_workers(file_of: FileOf, method: str) -> None:
    """Spawned workers and those of a fork server give what no workers give, epochs advancing, set_epoch heard."""
    streams = [LMDBIterableDataset(file_of(29), batch_size=4, shuffle=True, transform=CROP) for _ in range(2)]
    batches = loader(streams[1], 1, multiprocessing_context=method, persistent_workers=True)
    for epoch in (None, None, 5):
        for stream in streams:
            if epoch is not None:
                stream.set_epoch(epoch)
        assert equal(list(streams[0]), list(batches))


@pytest.mark.parametrize("persistent", [False, True])
def test_set_epoch_reaches_workers(file_of: FileOf, persistent: bool) -> None:
    """Epochs advance by themselves in workers, kept or not, and set_epoch in the main process moves them."""
    stream = LMDBIterableDataset(file_of(60), batch_size=7, shuffle=True)
    expected = [numbers(stream) for _ in range(3)]
    stream.set_epoch(0)
    batches = loader(stream, 2, persistent_workers=persistent)
    assert expected == [numbers(batches) for _ in range(3)]
    stream.set_epoch(1)
    assert expected[1:] == [numbers(batches) for _ in range(2)]


def test_an_epoch_left_early_counts(file_of: FileOf) -> None:
    """A loop that breaks has still begun its epoch; the next pass is the next one, whole."""
    stream = LMDBIterableDataset(file_of(60), batch_size=7, shuffle=True)
    expected = [numbers(stream) for _ in range(3)]
    for num_workers in (0, 2):
        stream.set_epoch(0)
        batches = loader(stream, num_workers)
        next(iter(batches))
        assert expected[1:] == [numbers(batches) for _ in range(2)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_may_make_the_batches(file_of: FileOf, num_workers: int) -> None:
    """Single samples batched by the DataLoader: every sample once, len right where workers' shares divide."""
    stream = LMDBIterableDataset(file_of(60), shuffle=True, transform=v2.PILToTensor())
    options: dict[str, Any] = {"multiprocessing_context": "fork"} if num_workers else {}
    batches = DataLoader(stream, batch_size=10, num_workers=num_workers, **options)
    found = numbers(batches)
    assert (len(found), sorted(flat(found))) == (len(batches), list(range(60)))


def test_worker_batches_belong_to_the_caller(file_of: FileOf) -> None:
    """What workers send is writable, and writing changes nothing else."""
    stream = LMDBIterableDataset(file_of(29), batch_size=8)
    expected = list(stream)
    for images, labels in loader(stream, 2):
        images.fill_(0)
        labels.fill_(-1)
    assert equal(expected, list(loader(stream, 2)))


def test_pickled_datasets_go_on_alone(file_of: FileOf) -> None:
    """A pickle is small, holds no handle, and counts epochs by itself from where it was."""
    stream = LMDBIterableDataset(file_of(60), batch_size=7, shuffle=True)
    expected = [numbers(stream) for _ in range(3)]
    stream.set_epoch(1)
    copy = pickle.loads(pickle.dumps(stream))
    assert expected[1:] == [numbers(copy) for _ in range(2)]
    assert expected[1:] == [numbers(stream) for _ in range(2)]


def test_workers_take_the_rank_of_their_main_process(file_of: FileOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank of torch.distributed, which workers cannot ask, travels with the dataset."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    stream = LMDBIterableDataset(file_of(29), batch_size=4)
    explicit = LMDBIterableDataset(file_of(29), batch_size=4, rank=1, world_size=2)
    assert len(stream) == len(explicit)
    assert numbers(explicit) == numbers(stream) == numbers(loader(stream, 2))
