"""Keyed permutations: one to one, repeatable, uniform, pinned."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.errors import ConfigError, OutOfRangeError
from lmdbpipe.order import Permutation, Purpose, window_permutation
from lmdbpipe.order.permute import random_words

SEEDS = st.integers(-(2**70), 2**70)
EPOCHS = st.integers(0, 2**64 - 1)


@given(n=st.integers(0, 300), seed=SEEDS, epoch=EPOCHS, window=EPOCHS)
def test_window_is_a_permutation(n: int, seed: int, epoch: int, window: int) -> None:
    """A window's permutation holds each element once, as int64, and repeats for the same arguments."""
    result = window_permutation(n, seed=seed, epoch=epoch, window=window)
    assert np.int64 == result.dtype
    assert list(range(n)) == sorted(result.tolist())
    assert result.tolist() == window_permutation(n, seed=seed, epoch=epoch, window=window).tolist()


@pytest.mark.parametrize("n", [1000, 2**16, 2**16 + 1, 100_000])
def test_large_windows_are_permutations(n: int) -> None:
    """Both ways to sort, packed and stable, give each element once."""
    assert np.array_equal(np.arange(n), np.sort(window_permutation(n, seed=3, epoch=1, window=0)))


def test_seed_epoch_and_window_all_matter() -> None:
    """No two of (seed, epoch, window) = permutations of (0, 0, 1) share an order, nor do neighbouring ones."""
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (-1, 0, 0), (2**64 - 2, 0, 0)]
    orders = {tuple(window_permutation(50, seed=s, epoch=e, window=w).tolist()) for s, e, w in keys}
    assert len(keys) == len(orders)


def test_seed_counts_modulo_two_to_the_64() -> None:
    """A negative or a huge seed is the one it is congruent to."""
    expected = window_permutation(50, seed=-1, epoch=0, window=0).tolist()
    assert expected == window_permutation(50, seed=2**64 - 1, epoch=0, window=0).tolist()
    assert expected == window_permutation(50, seed=2**65 - 1, epoch=0, window=0).tolist()


def test_window_is_pinned() -> None:
    """These ten values must never change: files and states of older versions rely on them."""
    assert window_permutation(10, seed=0, epoch=0, window=0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert window_permutation(10, seed=-7, epoch=3, window=12).tolist() == [3, 6, 5, 9, 7, 8, 4, 0, 1, 2]
    assert window_permutation(2**16 + 1, seed=0, epoch=0, window=0)[:5].tolist() == [64990, 47848, 34552, 63659, 24994]


@given(
    n=st.one_of(st.integers(1, 300), st.integers(2**16 - 1, 2**18), st.integers(1, 2**62)), seed=SEEDS, data=st.data()
)
def test_inverse_undoes_forward(n: int, seed: int, data: st.DataObject) -> None:
    """For every length, forward stays in range and inverse gives the elements back, and the other way round."""
    permutation = Permutation(n=n, seed=seed, epoch=data.draw(EPOCHS), purpose=data.draw(st.sampled_from(Purpose)))
    x = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    y = permutation.forward(x)
    assert np.int64 == y.dtype
    assert all(0 <= value < n for value in y.tolist())
    assert x.tolist() == permutation.inverse(y).tolist()
    assert x.tolist() == permutation.forward(permutation.inverse(x)).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**16, 2**16 + 1, 2**17, 2**17 + 1, 200_000])
def test_forward_is_a_bijection(n: int) -> None:
    """On both sides of the table's limit, and of powers of two, every element is reached once."""
    y = Permutation(n=n, seed=5).forward(np.arange(n))
    assert np.array_equal(np.arange(n), np.sort(y))


def test_seed_epoch_and_purpose_all_matter() -> None:
    """Permutations of different keys differ, in the table and in the network."""
    for n in (100, 10**9):
        keys = [(0, 0, Purpose.BLOCKS), (1, 0, Purpose.BLOCKS), (0, 1, Purpose.BLOCKS), (0, 0, Purpose.BUILD)]
        orders = {
            tuple(Permutation(n=n, seed=s, epoch=e, purpose=p).forward(np.arange(20)).tolist()) for s, e, p in keys
        }
        assert len(keys) == len(orders)


def test_permutation_is_pinned() -> None:
    """These values must never change: the physical order of files and the order of epochs rely on them."""
    assert Permutation(n=10, seed=0).forward(np.arange(10)).tolist() == [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
    assert Permutation(n=10, seed=0, purpose=Purpose.BUILD).forward(np.arange(10)).tolist() == [
        6,
        7,
        2,
        9,
        1,
        3,
        5,
        0,
        4,
        8,
    ]
    assert Permutation(n=10**6, seed=0).forward(np.arange(5)).tolist() == [467640, 860725, 497453, 467959, 666439]
    assert Permutation(n=2**62, seed=-1, epoch=2).forward(np.arange(3)).tolist() == [
        3458872328192318028,
        92968430121046306,
        111578091582858423,
    ]


def test_small_permutations_are_uniform() -> None:
    """All 24 orders of 4 elements are equally likely: chi-square(23) below 53 (p = 4e-4)."""
    for purpose in Purpose:
        codes = [
            int(np.dot(Permutation(n=4, seed=s, purpose=purpose).forward(np.arange(4)), [64, 16, 4, 1]))
            for s in range(2400)
        ]
        counts = np.unique(codes, return_counts=True)[1]
        assert len(counts) == 24
        assert ((counts - 100.0) ** 2 / 100).sum() < 53


@pytest.mark.parametrize("n", [2**16 + 1, 10**6, 2**40, 2**62])
def test_network_looks_uniform(n: int) -> None:
    """Values, their low bits and steps between neighbours fill 64 bins evenly: chi-square(63) below 125."""
    for seed in range(5):
        y = Permutation(n=n, seed=seed).forward(np.arange(20_000))
        high = (y * 64.0 / n).astype(np.int64)
        step = ((y[1:] - y[:-1]) % n * 64.0 / n).astype(np.int64)
        for bins in (high, step, y % 64):
            counts = np.bincount(bins, minlength=64)
            expected = counts.sum() / 64
            assert ((counts - expected) ** 2 / expected).sum() < 125


def test_permutation_travels_by_its_settings() -> None:
    """A pickle holds no tables, and gives an equal permutation."""
    permutation = Permutation(n=50_000, seed=1)
    expected = permutation.inverse(np.arange(10)).tolist()
    data = pickle.dumps(permutation)
    assert len(data) < 400
    assert permutation == pickle.loads(data)
    assert expected == pickle.loads(data).inverse(np.arange(10)).tolist()


def test_shape_is_kept() -> None:
    """An array of any shape comes back in that shape, a number as an array of no dimensions."""
    permutation = Permutation(n=10**6, seed=1)
    assert permutation.forward(np.zeros((2, 3), dtype=np.int64)).shape == (2, 3)
    assert permutation.inverse(7).shape == ()
    assert permutation.forward(np.empty(0, dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize("n", [10, 10**6])
@pytest.mark.parametrize("offset", [-1, 0])
def test_elements_outside_are_refused(n: int, offset: int) -> None:
    """Neither -1 nor n is silently taken for another element."""
    with pytest.raises(OutOfRangeError, match=f"range\\({n}\\)"):
        Permutation(n=n, seed=0).forward([0, offset if offset else n])


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n", 2**62 + 1), ("seed", 1.5), ("epoch", -1), ("n", True)])
def test_bad_settings_are_refused(name: str, value: object) -> None:
    """A setting that is no whole number in its range is named."""
    arguments: dict[str, object] = {"n": 5, "seed": 0, "epoch": 0, name: value}
    with pytest.raises(ConfigError, match=name):
        Permutation(**arguments)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("name", ["n", "epoch", "window"])
def test_negative_window_arguments_are_refused(name: str) -> None:
    """All arguments but the seed are 0 or more."""
    arguments = {"n": 5, "seed": 0, "epoch": 0, "window": 0, name: -1}
    with pytest.raises(ConfigError, match=name):
        window_permutation(**arguments)


def test_errors_name_the_argument() -> None:
    """A window that is wrong is called so, as is a stream of words."""
    with pytest.raises(ConfigError, match="window must be an integer from 0"):
        window_permutation(3, seed=0, epoch=0, window=-1)
    with pytest.raises(ConfigError, match="stream must be an integer from 0"):
        random_words(3, purpose=Purpose.WINDOWS, seed=0, stream=-1)
