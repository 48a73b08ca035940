"""Which epoch a pass is: agreed on by processes that never talk, however a DataLoader starts and keeps them."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lmdbpipe.epochs import EpochCounter
from lmdbpipe.errors import ConfigError, StateError
from tests.faces.helpers import as_worker
from tests.helpers import FEW_CORES

pytestmark = [
    pytest.mark.filterwarnings(FEW_CORES),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


class Passes(IterableDataset[Any]):
    """Gives the epoch of the pass a few times in each worker."""

    def __init__(self) -> None:
        self.epochs = EpochCounter()

    def __iter__(self) -> Iterator[int]:
        return itertools.repeat(self.epochs.begin(), 4)


def loader(dataset: Passes, num_workers: int, method: str = "fork", **options: Any) -> DataLoader[Any]:
    """A DataLoader that gives the dataset's items."""
    context = method if num_workers else None
    return DataLoader(dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=context, **options)


def read(loader: DataLoader[Any]) -> set[int]:
    """One pass: the epochs that its workers took it for."""
    items = list(loader)
    assert len(items) == 4 * max(loader.num_workers, 1)
    return set(items)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_every_pass_is_the_next_epoch(num_workers: int, persistent: bool) -> None:
    """Passes count on from 0, and all workers agree, whether they are kept or not."""
    if persistent and not num_workers:
        return
    passes = loader(Passes(), num_workers, persistent_workers=persistent)
    assert [read(passes) for _ in range(4)] == [{0}, {1}, {2}, {3}]


@pytest.mark.parametrize("persistent", [False, True])
def test_pickled_workers_agree(persistent: bool) -> None:
    """The count reaches workers that are not forked, but get their dataset through a pickle."""
    passes = loader(Passes(), 1, "forkserver", persistent_workers=persistent)
    assert [read(passes) for _ in range(2 if persistent else 1)] == ([{0}, {1}] if persistent else [{0}])
    if not persistent:
        assert passes.dataset.epochs.peek() == 1  # type: ignore[attr-defined]


def test_counts_go_on_between_loaders() -> None:
    """Loaders with other numbers of workers, and the main process, share one count."""
    dataset = Passes()
    for epoch, num_workers in enumerate((2, 0, 3, 1, 1, 0, 2)):
        assert dataset.epochs.peek() == epoch
        assert read(loader(dataset, num_workers)) == {epoch}


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_set_epoch(num_workers: int, persistent: bool) -> None:
    """An epoch that is told is the next one, forwards or backwards, also for workers that are kept."""
    dataset = Passes()
    passes = loader(dataset, num_workers, persistent_workers=persistent and num_workers > 0)
    for epoch in (5, 5, 0, 3):
        dataset.epochs.set(epoch)
        assert dataset.epochs.peek() == epoch
        assert read(passes) == {epoch}
        assert read(passes) == {epoch + 1}


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_reseeding_torch_changes_nothing(num_workers: int, persistent: bool) -> None:
    """Where torch is seeded alike before each pass, so that all loaders draw one seed, passes count all the same."""
    dataset = Passes()
    passes = loader(dataset, num_workers, persistent_workers=persistent)
    found = []
    for _ in range(4):
        torch.manual_seed(0)
        found.append(read(passes))
    assert found == [{0}, {1}, {2}, {3}]
    torch.manual_seed(0)
    assert read(loader(dataset, num_workers % 3 + 1)) == {4}


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("reseeded", [False, True])
def test_abandoned_passes_count(num_workers: int, persistent: bool, reseeded: bool) -> None:
    """A pass that is left after its first item was a pass: the next one is the next epoch, in all workers."""
    passes = loader(Passes(), num_workers, persistent_workers=persistent and num_workers > 0)
    for epoch in range(0, 6, 2):
        if reseeded:
            torch.manual_seed(0)
        for item in passes:
            assert item == epoch
            break
        if reseeded:
            torch.manual_seed(0)
        assert read(passes) == {epoch + 1}


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_epoch_told_after_an_abandoned_pass(num_workers: int, persistent: bool) -> None:
    """A worker that still begins a pass that was left does not take the epoch that was told since for it."""
    dataset = Passes()
    passes = loader(dataset, num_workers, persistent_workers=persistent)
    for epoch in (0, 7, 3):
        for _ in passes:
            break
        dataset.epochs.set(epoch)
        assert read(passes) == {epoch}


def test_slow_workers_fall_behind() -> None:
    """A worker that is slow to begin a pass takes it for what the others took it for, which are further on."""
    counter = EpochCounter()
    counter.set(10)
    with as_worker(0, 2):
        assert [counter.begin() for _ in range(4)] == [10, 11, 12, 13]
    with as_worker(1, 2):
        assert [counter.begin() for _ in range(5)] == [10, 11, 12, 13, 14]
    with as_worker(0, 2):
        assert counter.begin() == 14


def test_passes_between_do_not_confuse_slow_workers() -> None:
    """A worker that is a pass behind takes it for what the others did, also where others' passes lay between."""
    counter = EpochCounter()
    with as_worker(0, 2):
        assert counter.begin() == 0
    assert counter.begin() == 1
    with as_worker(0, 2):
        assert counter.begin() == 2
    with as_worker(1, 2):
        assert [counter.begin(), counter.begin()] == [0, 2]


def test_late_passes_are_of_their_time() -> None:
    """What begins late belongs before the epoch that was told meanwhile, and does not use it up."""
    counter = EpochCounter()
    with as_worker(0, 2):
        assert counter.begin() == 0
    counter.set(5)
    with as_worker(1, 2):
        assert counter.begin() == 0
    assert counter.peek() == 5
    with as_worker(1, 2):
        assert counter.begin() == 5
    with as_worker(0, 2):
        assert counter.begin() == 5
    assert counter.peek() == 6


@pytest.mark.parametrize("told", [3, 4])
def test_late_passes_have_the_state_of_their_time(told: int) -> None:
    """A worker that begins a resumed pass late finds its state, whatever was told or loaded for the next one."""
    counter = EpochCounter()
    counter.load(3, 0, b"first")
    with as_worker(0, 2):
        assert (counter.begin(), counter.loaded(3)) == (3, b"first")
    counter.set(4) if told == 4 else counter.load(3, 0, b"second")
    with as_worker(1, 2):
        assert (counter.begin(), counter.loaded(3)) == (3, b"first")
    for worker in range(2):
        with as_worker(worker, 2):
            assert (counter.begin(), counter.loaded(told)) == (told, None if told == 4 else b"second")
    assert counter.loaded(told) == (None if told == 4 else b"second")


def test_slots_that_are_written_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that begins while another one writes what it has begun finds that, or goes on if it never comes."""
    counter = EpochCounter()
    monkeypatch.setattr("lmdbpipe.epochs._TRIES", 600_000)
    with as_worker(0, 2):
        counter.begin()
        slot = counter._slots[:1, 1 + 1000 % 4096]
    counter.set(5)
    loader, slot[0] = int(slot[0]), -2 - int(slot[0])
    thread = threading.Timer(0.001, slot.fill, (loader,))
    thread.start()
    with as_worker(1, 2):
        assert counter.begin() == 0
    thread.join()
    slot[0] = -2 - loader
    monkeypatch.setattr("lmdbpipe.epochs._TRIES", 10)
    with as_worker(2, 3):
        assert counter.begin() == 5


def test_passes_at_once() -> None:
    """Two loaders of one dataset that are read side by side: each one's workers agree with each other."""
    dataset = Passes()
    for _ in range(5):
        pairs = list(zip(loader(dataset, 2), loader(dataset, 2), strict=True))
        assert len({one for one, _ in pairs}) == 1
        assert len({other for _, other in pairs}) == 1


def test_copies_count_by_themselves() -> None:
    """A copy or a pickle that does not go to a process has the count so far, and then its own."""
    counter = EpochCounter()
    counter.begin()
    for again in (copy.deepcopy(counter), pickle.loads(pickle.dumps(counter))):
        assert again.begin() == 1
        assert again.begin() == 2
        assert counter.peek() == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted as Linux lists them")
def test_a_counter_takes_one_descriptor() -> None:
    """So many datasets may be made of one: a process may often have 1,024."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    counters = [EpochCounter() for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + len(counters)


def _be_a_rank(counter: EpochCounter, at_once: bool, results: Any) -> None:
    dataset = Passes()
    dataset.epochs = counter
    first = [counter.begin()] if at_once else []
    results.send(first + [epoch for _ in range(3) for epoch in sorted(read(loader(dataset, 2)))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("at_once", [True, False])
def test_ranks_count_by_themselves(method: str, at_once: bool) -> None:
    """Processes that were given one counter go on from it, each with its own workers, whether it used it before."""
    context: Any = multiprocessing.get_context(method)
    counter = EpochCounter()
    assert counter.begin() == 0
    pipes = [context.Pipe() for _ in range(2)]
    ranks = [context.Process(target=_be_a_rank, args=(counter, at_once, there)) for _, there in pipes]
    for rank in ranks:
        rank.start()
    counts = [1, 2, 3, 4] if at_once else [1, 2, 3]
    assert [here.recv() for here, _ in pipes] == [counts] * 2
    for rank in ranks:
        rank.join()
    assert counter.begin() == 1


def _meet(counter: EpochCounter, barrier: Any, rounds: int, worker: int, results: Any) -> None:
    """Be one of two workers, which go on from a state and then begin another pass at the same moments."""
    begun = []
    with as_worker(worker, 2):
        for told in range(rounds):
            barrier.wait(60)
            barrier.wait(60)
            try:
                counter.check_told(told)
                counter.join(told, seed=0)
            except StateError as error:
                begun.append(str(error))
            barrier.wait(60)
            begun.append(str(counter.begin()))
    results.send(begun)


def test_workers_that_go_on_at_the_same_moment() -> None:
    """Told the epoch that their states go on in, they find no contradiction in each other's passes, and agree."""
    context: Any = multiprocessing.get_context("fork")
    counter, barrier, rounds = EpochCounter(), context.Barrier(3), 1000
    pipes = [context.Pipe() for _ in range(2)]
    for worker, (_, there) in enumerate(pipes):
        context.Process(target=_meet, args=(counter, barrier, rounds, worker, there), daemon=True).start()
    for told in range(rounds):
        barrier.wait(60)
        counter.set(told)
        barrier.wait(60)
        barrier.wait(60)
    assert [here.recv() for here, _ in pipes] == [[str(told + 1) for told in range(rounds)]] * 2


@pytest.mark.parametrize("epoch", [-1, 1.0, True, "1", None])
def test_wrong_epochs_are_refused(epoch: Any) -> None:
    """An epoch that is no integer of at least 0 is an error that shows it."""
    with pytest.raises(ConfigError, match=f"epoch must be an integer of at least 0, got {epoch!r}"):
        EpochCounter().set(epoch)
