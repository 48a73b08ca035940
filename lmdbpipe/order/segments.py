"""Sets of positions as disjoint ascending ranges, laid end to end.

What remains of an epoch is usually one range, from a position to the end; where ranks and workers went through ranges
of their own it is several. All functions cost O(number of ranges).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lmdbpipe.checks import whole
from lmdbpipe.errors import ConfigError

LENGTH_LIMIT = 2**62
"""Samples of an epoch, at most: sums of two positions still fit int64."""

Segments = tuple[tuple[int, int], ...]


def make_segments(pairs: Iterable[Sequence[int]], length: int) -> Segments:
    """Return ``(start, stop)`` pairs as segments: empty ones left out, touching ones joined.

    Raises:
        ConfigError: They are not ascending, overlap, or leave ``range(length)``.
    """
    result: list[tuple[int, int]] = []
    end = 0
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ConfigError(f"a segment must be a pair (start, stop), not {pair!r}")
        start = whole("the start of a segment", pair[0], end, length)
        stop = whole("the stop of a segment", pair[1], start, length)
        if start == stop:
            continue
        if result and result[-1][1] == start:
            start = result.pop()[0]
        result.append((start, stop))
        end = stop
    return tuple(result)


def count(segments: Segments) -> int:
    """Return how many positions the segments hold."""
    return sum(stop - start for start, stop in segments)


def cut(segments: Segments, start: int, stop: int) -> Segments:
    """Return the positions number ``start`` to ``stop`` of the segments laid end to end."""
    result = []
    for first, last in segments:
        low, high = max(first, first + start), min(last, first + stop)
        if low < high:
            result.append((low, high))
        size = last - first
        start, stop = start - size, stop - size
        if stop <= 0:
            break
    return tuple(result)


def leave(segments: Segments, taken: Iterable[tuple[int, int]]) -> Segments:
    """Return the segments without ``taken``, disjoint ranges of numbers in the segments laid end to end."""
    result: list[tuple[int, int]] = []
    position = 0
    for start, stop in sorted(taken):
        result.extend(cut(segments, position, start))
        position = max(position, stop)
    result.extend(cut(segments, position, count(segments)))
    return make_segments(result, result[-1][1] if result else 0)


def even_split(total: int, parts: int, part: int) -> tuple[int, int]:
    """Return the range of ``part`` when ``range(total)`` is cut into contiguous parts whose sizes differ by at most 1.

    The first ``total % parts`` parts are the longer ones.
    """
    size, longer = divmod(total, parts)
    start = part * size + min(part, longer)
    return start, start + size + (part < longer)
