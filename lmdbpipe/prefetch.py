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

    Items are taken in the caller's thread. An error is raised where its result would be. Threads end with the iterator;
    where it is given up, after what they are at: it may be a garbage collection that closes it, in one of them or while
    they wait for the thread that it runs in, so nobody waits.

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
    ended = False
    try:
        first = itertools.islice(rest, num_threads + 1 if ahead is None else ahead)
        waiting: collections.deque[Future[Result]] = collections.deque(pool.submit(function, item) for item in first)
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
            yield result
        ended = True
    finally:
        pool.shutdown(wait=ended, cancel_futures=True)
