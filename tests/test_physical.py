"""Physical order: where samples of a source lie in its file, and back."""

from __future__ import annotations

import numpy as np
import pytest

from lmdbpipe.encode import Encoder
from lmdbpipe.physical import Physical, physical_order
from lmdbpipe.source import as_source
from tests.helpers import Listed


def test_physical_order_is_pinned() -> None:
    """The order of a shuffled file is read back from its seed, so that it must never change."""
    assert physical_order(10, 0, 0).forward(range(10)).tolist() == [6, 7, 2, 9, 1, 3, 5, 0, 4, 8]
    order = physical_order(1000, 3, 1)
    assert sorted(order.forward(range(1000)).tolist()) == list(range(1000))
    assert [int(order.inverse(int(order.forward(k)))) for k in range(50)] == list(range(50))


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_positions_are_where_the_encoder_puts_samples(seed: int | None) -> None:
    """In every round, one at a time or many, positions are those that a build writes to, and lead back."""
    source = as_source(Listed(range(20)))
    encoder = Encoder.of(
        source, db_transform=None, channels_first=True, rounds=3, shuffle=seed is not None, seed=seed or 0
    )
    written = [index for index, _ in encoder.samples()]
    physical = Physical(20, seed)
    assert [physical.index(position) for position in range(60)] == written
    numbers = np.arange(60)[::-1]
    positions = physical.positions(numbers)
    assert [physical.position(number) for number in numbers.tolist()] == positions.tolist()
    assert physical.numbers(positions).tolist() == numbers.tolist()
    assert sorted(positions.tolist()) == list(range(60))
