"""Mixtures: exact counts, whole copies and a spread rest, parts in turn, pinned."""

from __future__ import annotations

import collections
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmdbpipe.errors import ConfigError
from lmdbpipe.order import BaseOrder, Mixture, apportion, mixture

PARTS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 40)), min_size=1, max_size=7)


def drawn(selection: Mixture, *, shuffle: bool = False, seed: int = 0, epoch: int = 0) -> tuple[Any, Any]:
    """All samples of an epoch with the numbers of their copies, in the order of places."""
    order = BaseOrder(length=selection.length, shuffle=shuffle, seed=seed, epoch=epoch)
    indices, numbers = selection.at(np.arange(selection.length), order)
    return indices, numbers


def rest(length: int, count: int, *, seed: int = 0, epoch: int = 0) -> Any:
    """What a part gives beyond whole copies: fewer than its samples."""
    return drawn(Mixture((length,), (length + count,)), seed=seed, epoch=epoch)[0][length:]


def parts_of(selection: Mixture, indices: Any) -> Any:
    """The part that each sample is of."""
    return np.searchsorted(np.cumsum(selection.lengths), indices, side="right")


@given(parts=PARTS, shuffle=st.booleans(), epoch=st.integers(0, 9))
def test_counts_are_exact(parts: list[tuple[int, int]], shuffle: bool, epoch: int) -> None:
    """Every part gives its count; each of its samples occurs so often, rounded down or up; rests are no repeats."""
    selection = Mixture(tuple(length for length, _ in parts), tuple(count for _, count in parts))
    indices, _ = drawn(selection, shuffle=shuffle, epoch=epoch)
    assert np.bincount(parts_of(selection, indices), minlength=len(parts)).tolist() == list(selection.counts)
    times = collections.Counter(indices.tolist())
    start = 0
    for length, count in parts:
        occurred = {times[index] for index in range(start, start + length)}
        assert occurred <= {count // length, -(-count // length)}
        start += length
    assert sorted(indices.tolist()) == sorted(drawn(selection, shuffle=not shuffle, epoch=epoch)[0].tolist())


@given(parts=PARTS)
def test_parts_come_in_turn(parts: list[tuple[int, int]]) -> None:
    """Unshuffled, each part has its share of any first samples, to within one a halving; whole copies in file order."""
    selection = Mixture(tuple(length for length, _ in parts), tuple(count for _, count in parts))
    indices, numbers = drawn(selection)
    found = parts_of(selection, indices)
    bound = max(1, math.ceil(math.log2(len(parts))))
    for part, count in enumerate(selection.counts):
        before = np.cumsum(found == part)
        even = np.arange(1, selection.length + 1) * count / selection.length
        assert np.abs(before - even).max() <= bound
        own, copies = indices[found == part], numbers[found == part]
        assert np.all(np.diff(copies) >= 0)
        for copy in range(count // selection.lengths[part]):
            assert np.all(np.diff(own[copies == copy]) == 1)


@given(parts=PARTS)
def test_shuffled_parts_lie_together(parts: list[tuple[int, int]]) -> None:
    """Shuffled orders get the parts one after the other, so that blocks are neighbours in a file."""
    selection = Mixture(tuple(length for length, _ in parts), tuple(count for _, count in parts))
    assert np.all(np.diff(parts_of(selection, drawn(selection, shuffle=True)[0])) >= 0)


def test_huge_epochs_take_turns_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where products leave int64, whole numbers of any size give the same; places far out are right."""
    selection = Mixture((7, 9, 4), (30, 3, 17))
    expected = [part.tolist() for part in drawn(selection)]
    monkeypatch.setattr(mixture, "_PRODUCT_LIMIT", 1)
    assert [part.tolist() for part in drawn(selection)] == expected
    huge = Mixture((2**40, 2**40), (2**60, 3 * 2**60))
    indices, numbers = huge.at(np.arange(2**62 - 4, 2**62), BaseOrder(length=2**62))
    assert numbers is not None
    assert parts_of(huge, indices).tolist().count(1) == 3
    assert numbers.max() == 3 * 2**20 - 1


@given(length=st.integers(2, 60), data=st.data(), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_a_spread_is_without_replacement(length: int, data: st.DataObject, seed: int, epoch: int) -> None:
    """As many different samples as are drawn, rising but for one wrap, none far from the next."""
    count = data.draw(st.integers(1, length - 1))
    found = rest(length, count, seed=seed, epoch=epoch)
    assert len(set(found.tolist())) == count
    assert 0 <= found.min() <= found.max() < length
    gaps = np.diff(found, append=found[:1] + length) % length
    assert (np.diff(found) < 0).sum() <= 1
    assert count == 1 or gaps.max() < 2 * -(-length // count)


@pytest.mark.parametrize(("length", "count"), [(10, 3), (10, 9), (7, 1), (64, 32)])
def test_every_sample_has_the_same_chance(length: int, count: int) -> None:
    """Over many epochs all samples are drawn equally often (chi-square), and epochs differ."""
    epochs = 1_500
    drawings = [rest(length, count, epoch=epoch) for epoch in range(epochs)]
    found = np.bincount(np.concatenate(drawings), minlength=length)
    expected = epochs * count / length
    assert ((found - expected) ** 2 / expected).sum() < length + 5 * (2 * length) ** 0.5
    assert len({tuple(sorted(drawing.tolist())) for drawing in drawings}) >= min(length, 50)


def test_parts_and_seeds_draw_rests_of_their_own() -> None:
    """Equal parts choose differently, and so does each part with another seed or epoch."""
    selection = Mixture((1000, 1000), (100, 100))
    rests = set()
    for seed, epoch in ((0, 0), (1, 0), (0, 1)):
        indices, _ = drawn(selection, shuffle=True, seed=seed, epoch=epoch)
        rests |= {tuple(indices[:100].tolist()), tuple((indices[100:] - 1000).tolist())}
    assert len(rests) == 6


def test_mixtures_are_pinned() -> None:
    """These samples must never change: states of older versions rely on them."""
    selection = Mixture((10, 5, 30), (7, 12, 3))
    in_turn, shuffled = drawn(selection)[0].tolist(), drawn(selection, shuffle=True, seed=-1, epoch=3)[0].tolist()
    assert in_turn[:12] == [10, 8, 11, 40, 9, 12, 13, 2, 14, 10, 3, 22]
    assert shuffled[:12] == [5, 8, 9, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert shuffled[-3:] == [20, 33, 18]


@given(
    total=st.integers(0, 10**12),
    proportions=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=8),
)
@example(total=10, proportions=[1, 1, 1])
def test_apportion(total: int, proportions: list[float]) -> None:
    """Counts add up, none is a whole sample from its exact share, and who got one more had no smaller remainder."""
    counts = apportion(total, proportions)
    exact = [Fraction(share) * total / sum(map(Fraction, proportions)) for share in proportions]
    assert sum(counts) == total
    assert all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))
    pairs = [(count - math.floor(share), share % 1) for count, share in zip(counts, exact, strict=True)]
    up, down = ([left for more, left in pairs if more == kind] for kind in (1, 0))
    assert min(up, default=Fraction(1)) >= max(down, default=Fraction(0))


def test_equal_remainders_go_to_the_first() -> None:
    """Three equal shares of ten."""
    assert apportion(10, [1, 1, 1]) == (4, 3, 3)
    assert apportion(100, [0.7, 0.2, 0.1]) == (70, 20, 10)


@pytest.mark.parametrize(
    ("lengths", "counts"), [((), ()), ((1,), (1, 1)), ((0,), (1,)), ((1,), (0,)), ((1.5,), (1,)), ((1, 1), (2**62, 1))]
)
def test_wrong_mixtures_are_refused(lengths: Any, counts: Any) -> None:
    """As many lengths as counts, whole numbers above 0, and an epoch that can be counted."""
    with pytest.raises(ConfigError):
        Mixture(lengths, counts)
