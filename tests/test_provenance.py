"""Provenance: what tells one build from another."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.encode import Encoder
from lmdbpipe.provenance import differences, provenance
from lmdbpipe.source import as_source
from tests.helpers import Listed, Pictures, Stream


def describe(dataset: Any, db_transform: Any = None, **options: Any) -> dict[str, Any]:
    """The provenance of a build."""
    source = as_source(dataset)
    defaults = {"channels_first": True, "rounds": 1, "shuffle": False, "seed": 0}
    encoder = Encoder.of(source, db_transform=db_transform, **{**defaults, **options})
    return provenance(source, encoder, db_transform)


def test_equal_builds_have_equal_fingerprints() -> None:
    """The fingerprint is the same each time, for map-style datasets and iterables, and no matter the live transform."""
    for make in (lambda: Pictures(10), lambda: Stream(Pictures(10)), lambda: [1, 2], lambda: iter([1, 2])):
        one, other = describe(make()), describe(make())
        assert one["fingerprint"] == other["fingerprint"]
        assert differences(one, other) == []
    live = describe(Pictures(10, transform=v1.ToTensor()))
    assert live["fingerprint"] == describe(Pictures(10))["fingerprint"]


def test_different_builds_say_what_differs() -> None:
    """Class, length, samples, transform, its seed, rounds and shuffle each change the fingerprint, and are named."""
    one = describe(Pictures(10))
    others = {
        "its source": describe(Listed([Pictures(10)[k] for k in range(10)])),
        "the source's length": describe(Pictures(11)),
        "the hash of some raw samples": describe(Pictures(10, lambda _: ("L", (8, 8)))),
        "db_transform": describe(Pictures(10), v1.Resize(3)),
        "rounds": describe(Pictures(10), rounds=2),
        "the shuffle seed": describe(Pictures(10), shuffle=True),
    }
    assert len({other["fingerprint"] for other in others.values()} | {one["fingerprint"]}) == 7
    for name, other in others.items():
        assert any(text.startswith(name) for text in differences(one, other))


class RandomInside(Dataset[Any]):
    """Draws random numbers itself."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3)


def test_random_sources_are_told_apart_from_others_only() -> None:
    """A source, map-style or iterable, that draws random numbers has one fingerprint, whatever was drawn before."""
    for make in (RandomInside, lambda: Stream(RandomInside())):
        torch.manual_seed(1)
        one = describe(make())
        torch.manual_seed(2)
        assert one["fingerprint"] == describe(make())["fingerprint"]


def test_addresses_do_not_count() -> None:
    """A repr that shows where an object lies in memory is compared without it."""
    one, other = describe([1], lambda value: value), describe([1], lambda value: value)
    assert " at 0x" not in one["db_transform"]
    assert differences(one, other) == []


def least(bound: int, value: int) -> int:
    """Bound a value."""
    return max(bound, value)


class Times:
    """A transform that does not show its factor."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, value: Any) -> Any:
        """Multiply."""
        return value * self.factor


@pytest.mark.parametrize("make", [list, Stream], ids=["map-style", "iterable"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda value: value, lambda value: -value),
        (Times(2), Times(3)),
        (v1.Compose([Times(2)]), v1.Compose([Times(3)])),
        (lambda value: value + random.random(), lambda value: value - random.random()),
        (v1.Lambda(abs), v1.Lambda(lambda value: 2 * value)),
        (v2.Compose([v2.Lambda(lambda value: value)]), v2.Compose([v2.Lambda(lambda value: 2 * value)])),
        (functools.partial(least, 1), functools.partial(least, 5)),
        (v1.Compose([v1.Resize(3)] * 100), v1.Compose([*[v1.Resize(3)] * 99, v1.Resize(4)])),
    ],
    ids=["lambda", "class", "Compose", "random", "Lambda", "v2.Lambda", "partial", "long"],
)
def test_changed_transforms_are_told_apart(make: Any, one: Any, other: Any) -> None:
    """Transforms that look equal are told apart by what they make of samples, or by all of their repr."""
    found = describe(make([3, 4, 5]), one)
    assert found["db_transform"]
    assert differences(found, describe(make([3, 4, 5]), one)) == []
    assert differences(found, describe(make([3, 4, 5]), other)) != []
    assert found["fingerprint"] != describe(make([3, 4, 5]), other)["fingerprint"]


def test_transforms_that_cannot_be_told_apart() -> None:
    """A transform that draws from a generator of its own, or that raises, differs from nothing that looks like it."""
    own = random.Random(1)
    found = describe([3, 4, 5], lambda value: value + own.random())
    assert differences(found, describe([3, 4, 5], lambda value: value + own.random())) == []
    assert describe([3, 4, 5], lambda value: value / 0)["fingerprint"]


def test_files_of_earlier_versions_are_recognised() -> None:
    """What has no hash of a transform's output or whole repr is compared without; a repr that shows all needs none."""
    for transform in (Times(2), v1.Compose([v1.Resize(3)] * 100)):
        now = describe([3, 4, 5], transform)
        before = {key: now[key] for key in now if key not in ("db_transform_repr", "db_transform_output")}
        assert before != now
        assert differences(before, now) == []
    assert not {"db_transform_repr", "db_transform_output"} & describe(Pictures(10), v1.Resize(3)).keys()
    assert describe(Pictures(10))["fingerprint"] == "b373216a576a625d6b0d817f595a95b3"


def test_samples_that_cannot_be_stored_raw_do_not_count() -> None:
    """What only db_transform makes storable is no error here."""
    assert describe([object()], lambda _: 1)["samples"] is not None


def test_provenance_is_json() -> None:
    """Everything in it goes through JSON, and names the versions that wrote it."""
    described = describe(Pictures(3, transform=v1.ToTensor()), v1.Resize(3))
    assert json.loads(json.dumps(described)) == described
    assert described["transforms"] == {"transform": [[0]]}
    assert described["versions"]["torch"] == torch.__version__.split("+")[0] or described["versions"]["torch"]
