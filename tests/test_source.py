"""Sources: map-style datasets by index, iterables one after the other."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from torch.utils.data.datapipes.iter import IterableWrapper

from lmdbpipe.errors import ConfigError, SourceError
from lmdbpipe.source import IterableSource, MapSource, as_source
from tests.helpers import Listed, OneShot, Pictures, Stream, same


class OnlyGetItem(Dataset[Any]):
    """A dataset that has no length: it ends by IndexError."""

    def __getitem__(self, index: int) -> Any:
        if index >= 3:
            raise IndexError(index)
        return index


class Both(IterableDataset[Any]):
    """An iterable that also can be indexed."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return index

    def __iter__(self) -> Iterator[Any]:
        return iter("ab")


class Transformed(Pictures):
    """Also has a target transform that says where it acts."""


def test_map_style_is_recognised() -> None:
    """What has ``__getitem__`` and ``__len__`` is read by index, also inside an IterableWrapper."""
    datasets: list[Any] = [Pictures(3), [1, 2], (1, 2), torch.zeros(3, 2), IterableWrapper(Listed([1, 2]))]  # type: ignore[arg-type]
    for dataset in datasets:
        assert type(as_source(dataset)) is MapSource
    assert as_source(IterableWrapper([1, 2, 3])).length == 3


def test_iterables_are_recognised() -> None:
    """Generators, sets, iterable datasets and datasets without a length are read one sample after the other."""
    datasets: list[Any] = [iter([1]), {1, 2}, Stream([1]), Both(), OnlyGetItem(), IterableWrapper(iter([1]))]
    for dataset in datasets:
        source = as_source(dataset)
        assert type(source) is IterableSource
        assert source.length is None
    assert list(IterableSource(OnlyGetItem())) == [0, 1, 2]
    assert list(IterableSource(Both())) == ["a", "b"]


def test_samples_are_raw() -> None:
    """A map-style source gives samples without the dataset's transforms, and says where those act."""
    source = MapSource(Pictures(3, transform=lambda picture: picture.rotate(90)))
    assert same(Pictures(3)[1], source.fetch(1))
    assert source.transform_paths() == {"transform": ((0,),)}
    assert callable(source.live_transform())


def test_probes_are_spread() -> None:
    """A few samples tell a source from others: the first and last among them, all of a small one, each once."""
    for length, expected in ((1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (100, [0, 33, 66, 99])):
        assert MapSource(list(range(length))).probe() == expected
    assert MapSource([]).probe() == []


def test_probing_uses_nothing_up() -> None:
    """An iterable that can be read but once is not probed; another gives all its samples afterwards."""
    source = IterableSource(iter([1, 2, 3]))
    assert source.probe() == []
    assert list(source) == [1, 2, 3]
    for dataset in (
        Stream(list(range(10))),
        OneShot(range(10)),
        IterableWrapper(iter(range(10)), deepcopy=False).map(abs),
    ):
        source = IterableSource(dataset)
        assert source.probe() == source.probe() == [0, 1, 2, 3]
        assert list(source) == list(range(10))


def failing() -> Iterator[int]:
    """Raises after two samples."""
    yield 0
    yield 1
    raise OSError("gone")


def test_errors_name_the_sample_and_keep_the_cause() -> None:
    """What the dataset raises becomes a SourceError with the sample's index, and stays its cause."""
    with pytest.raises(SourceError, match=r"^sample 5: list raised IndexError: ") as caught:
        MapSource([1, 2]).fetch(5)
    assert type(caught.value.__cause__) is IndexError
    with pytest.raises(SourceError, match=r"^sample 2: generator raised OSError: gone") as caught:
        list(IterableSource(failing()))
    assert type(caught.value.__cause__) is OSError


def test_what_is_no_dataset() -> None:
    """What can be neither indexed nor iterated over is refused."""
    with pytest.raises(ConfigError, match="a int is no dataset"):
        as_source(5)


def test_generators_are_read_once() -> None:
    """What needs a second reading is refused for a generator, and fine for others."""
    with pytest.raises(ConfigError, match="rounds needs a source that can be read again"):
        IterableSource(failing()).require_repeatable("rounds")
    IterableSource(Stream([1])).require_repeatable("rounds")


def test_sources_travel_without_transforms() -> None:
    """A map-style source goes to worker processes raw: its transforms need not pickle."""
    source = MapSource(Pictures(3, transform=lambda picture: picture))
    again = pickle.loads(pickle.dumps(source))
    assert same(source.fetch(2), again.fetch(2))
    assert again.length == 3
