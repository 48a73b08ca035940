"""The order of an epoch: each sample once, any position at once, repeatable, uniform, pinned."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.errors import ConfigError, OutOfRangeError
from lmdbpipe.order import BaseOrder

ORDERS = st.builds(
    BaseOrder,
    length=st.integers(0, 200),
    shuffle=st.booleans(),
    seed=st.integers(-5, 5),
    epoch=st.integers(0, 5),
    block=st.integers(1, 220),
    buffer_size=st.integers(1, 220),
)


@given(order=ORDERS)
def test_every_sample_once(order: BaseOrder) -> None:
    """The whole order holds each sample once, as int64."""
    result = order.indices(0, order.length)
    assert np.int64 == result.dtype
    assert list(range(order.length)) == sorted(result.tolist())


@given(order=ORDERS, data=st.data())
def test_any_part_is_a_slice_of_the_whole(order: BaseOrder, data: st.DataObject) -> None:
    """Positions asked for in any sequence are those of the whole order, whatever the object remembers."""
    whole = replace(order).indices(0, order.length).tolist()
    for _ in range(5):
        start = data.draw(st.integers(0, order.length))
        stop = data.draw(st.integers(start, order.length))
        assert whole[start:stop] == order.indices(start, stop).tolist()
        pieces = list(order.windows(start, stop))
        assert whole[start:stop] == [index for _, piece in pieces for index in piece.tolist()]
        assert all(piece.tolist() == whole[at : at + len(piece)] for at, piece in pieces)
        assert all(0 < len(piece) <= order.buffer_size for _, piece in pieces)


@given(order=ORDERS)
def test_equal_settings_repeat(order: BaseOrder) -> None:
    """Orders of equal settings are equal, hash alike and give the same samples, also through a pickle."""
    expected = order.indices(0, order.length).tolist()
    for other in (replace(order), pickle.loads(pickle.dumps(order))):
        assert order == other
        assert hash(order) == hash(other)
        assert expected == other.indices(0, order.length).tolist()
    assert len(pickle.dumps(order)) < 300


def test_without_shuffle_the_order_is_sequential() -> None:
    """Without shuffle, position and sample are the same; windows come in buffers."""
    order = BaseOrder(length=10, buffer_size=4, seed=3, epoch=1)
    assert list(range(3, 9)) == order.indices(3, 9).tolist()
    assert [(at, piece.tolist()) for at, piece in order.windows(3, 9)] == [(3, [3]), (4, [4, 5, 6, 7]), (8, [8])]


@pytest.mark.parametrize("options", [{"buffer_size": 1000}, {"buffer_size": 100, "block": 10}])
def test_epochs_and_seeds_differ(options: dict[str, int]) -> None:
    """Every (seed, epoch) has an order of its own; above all (1, 0) is not (0, 1)."""
    orders = {
        tuple(BaseOrder(length=1000, shuffle=True, seed=seed, epoch=epoch, **options).indices(0, 1000).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_windows_mix_blocks() -> None:
    """A window of ten blocks holds whole blocks, from anywhere in the dataset, mixed."""
    order = BaseOrder(length=1000, shuffle=True, block=10, buffer_size=100)
    _, window = next(order.windows())
    blocks, counts = np.unique(window // 10, return_counts=True)
    assert counts.tolist() == [10] * 10
    assert blocks.max() - blocks.min() > 10
    assert (np.diff(window) == 1).mean() < 0.1


def test_the_short_block_goes_anywhere() -> None:
    """Over the epochs, the samples of a short last block appear in every window."""
    seen = set()
    for epoch in range(60):
        order = BaseOrder(length=43, shuffle=True, epoch=epoch, block=10, buffer_size=10)
        seen |= {int(position) // 10 for position in np.flatnonzero(order.indices(0, 43) >= 40)}
    assert {0, 1, 2, 3, 4} == seen


def test_full_buffer_is_uniform() -> None:
    """All 24 orders of 4 samples are equally likely over seeds and epochs: chi-square(23) below 53 (p = 4e-4)."""
    orders = [
        tuple(BaseOrder(length=4, shuffle=True, seed=seed, epoch=epoch, block=2).indices(0, 4).tolist())
        for seed in range(60)
        for epoch in range(40)
    ]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    assert ((counts - 100.0) ** 2 / 100).sum() < 53


def test_every_sample_is_equally_likely_everywhere() -> None:
    """20 samples over 20 positions in 2,000 seeds: chi-square with 19 * 19 degrees of freedom below 500 (p = 1e-6)."""
    for options in ({"buffer_size": 20}, {"buffer_size": 5, "block": 1}):
        counts = np.zeros((20, 20))
        for seed in range(2000):
            order = BaseOrder(length=20, shuffle=True, seed=seed, **options)
            counts[np.arange(20), order.indices(0, 20)] += 1
        assert ((counts - 100) ** 2 / 100).sum() < 500


def test_orders_are_pinned() -> None:
    """These orders must never change: a state saved by an older version would go on in another order."""
    full = BaseOrder(length=12, shuffle=True, seed=1, epoch=2, block=5)
    blocks = BaseOrder(length=22, shuffle=True, seed=1, epoch=2, block=4, buffer_size=8)
    huge = BaseOrder(length=10**12, shuffle=True, seed=-1, epoch=7, block=340)
    assert full.indices(0, 12).tolist() == [7, 5, 4, 0, 3, 8, 6, 11, 10, 1, 2, 9]
    assert blocks.indices(0, 22).tolist() == [
        17,
        21,
        20,
        4,
        7,
        16,
        5,
        6,
        13,
        18,
        14,
        19,
        0,
        1,
        15,
        12,
        3,
        8,
        11,
        10,
        2,
        9,
    ]
    assert huge.indices(5 * 10**11, 5 * 10**11 + 4).tolist() == [399969034241, 914139963439, 478690998414, 859850930923]


@pytest.mark.parametrize("length", [10**9, 10**12])
@pytest.mark.parametrize("block", [1, 340, 10**6])
def test_huge_orders_are_cheap(length: int, block: int) -> None:
    """Any position of a huge order is reached in less than 64 MiB, and neighbouring windows share no sample."""
    order = BaseOrder(length=length, shuffle=True, seed=9, block=block)
    tracemalloc.start()
    try:
        parts = [order.indices(start, start + 20_000) for start in (0, length // 3, length - 20_000)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    samples = np.concatenate(parts)
    assert peak < 64 * 2**20
    assert len(np.unique(samples)) == 60_000
    assert samples.min() >= 0
    assert samples.max() < length


def test_results_are_the_callers() -> None:
    """Writing into a result does not change what the order gives next."""
    order = BaseOrder(length=50, shuffle=True)
    expected = order.indices(0, 50).tolist()
    order.indices(0, 50)[:] = 0
    assert expected == order.indices(0, 50).tolist()


def test_description_names_what_matters() -> None:
    """Settings without effect on the order do not enter its description."""
    assert BaseOrder(length=10, block=3).describe() == "sequential"
    assert BaseOrder(length=10, shuffle=True, block=3, buffer_size=10).describe() == "shuffled"
    assert (
        BaseOrder(length=10, shuffle=True, block=3, buffer_size=9).describe()
        == "shuffled in blocks of 3 and windows of 9"
    )


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 11), (6, 5), (11, 11)])
def test_positions_outside_are_refused(start: int, stop: int) -> None:
    """Positions that are not in the order raise at once, also where they would be read later."""
    order = BaseOrder(length=10)
    with pytest.raises(OutOfRangeError, match="10 samples"):
        order.indices(start, stop)
    with pytest.raises(OutOfRangeError, match="10 samples"):
        order.windows(start, stop)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", -1),
        ("length", 2**62 + 1),
        ("length", "10"),
        ("shuffle", 1),
        ("seed", None),
        ("epoch", -1),
        ("epoch", 0.5),
        ("block", 0),
        ("buffer_size", 0),
        ("buffer_size", True),
    ],
)
def test_bad_settings_are_refused(name: str, value: object) -> None:
    """A setting that cannot be used is named."""
    arguments: dict[str, object] = {"length": 10, name: value}
    with pytest.raises(ConfigError, match=name):
        BaseOrder(**arguments)  # type: ignore[arg-type]  # on purpose


def test_numpy_integers_are_integers() -> None:
    """Settings given as NumPy integers are stored as Python's, so that states go through JSON."""
    order = BaseOrder(length=np.int32(10), seed=np.int64(3))  # type: ignore[arg-type]  # on purpose
    assert (int, int) == (type(order.length), type(order.seed))
    assert BaseOrder(length=10, seed=3) == order
