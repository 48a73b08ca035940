"""Dealing to ranks and workers against its promises: coverage, equal shares, exact lengths, one order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain, zip_longest
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdbpipe.errors import ConfigError
from lmdbpipe.order import BaseOrder, Batch, Dealing, Uneven

UNEVEN: st.SearchStrategy[Uneven] = st.sampled_from(get_args(Uneven))


@st.composite
def dealings(draw: st.DrawFn, batched: bool | None = None) -> Dealing:
    """Draw a dealing of a whole epoch or of some segments, for rank 0 and worker 0."""
    length = draw(st.integers(0, 80))
    bounds = sorted(draw(st.lists(st.integers(0, length), max_size=6)))
    segments = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    with_batches = draw(st.booleans()) if batched is None else batched
    return Dealing(
        length=length,
        batch_size=draw(st.integers(1, 9)) if with_batches else None,
        world_size=draw(st.integers(1, 7)),
        num_workers=draw(st.integers(1, 5)),
        uneven=draw(UNEVEN),
        drop_last=with_batches and draw(st.booleans()),
        remaining=draw(st.sampled_from([None, segments])),
    )


def read(dealing: Dealing) -> list[Batch]:
    """Return all batches, or runs of three samples, of one worker."""
    return list(dealing.runs(size=3) if dealing.batch_size is None else dealing.batches())


def ranks(dealing: Dealing) -> list[Dealing]:
    """Return the dealing for each rank."""
    return [replace(dealing, rank=rank) for rank in range(dealing.world_size)]


def workers(dealing: Dealing) -> list[Dealing]:
    """Return the dealing for each worker of the rank."""
    return [replace(dealing, worker=worker) for worker in range(dealing.num_workers)]


def round_robin(dealing: Dealing) -> list[Batch]:
    """Return the batches of a rank as a DataLoader gives them: one of each worker in turn."""
    turns = zip_longest(*(read(worker) for worker in workers(dealing)))
    return [batch for batch in chain.from_iterable(turns) if batch is not None]


def dealt(dealing: Dealing) -> list[int]:
    """Return the positions that are dealt, one by one."""
    return [position for start, stop in dealing.segments for position in range(start, stop)]


@settings(max_examples=200)
@given(dealing=dealings())
def test_coverage(dealing: Dealing) -> None:
    """Each position is read once, but for the documented tail; padding is the first samples, and is masked."""
    batches = [batch for rank in ranks(dealing) for worker in workers(rank) for batch in read(worker)]
    counted = [position for batch in batches for position in batch.positions()[batch.mask()].tolist()]
    repeats = [position for batch in batches for position in batch.positions()[~batch.mask()].tolist()]
    expected = dealt(dealing)
    group = dealing.world_size * (dealing.batch_size or 1)
    left_out = set(expected) - set(counted)
    limit = {"pad": 1, "drop": dealing.world_size, "allow": 1}[dealing.uneven]
    assert Counter(counted) == Counter(set(counted))
    assert set(counted) <= set(expected)
    assert len(left_out) < (group if dealing.drop_last else limit) or not left_out
    if not dealing.drop_last:
        assert sorted(left_out) == expected[len(expected) - len(left_out) :]
    assert len(repeats) < dealing.world_size
    assert (dealing.uneven == "pad") or not repeats
    assert sorted(repeats) == sorted(position % dealing.length for position in range(len(repeats)))


@given(dealing=dealings())
def test_lengths_are_exact(dealing: Dealing) -> None:
    """len, num_batches and num_samples are what is read, for each worker and rank."""
    for rank in ranks(dealing):
        per_worker = [read(worker) for worker in workers(rank)]
        samples = sum(len(batch) for batch in chain.from_iterable(per_worker))
        assert rank.num_samples == samples
        if rank.batch_size is None:
            assert [len(w) for w in workers(rank)] == [sum(len(batch) for batch in batches) for batches in per_worker]
        else:
            assert [len(w) for w in workers(rank)] == [len(batches) for batches in per_worker]
            assert rank.num_batches == sum(len(batches) for batches in per_worker)


@given(dealing=dealings())
def test_ranks_get_the_same(dealing: Dealing) -> None:
    """With pad and drop all ranks read equally many samples in equal batches; with allow they differ by one."""
    sizes = [[len(batch) for batch in round_robin(rank)] for rank in ranks(dealing)]
    totals = [sum(rank_sizes) for rank_sizes in sizes]
    if dealing.uneven != "allow":
        assert [sizes[0]] * dealing.world_size == sizes
    elif not dealing.drop_last:
        assert max(totals) - min(totals) <= 1
        assert max(map(len, sizes)) - min(map(len, sizes)) <= (1 if dealing.batch_size else len(dealt(dealing)))


@given(dealing=dealings())
def test_sizes_are_those_of_distributed_sampler(dealing: Dealing) -> None:
    """Without drop_last a rank reads the ceiling (pad) or the floor (drop) of an even share, as torch's sampler."""
    whole = replace(dealing, drop_last=False, remaining=None)
    size, more = divmod(whole.length, whole.world_size)
    for rank in ranks(whole):
        expected = {"pad": size + (more > 0), "drop": size}.get(rank.uneven, rank.num_samples)
        assert expected == rank.num_samples


@given(dealing=dealings(batched=True))
def test_workers_do_not_change_the_order(dealing: Dealing) -> None:
    """A round robin over the workers gives the batches of a single worker, for every number of workers."""
    for rank in ranks(dealing):
        assert read(replace(rank, num_workers=1)) == round_robin(rank)
        assert list(range(rank.num_batches)) == [batch.step for batch in round_robin(rank)]


@given(dealing=dealings(batched=True), world_size=st.sampled_from([1, 2, 3, 4, 6, 12]), uneven=UNEVEN)
def test_global_batches_depend_on_their_size_only(dealing: Dealing, world_size: int, uneven: Uneven) -> None:
    """Step by step, all ranks of 12 = world_size * batch_size together read the positions in order."""
    dealing = replace(
        dealing, batch_size=12 // world_size, world_size=world_size, num_workers=1, uneven=uneven, drop_last=False
    )
    expected = dealt(dealing)
    if uneven == "drop":
        expected = expected[: sum(rank.num_samples for rank in ranks(dealing))]
    steps = zip_longest(*(read(rank) for rank in ranks(dealing)), fillvalue=Batch(0, ()))
    together = [[p for batch in step for p in batch.positions()[batch.mask()].tolist()] for step in steps]
    assert [expected[at : at + 12] for at in range(0, len(expected), 12)] == together


@given(dealing=dealings(), data=st.data())
def test_reading_can_begin_anywhere(dealing: Dealing, data: st.DataObject) -> None:
    """From its item number ``first`` on, a worker reads what it would have read after so many."""
    first = data.draw(st.integers(0, len(dealing)))
    if dealing.batch_size is None:
        expected = [p for batch in dealing.runs() for p in batch.positions().tolist()][first:]
        assert expected == [p for batch in dealing.runs(first, size=2) for p in batch.positions().tolist()]
    else:
        assert read(dealing)[first:] == list(dealing.batches(first))


@given(dealing=dealings(batched=True))
def test_remaining_is_what_later_steps_read(dealing: Dealing) -> None:
    """After each step, what remains and what was read so far are all that was dealt."""
    per_rank = [round_robin(rank) for rank in ranks(dealing)]
    steps = max(map(len, per_rank))
    for step in range(steps + 1):
        seen = [p for batches in per_rank for b in batches[:step] for p in b.positions()[b.mask()].tolist()]
        remaining = dealt(replace(dealing, remaining=dealing.remaining_after(step)))
        assert not set(seen) & set(remaining)
        if not dealing.drop_last or step < steps:
            assert sorted(dealt(dealing)) == sorted(seen + remaining)
        assert dealing.length - len(remaining) == dealing.position_after(step)


@given(dealing=dealings(batched=False))
def test_single_samples_are_contiguous(dealing: Dealing) -> None:
    """Without a batch size, ranks and their workers one after the other read the positions in order."""
    in_order = [
        position
        for rank in ranks(dealing)
        for worker in workers(rank)
        for batch in read(worker)
        for position in batch.positions()[batch.mask()].tolist()
    ]
    assert dealt(dealing)[: len(in_order)] == in_order
    for rank in ranks(dealing):
        sizes = [len(worker) for worker in workers(rank)]
        assert max(sizes) - min(sizes) <= 1


def test_dealing_is_pinned() -> None:
    """The picture in the module: ten positions, two ranks, batches of two; pad repeats nothing here."""
    dealing = Dealing(length=10, batch_size=2, world_size=2)
    assert [b.positions().tolist() for b in dealing.batches()] == [[0, 1], [4, 5], [8]]
    assert [b.positions().tolist() for b in replace(dealing, rank=1).batches()] == [[2, 3], [6, 7], [9]]
    assert [b.positions().tolist() for b in replace(dealing, num_workers=2).batches()] == [[0, 1], [8]]


@given(dealing=dealings(), data=st.data())
def test_consecutive_batches_are_a_range(dealing: Dealing, data: st.DataObject) -> None:
    """One worker of one rank reads a range, if no part of it was read before; nobody else does."""
    if dealing.batch_size is None:
        assert dealing.consecutive() is None
        return
    first = data.draw(st.integers(0, len(dealing)))
    rest = [position for batch in dealing.batches(first) for position in batch.positions().tolist()]
    found = dealing.consecutive(first)
    alone = dealing.world_size == dealing.num_workers == len(dealing.segments) == 1
    assert found is None if not alone else found is not None and list(found) == rest


def test_padding_wraps_to_the_first_samples() -> None:
    """Padding repeats the epoch's first samples, from the beginning again if there are too few, and is masked."""
    last = [list(replace(Dealing(length=2, batch_size=4, world_size=5), rank=r).batches()) for r in range(5)]
    assert [batch.positions().tolist() for (batch,) in last] == [[0], [1], [0], [1], [0]]
    assert [bool(batch.mask()[0]) for (batch,) in last] == [True, True, False, False, False]
    (run,) = Dealing(length=5, world_size=3, rank=2).runs()
    assert (run.positions().tolist(), run.mask().tolist(), run.repeats) == ([4, 0], [True, False], 1)


def test_batches_read_an_order() -> None:
    """A batch's samples are those at its positions, over range and padding; an empty batch has none."""
    order = BaseOrder(length=7, shuffle=True, seed=1)
    whole = order.indices(0, 7)
    for rank in range(2):
        for batch in Dealing(length=7, batch_size=3, world_size=2, rank=rank).batches():
            assert whole[batch.positions()].tolist() == batch.indices(order).tolist()
    assert (Batch(0, ()).indices(order).tolist(), Batch(0, ()).positions().tolist()) == ([], [])


@pytest.mark.parametrize("uneven", ["pad", "drop", "allow"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_nothing_is_dealt_to_nobody(uneven: Uneven, batch_size: int | None) -> None:
    """An empty dataset, and an epoch of which nothing remains, have no samples and no batches."""
    empty = Dealing(length=0, batch_size=batch_size, world_size=3, num_workers=2, uneven=uneven)
    for dealing in (empty, replace(empty, length=9, remaining=())):
        assert (len(dealing), dealing.num_samples, read(dealing)) == (0, 0, [])


def test_huge_dealings_are_cheap() -> None:
    """The last batches of 10**12 samples are reached at once."""
    dealing = Dealing(length=10**12, batch_size=256, world_size=8, rank=7, num_workers=3, worker=1)
    *_, last = dealing.batches(len(dealing) - 2)
    assert pytest.approx(len(dealing), abs=1) == 10**12 // (256 * 8 * 3)
    assert last.ranges[0][1] <= 10**12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", -1),
        ("batch_size", 0),
        ("batch_size", 1.0),
        ("world_size", 0),
        ("rank", 2),
        ("rank", -1),
        ("num_workers", 0),
        ("worker", 3),
        ("uneven", "repeat"),
        ("drop_last", "no"),
        ("remaining", ((0, 11),)),
        ("remaining", ((5, 6), (5, 7))),
    ],
)
def test_bad_settings_are_refused(name: str, value: object) -> None:
    """A setting that cannot be used is named, and a rank or worker out of range too."""
    arguments: dict[str, object] = {"length": 10, "batch_size": 2, "world_size": 2, "num_workers": 3, name: value}
    with pytest.raises(ConfigError, match="segment" if name == "remaining" else name):
        Dealing(**arguments)  # type: ignore[arg-type]  # on purpose


def test_batches_and_runs_do_not_mix() -> None:
    """What needs a batch size says so, and what must not have one too; an item past the end is refused."""
    single, batched = Dealing(length=5), Dealing(length=5, batch_size=2)
    with pytest.raises(ConfigError, match="use runs"):
        single.batches()
    with pytest.raises(ConfigError, match="use runs"):
        _ = single.num_batches
    with pytest.raises(ConfigError, match="use batches"):
        batched.runs()
    with pytest.raises(ConfigError, match="drop_last needs a batch_size"):
        Dealing(length=5, drop_last=True)
    with pytest.raises(ConfigError, match="first"):
        batched.batches(4)
