"""A state is small, survives JSON, and refuses whatever is damaged, newer, or of another order."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.errors import StateError
from lmdbpipe.order import STATE_VERSION, BaseOrder, Dealing, OrderState, resume

ORDER = BaseOrder(length=100, shuffle=True, seed=3, epoch=2, block=7, buffer_size=20)
START = OrderState.start(ORDER, fingerprint="abc")
DEALING = Dealing(length=100, batch_size=4, world_size=2)
SHARE = START.after(replace(DEALING, rank=1, num_workers=3, worker=2), 2)


def damaged(**changes: Any) -> dict[str, Any]:
    """Return a state's dictionary with some values replaced."""
    return {**START.after(DEALING, 5).to_json_dict(), **changes}


def test_state_is_pinned() -> None:
    """What is written must stay readable: position is how many samples of the global order are consumed."""
    expected = {
        "version": 1,
        "fingerprint": "abc",
        "order": "shuffled in blocks of 7 and windows of 20",
        "length": 100,
        "seed": 3,
        "epoch": 2,
        "position": 40,
        "finished": False,
        "remaining": None,
        "share": None,
    }
    assert expected == START.after(DEALING, 5).to_json_dict()
    share = {
        "done": 2,
        "batch_size": 4,
        "world_size": 2,
        "rank": 1,
        "num_workers": 3,
        "worker": 2,
        "uneven": "pad",
        "drop_last": False,
    }
    assert {**expected, "position": 0, "share": share} == SHARE.to_json_dict()


@given(
    start=st.builds(
        replace,
        st.just(START),
        seed=st.integers(-(2**70), 2**70),
        epoch=st.integers(0, 2**64 - 2),
        remaining=st.lists(st.integers(0, 100), max_size=8)
        .map(sorted)
        .map(lambda bounds: tuple(zip(bounds[::2], bounds[1::2], strict=False))),
    ),
    batch_size=st.sampled_from([None, 1, 7]),
    num_workers=st.integers(1, 4),
    data=st.data(),
)
def test_state_survives_json(start: OrderState, batch_size: int | None, num_workers: int, data: st.DataObject) -> None:
    """Through JSON a state comes back equal, whatever it holds."""
    dealing = Dealing(length=100, batch_size=batch_size, num_workers=num_workers, remaining=start.remaining)
    state = start.after(dealing, data.draw(st.integers(0, len(dealing))))
    for each in (start, state, start.after(dealing, len(dealing), finished=True), state.next_epoch()):
        assert each == OrderState.from_json_dict(json.loads(json.dumps(each.to_json_dict())))


def test_dictionaries_share_nothing() -> None:
    """Changing a dictionary that was given out changes neither the state nor the next one."""
    state = replace(START, remaining=((0, 5), (7, 9)))
    state.to_json_dict()["remaining"][0][1] = 99
    assert state.to_json_dict()["remaining"] == [[0, 5], [7, 9]]
    SHARE.to_json_dict()["share"]["done"] = 99
    assert SHARE.to_json_dict()["share"]["done"] == 2


def test_state_of_a_huge_epoch_is_small() -> None:
    """A billion shuffled samples: under 1 KB, and loaded at any position it goes on in the right batch."""
    order = BaseOrder(length=10**9, shuffle=True, seed=2**63, epoch=1000, block=340)
    for workers in (1, 8):
        dealing = Dealing(length=10**9, batch_size=256, world_size=8, num_workers=workers, worker=workers - 1)
        for done in (0, 1, len(dealing) // 2, len(dealing) - 1):
            text = json.dumps(OrderState.start(order, fingerprint="f" * 64).after(dealing, done).to_json_dict())
            assert len(text) < 1024
            state = OrderState.from_json_dict(json.loads(text))
            rest, first = resume(state, dealing)
            expected = next(dealing.batches(done)).indices(order)
            actual = next(rest.batches(first)).indices(state.restore(order, fingerprint="f" * 64))
            assert expected.tolist() == actual.tolist()


def test_one_worker_in_step_needs_only_a_position() -> None:
    """Where every rank knows how far all are there is no share; elsewhere there is."""
    assert START.after(DEALING, 5).share is None
    assert START.after(replace(DEALING, uneven="allow"), 5).share is not None
    assert START.after(replace(DEALING, num_workers=2), 5).share is not None
    assert START.after(replace(DEALING, batch_size=None), 5).share is not None


def test_epochs_follow() -> None:
    """A finished epoch's state leads to the whole of the next one; a state restores its seed and epoch."""
    finished = START.after(DEALING, len(DEALING), finished=True)
    assert (finished.finished, finished.position) == (True, 100)
    assert OrderState.start(replace(ORDER, epoch=3), fingerprint="abc") == finished.next_epoch()
    assert START.restore(replace(ORDER, seed=0, epoch=0), fingerprint="abc") == ORDER


@pytest.mark.parametrize(
    ("order", "fingerprint", "message"),
    [
        (ORDER, "xyz", "another file"),
        (replace(ORDER, length=99), "abc", "another length"),
        (replace(ORDER, shuffle=False), "abc", "another order"),
        (replace(ORDER, buffer_size=30), "abc", "windows of 30"),
        (replace(ORDER, block=8), "abc", "blocks of 8"),
    ],
)
def test_another_order_is_refused(order: BaseOrder, fingerprint: str, message: str) -> None:
    """A state of another file, or of an order made otherwise, is refused, never read in a wrong order."""
    with pytest.raises(StateError, match=message):
        START.restore(order, fingerprint=fingerprint)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        damaged(version=0),
        damaged(version=True),
        damaged(version="1"),
        damaged(extra=1),
        {key: value for key, value in damaged().items() if key != "seed"},
        damaged(fingerprint=None),
        damaged(order=3),
        damaged(length=-1),
        damaged(length=39),
        damaged(length="100"),
        damaged(seed=0.5),
        damaged(seed=math.nan),
        damaged(epoch=-1),
        damaged(epoch=None),
        damaged(position=-1),
        damaged(position=101),
        damaged(position=True),
        damaged(position=40.0),
        damaged(finished=1),
        damaged(finished=True),
        damaged(remaining=7),
        damaged(remaining=[[40, 100], [90, 100]]),
        damaged(remaining=[[41, 100]]),
        damaged(remaining=[[40, 101]]),
        damaged(remaining=[40, 100]),
        damaged(remaining=["ab"]),
        damaged(share={}),
        damaged(share=[1]),
        damaged(share="x"),
        {**SHARE.to_json_dict(), "share": {**SHARE.to_json_dict()["share"], "done": 6}},
        {**SHARE.to_json_dict(), "share": {**SHARE.to_json_dict()["share"], "done": -1}},
        {**SHARE.to_json_dict(), "share": {**SHARE.to_json_dict()["share"], "rank": 2}},
        {**SHARE.to_json_dict(), "share": {**SHARE.to_json_dict()["share"], "batch_size": "4"}},
        {**SHARE.to_json_dict(), "share": {**SHARE.to_json_dict()["share"], "uneven": []}},
        {**SHARE.to_json_dict(), "share": {**SHARE.to_json_dict()["share"], "more": 1}},
        {**SHARE.to_json_dict(), "finished": True},
    ],
)
def test_damage_is_refused(data: Any) -> None:
    """Whatever is not exactly a state is called damaged."""
    with pytest.raises(StateError, match="damaged"):
        OrderState.from_json_dict(data)


def test_newer_version_is_refused() -> None:
    """A state of a newer version says so, whatever else it holds."""
    with pytest.raises(StateError, match="newer"):
        OrderState.from_json_dict({"version": STATE_VERSION + 1, "anything": 1})


@pytest.mark.parametrize("done", [-1, 14])
def test_progress_out_of_range_is_refused(done: int) -> None:
    """A worker cannot have taken more than it has; nor can it have finished with some left."""
    with pytest.raises(StateError, match="done must be"):
        START.after(DEALING, done)
    with pytest.raises(StateError, match="done must be"):
        START.after(DEALING, 3, finished=True)


def test_numpy_progress_goes_through_json() -> None:
    """Progress counted in NumPy integers is stored as Python's."""
    state = START.after(replace(DEALING, num_workers=2), np.int64(3))  # type: ignore[arg-type]  # on purpose
    assert state == OrderState.from_json_dict(json.loads(json.dumps(state.to_json_dict())))
