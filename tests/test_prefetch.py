"""Results of threads come in order, no more of them than asked for are made ahead, and errors stay in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lmdbpipe.prefetch import map_ahead
from tests.helpers import comes_true


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_results_keep_the_order_of_items(num_threads: int) -> None:
    """Any number of threads gives what `map` does."""
    assert list(map_ahead(lambda x: x * x, range(50), num_threads)) == [x * x for x in range(50)]


def test_work_is_done_ahead_but_not_too_far() -> None:
    """While one result is looked at, the next ones are made; items beyond are not even taken."""
    taken: list[int] = []
    made = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        made.release()
        return item

    results = map_ahead(work, items(), 2, ahead=4)
    assert next(results) == 0
    for _ in range(5):
        made.acquire()
    assert taken == [0, 1, 2, 3, 4]
    results.close()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_error_comes_where_its_result_would(num_threads: int) -> None:
    """Results before it are given; it is raised as it is."""
    results = map_ahead(lambda x: 6 // (3 - x), range(6), num_threads)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_with_the_iterator() -> None:
    """An iterator that is dropped half way leaves no thread behind."""
    before = threading.active_count()
    results = map_ahead(str, range(1000), 3)
    assert next(results) == "0"
    results.close()
    assert comes_true(lambda: threading.active_count() <= before)


def test_closing_waits_for_nobody() -> None:
    """A collector may close it in a thread that has what the others wait for, or in one of its own."""
    lock, begun = threading.Lock(), threading.Semaphore(0)

    def work(item: int) -> int:
        if item:
            begun.release()
            with lock:
                return item
        return item

    results = map_ahead(work, range(10), 2)
    with lock:
        assert next(results) == 0
        begun.acquire()
        results.close()
    inner = map_ahead(str, range(10), 1)
    next(inner)
    assert list(map_ahead(lambda _: inner.close(), range(1), 1)) == [None]
