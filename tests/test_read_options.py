"""How batches are read changes how fast they come, not what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.datapipes.iter import IterableWrapper
from torchvision import transforms as v1
from torchvision.datasets import FakeData

from lmdbpipe import LMDBIterableDataset, LMDBReader, build
from lmdbpipe.errors import ConfigError
from tests.transforms.helpers import without_numba

AUGMENT = v1.Compose([v1.RandomCrop(12), v1.ColorJitter(0.3), v1.RandomHorizontalFlip(), v1.ToTensor()])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of 16×16."""
    path = tmp_path_factory.mktemp("read") / "fake.lmdb"
    build(FakeData(60, (3, 16, 16), 10), path, progress=False)
    return path


def assert_equal(expected: list[Any], actual: list[Any]) -> None:
    """Compare lists of batches of images and labels bit for bit."""
    assert len(expected) == len(actual)
    for (images, labels), (other_images, other_labels) in zip(expected, actual, strict=True):
        assert type(other_images) is torch.Tensor
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_threads_and_workers_give_the_same_batches(num_threads: int, num_workers: int, path: Path) -> None:
    """Bit for bit, augmentations included, for two epochs, whatever mix of threads and processes reads."""
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "transform": AUGMENT}
    alone = LMDBIterableDataset(path, **options)
    method = "fork" if num_workers else None
    reader = LMDBIterableDataset(path, num_threads=num_threads, **options)
    loader = DataLoader(reader, batch_size=None, num_workers=num_workers, multiprocessing_context=method)
    for _ in range(2):
        assert_equal(list(alone), list(loader))


def test_a_thread_that_fails_says_so_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transform's own error comes where its batch would, and the iterator ends cleanly."""
    monkeypatch.setattr("lmdbpipe.pipeline.Pipeline._takes_generators", lambda *_: False)  # a step that draws nothing
    count = iter(range(1000))

    def breaks(image: Any) -> torch.Tensor:
        if next(count) >= 20:
            raise KeyError("broken image")
        return torch.zeros(1)

    batches = iter(LMDBIterableDataset(path, batch_size=10, transform=breaks, num_threads=2))
    taken: list[Any] = []

    def take(batches: Iterator[Any]) -> None:
        taken.extend(batches)

    with pytest.raises(KeyError, match="broken image"):
        take(batches)


def test_inexact_resizing_is_close(path: Path) -> None:
    """With `exact=False` the crops are the same ones, and the values differ by little."""
    transform = v1.Compose([v1.RandomResizedCrop(8), v1.PILToTensor()])
    options: dict[str, Any] = {"batch_size": 60, "transform": transform}
    ((exact, _),) = LMDBIterableDataset(path, **options)
    with without_numba():
        ((close, _),) = LMDBIterableDataset(path, exact=False, **options)
    difference = (exact.float() - close.float()).abs()
    assert 0 < difference.max() <= 2
    assert difference.mean() < 0.5


def test_the_pipe_takes_the_same_options(path: Path) -> None:
    """The DataPipe face reads by the same options, and gives the same batches."""
    options: dict[str, Any] = {"batch_size": 8, "transform": AUGMENT}
    pipe = IterableWrapper([str(path)]).read_lmdb(num_threads=2, lower=True, exact=True, **options)
    assert_equal(list(LMDBIterableDataset(path, **options)), list(pipe))


@pytest.mark.parametrize("option", [{"num_threads": -1}, {"num_threads": 1.5}, {"lower": 1}, {"exact": None}])
def test_wrong_options(option: dict[str, Any], path: Path) -> None:
    """Each is named at once, on every streaming face."""
    for face in (LMDBIterableDataset, LMDBReader):
        with pytest.raises(ConfigError, match=next(iter(option))):
            face(path, batch_size=8, **option)
