"""Sampling with replacement: as likely as the weights say, pure, pinned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lmdbpipe.errors import ConfigError
from lmdbpipe.order import BaseOrder, Repeated, Weighted, Whole, balance, choose, draw

DRAWS = 200_000


def drawn(selection: Weighted, seed: int = 0, epoch: int = 0) -> Any:
    """All samples of an epoch, int64 array."""
    order = BaseOrder(length=selection.length, seed=seed, epoch=epoch)
    return selection.at(np.arange(selection.length), order)[0]


def chi_square(found: Any, probabilities: Any) -> bool:
    """Whether counts are as likely as five standard deviations allow."""
    expected = np.asarray(probabilities) * found.sum()
    possible = expected > 0
    assert not found[~possible].any()
    statistic = ((found - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    return bool(statistic < freedom + 5 * (2 * freedom) ** 0.5)


@pytest.mark.parametrize(
    "weights",
    [[1] * 10, range(1, 30), [0, 0, 5, 0, 1, 0], [1e308, 1e308, 2e307], [1e-320, 3e-320], [1.0] * 999 + [1000.0]],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_follow_the_weights(weights: Sequence[float], seed: int) -> None:
    """Counts pass a chi-square test, in each of two epochs and over pairs of neighbours; weight 0 is never drawn."""
    given = np.array(list(weights), dtype=np.float64)
    share = given / given.max() / (given / given.max()).sum()
    selection = draw(Whole(len(given)), given, DRAWS)
    for epoch in (0, 1):
        assert chi_square(np.bincount(drawn(selection, seed, epoch), minlength=len(given)), share)
    if len(given) < 100:
        first, second = drawn(selection, seed, 0)[:-1], drawn(selection, seed, 0)[1:]
        joint = np.bincount(first * len(given) + second, minlength=len(given) ** 2)
        assert chi_square(joint, np.outer(share, share).ravel())


def test_epochs_are_independent() -> None:
    """Two epochs, and two seeds, agree at as many places as chance lets them."""
    selection = draw(Whole(4), [1, 1, 1, 1], DRAWS)
    reference = drawn(selection, 0, 0)
    for other in (drawn(selection, 0, 1), drawn(selection, 1, 0)):
        assert abs((reference == other).mean() - 0.25) < 5 * (0.25 * 0.75 / DRAWS) ** 0.5


def test_draws_are_pinned() -> None:
    """These draws must never change: states of older versions rely on them."""
    selection = draw(Whole(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0.5], 1_000)
    assert drawn(selection)[:12].tolist() == [7, 7, 6, 8, 5, 0, 7, 8, 4, 6, 6, 7]
    assert drawn(selection, -5, 7)[-3:].tolist() == [3, 2, 4]


def test_draws_are_from_what_is_selected() -> None:
    """Weights belong to the places of the selection; every draw is a copy of its own."""
    chosen = choose(Whole(100), np.array([7, 50, 7]))
    order = BaseOrder(length=60)
    indices, numbers = draw(chosen, [1, 0, 1], 60).at(np.arange(60), order)
    assert numbers is not None
    assert set(indices.tolist()) == {7}
    assert len(set(numbers.tolist())) == 60
    assert draw(Repeated(Whole(3), 2), [0, 0, 0, 0, 1, 0], 4).at(np.arange(4), order)[0].tolist() == [1] * 4


def test_balance() -> None:
    """Every class is equally likely, numbers and strings alike, whatever its size."""
    classes = np.array([3] * 90 + [1] * 9 + [7])
    weights = balance(classes)
    found = classes[drawn(draw(Whole(100), weights, 30_000))]
    assert chi_square(np.bincount(found, minlength=8)[[1, 3, 7]], [1 / 3] * 3)
    assert balance(["a", "b", "a"]).tolist() == [0.5, 1, 0.5]


def test_any_place_of_a_huge_epoch_is_near() -> None:
    """The last draws of 10**15 come without the others."""
    selection = draw(Whole(1_000), np.arange(1_000), 10**15)
    places = np.arange(10**15 - 100, 10**15)
    indices, _ = selection.at(places, BaseOrder(length=10**15, epoch=9))
    assert len(set(indices.tolist())) > 50


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "a number for each of 3 samples, got int64"),
        ([[1], [2], [3]], "of shape"),
        (["a", "b", "c"], "a number for each"),
        ([1, None, 2], "a number for each"),
        ([1j, 1, 1], "a number for each"),
        ([[1], [1, 2], 3], "a number for each"),
        ([1, -0.5, 2], "that of sample 1 is -0.5"),
        ([1, 1, float("nan")], "that of sample 2 is nan"),
        ([float("inf"), 1, 1], "that of sample 0 is inf"),
        ([0, 0, 0], "all of 3 weights are 0"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, message: str) -> None:
    """Weights must be as many finite numbers, none negative, not all 0."""
    with pytest.raises(ConfigError, match=message):
        draw(Whole(3), weights, 3)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True])
def test_wrong_numbers_of_draws_are_refused(num_samples: int) -> None:
    """An epoch has at least one draw; of nothing, nothing can be drawn."""
    with pytest.raises(ConfigError, match="num_samples must be"):
        draw(Whole(3), [1, 1, 1], num_samples)
    with pytest.raises(ConfigError, match="all of 0 weights"):
        draw(Whole(0), [], 1)
