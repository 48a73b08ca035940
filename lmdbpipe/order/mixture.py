"""Epochs mixed of several parts (files, or groups of files), each with an exact count of samples.

A part of ``length`` samples that gives ``count`` of them is ``count // length`` whole copies, and a rest that is drawn
afresh in every epoch: the part is cut into as many stretches as the rest has samples, from a random point on and around
its end, and each stretch gives one. So the rest is spread over all of the part, no sample stands in it twice, every
sample is in it with the same chance, and it is read in file order; two neighbours are seldom in it together.

Unshuffled, the parts come in turn, each as evenly over the epoch as the others allow: of any first ``n`` samples, a
part has its share to within one for each halving of the list of parts. Shuffled, an order permutes the parts laid one
after the other, so that its blocks are neighbours in a file. Any place is reached in O(number of parts), without
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lmdbpipe.checks import whole
from lmdbpipe.errors import ConfigError
from lmdbpipe.order.base import BaseOrder
from lmdbpipe.order.permute import Int64Array, Purpose, Uint64Array
from lmdbpipe.order.segments import LENGTH_LIMIT
from lmdbpipe.order.selection import Picked
from lmdbpipe.order.words import words_at

_PRODUCT_LIMIT = 2**31
"""Products of two numbers up to here fit int64 twice over; beyond, Python's integers are used."""


@dataclass(frozen=True)
class Mixture:
    """Several parts, which lie one after the other, mixed.

    Args:
        lengths: Samples of each part, 1 or more.
        counts: Samples that each gives to an epoch, 1 or more.

    Raises:
        ConfigError: They are not as many integers in their range.
    """

    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    is_fixed = False

    def __post_init__(self) -> None:
        for name in ("lengths", "counts"):
            checked = tuple(whole(f"each of the {name}", value, 1, LENGTH_LIMIT) for value in getattr(self, name))
            object.__setattr__(self, name, checked)
        if len(self.lengths) != len(self.counts) or not self.counts:
            raise ConfigError(f"each part needs a length and a count, got {len(self.lengths)} and {len(self.counts)}")
        whole("the length of an epoch", self.length, 1, LENGTH_LIMIT)

    @property
    def length(self) -> int:
        """All counts."""
        return sum(self.counts)

    @property
    def span(self) -> int:
        """Every copy passes over its part, and so does the rest."""
        return sum(-(-count // length) * length for length, count in zip(self.lengths, self.counts, strict=True))

    @property
    def copies(self) -> int:
        """One more than the whole copies of the part that is repeated most."""
        return 1 + max(count // length for length, count in zip(self.lengths, self.counts, strict=True))

    @property
    def name(self) -> str:
        """A hash of the numbers."""
        return f"mixed {xxhash.xxh3_64_hexdigest(repr((self.lengths, self.counts)).encode())}"

    def at(self, places: Int64Array, order: BaseOrder) -> Picked:
        """Find each place's part, copy and sample."""
        lengths, counts, starts, firsts = self._tables
        if order.shuffle:
            parts = np.searchsorted(firsts, places, side="right") - 1
            offsets = places - firsts[parts]
        else:
            parts, offsets = self._in_turn(places)
        numbers, rows = np.divmod(offsets, lengths[parts])
        where = np.flatnonzero(numbers == counts[parts] // lengths[parts])
        if where.size:
            own = parts[where]
            rests = counts[own] % lengths[own]
            # Each place has a word of its own, and so has each part.
            settings: dict[str, Any] = {"purpose": Purpose.PARTS, "seed": order.seed, "epoch": order.epoch}
            words = words_at(firsts[own] + offsets[where], stream=0, **settings)
            turns = words_at(own, stream=1, **settings)
            rows[where] = _spread(rows[where], lengths[own], rests, words, turns)
        return starts[parts] + rows, numbers

    @cached_property
    def _tables(self) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """Each part's length and count, its first sample, and the first of its places where parts lie in a row."""
        lengths, counts = (np.array(numbers, dtype=np.int64) for numbers in (self.lengths, self.counts))
        return lengths, counts, np.cumsum(lengths) - lengths, np.cumsum(counts) - counts

    def _in_turn(self, places: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Find each place's part, and its number among the places of that part, where parts come in turn."""
        parts, offsets = np.empty_like(places), np.empty_like(places)
        left = [(np.arange(len(places)), places, 0, len(self.counts))]
        while left:
            where, numbers, low, high = left.pop()
            if not where.size:
                continue
            if high - low == 1:
                parts[where], offsets[where] = low, numbers
                continue
            middle = (low + high) // 2
            before, is_first = _taken(numbers, sum(self.counts[low:middle]), sum(self.counts[low:high]))
            left.append((where[is_first], before[is_first], low, middle))
            left.append((where[~is_first], (numbers - before)[~is_first], middle, high))
        return parts, offsets


def _taken(numbers: Int64Array, count: int, total: int) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
    """Spread ``count`` of ``total`` places evenly: how many lie before each, and whether it is one of them, bool."""
    exact = numbers if total < _PRODUCT_LIMIT else numbers.astype(object)
    before = (exact * count + total // 2) // total
    after = ((exact + 1) * count + total // 2) // total
    return before.astype(np.int64), (after > before).astype(np.bool_)


def _spread(
    numbers: Int64Array, lengths: Int64Array, counts: Int64Array, words: Uint64Array, turns: Uint64Array
) -> Int64Array:
    """Draw ``counts`` of ``lengths`` samples without replacement, each with the same chance, in order but for one wrap.

    Args:
        numbers: Which of its part's draws each is: int64 ``[n]``, from 0 to ``counts - 1``.
        lengths: Samples that its part has, int64 ``[n]``.
        counts: Draws of its part, int64 ``[n]``, from 1 to ``lengths``.
        words: A random word for each draw, uint64 ``[n]``.
        turns: A random word for each draw's part, uint64 ``[n]``.

    Returns:
        int64 ``[n]``, each from 0 to ``lengths - 1``.
    """
    sizes, longer = np.divmod(lengths, counts)  # the first stretches are longer by one
    starts = numbers * sizes + np.minimum(numbers, longer)
    inside = (words % (sizes + (numbers < longer)).astype(np.uint64)).view(np.int64)
    turned: Int64Array = (turns % lengths.astype(np.uint64)).view(np.int64)
    return (starts + inside + turned) % lengths


def apportion(total: int, proportions: Sequence[float]) -> tuple[int, ...]:
    """Deal ``total`` by proportions, exactly: each gets its share rounded down, those cut the most get one more.

    This is the method of largest remainders; of equal remainders the earlier one counts as larger.

    Args:
        total: 0 or more.
        proportions: Finite numbers above 0, taken as they are, without rounding.
    """
    exact = [Fraction(proportion) for proportion in proportions]
    shares = [total * proportion / sum(exact) for proportion in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda part: counts[part] - shares[part])
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    return tuple(counts)
