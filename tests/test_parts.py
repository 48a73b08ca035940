"""Parts: what can be asked of a file, and how many samples that makes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lmdbpipe import Part
from lmdbpipe.errors import ConfigError
from lmdbpipe.parts import check_epoch_size, count_parts


def test_counts() -> None:
    """Proportions deal the epoch, repeats are rounded, chosen numbers are taken as they are."""
    by_proportion = [Part("a", proportion=3), Part("b", proportion=1.0)]
    assert count_parts(by_proportion, [60, 20], 10) == (8, 2)
    assert count_parts(by_proportion, [60, 21]) == (61, 20)
    absolute = [Part("a", repeat=2), Part("b", repeat=0.5), Part(Path("c"), choose=100), Part("d", repeat=1.25)]
    assert count_parts(absolute, [10, 5, 7, 6]) == (20, 3, 100, 8)


def test_parts_are_frozen() -> None:
    """A part compares by value, cannot be changed, and takes its options by name only."""
    part = Part("a", choose=3)
    assert part == Part("a", choose=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.choose = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Part("a", 3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a.lmdb: give exactly one of proportion, repeat and choose, not none"),
        ({"repeat": 1, "choose": 3}, "a.lmdb: give exactly one .* not repeat, choose"),
        ({"proportion": 0}, "a.lmdb: proportion must be a finite number above 0, got 0"),
        ({"proportion": float("nan")}, "a.lmdb: proportion must be a finite number above 0, got nan"),
        ({"repeat": float("inf")}, "a.lmdb: repeat must be a finite number above 0, got inf"),
        ({"repeat": "2"}, "a.lmdb: repeat must be a finite number above 0, got '2'"),
        ({"repeat": True}, "a.lmdb: repeat must be a finite number above 0, got True"),
        ({"choose": 1.5}, "a.lmdb: choose must be an integer of at least 1, got 1.5"),
        ({"choose": -1}, "a.lmdb: choose must be an integer of at least 1, got -1"),
    ],
)
def test_wrong_parts_are_refused(options: dict[str, Any], message: str) -> None:
    """A part is checked when it is made, and the error names its file."""
    with pytest.raises(ConfigError, match=message):
        Part("a.lmdb", **options)


def test_what_is_no_path_is_refused() -> None:
    """A part is of a path."""
    with pytest.raises(ConfigError, match="must be a string or a path, not 3"):
        Part(3, choose=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "lengths", "epoch_size", "message"),
    [
        ([Part("a", proportion=1), Part("b", repeat=1)], [5, 5], None, "^b: has no proportion, but other parts have"),
        ([Part("a", repeat=1), Part("b", choose=2)], [5, 5], 10, "^a: has no proportion, which epoch_size"),
        ([Part("a", repeat=1), Part("b", choose=2)], [5, 0], None, "^b: has no samples"),
        ([Part("a", repeat=1), Part("b", repeat=0.01)], [5, 5], None, "^b: none of its 5 samples"),
        ([Part("a", proportion=1e6), Part("b", proportion=1)], [5, 5], None, "^b: none of its 5 samples"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: Any, lengths: Any, epoch_size: Any, message: str) -> None:
    """Errors name the file that is at fault."""
    with pytest.raises(ConfigError, match=message):
        count_parts(parts, lengths, epoch_size)


@pytest.mark.parametrize("epoch_size", [0, -1, 1.5, True, "9"])
def test_wrong_epoch_sizes_are_refused(epoch_size: Any) -> None:
    """An epoch's size is an integer of at least 1."""
    with pytest.raises(ConfigError, match="epoch_size must be an integer of at least 1"):
        check_epoch_size(epoch_size)
