"""The global generators are seeded together, and given back."""

from __future__ import annotations

import random

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
