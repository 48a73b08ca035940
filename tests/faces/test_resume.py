"""State on every face: stopped at any batch, what was seen and what follows is the undisturbed run, bit for bit."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.transforms import v2

import lmdbpipe
from lmdbpipe import LMDBIterableDataset, LMDBReader, merge_states
from lmdbpipe.errors import ConfigError, StateError

from .conftest import FileOf
from .helpers import as_worker, equal, flat, loader, numbers, round_robin, simulate

AUGMENT = v2.Compose([v2.PILToTensor(), v2.RandomCrop(3), v2.RandomHorizontalFlip()])
BATCHES = 5
EVERYWHERE = range(BATCHES + 2)
"""After how many batches an epoch is stopped: after none, after each, and after being told that there are no more."""


@pytest.fixture
def make(file_of: FileOf) -> Callable[..., LMDBIterableDataset]:
    """Makes augmented, shuffled streams of five batches, the last one short."""

    def make(**options: Any) -> LMDBIterableDataset:
        given = {"batch_size": 6, "shuffle": True, "buffer_size": 10, "seed": 3, "transform": AUGMENT, **options}
        return LMDBIterableDataset(file_of(29), **given)

    return make


def through_json(state: Any) -> Any:
    """The state as it comes back from a checkpoint."""
    return json.loads(json.dumps(state))


def stateful(dataset: Any, num_workers: int = 0, **options: Any) -> StatefulDataLoader[Any]:
    """A StatefulDataLoader that hands on what the dataset gives."""
    if num_workers:
        options.setdefault("multiprocessing_context", "fork")
    return StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers, **options)


def passes(iterable: Any, count: int) -> list[Any]:
    """The items of several passes, each a list."""
    return [list(iterable) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [6, None])
@pytest.mark.parametrize("of_iterator", [False, True])
def test_iterators_resume_at_every_item(make: Any, batch_size: int | None, of_iterator: bool) -> None:
    """A dataset's or an iterator's state, at any item of the second epoch: the rest, then three whole epochs."""
    expected = passes(make(batch_size=batch_size), 5)
    for stop in range(0, len(expected[0]) + 1, 1 if batch_size else 7):
        before = make(batch_size=batch_size)
        list(before)
        iterator = iter(before)
        seen = list(itertools.islice(iterator, stop))
        state = through_json(iterator.state_dict() if of_iterator else before.state_dict())
        assert iterator.state_dict() == before.state_dict()
        after = make(batch_size=batch_size, seed=99)  # the state's own seed holds
        if of_iterator:
            resumed = iter(after)
            resumed.load_state_dict(state)
            seen += resumed
        else:
            after.load_state_dict(state)
            seen += after
        assert equal(expected[1:], [seen, *passes(after, 3)])


@pytest.mark.filterwarnings("ignore:.*set_vital")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_threads_are_not_counted_ahead(make: Any, num_workers: int) -> None:
    """Batches that threads have read ahead are not in the state: the run goes on after the last that was given."""
    expected = passes(make(), 2)
    for stop in (1, 3, 5):
        before = stateful(make(num_threads=2), num_workers)
        seen = list(itertools.islice(before, stop))
        after = stateful(make(num_threads=2), num_workers)
        after.load_state_dict(before.state_dict())
        assert equal(expected, [seen + list(after), list(after)])


class Broken:
    """A transform that fails from one call on, until it is repaired."""

    def __init__(self, at: int) -> None:
        self.at: float = at
        self.calls = 0

    def __call__(self, image: Any) -> Any:
        """Give the image back, or fail."""
        self.calls += 1
        if self.calls > self.at:
            raise KeyError("broken")
        return image


@pytest.mark.parametrize(("batch_size", "num_threads"), [(6, 0), (6, 2), (None, 0)])
def test_an_error_is_no_end(
    make: Any, batch_size: int | None, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised again, the state is that of what was given, and nothing is left out where it was passing."""
    monkeypatch.setattr("lmdbpipe.pipeline.Pipeline._takes_generators", lambda *_: False)  # a step that draws nothing
    options = {"batch_size": batch_size, "num_threads": num_threads}
    expected = list(make(transform=None, **options))
    transform = Broken(15)
    iterator = iter(make(transform=transform, **options))
    seen: list[Any] = []
    for _ in range(3):
        with pytest.raises(KeyError, match="broken"):
            seen.extend(iterator)
    state = through_json(iterator.state_dict())
    after = make(transform=None, **options)
    after.load_state_dict(state)
    transform.at = float("inf")
    rest = list(iterator)
    assert equal(expected, seen + rest)
    assert equal(expected, seen + list(after))
    assert iterator.state_dict()["finished"]


def test_a_finished_epoch_leads_to_the_next(make: Any) -> None:
    """Where the end was reached, loading begins the next epoch; an iterator stands at the end of the old one."""
    expected = passes(make(), 3)
    before = make()
    iterator = iter(before)
    list(iterator)
    state = through_json(before.state_dict())
    assert (state["finished"], state["position"]) == (True, 29)
    after = make()
    after.load_state_dict(state)
    assert equal(expected[1:], passes(after, 2))
    resumed = iter(after)
    resumed.load_state_dict(state)
    assert list(resumed) == []
    assert equal(expected[1:], passes(after, 2))


def test_a_state_is_used_once(make: Any) -> None:
    """The pass after the resumed one is whole; set_epoch back to its epoch gives all of it."""
    expected = passes(make(), 3)
    stream = make()
    stream.skip(3)
    assert equal([expected[0][3:], *expected[1:]], passes(stream, 3))
    stream.set_epoch(0)
    assert equal(expected[0], list(stream))


@pytest.mark.filterwarnings("ignore:.*set_vital")
@pytest.mark.parametrize(
    ("num_workers", "options", "stops"),
    [
        (0, {}, EVERYWHERE),
        (0, {"snapshot_every_n_steps": 3}, EVERYWHERE),
        (1, {}, EVERYWHERE),
        (2, {}, EVERYWHERE),
        (2, {"snapshot_every_n_steps": 3}, (2, 4, 5, 6)),
        (2, {"persistent_workers": True}, (0, 3, 5, 6)),
    ],
)
def test_stateful_loaders_resume_at_every_batch(
    make: Any, num_workers: int, options: dict[str, Any], stops: Iterable[int]
) -> None:
    """StatefulDataLoader stopped after each batch of the second epoch, and at its end: the rest, then a whole epoch."""
    expected = passes(make(), 3)
    for stop in stops:
        before = stateful(make(), num_workers, **options)
        list(before)
        iterator = iter(before)
        seen = list(itertools.islice(iterator, stop))
        state = pickle.loads(pickle.dumps(before.state_dict()))
        del iterator, before
        after = stateful(make(), num_workers, **options)
        after.load_state_dict(state)
        if stop <= BATCHES:
            assert equal(expected[1:], [seen + list(after), list(after)])
        else:  # the loop had been told that the epoch was over
            assert equal(expected[2], list(after))


@pytest.mark.filterwarnings("ignore:.*set_vital")
@pytest.mark.parametrize("persistent", [False, True])
def test_stateful_loaders_hear_set_epoch(make: Any, persistent: bool) -> None:
    """After a resume in workers set_epoch still moves them; a contradicting set_epoch before it is an error."""
    expected = passes(make(), 4)
    before = stateful(make(), 2)
    list(before)
    iterator = iter(before)
    next(iterator)
    state = before.state_dict()
    stream = make()
    after = stateful(stream, 2, persistent_workers=persistent)
    stream.set_epoch(1)
    after.load_state_dict(state)
    assert equal(expected[1][1:], list(after))
    stream.set_epoch(3)
    assert equal(expected[3], list(after))
    stream = make()
    stream.set_epoch(2)
    with as_worker(0, 2):
        stream.load_state_dict(worker_state(state, 0))
        with pytest.raises(StateError, match=r"set_epoch\(2\) contradicts"):
            iter(stream)


def worker_state(state: Any, worker: int) -> Any:
    """What a StatefulDataLoader gives back to one of its workers' datasets."""
    return state["_snapshot"]["_worker_snapshots"][f"worker_{worker}"]["dataset_state"]


@pytest.mark.filterwarnings("ignore:.*set_vital")
def test_single_samples_in_stateful_loaders(make: Any) -> None:
    """Samples that the loader batches: each worker goes on in its own range."""

    def batches(num_workers: int) -> StatefulDataLoader[Any]:
        options: dict[str, Any] = {"multiprocessing_context": "fork"} if num_workers else {}
        return StatefulDataLoader(make(batch_size=None), batch_size=4, num_workers=num_workers, **options)

    for num_workers, stops in ((0, (0, 1, 4, 7)), (2, (1, 7))):
        expected = passes(batches(num_workers), 2)
        for stop in stops:
            before = batches(num_workers)
            seen = list(itertools.islice(before, stop))
            after = batches(num_workers)
            after.load_state_dict(before.state_dict())
            assert equal(expected, [seen + list(after), list(after)])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_plain_loaders_resume_by_counting(make: Any, num_workers: int, persistent: bool) -> None:
    """The loop counts its batches: state_dict(batches=n) and skip(n) resume a plain DataLoader at every batch."""
    expected = passes(make(), 3)
    kept = make()
    kept_loader = loader(kept, num_workers, persistent_workers=persistent and num_workers > 0)
    for stop in range(1, BATCHES + 1, 2 if persistent else 1):
        before = make()
        batches = loader(before, num_workers)
        list(batches)
        iterator = iter(batches)
        seen = list(itertools.islice(iterator, stop))
        state = through_json(before.state_dict(batches=stop))
        assert state["position"] == min(6 * stop, 29)
        kept.load_state_dict(state)  # into a loader that has run before, workers and all
        assert equal(seen, expected[1][:stop])
        assert equal([expected[1][stop:], expected[2]], passes(kept_loader, 2))
        again = make()
        again.set_epoch(1)
        again.skip(stop)
        assert equal(expected[1][stop:], list(loader(again, num_workers)))


def test_resuming_a_resumed_epoch(make: Any) -> None:
    """Stopped, resumed, stopped and resumed again, the epoch goes on where it was each time."""
    expected = list(make())
    state = None
    seen = []
    for _ in range(BATCHES):
        stream = make()
        if state is not None:
            stream.load_state_dict(state)
        iterator = iter(loader(stream, 2))
        seen.append(next(iterator))
        state = through_json(stream.state_dict(batches=1))
    assert equal(expected, seen)


def test_workers_must_be_counted_for(make: Any) -> None:
    """Where workers read ahead, a state without a count is an error, never a wrong place."""
    stream = make()
    next(iter(loader(stream, 2)))
    with pytest.raises(StateError, match=r"state_dict\(batches=n\)"):
        stream.state_dict()
    with pytest.raises(StateError, match="done must be"):
        stream.state_dict(batches=6)
    with pytest.raises(StateError, match="batches=0 may be"):
        stream.state_dict(batches=0)
    with pytest.raises(ConfigError, match="batches"):
        stream.state_dict(batches=-1)
    with pytest.raises(ConfigError, match="batch_size"):
        make(batch_size=None).skip(3)
    with pytest.raises(StateError, match="done must be"):
        stream.skip(6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_datapipes_resume_in_loaders(file_of: FileOf, num_workers: int) -> None:
    """A reader's state holds the seed that the DataLoader drew, so a resumed pass has the same order and bits."""

    def make() -> Any:
        return LMDBReader(file_of(29), batch_size=6, transform=AUGMENT)

    for stop in range(1, BATCHES + 1):
        before = make()
        batches = loader(before, num_workers, shuffle=True)
        list(batches)
        iterator = iter(batches)
        seen = list(itertools.islice(iterator, stop))
        state = through_json(before.state_dict(batches=stop))
        rest = list(iterator)
        assert state == through_json(before.state_dict(batches=stop))
        after = make()
        resumed = loader(after, 2 - num_workers, shuffle=True)
        after.load_state_dict(state)
        assert equal(rest, list(resumed))
        assert sorted(flat(numbers(seen + rest))) == sorted(flat(numbers(resumed))) == list(range(29))


def test_datapipes_resume_alone(file_of: FileOf) -> None:
    """Outside of a loader a pipe resumes as the iterable face does, and their states are the same."""
    options: dict[str, Any] = {"batch_size": 6, "shuffle": True, "transform": AUGMENT}
    expected = passes(LMDBIterableDataset(file_of(29), **options), 3)
    for stop in range(1, BATCHES + 1):
        before = LMDBReader(file_of(29), **options)
        list(before)
        iterator = iter(before)
        seen = list(itertools.islice(iterator, stop))
        state = through_json(before.state_dict())
        for after in (LMDBReader(file_of(29), **options), LMDBIterableDataset(file_of(29), **options)):
            after.load_state_dict(state)
            assert equal(expected[1:], [seen + list(after), list(after)])


def rank_states(streams: list[Any], num_workers: int, steps: int) -> tuple[list[list[int]], list[list[Any]]]:
    """Read some steps on all ranks as loaders with workers would: what was seen, and each rank's workers' states."""
    seen: list[list[int]] = []
    states = []
    for stream in streams:
        iterators = []
        for worker in range(max(num_workers, 1)):
            with as_worker(worker, num_workers):
                iterators.append(iter(stream))
        for step in range(steps):
            batch = next(iterators[step % len(iterators)], None)
            seen.append([] if batch is None else batch[1].tolist())
        states.append([through_json(iterator.state_dict()) for iterator in iterators])
    return seen, states


@pytest.mark.parametrize("then", [(1, 0, 6), (2, 2, 3), (3, 1, 2)])
@pytest.mark.parametrize("now", [(1, 3, 6), (3, 2, 2), (6, 0, 1), (2, 2, 5)])
def test_elastic_over_ranks_and_workers(make: Any, then: tuple[int, int, int], now: tuple[int, int, int]) -> None:
    """From (ranks, workers, batch size) to any other: the union is the epoch; equal global batches stay equal."""
    order = flat(numbers(make()))
    for steps in range(5):
        streams = [make(rank=rank, world_size=then[0], batch_size=then[2], uneven="allow") for rank in range(then[0])]
        seen, states = rank_states(streams, then[1], steps)
        state = merge_states(*states)
        assert [state] * then[0] == [merge_states(rank) for rank in states]
        after = [make(rank=rank, world_size=now[0], batch_size=now[2], uneven="allow") for rank in range(now[0])]
        for stream in after:
            stream.load_state_dict(state)
        rest = [numbers(simulate(stream, now[1])) for stream in after]
        assert Counter(order) == Counter(flat(seen) + flat(map(flat, rest)))
        if now[0] * now[2] == 6:
            missing: list[int] = []
            turns = [flat(step) for step in itertools.zip_longest(*rest, fillvalue=missing)]
            assert [order[start : start + 6] for start in range(6 * steps, 29, 6)] == turns
        assert sorted(flat(map(flat, (numbers(simulate(s, now[1], 2000)) for s in after)))) == list(range(29))


@pytest.mark.filterwarnings("ignore:.*set_vital")
@pytest.mark.parametrize("options", [{}, {"snapshot_every_n_steps": 2}])
def test_stateful_loaders_change_their_workers(make: Any, options: dict[str, Any]) -> None:
    """The way round StatefulDataLoader's refusal of another number of workers: merge, and load into the dataset."""
    expected = passes(make(), 3)
    for stop in (1, 3, 4):
        before = stateful(make(), 2, **options)
        seen = list(itertools.islice(before, stop))
        state = through_json(before.state_dict())
        refused = make()
        with as_worker(0, 1):  # in whatever way it came here
            refused.load_state_dict(worker_state(state, 0))
            with pytest.raises(StateError, match="merge the states of all workers"):
                iter(refused)
        after = make()
        after.load_state_dict(merge_states(state))
        resumed = stateful(after, 1)
        assert equal(expected, [seen + list(resumed), *passes(resumed, 2)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_single_samples_are_elastic(make: Any, num_workers: int) -> None:
    """Without a batch size too, what was seen and what follows is the epoch, on other ranks and workers."""
    for steps in (0, 3, 8):
        streams = [make(batch_size=None, rank=rank, world_size=2, uneven="allow") for rank in range(2)]
        seen = []
        states = []
        for stream in streams:
            iterators = []
            for worker in range(max(num_workers, 1)):
                with as_worker(worker, num_workers):
                    iterators.append(iter(stream))
            seen += [label for _, label in itertools.islice(itertools.chain(*iterators), steps)]
            states.append([iterator.state_dict() for iterator in iterators])
        state = merge_states(states)
        after = [make(batch_size=None, rank=rank, world_size=3, uneven="allow") for rank in range(3)]
        for stream in after:
            stream.load_state_dict(state)
            seen += [label for _, label in simulate(stream, 2)]
        assert sorted(seen) == list(range(29))


@pytest.fixture
def state(make: Any) -> dict[str, Any]:
    """A good state in the middle of the second epoch."""
    stream = make()
    list(stream)
    next(iter(stream))
    return stream.state_dict()  # type: ignore[no-any-return]


def test_states_are_small_and_plain(state: dict[str, Any]) -> None:
    """A few integers and strings, under a kilobyte, new objects each time."""
    assert (state["epoch"], state["position"], state["seed"]) == (1, 6, 3)
    assert len(json.dumps(state)) < 1024
    assert state == through_json(state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"version": 2}, "newer"),
        ({"position": 7.5}, "damaged"),
        ({"position": 30}, "damaged"),
        ({"epoch": -1}, "damaged"),
        ({"fingerprint": "x"}, "another file"),
        ({"length": 30}, "another length"),
        ({"order": "sequential"}, "another order"),
        ({"more": 1}, "damaged"),
    ],
)
def test_bad_states_are_refused(
    make: Any, file_of: FileOf, state: dict[str, Any], damage: dict[str, Any], message: str
) -> None:
    """Damaged, newer, of another file or order: a StateError on every face, and the reader stays as it was."""
    bad = {**state, **damage}
    pipe = LMDBReader(file_of(29), batch_size=6, shuffle=True, buffer_size=10)
    for reader in (make(), iter(make()), pipe):
        before = reader.state_dict()
        with pytest.raises(StateError, match=message):
            reader.load_state_dict(bad)
        assert before == reader.state_dict()


def test_one_worker_cannot_speak_for_all(make: Any) -> None:
    """A state of one of several workers says to merge; merging needs all workers of a rank, and finds them anywhere."""
    ((one, two),) = rank_states([make()], 2, 3)[1]
    stream = make()
    with pytest.raises(StateError, match="merge"):
        stream.load_state_dict(one)
    with pytest.raises(StateError, match="missing"):
        merge_states(one)
    assert merge_states(one, two) == merge_states({"a": [two, {"b": one}]}) == merge_states((one, two), [two])
    with pytest.raises(StateError, match="no state"):
        merge_states({"a": 1})
    with pytest.raises(StateError, match="no state"):
        merge_states()


def test_conflicting_epochs_are_refused(make: Any, state: dict[str, Any]) -> None:
    """set_epoch and a state that was loaded must agree, in either order; the same epoch is no conflict."""
    expected = passes(make(), 3)
    stream = make()
    stream.load_state_dict(state)
    with pytest.raises(StateError, match=r"set_epoch\(2\) contradicts the state, which goes on in epoch 1"):
        stream.set_epoch(2)
    stream.set_epoch(1)
    assert equal([expected[1][1:], expected[2]], passes(stream, 2))
    stream = make()
    stream.set_epoch(0)
    with pytest.raises(StateError, match=r"set_epoch\(0\) contradicts"):
        stream.load_state_dict(state)
    stream.set_epoch(1)
    stream.load_state_dict(state)
    assert equal(expected[1][1:], list(stream))


def test_another_batch_size_goes_on_at_the_same_sample(make: Any, state: dict[str, Any]) -> None:
    """What remains is dealt in batches of the new size."""
    order = flat(passes_of_numbers(make(), 2)[1])
    stream = make(batch_size=4)
    stream.load_state_dict(state)
    assert order[6:] == flat(numbers(stream))


def passes_of_numbers(stream: Any, count: int) -> list[list[list[int]]]:
    """The labels of several passes."""
    return [numbers(stream) for _ in range(count)]


def test_states_of_several_files(file_of: FileOf) -> None:
    """A list of files has its own fingerprint: its state loads into the same list only."""
    paths = [file_of(13), file_of(29, 13)]
    expected = numbers(LMDBIterableDataset(paths, batch_size=5, shuffle=True))
    before = LMDBIterableDataset(paths, batch_size=5, shuffle=True)
    next(iter(before))
    state = before.state_dict()
    after = LMDBIterableDataset(paths, batch_size=5, shuffle=True)
    after.load_state_dict(state)
    assert expected[1:] == numbers(after)
    with pytest.raises(StateError, match="another file"):
        LMDBIterableDataset(paths[::-1], batch_size=5, shuffle=True).load_state_dict(state)


def test_a_state_too_long_to_share_is_refused(make: Any, state: dict[str, Any], file_of: FileOf) -> None:
    """A state of thousands of ranges does not fit into the memory that workers share; the error says what to do."""
    long = LMDBIterableDataset(file_of(29), batch_size=6)
    with pytest.raises(StateError, match="takes 70000 bytes"):
        long._reader.epochs.load(0, 0, b"x" * 70000)


def test_readers_pickle_with_what_was_loaded(make: Any, state: dict[str, Any]) -> None:
    """A pickle of a dataset that is to resume resumes."""
    expected = passes(make(), 2)[1]
    stream = make()
    stream.load_state_dict(state)
    assert equal(expected[1:], list(pickle.loads(pickle.dumps(stream))))


def test_masks_tell_repeated_samples(make: Any, file_of: FileOf) -> None:
    """with_mask gives pairs; over all ranks, the samples that count are each sample once."""
    for batch_size in (6, None):
        counted: list[int] = []
        total = 0
        for rank in range(4):
            stream = make(batch_size=batch_size, rank=rank, world_size=4, with_mask=True)
            for item, mask in stream:
                labels = item[1] if batch_size else torch.tensor([item[1]])
                keep = mask if batch_size else torch.tensor([mask])
                assert (keep.dtype, keep.shape) == (torch.bool, labels.shape)
                counted += labels[keep].tolist()
                total += len(labels)
        assert (sorted(counted), total) == (list(range(29)), 32)
    with pytest.raises(ConfigError, match="with_mask"):
        make(with_mask=1)


def test_public_names() -> None:
    """merge_states is part of the package."""
    assert lmdbpipe.merge_states is merge_states


def test_round_robin_helper() -> None:
    """The tests' own model of a DataLoader's turns."""
    iterators: list[Iterator[int]] = [iter([1, 3, 5]), iter([2, 4])]
    assert round_robin(iterators) == [1, 2, 3, 4, 5]
