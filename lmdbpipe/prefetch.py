"""Work done ahead in threads: NumPy, torch and the copies out of the map let other threads run meanwhile."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int, ahead: int | None = None
) -> Generator[Result, None, None]:
    """Apply a function to items in threads, and give the results in the order of the items.

    Items are taken in the caller's thread. Threads end with the iterator; an error is raised where its result would be.

    Args:
        function: What to do; it must be safe to call in several threads at once.
        items: What to do it to.
        num_threads: How many threads; 0 works in the caller's, when asked.
        ahead: How many results may wait; one more than threads by default.
    """
    if num_threads == 0:
        yield from map(function, items)
        return
    rest = iter(items)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="lmdbpipe")
    try:
        first = itertools.islice(rest, num_threads + 1 if ahead is None else ahead)
        waiting: collections.deque[Future[Result]] = collections.deque(pool.submit(function, item) for item in first)
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
