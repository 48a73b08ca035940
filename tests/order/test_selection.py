"""Selections: laws that hold for all of them, and what each gives, against models of a line."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.errors import ConfigError
from lmdbpipe.order import BaseOrder, Mixture, Repeated, Selection, Whole, choose, draw


def pairs(selection: Selection, order: BaseOrder, places: list[int] | None = None) -> list[tuple[int, int]]:
    """Samples with the numbers of their copies."""
    wanted = list(range(selection.length)) if places is None else places
    indices, numbers = selection.at(np.array(wanted, dtype=np.int64), order)
    return list(zip(indices.tolist(), [0] * len(wanted) if numbers is None else numbers.tolist(), strict=True))


@st.composite
def fixed(draws: st.DrawFn, depth: int = 2) -> Selection:
    """All samples, chosen ones or repeated ones, also of each other."""
    kind = draws(st.sampled_from(["whole", "chosen", "repeated"])) if depth else "whole"
    if kind == "whole":
        return Whole(draws(st.integers(1, 30)))
    inner = draws(fixed(depth - 1))
    if kind == "repeated":
        return Repeated(inner, draws(st.integers(1, 4)))
    places = draws(st.lists(st.integers(0, inner.length - 1), min_size=1, max_size=40))
    return choose(inner, np.array(places, dtype=np.int64))


@st.composite
def selections(draws: st.DrawFn) -> Selection:
    """Every kind."""
    kind = draws(st.sampled_from(["fixed", "weighted", "mixture"]))
    if kind == "mixture":
        parts = draws(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30)), min_size=1, max_size=5))
        return Mixture(tuple(length for length, _ in parts), tuple(count for _, count in parts))
    inner = draws(fixed())
    if kind == "fixed":
        return inner
    weights = draws(st.lists(st.integers(0, 3), min_size=inner.length, max_size=inner.length).filter(any))
    return draw(inner, weights, draws(st.integers(1, 50)))


@given(selection=selections(), shuffle=st.booleans(), seed=st.integers(-3, 3), epoch=st.integers(0, 3), data=st.data())
def test_laws(selection: Selection, shuffle: bool, seed: int, epoch: int, data: st.DataObject) -> None:
    """A place's sample does not depend on what else is asked for; no copy occurs twice; numbers stay in their range."""
    order = BaseOrder(length=selection.length, shuffle=shuffle, seed=seed, epoch=epoch)
    everything = pairs(selection, order)
    places = data.draw(st.lists(st.integers(0, selection.length - 1), max_size=10))
    assert [everything[place] for place in places] == pairs(selection, order, places)
    assert len(set(everything)) == len(everything) == selection.length
    assert all(0 <= number < selection.copies for _, number in everything)
    assert selection.span >= 1
    again = pickle.loads(pickle.dumps(selection))
    assert pairs(again, order) == everything
    assert (again.name, again.length, again.span) == (selection.name, selection.length, selection.span)
    other = BaseOrder(length=selection.length, shuffle=not shuffle, seed=seed + 1, epoch=epoch + 1)
    if selection.is_fixed:
        assert pairs(selection, other) == everything
        first = {index: min(number for i, number in everything if i == index) for index, _ in everything}
        assert len(everything) > len(first) or selection.copies > 1 or set(first.values()) == {0}


@given(length=st.integers(1, 9), times=st.integers(1, 4))
def test_repeated(length: int, times: int) -> None:
    """All copy numbers of all samples, one copy after the other; repeating twice multiplies."""
    expected = [(index, copy) for copy in range(times) for index in range(length)]
    order = BaseOrder(length=length * times)
    assert expected == pairs(Repeated(Whole(length), times), order)
    twice = Repeated(Repeated(Whole(length), times), 2)
    assert sorted(pairs(twice, order)) == sorted((i, copy) for i in range(length) for copy in range(2 * times))


@given(places=st.lists(st.integers(0, 9), max_size=40))
def test_chosen(places: list[int]) -> None:
    """As listed; the n-th time that a place is listed is copy n, from 0; without repeats there are no numbers."""
    chosen = choose(Whole(10), np.array(places, dtype=np.int64))
    seen: collections.Counter[int] = collections.Counter()
    for place, (index, number) in zip(places, pairs(chosen, BaseOrder(length=len(places))), strict=True):
        assert (index, number) == (place, seen[place])
        seen[place] += 1
    assert (chosen.numbers is None) == (len(set(places)) == len(places))


def test_names_tell_selections_apart() -> None:
    """Selections of the same length have names of their own, and equal ones the same; all samples have none."""
    twice = Repeated(Whole(6), 2)
    some = np.array([0, 1, 2])
    made: list[Selection] = [
        twice,
        choose(twice, np.arange(12)),
        choose(Whole(6), np.arange(12) % 6),
        choose(Whole(12), np.arange(12)),
        draw(Whole(6), [1] * 6, 12),
        draw(Whole(6), [1, 1, 1, 1, 1, 2], 12),
        draw(Repeated(Whole(3), 2), [1] * 6, 12),
        draw(choose(Whole(6), np.tile(some, 2)), [1] * 6, 12),
        Mixture((3, 3), (6, 6)),
        Mixture((3, 3), (5, 7)),
        Mixture((2, 4), (6, 6)),
    ]
    # The second and third are the same samples and copies, however they were made.
    assert len({selection.name for selection in made}) == len(made) - 1
    assert made[1].name == made[2].name
    assert Whole(6).name == ""
    assert draw(Whole(6), [2] * 6, 12).name == made[4].name


@pytest.mark.parametrize("times", [0, -1, 1.5, True, "2", 2**62])
def test_wrong_times_are_refused(times: int) -> None:
    """Times must be a whole number of at least 1, and not too many."""
    with pytest.raises(ConfigError, match="number of times must be"):
        Repeated(Whole(6), times)
