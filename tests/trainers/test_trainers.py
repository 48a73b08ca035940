"""The README's recipes for trainers, with real ranks: nothing is dealt twice, lengths are right, epochs resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.transforms import v2

from lmdbpipe import LMDBDataset, LMDBIterableDataset

from ..faces.conftest import FileOf, file_of
from ..faces.helpers import flat, numbers, results, run_jobs

__all__ = ["file_of"]
LENGTH = 29
LIGHTNING = [(1, 0), (2, 0), (2, 2)]


@pytest.fixture(scope="module")
def jobs(file_of: FileOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what all jobs wrote."""
    return run_jobs("tests.trainers.jobs", file_of(LENGTH), tmp_path_factory.mktemp("trainers"))


def dealt(path: str, batch_size: int, world_size: int) -> list[list[list[list[int]]]]:
    """The labels that each rank should get, epoch by epoch."""
    streams = [
        LMDBIterableDataset(
            path, batch_size=batch_size, shuffle=True, buffer_size=10, seed=3, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    return [[numbers(stream) for _ in range(3)] for stream in streams]


@pytest.mark.parametrize("checkpoints", ["steps", "epochs"])
@pytest.mark.parametrize(("world_size", "num_workers"), LIGHTNING)
def test_lightning(jobs: Path, file_of: FileOf, world_size: int, num_workers: int, checkpoints: str) -> None:
    """Every rank gets its own batches, as many as Lightning expects; from any checkpoint the same bits follow."""
    for rank, expected in enumerate(dealt(file_of(LENGTH), 6, world_size)):
        found = results(jobs, f"lightning-{world_size}-{num_workers}", world_size)[rank][checkpoints]
        assert found["length"] == len(expected[0])
        wanted = [[epoch, labels] for epoch in range(3) for labels in expected[epoch]]
        assert [batch[:2] for batch in found["batches"]] == wanted
        assert len(found["resumed"]) == (2 if checkpoints == "epochs" else len(wanted) - 3)
        for step, resumed in found["resumed"].items():
            assert resumed == {"batches": found["batches"][int(step) :], "length": found["length"]}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate(jobs: Path, file_of: FileOf, num_workers: int) -> None:
    """Every rank gets its own batches, the last one known to Accelerate; after any batch the same bits follow."""
    for rank, expected in enumerate(dealt(file_of(LENGTH), 4, 2)):
        found = results(jobs, f"accelerate-{num_workers}", 2)[rank]
        epochs, length = found["epochs"], found["length"]
        assert length == len(expected[0])
        assert [[batch[1] for batch in epoch] for epoch in epochs] == expected[:2]
        assert len(found["resumed"]) == 2 * length
        for number, resumed in enumerate(found["resumed"]):
            epoch, step = divmod(number, length)
            assert resumed == [epochs[epoch][step + 1 :], *epochs[epoch + 1 :]]


def test_the_dispatcher_of_accelerate(jobs: Path, file_of: FileOf) -> None:
    """A stream that is the only rank may go through the dispatcher: each process gets other batches of the epoch."""
    ranks = results(jobs, "dispatched", 2)
    (expected,) = dealt(file_of(LENGTH), 4, 1)
    found = [batch[1] for step in zip(*ranks, strict=True) for batch in step]
    assert flat(found)[:LENGTH] == flat(expected[0])


def test_the_map_style_face_in_accelerate(jobs: Path) -> None:
    """Accelerate deals a map-style dataset by its own samplers: all samples, those at the end repeated."""
    ranks = results(jobs, "map", 2)
    assert len(ranks[0]) == len(ranks[1])
    assert set(flat(batch[1] for rank in ranks for batch in rank)) == set(range(LENGTH))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_distributed_samplers(file_of: FileOf, num_workers: int) -> None:
    """DistributedSampler over the map-style face: what it says, each epoch anew, in whole batches."""
    dataset = LMDBDataset.from_path(file_of(LENGTH), transform=v2.PILToTensor())
    options: dict[str, Any] = {"multiprocessing_context": "fork"} if num_workers else {}
    epochs = []
    for epoch in range(2):
        seen = []
        for rank in range(2):
            sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=2, rank=rank)
            sampler.set_epoch(epoch)
            batches: DataLoader[Any] = DataLoader(
                dataset, batch_size=4, sampler=sampler, num_workers=num_workers, **options
            )
            found = flat(numbers(batches))
            assert (found, len(batches)) == (list(sampler), 4)
            seen += found
        assert (len(seen), set(seen)) == (30, set(range(LENGTH)))
        epochs.append(seen)
    assert epochs[0] != epochs[1]
