"""Segments against plain lists of positions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.errors import ConfigError
from lmdbpipe.order.segments import Segments, count, cut, even_split, leave, make_segments

BOUNDS = st.lists(st.integers(0, 60), max_size=10).map(sorted)


def listed(segments: Segments) -> list[int]:
    """Return the positions one by one."""
    return [position for start, stop in segments for position in range(start, stop)]


@given(bounds=BOUNDS, start=st.integers(0, 70), size=st.integers(0, 70))
def test_cut_is_a_slice(bounds: list[int], start: int, size: int) -> None:
    """Cutting segments is slicing their positions; joined segments hold the same positions."""
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    segments = make_segments(pairs, 60)
    positions = listed(tuple(pairs))
    assert positions == listed(segments)
    assert len(positions) == count(segments)
    assert positions[start : start + size] == listed(cut(segments, start, start + size))
    assert all(a[1] < b[0] for a, b in pairwise(segments))


@given(bounds=BOUNDS, taken=BOUNDS)
def test_leave_takes_ranges_out(bounds: list[int], taken: list[int]) -> None:
    """What is left is what no taken range holds; ranges past the end take nothing."""
    segments = make_segments(zip(bounds[::2], bounds[1::2], strict=False), 60)
    ranges = list(zip(taken[::2], taken[1::2], strict=False))
    gone = {number for start, stop in ranges for number in range(start, stop)}
    expected = [position for number, position in enumerate(listed(segments)) if number not in gone]
    assert expected == listed(leave(segments, ranges))


@given(total=st.integers(0, 100), parts=st.integers(1, 20))
def test_even_split_covers_in_order(total: int, parts: int) -> None:
    """The parts are contiguous, cover everything, and differ by at most one, the longer ones first."""
    ranges = [even_split(total, parts, part) for part in range(parts)]
    sizes = [stop - start for start, stop in ranges]
    assert list(range(total)) == listed(tuple(ranges))
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "pairs", [[(0, 11)], [(-1, 3)], [(3, 2)], [(0, 5), (4, 6)], [(5, 6), (0, 1)], [(1,)], ["ab"], [(0, 1.5)]]
)
def test_bad_segments_are_refused(pairs: list[tuple[int, int]]) -> None:
    """Segments that overlap, go back, leave the range or are no pairs of integers are refused."""
    with pytest.raises(ConfigError, match="segment"):
        make_segments(pairs, 10)
