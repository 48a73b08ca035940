"""The kernel is asked for everything that a pass reads, once and before it is read, and for nothing that it has."""

from __future__ import annotations

import os
import random
import threading
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lmdbpipe
from lmdbpipe import LMDBIterableDataset
from lmdbpipe.readahead import ReadAhead
from lmdbpipe.store import STEP
from lmdbpipe.stream import Request, requests
from lmdbpipe.world import Ranks, Workers
from tests.helpers import Listed, comes_true

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be asked")

LENGTH, SAMPLE = 320, 1 << 17
STEPS = LENGTH * SAMPLE // STEP
PAGE = 4096
ALONE = Workers(0, 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 MiB."""
    path = tmp_path_factory.mktemp("ahead") / "a.lmdb"
    lmdbpipe.build(Listed([np.full(SAMPLE, k % 251, np.uint8) for k in range(LENGTH)]), path, progress=False)
    return path


class Kernel:
    """A page cache that begins empty, and in which what is asked for is at once."""

    def __init__(self) -> None:
        self.cached: set[int] = set()
        self.asked: list[int] = []
        self.looks = 0
        self.is_random = False
        self.told = threading.get_ident()

    def advise(self, descriptor: int, offset: int, length: int, advice: int) -> None:
        """Bring in pages, or take note of how the file will be read."""
        if advice == os.POSIX_FADV_RANDOM:
            self.is_random = True
            return
        self.told = threading.get_ident()
        assert (offset % STEP, length) == (0, STEP)
        self.asked.append(offset // STEP)
        self.cached.update(range(offset // PAGE, (offset + length) // PAGE))

    def read(self, descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        """Read a byte if its page is there; if not, Linux brings it in, with some of what follows unless told."""
        assert flags == os.RWF_NOWAIT
        self.looks += 1
        page = offset // PAGE
        if page in self.cached:
            return 1
        self.cached.update(range(page, page + (1 if self.is_random else 3 * STEP // 2 // PAGE)))
        raise BlockingIOError

    def has(self, step: int) -> bool:
        """Whether all of a step is there."""
        return self.cached.issuperset(range(step * STEP // PAGE, (step + 1) * STEP // PAGE))


class AtOnce:
    """An executor that waits for what it does."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.submitted = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Do it."""
        function(*arguments)
        return Future()

    def shutdown(self, **_: Any) -> None:
        """There is no thread."""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Takes the system's place."""
    kernel = Kernel()
    monkeypatch.setattr(os, "posix_fadvise", kernel.advise)
    monkeypatch.setattr(os, "preadv", kernel.read)
    return kernel


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmdbpipe.readahead.ThreadPoolExecutor", AtOnce)


def runs(path: Path | list[Path], workers: Workers = ALONE, **options: Any) -> Generator[Request, None, None]:
    """What a worker reads of an epoch, batch by batch."""
    reader = LMDBIterableDataset(path, **options)._reader
    yield from requests(reader.pipeline, reader.plan(Ranks(0, 1), workers))


def steps_of(indices: Any) -> set[int]:
    """The steps that hold some samples, but for one at each end, since the file has more than samples."""
    return {step for index in indices for step in range(index * SAMPLE // STEP, (index + 1) * SAMPLE // STEP)}


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("batch_size", [1, 8, 100, 200, None])
@pytest.mark.parametrize("shuffle", [False, True])
def test_all_is_asked_for_before_it_is_read(batch_size: int | None, shuffle: bool, path: Path, kernel: Kernel) -> None:
    """Every step is there before its batch is, though to look at a page brings it in; nothing is asked for twice."""
    for indices, _, _ in runs(path, batch_size=batch_size, shuffle=shuffle, buffer_size=50):
        assert all(map(kernel.has, steps_of(indices)))
    assert all(map(kernel.has, range(STEPS)))
    assert len(set(kernel.asked)) == len(kernel.asked)
    if not shuffle:
        assert kernel.asked == sorted(kernel.asked)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(("batch_size", "ahead"), [(2, 16), (8, 16), (40, 15), (160, 20)])
def test_it_is_asked_for_in_time(
    batch_size: int, ahead: int, path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is read, so many MiB of what follows are asked for, in whole batches but one at least."""
    monkeypatch.setattr("lmdbpipe.stream._AHEAD_BYTES", 16 * STEP)
    for number, _ in enumerate(runs(path, batch_size=batch_size)):
        asked = len(kernel.asked) - (number + 1) * batch_size * SAMPLE // STEP
        assert min(ahead, STEPS - (number + 1) * batch_size * SAMPLE // STEP) <= asked <= ahead + ahead // 4 + 3


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("worker", [0, 1])
def test_workers_ask_for_their_own(worker: int, path: Path, kernel: Kernel) -> None:
    """One of two workers asks for every other batch, and little besides."""
    own = [indices for indices, _, _ in runs(path, Workers(worker, 2), batch_size=80)]
    wanted = set().union(*map(steps_of, own))
    assert wanted <= set(kernel.asked)
    assert len(kernel.asked) <= len(wanted) + 2 * len(own)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_share_how_far_they_are_ahead(
    num_workers: int, path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers of a rank together ask as far ahead as one alone."""
    monkeypatch.setattr("lmdbpipe.stream._AHEAD_BYTES", 16 * STEP)
    next(runs(path, Workers(0, num_workers), batch_size=8))
    assert 16 // num_workers <= len(kernel.asked) <= 2 * (16 // num_workers + 3)


@pytest.mark.usefixtures("_at_once")
def test_what_is_there_is_not_asked_for(path: Path, kernel: Kernel) -> None:
    """A file in memory costs two looks for as many batches as are asked for together, and no thread."""
    kernel.cached.update(range(2 * STEPS * STEP // PAGE))
    batches = list(runs(path, batch_size=1))
    assert len(batches) == LENGTH
    assert not kernel.asked
    assert kernel.looks <= LENGTH // 8


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_is_there_in_part(shuffle: bool, path: Path, kernel: Kernel) -> None:
    """Where all is asked for at once, a hole is found, and only the 16 MiB on either side of it are asked for."""
    hole = range(15, 18)
    missing = set().union(*(range(step * STEP // PAGE, (step + 1) * STEP // PAGE) for step in hole))
    kernel.cached.update(set(range(2 * STEPS * STEP // PAGE)) - missing)
    next(runs(path, batch_size=40, shuffle=shuffle))
    assert set(hole) <= set(kernel.asked)
    assert len(kernel.asked) == 32
    assert kernel.looks < 10


def test_it_is_asked_for_in_a_thread(path: Path, kernel: Kernel) -> None:
    """Somebody else asks, while the caller goes on; nobody is left when the pass is over, or given up."""
    batches = runs(path, batch_size=8)
    before = threading.active_count()
    next(batches)
    batches.close()
    assert kernel.asked
    assert kernel.told != threading.get_ident()
    assert comes_true(lambda: threading.active_count() <= before)


def test_closing_waits_for_no_disk(path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that is given up ends, whatever the thread is at."""
    asked, go_on = threading.Event(), threading.Event()

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            asked.set()
            go_on.wait(60)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    batches = runs(path, batch_size=8)
    next(batches)
    assert asked.wait(60)
    batches.close()
    assert not go_on.is_set()
    go_on.set()


def test_systems_that_cannot_be_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``posix_fadvise`` a pass reads the same."""
    monkeypatch.delattr(os, "posix_fadvise")
    batches = list(LMDBIterableDataset(path, batch_size=100))
    assert [int(row[0]) for batch in batches for row in batch] == [k % 251 for k in range(LENGTH)]


class Endless:
    """Records of any length, a step for each sample."""

    def __init__(self, length: int) -> None:
        self.databases = [self]
        self.manifest = self
        self.totals = {"file_bytes": length * STEP}
        self.asked: list[int] = []

    def steps(self, indices: range) -> Iterator[tuple[int, Any]]:
        """A step for each."""
        yield 0, np.arange(indices.start, indices.stop)

    def missing(self, steps: list[int]) -> tuple[()]:
        """Nothing, but what was looked for is noted."""
        self.asked += steps
        return ()


def test_runs_are_asked_for_once() -> None:
    """Steps of consecutive samples are looked for once while they go on, in every file, and again from the begin."""
    asked: list[tuple[int, int]] = []

    class Files:
        """Two files of which each sample takes a step."""

        manifest = SimpleNamespace(totals={"file_bytes": 100_000 * STEP})

        def __init__(self) -> None:
            self.databases = [
                SimpleNamespace(manifest=self.manifest, missing=lambda steps, n=n: asked.extend((n, s) for s in steps))
                for n in (0, 1)
            ]

        def steps(self, indices: range) -> Iterator[tuple[int, range]]:
            """Those of the first file, and of the second from the sample 100,000 on."""
            for number, low in enumerate((0, 100_000)):
                if own := range(max(indices.start, low) - low, min(indices.stop, low + 100_000) - low):
                    yield number, own

    read_ahead = ReadAhead(Files())  # type: ignore[arg-type]
    for start in (0, 3, 6, 99_990, 99_995, 100_001):
        read_ahead.ask(range(start, start + 6))
    first = [*range(12), *range(99_990, 100_000)]
    assert asked == [(0, step) for step in first] + [(1, step) for step in range(7)]
    asked.clear()
    for start in range(0, 20_000, 100):
        read_ahead.ask(range(start, start + 100))
    read_ahead.ask(range(4))
    read_ahead.ask(range(19_996, 20_002))
    assert asked == [(0, step) for step in [*range(20_000), *range(4), *range(19_996, 20_002)]]


def test_what_was_asked_for_lately_is_remembered() -> None:
    """A step is looked for once while the pass stays near, and again when it has been far away."""
    records = Endless(10**6)
    read_ahead = ReadAhead(records)  # type: ignore[arg-type]
    for start in (0, 2, 0, 20_000, 0):
        read_ahead.ask(range(start, start + 4))
    assert records.asked == [0, 1, 2, 3, 4, 5, *range(20_000, 20_004)]
    for start in range(0, 20_000, 100):
        read_ahead.ask(range(start, start + 100))
    records.asked.clear()
    read_ahead.ask(range(4))
    assert records.asked == [0, 1, 2, 3]


@pytest.mark.parametrize("shuffled", [False, True])
def test_memory_does_not_grow_with_the_length(shuffled: bool) -> None:
    """After a hundred times as many steps, it holds what it held."""
    sizes = []
    for length in (10**4, 10**6):
        records, starts = Endless(length), list(range(0, length, 1000))
        if shuffled:
            random.Random(0).shuffle(starts)
        tracemalloc.start()
        read_ahead = ReadAhead(records)  # type: ignore[arg-type]
        for start in starts:
            read_ahead.ask(range(start, start + 1000))
            records.asked.clear()
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] < sizes[0] + 4096
