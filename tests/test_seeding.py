"""The global generators are seeded together, and given back."""

from __future__ import annotations

import multiprocessing
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch

from lmdbpipe.seeding import preserved, seed_all


def draw() -> tuple[float, float, float]:
    """One number of each generator."""
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_equal_keys_give_equal_draws() -> None:
    """All three generators depend on the whole key, in order."""
    with preserved():
        draws = []
        for key in ((1, 0), (1, 0), (0, 1), (1,)):
            seed_all(*key)
            draws.append(draw())
    assert draws[0] == draws[1]
    assert len({*draws}) == 3
    assert all(len(set(column)) == 3 for column in zip(*draws, strict=True))


def test_generators_are_given_back_after_an_error() -> None:
    """What was drawn and seeded inside leaves no trace."""
    seed_all(5)
    expected = draw()
    seed_all(5)
    with pytest.raises(KeyError), preserved():
        draw()
        seed_all(6)
        raise KeyError
    assert draw() == expected


def _preserve(results: Any) -> None:
    with preserved():
        results.send(draw())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_fork_while_a_thread_has_the_generators() -> None:
    """A child that is forked meanwhile has generators of its own, and does not wait for a thread it has not got."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with preserved():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    context: Any = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_preserve, args=(there,), daemon=True)
    child.start()
    try:
        assert here.poll(30)
    finally:
        done.set()
        thread.join()
        child.kill()
        child.join()
