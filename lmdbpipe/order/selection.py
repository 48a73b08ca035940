"""Which samples an epoch is made of: all, some, or some several times.

An order permutes the places of an epoch; a selection says which sample stands at each place, and which copy of it:
where a sample can occur more than once, every occurrence is a copy with a number of its own, so that transforms draw
anew for it. The first one is copy 0, which draws what the sample draws where it occurs once.

Selections are pure: of their settings, and those that draw anew in every epoch (`Weighted`, `Mixture`) of the order's
seed and epoch as well. They are frozen, and stack: each is a selection of the places of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import xxhash

from lmdbpipe.checks import whole
from lmdbpipe.order.base import BaseOrder
from lmdbpipe.order.permute import Int64Array
from lmdbpipe.order.segments import LENGTH_LIMIT

Picked = tuple[Int64Array, Int64Array | None]
"""Samples, int64 ``[n]``, and the number of each one's copy, int64 ``[n]``; None where all are copy 0."""


class Selection(Protocol):
    """What an epoch is made of."""

    @property
    def length(self) -> int:
        """Places of an epoch."""

    @property
    def span(self) -> int:
        """How many samples' room on disk an epoch passes over: with ``length`` it tells how dense its samples lie."""

    @property
    def copies(self) -> int:
        """Numbers of copies are below this."""

    @property
    def is_fixed(self) -> bool:
        """Whether every epoch has the same sample at a place."""

    @property
    def name(self) -> str:
        """Tells it from others over the same files, in few bytes; empty for all samples, once each."""

    def at(self, places: Int64Array, order: BaseOrder) -> Picked:
        """Return what stands at some places of the epoch that ``order`` is of.

        Args:
            places: int64 ``[n]``, each from 0 to ``length - 1``.
            order: Its seed and epoch, and whether it shuffles.
        """


@dataclass(frozen=True)
class Whole:
    """All samples, once each."""

    length: int
    copies = 1
    is_fixed = True
    name = ""

    @property
    def span(self) -> int:
        """All."""
        return self.length

    def at(self, places: Int64Array, order: BaseOrder) -> Picked:
        """Give the places themselves."""
        return places, None


@dataclass(frozen=True, eq=False)
class Chosen:
    """Samples as listed; made by `choose`. Memory: 8 bytes a place, 16 where one occurs again."""

    indices: Int64Array
    numbers: Int64Array | None
    span: int
    is_fixed = True

    @property
    def length(self) -> int:
        """As many as are listed."""
        return len(self.indices)

    @cached_property
    def copies(self) -> int:
        """One more than the highest number."""
        return 1 if self.numbers is None or not self.length else int(self.numbers.max()) + 1

    @cached_property
    def name(self) -> str:
        """A hash of the list."""
        listed = self.indices.tobytes() + (b"" if self.numbers is None else self.numbers.tobytes())
        return xxhash.xxh3_128_hexdigest(listed)

    def at(self, places: Int64Array, order: BaseOrder) -> Picked:
        """Look them up."""
        return self.indices[places], None if self.numbers is None else self.numbers[places]


def choose(selection: Selection, places: Int64Array) -> Chosen:
    """Choose places of a fixed selection, in this order; a place that is listed again gives further copies.

    Args:
        selection: What is chosen from.
        places: int64 ``[n]``, each from 0 to ``selection.length - 1``.

    Cost: O(n log n).
    """
    indices, numbers = selection.at(places, BaseOrder(length=selection.length))
    again = _occurrences(places)
    if again is not None:
        numbers = number(again, selection, numbers)
    return Chosen(indices, numbers, selection.span)


@dataclass(frozen=True)
class Repeated:
    """All of a selection several times, one after the other where the order does not shuffle them.

    Args:
        selection: What is repeated.
        times: How often, 1 or more.

    Raises:
        ConfigError: ``times`` is not an integer of at least 1, or there would be too many samples.
    """

    selection: Selection
    times: int

    def __post_init__(self) -> None:
        most = LENGTH_LIMIT // max(self.selection.length, 1)
        object.__setattr__(self, "times", whole("the number of times", self.times, 1, most))

    @property
    def length(self) -> int:
        """All copies."""
        return self.times * self.selection.length

    @property
    def span(self) -> int:
        """Every copy is read anew."""
        return self.times * self.selection.span

    @property
    def copies(self) -> int:
        """Copies of copies."""
        return self.times * self.selection.copies

    @property
    def is_fixed(self) -> bool:
        """As what is repeated."""
        return self.selection.is_fixed

    @property
    def name(self) -> str:
        """What is repeated, and how often."""
        return f"{self.selection.name}*{self.times}"

    def at(self, places: Int64Array, order: BaseOrder) -> Picked:
        """Find the copy and the place in it."""
        again, places = np.divmod(places, max(self.selection.length, 1))
        indices, numbers = self.selection.at(places, order)
        return indices, number(again, self.selection, numbers)


def number(again: Int64Array, selection: Selection, numbers: Int64Array | None) -> Int64Array:
    """Number copies number ``again`` of what a selection gave, which has ``numbers`` of its own: int64 ``[n]``."""
    first: Int64Array = again * selection.copies
    return first if numbers is None else first + numbers


def _occurrences(values: Int64Array) -> Int64Array | None:
    """Count how often each value stands before itself, int64 ``[n]``; None if nothing occurs twice."""
    ascending = np.argsort(values, kind="stable")
    arranged = values[ascending]
    is_first = np.ones(len(values), dtype=np.bool_)
    is_first[1:] = arranged[1:] != arranged[:-1]
    if is_first.all():
        return None
    numbers = np.arange(len(values), dtype=np.int64)
    result = np.empty(len(values), dtype=np.int64)
    result[ascending] = numbers - np.maximum.accumulate(np.where(is_first, numbers, 0))
    return result
