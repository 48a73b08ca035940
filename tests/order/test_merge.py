"""Resuming on any number of ranks and workers: what was seen and what is to come is exactly the epoch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdbpipe.errors import StateError
from lmdbpipe.order import BaseOrder, Batch, Dealing, OrderState, merge, resume

Draw = Callable[[int, int], int]


def fresh(length: int) -> OrderState:
    """Return the state of a reader that has not begun."""
    return OrderState.start(BaseOrder(length=length), fingerprint="f")


def through_json(state: OrderState) -> OrderState:
    """Return the state as it comes back from a checkpoint."""
    return OrderState.from_json_dict(json.loads(json.dumps(state.to_json_dict())))


def counted(batches: list[Batch]) -> list[int]:
    """Return the positions that are no padding."""
    return [position for batch in batches for position in batch.positions()[batch.mask()].tolist()]


def everyone(dealing: Dealing) -> list[Dealing]:
    """Return the dealing of every worker of every rank."""
    return [
        replace(dealing, rank=rank, worker=worker)
        for rank in range(dealing.world_size)
        for worker in range(dealing.num_workers)
    ]


def read(dealing: Dealing, first: int = 0) -> list[Batch]:
    """Return the batches, or single samples, of one worker."""
    return list(dealing.runs(first, size=1) if dealing.batch_size is None else dealing.batches(first))


def advance(state: OrderState, layout: Dealing, progress: Draw) -> tuple[list[int], list[OrderState]]:
    """Read a part of what remains as all ranks and workers do, and return what was seen and their states.

    With batches all ranks take the same steps; single samples are taken by each worker on its own.
    """
    dealing, first = resume(state, layout)
    assert first == 0
    steps = 0 if layout.batch_size is None else progress(0, max(each.num_batches for each in everyone(dealing)))
    seen: list[int] = []
    states = []
    for each in everyone(dealing):
        if layout.batch_size is None:
            done = progress(0, len(each))
        else:
            done = min(len(range(each.worker, steps, each.num_workers)), len(each))
        seen += counted(read(each)[:done])
        states.append(through_json(state.after(each, done)))
    return seen, states


LAYOUTS = st.builds(
    Dealing,
    length=st.just(0),
    batch_size=st.one_of(st.none(), st.integers(1, 6)),
    world_size=st.integers(1, 5),
    num_workers=st.integers(1, 4),
    uneven=st.sampled_from(["pad", "allow"]),
)


@settings(max_examples=200)
@given(length=st.integers(0, 90), layouts=st.lists(LAYOUTS, min_size=1, max_size=5), data=st.data())
def test_elastic_resume_is_exact(length: int, layouts: list[Dealing], data: st.DataObject) -> None:
    """However often ranks, workers and batch size change, each sample of the epoch is seen exactly once."""
    state = fresh(length)
    seen: list[int] = []
    for layout in layouts:
        new, states = advance(
            state, replace(layout, length=length), lambda low, high: data.draw(st.integers(low, high))
        )
        seen += new
        state = through_json(merge(data.draw(st.permutations(states))))
        assert len(seen) == state.position
    rest, _ = resume(state, replace(layouts[-1], length=length))
    seen += [position for each in everyone(rest) for position in counted(read(each))]
    assert Counter(range(length)) == Counter(seen)


@given(length=st.integers(0, 90), layouts=st.lists(LAYOUTS, min_size=1, max_size=5), data=st.data())
def test_elastic_resume_drops_only_the_tail(length: int, layouts: list[Dealing], data: st.DataObject) -> None:
    """With drop each sample is seen at most once, and fewer than world_size are missing in the end."""
    state = fresh(length)
    seen: list[int] = []
    for layout in layouts:
        dropping = replace(layout, length=length, uneven="drop")
        new, states = advance(state, dropping, lambda low, high: data.draw(st.integers(low, high)))
        seen += new
        state = merge(states)
    rest, _ = resume(state, replace(layouts[-1], length=length, uneven="drop"))
    seen += [position for each in everyone(rest) for position in counted(read(each))]
    assert Counter(set(seen)) == Counter(seen)
    assert set(seen) <= set(range(length))
    assert length - len(seen) < layouts[-1].world_size


@pytest.mark.parametrize("uneven", ["pad", "drop", "allow"])
@pytest.mark.parametrize(("then", "now"), [((2, 3, 3), (3, 0, 2)), ((1, 1, 6), (2, 2, 3)), ((4, 2, 1), (1, 1, 4))])
def test_every_step_can_be_the_last(then: tuple[int, int, int], now: tuple[int, int, int], uneven: str) -> None:
    """Stopped after each step, all later global batches of equal size are those of an undisturbed run."""
    before, after = (
        Dealing(length=50, world_size=r, num_workers=max(w, 1), batch_size=b, uneven=uneven)  # type: ignore[arg-type]
        for r, w, b in (then, now)
    )
    undisturbed = global_batches(before)
    for steps in range(len(undisturbed) + 1):
        states = [
            fresh(50).after(each, min(len(range(each.worker, steps, each.num_workers)), len(each)))
            for each in everyone(before)
        ]
        rest, first = resume(merge(states), after)
        assert first == 0
        later = global_batches(rest)
        if uneven == "drop":
            assert [b for b in undisturbed[steps:] if len(b) == 6] == [b for b in later if len(b) == 6]
        else:
            assert undisturbed[steps:] == later


def global_batches(dealing: Dealing) -> list[list[int]]:
    """Return for each step what all ranks together read, padding left out."""
    in_order = [read(replace(dealing, rank=rank, num_workers=1, worker=0)) for rank in range(dealing.world_size)]
    return [counted([b for b in step if b is not None]) for step in zip_longest(*in_order)]


@given(length=st.integers(0, 90), layout=LAYOUTS, data=st.data())
def test_the_same_workers_go_on(length: int, layout: Dealing, data: st.DataObject) -> None:
    """Each worker's own state, loaded into the same worker, gives the rest of what it would have read."""
    whole = replace(layout, length=length, uneven=data.draw(st.sampled_from(["pad", "drop", "allow"])))
    for each in everyone(whole):
        done = data.draw(st.integers(0, len(each)))
        rest, first = resume(through_json(fresh(length).after(each, done)), each)
        positions = [batch.ranges for batch in read(each)[done:]]
        assert positions == [batch.ranges for batch in read(rest, first)]


def test_workers_go_on_with_other_ranks_of_the_same_global_batch() -> None:
    """A worker of two ranks by six keeps its steps in four ranks by three, so no merge is needed."""
    then = Dealing(length=100, batch_size=6, world_size=2, num_workers=2, worker=1)
    now = replace(then, batch_size=3, world_size=4, rank=3)
    rest, first = resume(fresh(100).after(then, 2), now)
    assert (first, read(now)[2:]) == (2, read(rest, first))


@given(length=st.integers(0, 90), layout=LAYOUTS, data=st.data())
def test_any_rank_speaks_for_all(length: int, layout: Dealing, data: st.DataObject) -> None:
    """Where ranks are in step, the states of any one rank merge to the same as those of all."""
    dealing = replace(layout, length=length, uneven="pad")
    steps = data.draw(st.integers(0, dealing.num_samples))
    states: dict[int, list[OrderState]] = {}
    for each in everyone(dealing):
        done = min(len(range(each.worker, steps, each.num_workers)), len(each))
        states.setdefault(each.rank, []).append(fresh(length).after(each, done))
    expected = merge(chain.from_iterable(states.values()))
    for own in states.values():
        assert expected == merge(own)


def test_finished_ranks_and_workers() -> None:
    """All finished is finished; with some finished, what the others have left remains."""
    dealing = Dealing(length=9, batch_size=4, world_size=2, uneven="allow")
    one, none = replace(dealing, rank=0), replace(dealing, rank=1)
    assert (len(one), len(none)) == (2, 1)
    ended = fresh(9).after(none, 1, finished=True)
    assert merge([fresh(9).after(one, 2, finished=True), ended]).finished
    assert merge([fresh(9).after(one, 1), ended]).remaining == ((8, 9),)
    assert merge([fresh(9).after(one, 2), ended]).remaining == ()
    padded = Dealing(length=9, batch_size=4)
    some = [fresh(9).after(padded, 3, finished=True), fresh(9).after(padded, 3)]
    assert not merge(some).finished
    two = [replace(padded, num_workers=2, worker=worker) for worker in range(2)]
    with pytest.raises(StateError, match="missing"):
        merge([fresh(9).after(two[1], 1, finished=True)])


def test_single_samples_of_one_rank_stand_for_the_others() -> None:
    """Without a batch size, absent ranks are taken to be as far, as long as those given agree."""
    dealing = Dealing(length=10, world_size=2)
    assert merge([fresh(10).after(dealing, 3)]).remaining == ((3, 5), (8, 10))
    first, second = fresh(10).after(dealing, 3), fresh(10).after(replace(dealing, rank=1), 1)
    assert merge([first, second]).remaining == ((3, 5), (6, 10))
    three = replace(dealing, world_size=3)
    with pytest.raises(StateError, match="not in step"):
        merge([fresh(10).after(three, 3), fresh(10).after(replace(three, rank=1), 1)])


DEALING = Dealing(length=40, batch_size=2, world_size=2, num_workers=2)
WORKERS = [fresh(40).after(each, 3) for each in everyone(DEALING)]


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([], "no states"),
        (WORKERS[:1], r"workers \[1\] are missing"),
        (WORKERS[:3], "rank 1"),
        ([WORKERS[0], replace(WORKERS[1], epoch=1)], "epoch is 0 and 1"),
        ([WORKERS[0], replace(WORKERS[1], seed=1)], "seed is 0 and 1"),
        ([WORKERS[0], replace(WORKERS[1], fingerprint="g")], "fingerprint is"),
        ([WORKERS[0], replace(WORKERS[1], order="other")], "order is"),
        ([WORKERS[0], replace(WORKERS[1], remaining=((1, 40),))], "remaining is"),
        ([fresh(40), replace(fresh(40), remaining=((5, 40),))], "remaining is"),
        ([WORKERS[0], fresh(40)], "some states speak for one worker"),
        ([WORKERS[0], fresh(40).after(replace(DEALING, batch_size=3, worker=1), 3)], "different dealings"),
        ([*WORKERS, fresh(40).after(DEALING, 2)], "differ"),
        ([WORKERS[0], fresh(40).after(replace(DEALING, worker=1), 1)], "take turns"),
        ([*WORKERS[:2], *(fresh(40).after(replace(DEALING, rank=1, worker=w), 2) for w in (0, 1))], "different steps"),
    ],
)
def test_contradictions_are_refused(states: list[OrderState], message: str) -> None:
    """States that do not belong together, or are not all there, are refused with what differs."""
    with pytest.raises(StateError, match=message):
        merge(states)


def test_one_of_several_workers_cannot_speak_for_all() -> None:
    """Loading one worker's state where their number has changed says to merge; another length is refused."""
    with pytest.raises(StateError, match="merge the states of all workers"):
        resume(WORKERS[0], replace(DEALING, num_workers=3))
    with pytest.raises(StateError, match="40 samples"):
        resume(WORKERS[0], replace(DEALING, length=41))
